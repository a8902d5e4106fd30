"""Keeps the module path that saved `.keras` files name; see `regraft.backbones`."""
