"""The commands `regraft sign` and `regraft verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import regraft.cli.options as opt
from regraft.errors import wrap_os_errors

__all__ = ["sign", "verify"]


def sign(
    run: opt.RunArgument,
    *,
    key: Annotated[Path, typer.Option("--key", help="Private key, a PEM file on an elliptic curve.")],
    password_file: Annotated[
        Path | None, typer.Option("--password-file", help="File with the key's password. [default: none]")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier signature.")] = False,
) -> None:
    """Sign all files of a run folder, so that others can check that it is yours and unchanged."""
    from regraft.pipeline.signing import sign_run

    password = None
    if password_file is not None:
        with wrap_os_errors(f"{password_file} cannot be read"):
            password = password_file.read_text("utf-8").rstrip("\r\n")
    print(f"Signature: {sign_run(run, key, password=password, overwrite=overwrite)}")


def verify(
    run: opt.RunArgument,
    *,
    key: Annotated[Path, typer.Option("--key", help="Public key of the signer, a PEM file.")],
) -> None:
    """Check the signature of a run folder: whose it is, and that no file was changed, added or removed."""
    from regraft.pipeline.signing import verify_run

    print(f"Verified: {run} holds the {verify_run(run, key):,} files that were signed, and no others.")
