"""The commands put together: options -> one call -> print -> exit code.

Exit codes: 0 done, 1 unexpected error, 2 usage, 3 data refused, 4 environment, 5 model refused, 130 Ctrl-C,
143 SIGTERM.
"""

from __future__ import annotations

import errno
import os
import sys

import typer

from regraft.cli.backbones import backbones, demo
from regraft.cli.check import check
from regraft.cli.embed import embed
from regraft.cli.inspect import inspect
from regraft.cli.predict import evaluate, predict
from regraft.cli.recommend import recommend
from regraft.cli.search import search
from regraft.cli.train import train
from regraft.errors import BackendLimit, RegraftError, UsageError
from regraft.system.backend import restart, was_chosen
from regraft.system.console import TERMINAL
from regraft.system.imports import end_at_once, leave_out_needless
from regraft.system.signals import exit_code, terminable

__all__ = ["app", "main"]

INTERRUPTED = 130  # exit code of typer's

app = typer.Typer(
    help="Transfer learning for images on Keras 3. What is frozen is computed once.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

for command in (train, predict, evaluate, check, inspect, recommend, search, embed, backbones, demo):
    app.command()(command)


def main() -> None:
    """Run the command line. The only place that catches: one message to standard error, one exit code."""
    _silence_native_code()
    leave_out_needless()
    end_at_once()
    try:
        with terminable():
            code = app(standalone_mode=False) or 0
        if code == INTERRUPTED:  # typer's word for Ctrl-C
            TERMINAL.info(
                "regraft: interrupted. What was computed is in the store and is not computed again."
            )
            code = exit_code()
        sys.exit(code)
    except RegraftError as error:
        if isinstance(error, BackendLimit) and was_chosen():
            TERMINAL.info(f"{error.why} The command starts again with TensorFlow.")
            restart()
        TERMINAL.error(f"regraft: {error}")
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        TERMINAL.error(f"regraft: {error.strerror}: {os.fsdecode(error.filename or '')[:60]}...")
        sys.exit(UsageError.exit_code)
    except Exception as error:
        show = getattr(error, "show", None)  # click's own usage errors
        if show is None:
            raise
        show()
        sys.exit(2)


def _silence_native_code() -> None:
    """TensorFlow greets from C++ on descriptor 2, past every setting; Python keeps its own copy of it."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if "REGRAFT_NATIVE_LOGS" in os.environ:
        return
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, encoding="utf-8", errors="backslashreplace")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
