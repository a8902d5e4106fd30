"""The reference of the command line, written from the program itself."""

from __future__ import annotations

from typing import Any

import typer

from regraft.cli import app

__all__ = ["describe_commands"]

KINDS = {"str": "TEXT", "int": "NUMBER", "float": "NUMBER"}  # of the values that options take


def describe_commands() -> str:
    """Return every command in Markdown: what it does, and a table of its arguments and options."""
    program: Any = typer.main.get_command(app)
    names = program.list_commands(None)
    return "\n\n".join(_describe(name, program.get_command(None, name)) for name in names)


def _describe(name: str, command: Any) -> str:
    paragraphs = [" ".join(part.split()) for part in (command.help or "").split("\n\n")]
    rows = [
        f"| {_name_parameter(parameter)} | {_escape(parameter.help or '')} |"
        for parameter in command.params
        if not parameter.hidden
    ]
    table = "\n".join(["| option | meaning |", "|---|---|", *rows])
    return f"## regraft {name}\n\n" + "\n\n".join(map(_escape, paragraphs)) + f"\n\n{table}"


def _name_parameter(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{parameter.metavar or parameter.name.upper()}`"
    names = ", ".join(f"`{name}`" for name in [*parameter.opts, *parameter.secondary_opts])
    if parameter.is_flag:
        return names
    kind = parameter.display_type(None).removeprefix("<list[").strip("<>]")
    return f"{names} `{parameter.metavar or KINDS.get(kind, kind.upper())}`"


def _escape(text: str) -> str:
    """Return text that Markdown shows as it is."""
    return (
        " ".join(text.split())
        .replace("|", "\\|")
        .replace("<", "&lt;")
        .replace("*", "\\*")
        .replace("[", "\\[")
    )
