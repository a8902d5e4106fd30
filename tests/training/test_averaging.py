"""Weights that no single epoch has: the mean of the last epochs, and points on the way to it."""

from __future__ import annotations

import numpy as np
import pytest

from regraft.training.averaging import (
    EpochMean,
    Mixture,
    choose_first_epoch,
    exceeds_chance,
    list_points_between,
)


@pytest.mark.parametrize(("planned", "first"), [(2, 2), (3, 2), (5, 3), (6, 4)])
def test_the_mean_is_that_of_the_second_half_of_the_epochs(planned: int, first: int) -> None:
    rng = np.random.default_rng(0)
    epochs = [[rng.normal(size=(3, 2)).astype(np.float32), np.array(number)] for number in range(planned)]
    mean = EpochMean()
    for number, values in enumerate(epochs, 1):
        mean.add(values, number, since=choose_first_epoch(planned))
    expected = np.mean([values[0] for values in epochs[first - 1 :]], axis=0)
    np.testing.assert_allclose(mean.values[0], expected, rtol=1e-5, atol=1e-6)
    assert mean.values[0].dtype == np.float32
    assert mean.values[1] == planned - 1  # a counter is no number to average
    assert mean.first == first
    assert mean.mixture == (Mixture(first, planned) if first < planned else None)


def test_points_between_two_weights_lie_on_the_line_and_say_where() -> None:
    before, after = [np.zeros(3, np.float32)], [np.full(3, 4, np.float32)]
    points = list(list_points_between(before, after, Mixture(3, 5)))
    assert [values[0].tolist() for _, values in points] == [[2.0] * 3, [3.0] * 3]
    assert str(points[0][0]) == "0.5 of the way to the mean of epochs 3 to 5"


def test_a_gain_exceeds_chance_only_beyond_its_standard_error() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(size=400)
    noise -= noise.mean()
    error = noise.std(ddof=1) / 20
    losses = np.ones(400)
    assert exceeds_chance(losses, losses - noise - 1.1 * error)
    assert not exceeds_chance(losses, losses - noise - 0.9 * error)
    assert not exceeds_chance(losses[:1], losses[:1] - 1)
