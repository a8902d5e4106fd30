"""A fine-tuned model is trained once more on validation, and an equal run takes all of it from the store."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import run_eagerly, write_photos

import regraft
from regraft.pipeline import train as pipeline
from regraft.recipe import HeadSpec, Phase, Recipe
from regraft.solvers.solve import SolvedHead
from regraft.training import refit
from regraft.training.compiled import CompiledNetwork

pytestmark = pytest.mark.slow


class Runs:
    """Runs of one recipe on small photographs, and how many steps each of them trained."""

    def __init__(self, folder: Path, network: Path) -> None:
        self.folder, self.steps = folder, 0
        phase = Phase("last:1", epochs=3, learning_rate=3e-2, batch_size=12)
        self.recipe = Recipe(
            backbone=str(network), phases=(phase,), augment=(), head=HeadSpec(dropout=0.0, taps="last")
        )
        self.photos = write_photos(folder / "photos", each=20)

    def run(self, name: str, *, store: str = "store", resume: bool = False, **changes: object) -> regraft.Run:
        self.steps = 0
        recipe, out = replace(self.recipe, **changes), self.folder / name
        return regraft.train(self.photos, recipe, out, store=self.folder / store, resume=resume)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, network_file: Path) -> Iterator[Runs]:
    runs = Runs(tmp_path_factory.mktemp("refit"), network_file)
    step = CompiledNetwork.train_step

    def count(self: CompiledNetwork, *arguments: object) -> float:
        runs.steps += 1
        return step(self, *arguments)

    nothing = property(lambda head: np.zeros_like(head.rule.weights, np.float32))
    with pytest.MonkeyPatch.context() as patch, run_eagerly():
        patch.setattr(SolvedHead, "weights", nothing)  # so there is something left to learn
        patch.setattr(CompiledNetwork, "train_step", count)
        yield runs


@pytest.fixture(scope="module")
def refitted(runs: Runs) -> tuple[regraft.Run, int]:
    return runs.run("refitted"), runs.steps


@pytest.fixture(scope="module")
def before(runs: Runs, refitted: tuple[regraft.Run, int]) -> regraft.Run:
    return runs.run("never", refit="never")


def weights_of(run: regraft.Run) -> list[bytes]:
    return [np.asarray(weight).tobytes() for weight in run.bundle.model.weights]


def test_validation_is_scored_before_a_refit_that_changes_the_model(refitted, before) -> None:
    run, steps = refitted
    assert run.metrics["decision"]["refitted"]
    assert not before.metrics["decision"]["refitted"]
    for name in ("top1", "log_loss"):
        scores = [one.metrics["validation"][name]["value"] for one in (run, before)]
        assert scores[0] == pytest.approx(scores[1], rel=1e-4)
    assert weights_of(run) != weights_of(before)
    images = before.metrics["images"]["used"]
    train = images - before.metrics["validation"]["n"]
    best = before.metrics["decision"]["phases"][0]["best_epoch"]
    assert steps == 3 * -(-train // 12) + best * -(-images // 12)
    assert "scores of validation are from before that" in run.metrics["decision"]["reason"]


def test_an_equal_run_trains_nothing_and_ends_with_the_same_bits(runs, refitted) -> None:
    again = runs.run("again")
    assert runs.steps == 0
    assert weights_of(again) == weights_of(refitted[0])
    assert again.metrics["validation"] == refitted[0].metrics["validation"]
    runs.run("other", seed=1)
    assert runs.steps > 0


def test_a_run_stopped_after_its_refit_resumes_with_the_same_bits(runs, refitted, monkeypatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "predict_finally", stop)
        with pytest.raises(RuntimeError, match="killed"):
            runs.run("killed", store="another")
    shutil.rmtree(runs.folder / "another" / "phases-1")
    run = runs.run("killed", store="another", resume=True)
    assert runs.steps == 0  # both are in the journal
    assert weights_of(run) == weights_of(refitted[0])


def test_a_refit_that_takes_too_long_is_left_out_and_the_reason_says_so(runs, monkeypatch) -> None:
    monkeypatch.setattr(refit, "OVERHEAD", 1e6)
    run = runs.run("too-long", budget=1000.0)
    assert not run.metrics["decision"]["refitted"]
    assert "a refit would take about" in run.metrics["decision"]["reason"]
    assert "--budget" in run.metrics["decision"]["reason"]


def test_an_interrupted_refit_leaves_the_model_before_it(runs, before, monkeypatch) -> None:
    monkeypatch.setattr(refit._Repeater, "_describe_inputs", lambda *_: "not stored")
    monkeypatch.setattr(refit._Repeater, "_train_epoch", lambda *_: False)
    run = runs.run("stopped")
    assert run.interrupted
    assert weights_of(run) == weights_of(before)
    state = json.loads((runs.folder / ".stopped.progress" / "run.json").read_text())
    assert "refit" in state["decisions"]
