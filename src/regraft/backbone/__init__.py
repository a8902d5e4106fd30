"""The module path that `.keras` files saved earlier name; the code is in `regraft.backbones`."""
