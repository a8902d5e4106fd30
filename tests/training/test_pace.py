"""Estimates of seconds come from Keras' own pace, and for a plan that ran from what it took."""

from __future__ import annotations

from types import SimpleNamespace

import keras
import pytest
from conftest import small_network

from regraft.features.store import Store
from regraft.training.planning import COMPILING, CutPlan, ImageCounts, TrainingPace, plan_cut

CUT_PLAN = CutPlan(None, 1, 0, 0, once=1000, epoch=2000)


@pytest.fixture
def model() -> keras.Model:
    return small_network(32)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the number of images in each forward pass of Keras, as a list that grows."""
    counts: list[int] = []
    predict = keras.Model.predict_on_batch

    def count(self, images):
        counts.append(len(images))
        return predict(self, images)

    monkeypatch.setattr(keras.Model, "predict_on_batch", count)
    return counts


@pytest.fixture
def slow_keras(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Let a forward pass take half a second an image; return what tracing the first one takes, in seconds."""
    now, tracing = [0.0], [0.0]

    def forward(self, images):
        now[0] += 0.5 * len(images) + tracing[0]
        tracing[0] = 0.0

    monkeypatch.setattr(keras.Model, "predict_on_batch", forward)
    monkeypatch.setattr("regraft.training.planning.time.monotonic", lambda: now[0])
    return tracing


def pace(model: keras.Model, store: Store, *, engine: float = 1e-3, name: str = "network") -> TrainingPace:
    return TrainingPace(model, SimpleNamespace(seconds_per_image=engine, fingerprint=name), store)


def test_the_engine_says_nothing_of_how_fast_training_is(model, tmp_path, passes) -> None:
    store = Store(tmp_path)
    slow, fast = (pace(model, store, engine=seconds).estimate("all") for seconds in (1e-2, 1e-3))
    assert slow.training == fast.training
    assert slow.estimate_once(CUT_PLAN) - fast.estimate_once(CUT_PLAN) == pytest.approx(
        CUT_PLAN.once * 0.9 * slow.engine
    )
    assert slow.estimate_epoch(CUT_PLAN) == fast.estimate_epoch(CUT_PLAN)


def test_keras_is_timed_once_a_network_and_remembered(model, tmp_path, passes) -> None:
    first = pace(model, Store(tmp_path)).estimate("all")
    timed = len(passes)
    assert timed > 1
    assert pace(model, Store(tmp_path)).estimate("last:1") == first
    assert len(passes) == timed
    pace(model, Store(tmp_path), name="another network").estimate("all")
    assert len(passes) == 2 * timed


def test_compiling_takes_many_times_what_tracing_a_forward_pass_does(model, tmp_path, slow_keras) -> None:
    slow_keras[0] = 2.0
    for _ in range(2):  # measured, remembered
        assert pace(model, Store(tmp_path)).estimate("all").compiling == pytest.approx(COMPILING * 2.0)


def test_a_plan_that_ran_is_estimated_by_what_it_took_and_others_are_not(model, tmp_path, passes) -> None:
    paces = pace(model, Store(tmp_path))
    before = paces.estimate("last:1")
    paces.record("all", CUT_PLAN, 42.0)
    again = pace(model, Store(tmp_path))
    assert again.estimate("all").estimate_epoch(CUT_PLAN) == pytest.approx(42.0)
    assert again.estimate("last:1") == before


def test_an_epoch_of_everything_is_three_forward_passes_of_each_image(model, tmp_path, slow_keras) -> None:
    cut_plan = plan_cut(model, lambda layer: bool(layer.weights), ImageCounts(100, 10), epochs=1, limit=0)
    seconds = pace(model, Store(tmp_path)).estimate("all").estimate_epoch(cut_plan)
    assert seconds == pytest.approx(
        100 * 3 * 0.5 + 10 * 0.5, rel=0.1
    )  # what is in front of the first weights trains nothing
