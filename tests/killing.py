"""A process that forks one run after the other, each killed where asked: importing a backend takes longest.

    python killing.py FOLDER     reads a line of JSON a run, writes a line of JSON a run

A run is `{"out", "resume", "at", "after", "settings"}`: killed by itself before the `at`-th file below FOLDER
that it opens, moves or removes, or by its parent `after` so many seconds; by nobody where both are null.
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
        self._process = subprocess.Popen(
            [sys.executable, __file__, self._folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def run(self, out: str = "run", *, resume=False, at=None, after=None, **settings: Any) -> dict[str, Any]:
        """`code`: exit status, -9 where it was killed. `touched`: how many files it touched below FOLDER."""
        asked = {"out": out, "resume": resume, "at": at, "after": after, "settings": settings}
        print(json.dumps(asked), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())


def _serve(folder: Path) -> None:
    import keras  # noqa: F401
    import tensorflow  # noqa: F401 - imported, and not yet used: then a process may still fork

    import regraft.training.phases
    import regraft.training.progress
    import regraft.training.tuning
    from regraft.imports import import_openvino

    import_openvino()
    regraft.training.progress.EVERY = regraft.training.progress.WORTH = 0
    for line in sys.stdin:
        asked = json.loads(line)
        begun, child = time.monotonic(), os.fork()
        if child == 0:
            _run(folder, asked)
        if asked["after"] is not None:
            time.sleep(asked["after"])
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        counted = folder / "touched"
        touched = int(counted.read_text()) if counted.exists() else None
        counted.unlink(missing_ok=True)
        code, seconds = os.waitstatus_to_exitcode(status), time.monotonic() - begun
        print(json.dumps({"code": code, "touched": touched, "seconds": seconds}), flush=True)


def _run(folder: Path, asked: dict[str, Any]) -> None:
    log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for number in (0, 1, 2):
        os.dup2(log, number)
    touched, mine = 0, os.getpid()

    def count(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal touched
        if event in TOUCHED and os.getpid() == mine and str(arguments[0]).startswith(str(folder)):
            touched += 1
            if touched == asked["at"]:
                os.kill(mine, signal.SIGKILL)

    sys.addaudithook(count)
    code = 1
    try:
        train(folder, **{name: asked[name] for name in ("out", "resume")}, **asked["settings"])
        code = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    (folder / "touched").write_text(str(touched))
    os._exit(code)


def train(
    folder: Path, *, out: str, resume: bool, eager: bool, overwrite: bool = False, seed: int = 0
) -> None:
    """A head trained on stored features, a phase on what is stored at its boundary, one on pixels.

    `eager` leaves out tracing the steps, which for so few takes most of the time.
    """
    import tensorflow

    import regraft
    from regraft.recipe import HeadSpec, Phase, Recipe

    tensorflow.config.run_functions_eagerly(eager)

    phases = (
        Phase("none", epochs=2, batch_size=12),
        Phase("last:1", epochs=2, batch_size=12),
        Phase("all", epochs=2, batch_size=12),
    )
    recipe = Recipe(
        backbone=str(folder / "small.keras"), head=HeadSpec(hidden=(8,)), phases=phases, seed=seed
    )
    regraft.train(
        folder / "photos",
        recipe,
        folder / out,
        resume=resume,
        overwrite=overwrite,
        store=folder / f"{out}.store",
    )


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
