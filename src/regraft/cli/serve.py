"""The command `regraft serve`."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated

import typer

import regraft.cli.options as opt
from regraft.errors import EnvironmentFault

__all__ = ["serve"]

NEEDED = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")


def serve(
    runs: Annotated[
        list[str], typer.Argument(help="Run folders that `regraft train` wrote; NAME=FOLDER names a model.")
    ],
    *,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 for any free one.")] = 8000,
    token_file: Annotated[
        Path | None,
        typer.Option(help="File with a secret that requests must carry. [default: none, on this machine]"),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="Name by which clients call the server; once for each. [default: localhost]"),
    ] = None,
    trust: opt.TrustFlag = False,
) -> None:
    """Answer requests with images over HTTP; / is a page to try it, /docs lists the rest."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise EnvironmentFault(
            f"Serving needs packages that are not installed ({', '.join(missing)}): "
            'pip install "regraft[serve]".'
        )
    from regraft.server.registry import name_runs
    from regraft.server.run_server import run_server
    from regraft.server.settings import ServerSettings, read_token

    settings = ServerSettings(
        host=host,
        port=port,
        token=read_token(token_file) if token_file else "",
        allowed_hosts=tuple(name.lower() for name in allow_host or []),
    )
    run_server(name_runs(runs), settings, trust=trust)
