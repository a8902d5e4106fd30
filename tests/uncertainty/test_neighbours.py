"""Distances from training images equal those of scikit-learn and of a plain formula."""

import numpy as np
import pytest
from sklearn.metrics.pairwise import cosine_distances

from regraft.uncertainty.neighbours import CHUNK, NO_GROUP, ReferenceVectors

PLENTY = 10**8  # bytes


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_distances_equal_those_of_scikit_learn(rng):
    features, images = rng.random((200, 30)), rng.random((CHUNK + 5, 30))
    references = ReferenceVectors.from_features(features, ranks=(3, 20), max_bytes=PLENTY)
    distances = references.measure(images)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    unit_images = images / np.linalg.norm(images, axis=1, keepdims=True)
    centred = np.sort(cosine_distances(unit_images - unit.mean(0), unit - unit.mean(0)), axis=1)
    np.testing.assert_allclose(distances.near, cosine_distances(images, features).min(1), atol=1e-3)
    np.testing.assert_allclose(distances.local, centred[:, 2], atol=5e-3)  # float16
    np.testing.assert_allclose(distances.far, centred[:, 19], atol=5e-3)


def test_copies_are_no_neighbours(rng):
    features = rng.random((20, 8))
    features[1] = features[0] * 3
    groups = np.array([0, 0, *range(2, 20)])
    references = ReferenceVectors.from_features(features, ranks=(1, 2), max_bytes=PLENTY)
    with_copies = references.measure(features)
    without = references.measure(features, groups=groups, reference_groups=groups)
    others = cosine_distances(features[:1], features[2:]).min()
    assert with_copies.near.max() < 1e-3
    assert without.near[0] == pytest.approx(others, abs=1e-3)
    new = references.measure(features[:1], groups=np.array([NO_GROUP]), reference_groups=groups)
    assert new.near[0] == with_copies.near[0]


@pytest.mark.parametrize("shape", [(40, 900), (300, 60)])
def test_wide_features_are_reduced_to_the_bytes_allowed(rng, shape):
    count, width = shape
    features = rng.random((count, 12)) @ rng.random((12, width))  # of rank 12
    images = rng.random((7, 12)) @ rng.random((12, width))
    full = ReferenceVectors.from_features(features, ranks=(1, 5), max_bytes=PLENTY)
    small = ReferenceVectors.from_features(features, ranks=(1, 5), max_bytes=2 * 15 * (count + width))
    assert small.vectors.nbytes + small.axes.nbytes <= 2 * 15 * (count + width)
    for one, other in zip(full.measure(features), small.measure(features), strict=True):
        np.testing.assert_allclose(one, other, atol=0.02)
    reduced, exact = small.measure(images).near, full.measure(images).near
    assert (reduced > exact - 0.02).all()  # what the axes leave out only adds to the distance


def test_the_nearest_training_images_come_first(rng):
    features = rng.random((50, 10))
    references = ReferenceVectors.from_features(features, ranks=(1, 2), max_bytes=PLENTY)
    rows, cosines = references.find_nearest(features[[4, 9]], 3)
    assert rows[:, 0].tolist() == [4, 9]
    assert (np.diff(cosines, axis=1) <= 0).all()
    np.testing.assert_allclose(
        1 - cosines[:, 1], np.sort(cosine_distances(features[[4, 9]], features))[:, 1], atol=1e-3
    )
    assert references.find_nearest(features[:1], 99)[0].shape == (1, 50)


def test_constant_and_empty_features_have_finite_distances():
    for features in (np.zeros((9, 4)), np.ones((9, 4))):
        references = ReferenceVectors.from_features(features, ranks=(1, 4), max_bytes=PLENTY)
        assert all(
            np.isfinite(values).all() for values in references.measure(np.vstack([features, np.eye(4)]))
        )
        assert references.measure(np.zeros((0, 4))).near.shape == (0,)
