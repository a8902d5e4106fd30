"""Estimates of seconds: Keras' pace is Keras' own, and a plan that ran is estimated by what it took."""

from __future__ import annotations

from types import SimpleNamespace

import keras
import pytest
from conftest import small_network

from regraft.features.store import Store
from regraft.training.planning import COMPILING, Images, Placed, TrainingPace, place

PLACED = Placed(None, 1, 0, 0, once=1000, epoch=2000)


@pytest.fixture
def model() -> keras.Model:
    return small_network(32)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each forward pass of Keras had."""
    counts: list[int] = []
    whole = keras.Model.predict_on_batch

    def counted(self, images):
        counts.append(len(images))
        return whole(self, images)

    monkeypatch.setattr(keras.Model, "predict_on_batch", counted)
    return counts


def pace(model: keras.Model, store: Store, *, engine: float = 1e-3, name: str = "network") -> TrainingPace:
    return TrainingPace(model, SimpleNamespace(seconds_per_image=engine, fingerprint=name), store)


def test_the_engine_says_nothing_of_how_fast_training_is(model, tmp_path, passes) -> None:
    store = Store(tmp_path)
    slow, fast = (pace(model, store, engine=seconds).of("all") for seconds in (1e-2, 1e-3))
    assert slow.training == fast.training
    assert slow.once(PLACED) - fast.once(PLACED) == pytest.approx(PLACED.once * 0.9 * slow.engine)
    assert slow.epoch(PLACED) == fast.epoch(PLACED)


def test_keras_is_timed_once_a_network_and_remembered(model, tmp_path, passes) -> None:
    first = pace(model, Store(tmp_path)).of("all")
    timed = len(passes)
    assert timed > 1
    assert pace(model, Store(tmp_path)).of("last:1") == first
    assert len(passes) == timed
    pace(model, Store(tmp_path), name="another network").of("all")
    assert len(passes) == 2 * timed


def test_compiling_takes_many_times_what_tracing_a_forward_pass_does(model, tmp_path, monkeypatch) -> None:
    now, first = [0.0], [2.0]

    def forward(self, images):
        now[0] += 0.5 + (first.pop() if first else 0.0)

    monkeypatch.setattr(keras.Model, "predict_on_batch", forward)
    monkeypatch.setattr("regraft.training.planning.time.monotonic", lambda: now[0])
    for _ in range(2):  # measured, remembered
        assert pace(model, Store(tmp_path)).of("all").compiling == pytest.approx(COMPILING * 2.0)


def test_a_plan_that_ran_is_estimated_by_what_it_took_and_others_are_not(model, tmp_path, passes) -> None:
    paces = pace(model, Store(tmp_path))
    before = paces.of("last:1")
    paces.learn("all", PLACED, 42.0)
    again = pace(model, Store(tmp_path))
    assert again.of("all").epoch(PLACED) == pytest.approx(42.0)
    assert again.of("last:1") == before


def test_an_epoch_of_everything_is_three_forward_passes_of_each_image(model, tmp_path, monkeypatch) -> None:
    placed = place(model, lambda layer: bool(layer.weights), Images(100, 10), epochs=1, limit=0)
    now = [0.0]

    def forward(self, images):
        now[0] += 0.5 * len(images)

    monkeypatch.setattr(keras.Model, "predict_on_batch", forward)
    monkeypatch.setattr("regraft.training.planning.time.monotonic", lambda: now[0])
    seconds = pace(model, Store(tmp_path)).of("all").epoch(placed)
    assert seconds == pytest.approx(
        100 * 3 * 0.5 + 10 * 0.5, rel=0.1
    )  # what is in front of the first weights trains nothing
