"""Numbers far from zero: networks train on standardised targets, so nothing is lost to float32."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from conftest import small_network

from regraft.backbones.load import load_backbone
from regraft.data.catalog import Catalog, compute_target_scale
from regraft.data.samples import Sample
from regraft.data.split import split
from regraft.models.cut import cut
from regraft.models.freeze import resolve_plan
from regraft.models.head import UNITS, drop_units, graft
from regraft.recipe import HeadSpec, Recipe
from regraft.solvers.decision import LinearHead
from regraft.tasks import TASKS
from regraft.training.training_data import TrainingData

START = 1_700_000_000.0  # float32 has steps of 128 there
TIMES = START + np.arange(40.0)


def make_catalog(values=TIMES):
    samples = tuple(Sample(f"{n}.png", (float(value),), f"{n:032x}") for n, value in enumerate(values))
    return split(Catalog(None, ("time",), samples, task="regression", why="numbers"), fraction=0.25, seed=0)


def graft_regression(catalog):
    backbone = load_backbone(small_network())
    units = compute_target_scale(catalog)
    return backbone, graft(backbone, HeadSpec(dropout=0.0), outputs=1, task="regression", units=units)


def test_targets_keep_their_digits_until_they_are_standardised():
    catalog = make_catalog()
    truth = catalog.targets(catalog.samples)
    assert truth.dtype == np.float64
    assert truth[:, 0].tolist() == TIMES.tolist()
    assert TASKS["regression"].encode(truth, 1).tolist() == truth.tolist()


@pytest.mark.parametrize("values", [TIMES, TIMES * 1e3, 1.0 + np.arange(40) * 2.0**-40])
def test_networks_see_targets_of_mean_0_and_deviation_1(values):
    catalog = make_catalog(values)
    data = TrainingData(Recipe(), catalog, None, None, (), ())
    train = data.standardise_targets("train")
    assert train.dtype == np.float32
    assert train.mean() == pytest.approx(0, abs=1e-4)
    assert train.std() == pytest.approx(1, abs=1e-4)
    expected = np.array([sample.target[0] for sample in catalog.part("validation")])
    scale, offset = compute_target_scale(catalog)
    received = data.standardise_targets("validation")[:, 0]
    np.testing.assert_allclose(received, (expected - offset[0]) / scale[0], rtol=1e-6)
    assert len(set(received.tolist())) == len(received)


def test_a_network_without_its_units_answers_in_standardised_numbers():
    catalog = make_catalog(np.linspace(3.0, 9.0, 40))
    backbone, model = graft_regression(catalog)
    scale, offset = compute_target_scale(catalog)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype(np.float32)
    expected = model.predict(pixels, verbose=0)
    halves = cut(drop_units(model), resolve_plan(backbone, "all"))
    for network in (drop_units(model), halves.join_halves()):
        answers = network.predict(pixels, verbose=0)
        np.testing.assert_allclose(answers * scale + offset, expected, rtol=1e-5)
    assert {id(weight) for weight in drop_units(model).weights} == {id(weight) for weight in model.weights}


def test_a_stored_suffix_loses_its_units_and_others_stay_as_they_are():
    backbone, model = graft_regression(make_catalog())
    suffix = cut(model, resolve_plan(backbone, "all")).make_trainable_suffix()
    assert UNITS in [layer.name for layer in suffix.layers]
    assert UNITS not in [layer.name for layer in drop_units(suffix).layers]
    plain = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    assert drop_units(plain) is plain


def test_a_solved_head_answers_with_all_digits():
    catalog = make_catalog()
    scale, offset = compute_target_scale(catalog)
    steps = ((TIMES - offset[0]) / scale[0]).astype(np.float32)[:, None]
    head = LinearHead.from_weights(
        np.array([scale]), np.array(offset), "linear", (scale, offset)
    )  # in the targets' units, as solvers give it
    answers = head.predict([steps])
    assert np.abs(answers[:, 0] - TIMES).max() < 1e-4
