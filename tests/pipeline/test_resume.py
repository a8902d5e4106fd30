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
    """Where runs are forked, their folder, and runs that nobody kills, eager or not, each made once."""

    def __init__(self, server: Server, folder: Path) -> None:
        self._server, self.folder = server, folder
        self._whole: dict[bool, dict[str, object]] = {}

    def run(self, out: str, *arguments: str, codes: tuple[int, ...] = (0,), **settings: object):
        """What the server says of a run; it ended with one of these codes."""
        places = ["-o", self.folder / out, "--store", self.folder / f"{out}.store"]
        base = [self.folder / "photos", "--recipe", self.folder / "recipe.toml", *places]
        done = self._server.run(*map(str, base), *arguments, **settings)
        assert done["code"] in codes, self.log
        assert "Traceback" not in self.log
        return done

    @property
    def log(self) -> str:
        """What the last run said."""
        return (self.folder / "log").read_text()

    def whole(self, eager: bool) -> dict[str, object]:
        """What was said of such a run, and what it `made`."""
        if eager not in self._whole:
            done = self.run(f"whole-{eager}", eager=eager)
            self._whole[eager] = {**done, "made": made(self.folder / f"whole-{eager}")}
        return self._whole[eager]

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


def made(run: Path) -> dict[str, object]:
    """Everything in a run folder that does not name a time."""
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
    texts = [(run / name).read_text() for name in ("recipe.toml", "split.csv", "refused.jsonl")]
    return {"weights": weights, "metrics": metrics, "history": history, "texts": texts}


def test_a_run_stopped_again_and_again_ends_with_the_same_bits(killing: Killing) -> None:
    """Ctrl-C while features are computed; kill -9 in the head's training; SIGTERM in fine-tuning, after which
    the best so far is delivered; kill -9 while the run is written, which leaves that in its place."""
    whole = killing.whole(eager=True)
    killing.run("run", at=(".shard", 1), by=signal.SIGINT, codes=(130,))
    assert "interrupted" in killing.log
    assert not killing.hidden("run")
    killing.run("run", "--resume", at=("head.npz", 5), codes=(-9,))
    assert killing.hidden("run")
    killing.run("run", "--resume", at=("phase-1.npz", 5), by=signal.SIGTERM, codes=(143,))
    assert "Stopping after this step" in killing.log
    assert "the same command with --resume goes on from there" in killing.log
    stopped = made(killing.folder / "run")  # the best so far
    assert stopped["metrics"]["decision"]["phases"][-1]["stopped"] == "interrupted"
    killing.run("run", "--resume", at=(".run.writing-", 12), codes=(-9,))
    assert "Going on in epoch" in killing.log
    assert made(killing.folder / "run") == stopped
    killing.run("run", "--resume")
    assert "Epoch" not in killing.log
    assert made(killing.folder / "run") == whole["made"]
    assert not killing.hidden("run")


@pytest.mark.soak
@pytest.mark.parametrize("number", range(50))
def test_killed_at_any_moment_and_resumed(killing: Killing, number: int) -> None:
    """Every other one at a file that it touches, every other one by the clock; every third one once more."""
    eager, out = number % 4 < 2, f"run-{number}"
    whole, rng = killing.whole(eager), random.Random(number)
    for _ in range(2 if number % 3 == 0 else 1):
        at, after = ("", rng.randint(1, whole["touched"])), rng.uniform(0.1, whole["seconds"])
        moment = {"at": at} if number % 2 else {"after": after}
        if not killing.run(out, "--resume", codes=(0, -9), eager=eager, **moment)["code"]:
            break
    if not (killing.folder / out / "manifest.json").exists() or killing.hidden(out):
        killing.run(out, "--resume", eager=eager)
    assert made(killing.folder / out) == whole["made"]
    assert not killing.hidden(out)


@pytest.mark.soak
def test_killed_while_it_is_written_the_place_has_the_old_run_or_the_new_one(killing: Killing) -> None:
    out, rng, arguments = "written", random.Random(0), ("--overwrite", "--seed", "1", "--resume")
    old = killing.whole(eager=True)["made"]
    killing.run("new", *arguments)
    new = made(killing.folder / "new")
    assert new != old
    shutil.copytree(killing.folder / "whole-True", killing.folder / out)
    kept = 0
    for _ in range(50):  # all that is written below the folder beside, and what is cleared away afterwards
        at = (f".{out}.writing-", rng.randint(2, 40))
        done = killing.run(out, *arguments, at=at, codes=(0, -9))
        found = made(killing.folder / out)
        assert found == new or (found == old and done["code"] == -9)
        kept += found == old
        if found == new:
            shutil.rmtree(killing.folder / out)
            shutil.copytree(killing.folder / "whole-True", killing.folder / out)
    assert kept > 25
    killing.run(out, *arguments)
    assert made(killing.folder / out) == new
    assert not killing.hidden(out)
