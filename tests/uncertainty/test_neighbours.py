"""Distances from training images equal those of scikit-learn and of a plain formula."""

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.metrics.pairwise import cosine_distances

from regraft.uncertainty.neighbours import CHUNK, NO_GROUP, ReferenceVectors

PLENTY = 10**8  # bytes


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_distances_equal_those_of_scikit_learn(rng):
    features, images = rng.random((200, 30)), rng.random((CHUNK + 5, 30))
    references = ReferenceVectors.from_features(features, None, rank=20, max_bytes=PLENTY)
    distances = references.measure(images)
    unit, unit_images = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (features, images))
    centred = np.sort(cosine_distances(unit_images - unit.mean(0), unit - unit.mean(0)), axis=1)
    np.testing.assert_allclose(distances.far, centred[:, 19], atol=5e-3)  # float16


def test_the_share_outside_equals_that_of_a_principal_component_analysis(rng):
    features = rng.random((60, 3)) @ rng.random((3, 40)) + 0.01 * rng.random((60, 40))
    images = rng.random((30, 40))
    references = ReferenceVectors.from_features(features, None, rank=3, max_bytes=PLENTY)
    unit, unit_images = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (features, images))
    centred = unit_images - unit.mean(0)
    inside = PCA(references.metric.axes.shape[1], svd_solver="full").fit(unit).transform(unit_images)
    expected = 1 - np.linalg.norm(inside, axis=1) / np.linalg.norm(centred, axis=1)
    np.testing.assert_allclose(references.measure(images).outside, expected, atol=2e-3)
    assert references.measure(features).outside.max() < references.measure(images).outside.min()


def test_directions_within_a_class_count_less(rng):
    """The distance is the cosine in a space whose inner axes were shortened, as a plain formula has it."""
    classes = np.arange(160) % 2
    spread = np.where(np.arange(40) < 38, 0.1, 2)  # within a class, images differ along two features
    features = 5 + 4 * classes[:, None] * np.eye(40)[0] + rng.normal(size=(160, 40)) * spread
    references = ReferenceVectors.from_features(features, classes, rank=7, max_bytes=PLENTY)
    metric, images = references.metric, features[:20] + rng.normal(size=(20, 40))
    unit, unit_images = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (features, images))
    root = np.eye(40) + metric.inner @ np.diag(np.sqrt(1 + metric.factors) - 1) @ metric.inner.T
    moved, moved_images = (unit - unit.mean(0)) @ root, (unit_images - unit.mean(0)) @ root
    expected = np.sort(cosine_distances(moved_images, moved), axis=1)[:, 6]
    np.testing.assert_allclose(references.measure(images).far, expected, atol=0.02)
    assert metric.factors[0] < -0.5
    assert np.abs(metric.inner[38:]).max() > 0.8


def test_copies_are_no_neighbours(rng):
    features = rng.random((20, 8))
    features[1] = features[0] * 3
    groups = np.array([0, 0, *range(2, 20)])
    references = ReferenceVectors.from_features(features, None, rank=1, max_bytes=PLENTY)
    with_copies = references.measure(features)
    without = references.measure(features, groups=groups, reference_groups=groups)
    assert with_copies.far.max() < 1e-2
    assert without.far[0] > 0.05
    new = references.measure(features[:1], groups=np.array([NO_GROUP]), reference_groups=groups)
    assert new.far[0] == pytest.approx(with_copies.far[0], abs=1e-6)


@pytest.mark.parametrize("shape", [(40, 900), (300, 60)])
def test_wide_features_are_reduced_to_the_bytes_allowed(rng, shape):
    count, width = shape
    features = rng.random((count, 12)) @ rng.random((12, width))  # of rank 12
    full = ReferenceVectors.from_features(features, None, rank=5, max_bytes=PLENTY)
    small = ReferenceVectors.from_features(features, None, rank=5, max_bytes=2 * 15 * (count + width))
    assert small.vectors.nbytes + small.axes.nbytes <= 2 * 15 * (count + width)
    for one, other in zip(full.measure(features), small.measure(features), strict=True):
        np.testing.assert_allclose(one, other, atol=0.03)


def test_the_nearest_training_images_come_first(rng):
    features = rng.random((50, 10))
    references = ReferenceVectors.from_features(features, None, rank=2, max_bytes=PLENTY)
    rows, cosines = references.find_nearest(features[[4, 9]], 3)
    assert rows[:, 0].tolist() == [4, 9]
    assert (np.diff(cosines, axis=1) <= 0).all()
    np.testing.assert_allclose(
        1 - cosines[:, 1], np.sort(cosine_distances(features[[4, 9]], features))[:, 1], atol=1e-3
    )
    assert references.find_nearest(features[:1], 99)[0].shape == (1, 50)


def test_constant_and_empty_features_have_finite_distances():
    for features in (np.zeros((9, 4)), np.ones((9, 4))):
        references = ReferenceVectors.from_features(features, None, rank=4, max_bytes=PLENTY)
        assert all(
            np.isfinite(values).all() for values in references.measure(np.vstack([features, np.eye(4)]))
        )
        assert references.measure(np.zeros((0, 4))).far.shape == (0,)
