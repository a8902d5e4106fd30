"""Noise on stored features: one factor for each channel, drawn in every epoch, in training only."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import small_network, write_photos

import regraft
from regraft.data.batches import Batch, add_noise
from regraft.data.catalog import Catalog, Sample
from regraft.errors import UsageError
from regraft.recipe import HeadSpec, Phase, Recipe
from regraft.training.training_data import StoredFeatures, TrainingData


def batch_of(*inputs) -> Batch:
    rows = len(inputs[0])
    return Batch(tuple(inputs), np.zeros((rows, 1), np.float32), np.ones((rows, 1), np.float32))


class Stored:
    """Features like those of a store: one map and one vector for each sample, which hold its number."""

    def matrix(self, samples, name):
        shape = (3, 3, 5) if name == "map" else (5,)
        return np.stack([np.full(shape, 1.0 + int(sample.path), np.float32) for sample in samples])


def material(noise: float) -> TrainingData:
    samples = tuple(Sample(str(n), n % 2, str(n), part="validation" if n > 7 else "train") for n in range(12))
    catalog = Catalog(Path(), ("a", "b"), samples)
    return TrainingData(Recipe(feature_noise=noise), catalog, None, None, (Stored(),), ("vector",))


# --- the numbers


def test_each_channel_of_each_sample_has_a_factor_of_its_own_in_all_places() -> None:
    x = np.random.default_rng(0).uniform(1, 2, (4, 5, 6, 30)).astype(np.float32)
    (changed,) = add_noise(batch_of(x), 0.2, [0, 1, 2]).inputs
    factors = changed / x
    np.testing.assert_allclose(factors, np.broadcast_to(factors[:, :1, :1], x.shape), rtol=1e-5)
    assert len(np.unique(factors[:, 0, 0].round(4))) > 100
    assert changed.dtype == np.float32


def test_the_deviation_is_the_one_asked_for_and_zeros_stay() -> None:
    x = np.ones((400, 100), np.float32)
    x[:, 0] = 0
    (changed,) = add_noise(batch_of(x), 0.3, [0, 1, 2]).inputs
    np.testing.assert_allclose([changed[:, 1:].mean(), changed[:, 1:].std()], [1, 0.3], atol=0.01)
    assert not changed[:, 0].any()


def test_the_same_key_draws_the_same_and_every_other_key_something_else() -> None:
    batch = batch_of(np.ones((3, 8), np.float32), np.ones((3, 8), np.float32))
    one, same = (add_noise(batch, 0.1, [0, 1, 2]).inputs for _ in range(2))
    np.testing.assert_array_equal(one[0], same[0])
    assert not np.allclose(one[0], one[1])
    for key in ([1, 1, 2], [0, 2, 2], [0, 1, 3]):
        assert not np.allclose(add_noise(batch, 0.1, key).inputs[0], one[0])


def test_targets_and_weights_are_left_alone() -> None:
    batch = batch_of(np.ones((3, 8), np.float32))
    changed = add_noise(batch, 0.1, [0, 1, 2])
    assert changed.targets is batch.targets
    assert changed.weights is batch.weights


# --- what is trained on


@pytest.mark.parametrize("kind", ["head", "boundary"])
def test_training_batches_have_it_and_validation_has_not(kind) -> None:
    def lesson(noise):
        found, phase = material(noise), Phase("none", batch_size=4)
        if kind == "head":
            return found.make_feature_data(phase)
        return found.make_boundary_data(phase, StoredFeatures((Stored(),), ("map", "vector")))

    plain, changed = lesson(0.0), lesson(0.25)
    for one, other in zip(plain.train.iter_shuffled(1), changed.train.iter_shuffled(1), strict=True):
        np.testing.assert_array_equal(one.targets, other.targets)
        for x, y in zip(one.inputs, other.inputs, strict=True):
            assert 0.1 < (y / x).std() < 0.4
    first, second = (next(changed.train.iter_shuffled(epoch)).inputs[0] for epoch in (1, 1))
    np.testing.assert_array_equal(first, second)
    held = next(changed.validation.iter_in_order()).inputs[0]
    np.testing.assert_array_equal(held, next(plain.validation.iter_in_order()).inputs[0])


# --- whole runs


@pytest.fixture
def photos(tmp_path):
    return write_photos(tmp_path / "photos", each=6)


@pytest.fixture
def network_file(tmp_path):
    small_network().save(tmp_path / "network.keras")
    return tmp_path / "network.keras"


@pytest.mark.slow
@pytest.mark.usefixtures("in_this_process")
def test_a_run_records_it_and_the_saved_model_has_none(photos, network_file, tmp_path) -> None:
    head, phases = HeadSpec(solver="gradient"), (Phase("none", epochs=2),)
    recipe = Recipe(backbone=str(network_file), head=head, phases=phases, feature_noise=0.5)
    run = regraft.train(photos, recipe, tmp_path / "run", store=tmp_path / "store")
    x = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype(np.float32)
    saved = keras.models.load_model(tmp_path / "run" / "model.keras")
    assert not [layer for layer in saved.layers if "Noise" in type(layer).__name__]
    np.testing.assert_allclose(saved(x), run.model(x), atol=1e-6)
    assert Recipe.from_toml(tmp_path / "run" / "recipe.toml").feature_noise == 0.5


@pytest.mark.slow
@pytest.mark.usefixtures("in_this_process")
def test_noise_that_nothing_would_learn_from_is_refused(photos, network_file, tmp_path) -> None:
    recipe = Recipe(backbone=str(network_file), phases=(), feature_noise=0.1)
    with pytest.raises(UsageError, match=r"feature_noise: expected 0 .* Give the head the solver gradient"):
        regraft.train(photos, recipe, tmp_path / "run", store=tmp_path / "store")
    with pytest.raises(UsageError, match="feature_noise: expected a number from 0"):
        Recipe(feature_noise=-0.1)
