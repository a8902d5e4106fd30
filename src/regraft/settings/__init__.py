"""Settings: how they are checked, and texts that stand for several of them."""
