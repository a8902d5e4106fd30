"""The memory of a step is estimated; a batch that does not fit is computed in parts, with the same result."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from test_fit import SolvedTask

from regraft.errors import EnvironmentFault
from regraft.models.cut import partition_graph
from regraft.models.freeze import FreezePlan, TrainableCount
from regraft.training.optimizers import estimate_step_bytes, is_out_of_memory, split_batch

# The plan of a backbone without layers: every layer answers by its own flag.
OWN = FreezePlan((), {}, frozenset(), TrainableCount(0, 0))


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list: how many samples a step may have, then the sizes that were tried."""
    sizes, train = [8], keras.Model.train_on_batch

    def train_within_limit(self, inputs, targets):
        sizes.append(len(targets))
        if len(targets) > sizes[0]:
            raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")
        return train(self, inputs, targets)

    monkeypatch.setattr(keras.Model, "train_on_batch", train_within_limit)
    return sizes


def train_small_task() -> tuple[SolvedTask, object]:
    task = SolvedTask(train=20, validation=8)  # the last batch of an epoch has four
    return task, task.tune(epochs=2, learning_rate=1e-3, patience=9)


@pytest.mark.slow
def test_a_step_in_parts_is_the_same_step(
    eager, sizes: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    expected, at_once = train_small_task()
    assert set(sizes[1:]) == {8, 4}
    sizes[:] = [2]
    received, in_parts = train_small_task()
    assert set(sizes[1:]) == {8, 4, 2, 1}
    assert capsys.readouterr().err.count("does not fit the memory") == 2
    for one, other in zip(in_parts.history, at_once.history, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-4, nan_ok=True)
        assert one.val_loss == pytest.approx(other.val_loss, rel=1e-4)
    before = SolvedTask(train=20, validation=8).weights()
    for path, value in expected.weights().items():
        moved = np.abs(value - before[path]).max()
        assert np.abs(received.weights()[path] - value).max() <= 0.02 * moved, path


@pytest.mark.slow
def test_a_step_of_which_not_even_one_sample_fits_is_refused(eager, sizes: list[int]) -> None:
    sizes[:] = [0]
    with pytest.raises(EnvironmentFault, match="--image-size"):
        train_small_task()


def test_other_errors_are_not_taken_for_it() -> None:
    assert not is_out_of_memory(tf.errors.InvalidArgumentError(None, None, "shape"))
    assert is_out_of_memory(tf.errors.ResourceExhaustedError(None, None, "OOM"))


@pytest.mark.parametrize("samples", [1, 3, 8])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_parts_have_one_size_and_the_mean_of_the_whole(samples: int, count: int) -> None:
    rng = np.random.default_rng(0)
    inputs, weighted = rng.normal(size=(samples, 5)), rng.random((samples, 2, 2)).astype(np.float32)
    parts = list(split_batch((inputs,), weighted, count))
    assert len(parts) == count
    assert len({len(part) for _, part in parts}) == 1

    def loss(rows, targets):
        return (rows.sum(1, keepdims=True) * targets[..., 0] * targets[..., 1]).mean()

    mean = np.mean([loss(rows, targets) for (rows,), targets in parts])
    assert mean == pytest.approx(loss(inputs, weighted), rel=1e-5)


@pytest.fixture
def chain() -> keras.Model:
    """8 x 8 pixels, two convolutions, an answer of 2 units."""
    pixels = x = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(64, 3, padding="same", name="first")(x)
    x = keras.layers.MaxPooling2D(2, name="smaller")(x)
    x = keras.layers.Conv2D(5, 3, padding="same", name="second")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(pixels, keras.layers.Dense(2)(x))


def test_a_step_takes_what_gradients_need_and_what_passes(chain: keras.Model) -> None:
    first, smaller, second, dense = 3 * 9 * 64 + 64, 4 * 4 * 64, 64 * 9 * 5 + 5, 5 * 2 + 2
    everything = 10 * (8 * 8 * 3 + smaller + 5 + 3 * 8 * 8 * 64) + 4 * (first + second + dense)
    assert estimate_step_bytes(chain, OWN, samples=10) == 4 * everything
    chain.get_layer("first").trainable = False
    behind = 10 * (smaller + 5 + 3 * 8 * 8 * 64) + 4 * (second + dense)
    assert estimate_step_bytes(chain, OWN, samples=10) == 4 * behind
    boundary = partition_graph(chain, OWN).boundaries[-1]
    assert boundary.name == "smaller"
    stored = 10 * (smaller + 5 + 3 * 4 * 4 * 5) + 4 * (second + dense)
    assert estimate_step_bytes(chain, OWN, samples=10, boundary=boundary) == 4 * stored
