"""The programs that an export brings with it; they run without regraft."""
