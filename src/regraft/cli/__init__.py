"""The command line, one module for each command."""

from regraft.cli.program import app, main

__all__ = ["app", "main"]
