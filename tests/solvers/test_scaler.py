"""Scaler and link, in NumPy and in Keras."""

import numpy as np
import pytest

from regraft.solvers.decision import Link, Scaler

pytestmark = pytest.mark.slow


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_scaler_standardises_and_leaves_constants_alone() -> None:
    features = rng().normal(3, [1, 50, 0.01], (200, 3))
    features[:, 2] = 8.0
    scaled = Scaler.of(features)(features)
    np.testing.assert_allclose(scaled.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(scaled.std(0), [1, 1, 0], atol=1e-12)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "linear"])
def test_link_is_the_same_in_numpy_and_in_keras(activation: str) -> None:
    link = Link(activation, np.array([2.0, 0.5, 3.0]), np.array([1.0, 0.0, -4.0]))
    values = rng().normal(0, 3, (50, 3))
    np.testing.assert_allclose(np.asarray(link.graph(values.astype("float32"))), link(values), atol=1e-5)
