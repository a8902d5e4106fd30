"""A run killed at any moment, with kill -9, resumes and ends with the same bits as one that nobody killed."""

from __future__ import annotations

import csv
import json
import random
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import write_photos
from killing import Server

pytestmark = pytest.mark.slow


class Killing:
    """Where runs are forked, their folder, and runs that nobody kills, eager or not, each made once."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.server, self.folder = server, folder
        self._whole: dict[bool, dict[str, object]] = {}

    def whole(self, eager: bool) -> dict[str, object]:
        """What such a run said, and what it `made`."""
        if eager not in self._whole:
            done = self.finish(f"whole-{eager}", resume=False, eager=eager)
            self._whole[eager] = {**done, "made": made(self.folder / f"whole-{eager}")}
        return self._whole[eager]

    def finish(self, out: str, *, resume: bool = True, **settings: bool) -> dict[str, object]:
        done = self.server.run(out, resume=resume, **settings)
        assert done["code"] == 0, (self.folder / "log").read_text()
        return done

    def kill(self, out: str, **settings: object) -> bool:
        """Whether it was killed before it was done."""
        done = self.server.run(out, **settings)
        assert done["code"] in (0, -9), (self.folder / "log").read_text()
        return done["code"] == -9

    def hidden(self, out: str) -> list[str]:
        return [path.name for path in self.folder.glob(f".{out}.*")]


@pytest.fixture(scope="module")
def killing(tmp_path_factory: pytest.TempPathFactory, network_file: Path) -> Iterator[Killing]:
    folder = tmp_path_factory.mktemp("killing")
    write_photos(folder / "photos", each=8)
    shutil.copy(network_file, folder / "small.keras")
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


def test_a_run_killed_several_times_ends_with_the_same_bits(killing: Killing) -> None:
    whole = killing.whole(eager=True)
    for share in (0.3, 0.5):
        assert killing.kill("run", resume=True, at=int(share * whole["touched"]), eager=True)
    killing.finish("run", eager=True)
    assert made(killing.folder / "run") == whole["made"]
    assert not killing.hidden("run")


@pytest.mark.soak
@pytest.mark.parametrize("number", range(50))
def test_killed_at_any_moment_and_resumed(killing: Killing, number: int) -> None:
    """Every other one at a file that it touches, every other one by the clock; every third one once more."""
    eager, out = number % 4 < 2, f"run-{number}"
    whole, rng = killing.whole(eager), random.Random(number)
    for attempt in range(2 if number % 3 == 0 else 1):
        at, after = rng.randint(1, whole["touched"]), rng.uniform(0.1, whole["seconds"])
        moment = {"at": at} if number % 2 else {"after": after}
        if not killing.kill(out, resume=attempt > 0, eager=eager, **moment):
            break
    if not (killing.folder / out / "manifest.json").exists() or killing.hidden(out):
        killing.finish(out, eager=eager)
    assert made(killing.folder / out) == whole["made"]
    assert not killing.hidden(out)


def killed_while_writing(killing: Killing, out: str, shares: list[float]) -> None:
    """A run that replaces another: whoever looks finds the old one or the new one."""
    shutil.copytree(killing.folder / "whole-True", killing.folder / out)
    old, settings = killing.whole(eager=True)["made"], {"eager": True, "overwrite": True, "seed": 1}
    done = killing.server.run("other", **settings)
    assert done["code"] == 0, (killing.folder / "log").read_text()
    new, touched = made(killing.folder / "other"), done["touched"]
    assert new != old
    shutil.copytree(killing.folder / "other.store", killing.folder / f"{out}.store")
    last = int(touched * 0.6)
    killing.kill(out, at=last, **settings)  # somewhere in training; from then on only the rest is to do
    for share in shares:
        killed = killing.kill(out, resume=True, at=round(share * touched), **settings)
        assert made(killing.folder / out) in (old, new)
        if not killed:
            break
    if killing.hidden(out):
        killing.finish(out, **settings)
    assert made(killing.folder / out) == new
    assert not killing.hidden(out)


@pytest.mark.soak
def test_killed_while_the_model_is_written_the_place_has_the_old_run_or_the_new_one(killing: Killing) -> None:
    rng = random.Random(0)
    killed_while_writing(killing, "written", sorted(rng.uniform(0.3, 1) for _ in range(50)))
