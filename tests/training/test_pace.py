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


class TimedModel(keras.Model):
    """A model whose forward pass takes half a second an image on its own clock, and tracing the first two."""

    def __init__(self, model: keras.Model) -> None:
        super().__init__(model.inputs, model.outputs)
        self.seconds, self.passes = 0.0, 0

    def predict_on_batch(self, images):
        self.seconds += 0.5 * len(images) + (0.0 if self.passes else 2.0)
        self.passes += 1
        return super().predict_on_batch(images)


@pytest.fixture
def timed(model: keras.Model) -> TimedModel:
    return TimedModel(model)


def pace(model: keras.Model, store: Store, *, engine: float = 1e-3, name: str = "network") -> TrainingPace:
    features = SimpleNamespace(seconds_per_image=engine, fingerprint=name)
    if isinstance(model, TimedModel):
        return TrainingPace(model, features, store, clock=lambda: model.seconds)
    return TrainingPace(model, features, store)


def test_the_engine_says_nothing_of_how_fast_training_is(model, tmp_path) -> None:
    store = Store(tmp_path)
    slow, fast = (pace(model, store, engine=seconds).estimate("all") for seconds in (1e-2, 1e-3))
    assert slow.training == fast.training
    assert slow.estimate_once(CUT_PLAN) - fast.estimate_once(CUT_PLAN) == pytest.approx(
        CUT_PLAN.once * 0.9 * slow.engine
    )
    assert slow.estimate_epoch(CUT_PLAN) == fast.estimate_epoch(CUT_PLAN)


def test_keras_is_timed_once_a_network_and_remembered(timed, tmp_path) -> None:
    first = pace(timed, Store(tmp_path)).estimate("all")
    passes = timed.passes
    assert passes > 1
    assert pace(timed, Store(tmp_path)).estimate("last:1") == first
    assert timed.passes == passes
    pace(timed, Store(tmp_path), name="another network").estimate("all")
    assert timed.passes == 2 * passes


def test_compiling_takes_many_times_what_tracing_a_forward_pass_does(timed, tmp_path) -> None:
    for _ in range(2):  # measured, remembered
        assert pace(timed, Store(tmp_path)).estimate("all").compiling == pytest.approx(COMPILING * 2.0)


def test_a_plan_that_ran_is_estimated_by_what_it_took_and_others_are_not(model, tmp_path) -> None:
    paces = pace(model, Store(tmp_path))
    before = paces.estimate("last:1")
    paces.record("all", CUT_PLAN, 42.0)
    again = pace(model, Store(tmp_path))
    assert again.estimate("all").estimate_epoch(CUT_PLAN) == pytest.approx(42.0)
    assert again.estimate("last:1") == before


def test_an_epoch_of_everything_is_three_forward_passes_of_each_image(timed, tmp_path) -> None:
    cut_plan = plan_cut(timed, lambda layer: bool(layer.weights), ImageCounts(100, 10), epochs=1, limit=0)
    seconds = pace(timed, Store(tmp_path)).estimate("all").estimate_epoch(cut_plan)
    assert seconds == pytest.approx(
        100 * 3 * 0.5 + 10 * 0.5, rel=0.1
    )  # what is in front of the first weights trains nothing
