"""The command line program: its commands, and one message and exit code for each error.

Exit codes: 0 done, 1 unexpected error, 2 usage, 3 data refused, 4 environment, 5 model refused, 130 Ctrl-C,
143 SIGTERM.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

import regraft
from regraft.cli.backbones import backbones, demo
from regraft.cli.cache import cache
from regraft.cli.check import check
from regraft.cli.compare import compare
from regraft.cli.embed import embed
from regraft.cli.explain import explain
from regraft.cli.export import export
from regraft.cli.inspect import inspect
from regraft.cli.predict import evaluate, predict
from regraft.cli.recommend import recommend
from regraft.cli.search import search
from regraft.cli.serve import serve
from regraft.cli.sign import sign, verify
from regraft.cli.train import train
from regraft.errors import BackendLimit, RegraftError, UsageError, describe_os_error
from regraft.system.backend import has_chosen_openvino, restart_on_tensorflow
from regraft.system.console import TERMINAL
from regraft.system.imports import skip_final_gc, skip_optional_imports
from regraft.system.signals import get_exit_code, interrupt_on_sigterm

__all__ = ["app", "main"]

INTERRUPTED = 130  # typer's exit code after Ctrl-C

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _print_version(requested: bool) -> None:
    if requested:
        print(f"regraft {regraft.__version__}")
        raise typer.Exit


@app.callback()
def start(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Transfer learning for images on Keras 3. What is frozen is computed once.

    \b
    Exit codes:
      0    done                      4    environment: disk, network, package
      1    unexpected error          5    model refused
      2    usage                     130  Ctrl-C
      3    data refused              143  SIGTERM
    """


COMMANDS = (
    train, predict, evaluate, explain, export, serve, compare, check, inspect, recommend, search, embed, sign,
    verify, cache, backbones, demo,
)  # fmt: skip
for command in COMMANDS:
    app.command()(command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; turn each error into one message on standard error and one exit code.

    Args:
        arguments: of the program, without its name; None for those of this process.
    """
    _silence_native_code()
    skip_optional_imports()
    skip_final_gc()
    try:
        with interrupt_on_sigterm():
            code = app(arguments, standalone_mode=False) or 0
        if code == INTERRUPTED:
            TERMINAL.info("regraft: interrupted. Features in the store will not be computed again.")
            code = get_exit_code()
        sys.exit(code)
    except RegraftError as error:
        if isinstance(error, BackendLimit) and has_chosen_openvino():
            TERMINAL.info(f"{error.reason} The command starts again with TensorFlow.")
            restart_on_tensorflow()
        TERMINAL.error(f"regraft: {error}")
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        TERMINAL.error(f"regraft: {describe_os_error(error)}: {os.fsdecode(error.filename or '')[:60]}...")
        sys.exit(UsageError.exit_code)
    except Exception as error:
        show = getattr(error, "show", None)  # click's own usage errors
        if show is None:
            raise
        show()
        sys.exit(2)


def _silence_native_code() -> None:
    """Discard what C++ code prints on descriptor 2, as TensorFlow does; Python writes to a copy of it."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if "REGRAFT_NATIVE_LOGS" in os.environ:
        return
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, encoding="utf-8", errors="backslashreplace")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
