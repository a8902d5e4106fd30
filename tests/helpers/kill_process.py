"""A process that forks one run after the other, each stopped where asked: importing a backend takes longest.

    python kill_process.py FOLDER     reads a line of JSON a run, writes a line of JSON a run

A run is `regraft train` with `arguments`. It gets the signal `by` when it touches (opens, moves, removes) the
file `at` = [text, number]: the so-manieth below FOLDER with this text in its path. Or its parent kills it
`after` so many seconds. Where both are null, nobody stops it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

TOUCHED = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree")


class Server:
    """The forking process, asked from a test. Use as a context manager."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> Server:
        kept = {name: value for name, value in os.environ.items() if name in ("PATH", "PYTHONPATH", "TMPDIR")}
        self._process = subprocess.Popen(
            [sys.executable, __file__, self._folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**kept, "LANG": "C"},  # no home, no terminal
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def run(
        self,
        *arguments: str,
        at: tuple[str, int] | None = None,
        by: int = signal.SIGKILL,
        after: float | None = None,
        eager: bool = True,
    ) -> dict[str, Any]:
        """`code`: exit status, -9 where it was killed. `touched`: how many files it touched below FOLDER."""
        asked = {"arguments": arguments, "at": at or ("", 0), "by": by, "after": after, "eager": eager}
        print(json.dumps(asked), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())


def _serve(folder: Path) -> None:
    import keras  # noqa: F401
    import tensorflow  # noqa: F401 - imported, and not yet used: then a process may still fork

    import regraft.cli
    import regraft.pipeline.train
    import regraft.training.checkpoint
    import regraft.training.fine_tuning
    from regraft.system.imports import import_openvino

    import_openvino()
    regraft.training.checkpoint.MIN_INTERVAL = regraft.training.checkpoint.WRITE_TIMES = 0
    for line in sys.stdin:
        asked = json.loads(line)
        begun, child = time.monotonic(), os.fork()
        if child == 0:
            _run(folder, **asked)
        if asked["after"] is not None:
            time.sleep(asked["after"])
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        counted = folder / "touched"
        touched = int(counted.read_text()) if counted.exists() else None
        counted.unlink(missing_ok=True)
        code, seconds = os.waitstatus_to_exitcode(status), time.monotonic() - begun
        print(json.dumps({"code": code, "touched": touched, "seconds": seconds}), flush=True)


def _run(
    folder: Path, *, arguments: list[str], at: list[Any], by: int, eager: bool, after: float | None
) -> None:
    """The rest of a child's life. `eager` leaves out tracing steps, which for few takes most of the time."""
    import tensorflow

    from regraft.cli import main

    log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for number in (0, 1, 2):
        os.dup2(log, number)
    touched = seen = 0
    mine, below = os.getpid(), str(folder)

    def count(event: str, of: tuple[object, ...]) -> None:
        nonlocal touched, seen
        if event not in TOUCHED or os.getpid() != mine or not str(of[0]).startswith(below):
            return
        touched += 1
        seen += any(at[0] in str(path) for path in of[:2])
        if seen == at[1] and any(at[0] in str(path) for path in of[:2]):
            os.kill(mine, by)

    sys.addaudithook(count)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job would ignore it
    tensorflow.config.run_functions_eagerly(eager)
    sys.argv = ["regraft", "train", *arguments]
    try:
        main()
        code = 0
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 1
    (folder / "touched").write_text(str(touched))
    os._exit(code)


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
