"""The command line."""

from regraft.cli.program import app, main

__all__ = ["app", "main"]
