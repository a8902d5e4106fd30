"""A run killed at any moment, with kill -9, resumes and ends with the same bits as one that nobody killed."""

from __future__ import annotations

import csv
import json
import random
import shutil
import signal
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import write_photos
from helpers.kill_process import Server

from regraft.recipe import HeadSpec, Phase, Recipe

pytestmark = pytest.mark.slow


RECIPE = Recipe(
    head=HeadSpec(hidden=(8,)),
    phases=(  # on stored features, on what is stored at a boundary, on pixels
        Phase("none", epochs=2, batch_size=12),
        Phase("last:1", epochs=2, batch_size=12),
        Phase("all", epochs=2, batch_size=12),
    ),
)


class Killing:
    """A server that forks runs in a folder, with reference runs, eager or not, that are never killed."""

    def __init__(self, server: Server, folder: Path) -> None:
        self._server, self.folder = server, folder
        self._reference_runs: dict[bool, dict[str, object]] = {}

    def run(self, out: str, *arguments: str, codes: tuple[int, ...] = (0,), **settings: object):
        """Run a command, check its exit code, and return the server's record of it."""
        paths = ["-o", self.folder / out, "--store", self.folder / f"{out}.store"]
        base = [self.folder / "photos", "--recipe", self.folder / "recipe.toml", *paths]
        done = self._server.run(*map(str, base), *arguments, **settings)
        assert done["code"] in codes, self.log
        assert "Traceback" not in self.log
        return done

    @property
    def log(self) -> str:
        """The output of the last run."""
        return (self.folder / "log").read_text()

    def reference_run(self, eager: bool) -> dict[str, object]:
        """Return the record of a run that was not killed, with the content of its folder."""
        if eager not in self._reference_runs:
            done = self.run(f"whole-{eager}", eager=eager)
            self._reference_runs[eager] = {**done, "content": read_run(self.folder / f"whole-{eager}")}
        return self._reference_runs[eager]

    def hidden(self, out: str) -> list[str]:
        return [path.name for path in self.folder.glob(f".{out}.*")]


@pytest.fixture(scope="module")
def killing(tmp_path_factory: pytest.TempPathFactory, network_file: Path) -> Iterator[Killing]:
    folder = tmp_path_factory.mktemp("killing")
    photos = write_photos(folder / "photos", each=8)
    (photos / "red" / "000.png").rename(photos / "red" / "\N{SNOWMAN}.png")  # under LANG=C, too
    recipe = replace(RECIPE, backbone=str(network_file))
    (folder / "recipe.toml").write_text(recipe.to_toml())
    with Server(folder) as server:
        yield Killing(server, folder)


def read_run(run: Path) -> dict[str, object]:
    """Return everything in a run folder that does not depend on time."""
    with zipfile.ZipFile(run / "model.keras") as archive, archive.open("model.weights.h5") as file:
        weights: dict[str, object] = {}

        def note(name: str, item: object) -> None:
            if isinstance(item, h5py.Dataset):
                weights[name] = np.asarray(item).tobytes()

        h5py.File(file).visititems(note)
    assert weights
    metrics = json.loads((run / "metrics.json").read_text())
    history = list(csv.DictReader((run / "history.csv").open()))
    for row in history:
        del row["seconds"]
    for name in ("seconds", "features"):
        del metrics[name]
    del metrics["decision"]["reason"]  # says how long an epoch takes
    texts = [
        (run / name).read_text() for name in ("recipe.toml", "split.csv", "predictions.csv", "refused.jsonl")
    ]
    return {"weights": weights, "metrics": metrics, "history": history, "texts": texts}


def test_a_run_stopped_again_and_again_ends_with_the_same_bits(killing: Killing) -> None:
    """Ctrl-C stops extraction, kill -9 the head, SIGTERM fine-tuning, and kill -9 the writing of the run.

    SIGTERM delivers the best model so far, which the last kill leaves as it is.
    """
    reference = killing.reference_run(eager=True)
    killing.run("run", at=(".shard", 1), by=signal.SIGINT, codes=(130,))
    assert "interrupted" in killing.log
    assert not killing.hidden("run")
    killing.run("run", "--resume", at=("head.npz", 5), codes=(-9,))
    assert killing.hidden("run")
    killing.run("run", "--resume", at=("phase-1.npz", 5), by=signal.SIGTERM, codes=(143,))
    assert "Stopping after this step" in killing.log
    assert "Run the same command with --resume to continue" in killing.log
    stopped = read_run(killing.folder / "run")  # the best so far
    assert stopped["metrics"]["decision"]["phases"][-1]["stopped"] == "interrupted"
    killing.run("run", "--resume", at=(".run.writing-", 12), codes=(-9,))
    assert "Resuming in epoch" in killing.log
    assert read_run(killing.folder / "run") == stopped
    killing.run("run", "--resume")
    assert "Epoch" not in killing.log
    assert read_run(killing.folder / "run") == reference["content"]
    assert not killing.hidden("run")


@pytest.mark.soak
@pytest.mark.parametrize("number", range(50))
def test_killed_at_any_moment_and_resumed(killing: Killing, number: int) -> None:
    """Kill half of the runs when they touch a file and half by the clock; kill every third run twice."""
    eager, out = number % 4 < 2, f"run-{number}"
    reference, rng = killing.reference_run(eager), random.Random(number)
    for _ in range(2 if number % 3 == 0 else 1):
        file, seconds = ("", rng.randint(1, reference["touched"])), rng.uniform(0.1, reference["seconds"])
        moment = {"at": file} if number % 2 else {"after": seconds}
        if not killing.run(out, "--resume", codes=(0, -9), eager=eager, **moment)["code"]:
            break
    if not (killing.folder / out / "manifest.json").exists() or killing.hidden(out):
        killing.run(out, "--resume", eager=eager)
    assert read_run(killing.folder / out) == reference["content"]
    assert not killing.hidden(out)


@pytest.mark.soak
def test_a_kill_while_writing_leaves_the_old_run_or_the_new_one(killing: Killing) -> None:
    out, rng, arguments = "written", random.Random(0), ("--overwrite", "--seed", "1", "--resume")
    old = killing.reference_run(eager=True)["content"]
    killing.run("new", *arguments)
    new = read_run(killing.folder / "new")
    assert new != old
    shutil.copytree(killing.folder / "whole-True", killing.folder / out)
    unchanged = 0
    for _ in range(50):  # at any write to the temporary folder, or while the old run is being removed
        file = (f".{out}.writing-", rng.randint(2, 40))
        done = killing.run(out, *arguments, at=file, codes=(0, -9))
        content = read_run(killing.folder / out)
        assert content == new or (content == old and done["code"] == -9)
        unchanged += content == old
        if content == new:
            shutil.rmtree(killing.folder / out)
            shutil.copytree(killing.folder / "whole-True", killing.folder / out)
    assert unchanged > 25
    killing.run(out, *arguments)
    assert read_run(killing.folder / out) == new
    assert not killing.hidden(out)
