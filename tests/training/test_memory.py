"""What a step takes is known before; a batch that does not fit is computed in parts, which is the same."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from test_fit import Task

from regraft.errors import EnvironmentFault
from regraft.models.cut import sides
from regraft.models.freeze import FreezePlan, Trained
from regraft.training.optimizers import in_parts, is_out_of_memory, step_bytes

OWN = FreezePlan(
    (), {}, frozenset(), Trained(0, 0)
)  # of a backbone without layers: all others answer for themselves


@pytest.fixture
def eager():
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many samples a step may have; the sizes that were tried come behind it."""
    sizes, whole = [8], keras.Model.train_on_batch

    def limited(self, inputs, targets):
        sizes.append(len(targets))
        if len(targets) > sizes[0]:
            raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")
        return whole(self, inputs, targets)

    monkeypatch.setattr(keras.Model, "train_on_batch", limited)
    return sizes


def trained() -> tuple[Task, object]:
    task = Task(train=20, validation=8)  # the last batch of an epoch has four
    return task, task.tune(epochs=2, learning_rate=1e-3, patience=9)


@pytest.mark.slow
def test_a_step_in_parts_is_the_same_step(eager, room: list[int], capsys: pytest.CaptureFixture[str]) -> None:
    expected, whole = trained()
    assert set(room[1:]) == {8, 4}
    room[:] = [2]
    received, parted = trained()
    assert set(room[1:]) == {8, 4, 2, 1}
    assert capsys.readouterr().err.count("does not fit the memory") == 2
    for one, other in zip(parted.history, whole.history, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-4, nan_ok=True)
        assert one.val_loss == pytest.approx(other.val_loss, rel=1e-4)
    before = Task(train=20, validation=8).weights()
    for path, value in expected.weights().items():
        moved = np.abs(value - before[path]).max()
        assert np.abs(received.weights()[path] - value).max() <= 0.02 * moved, path


@pytest.mark.slow
def test_where_not_even_one_fits_that_is_said(eager, room: list[int]) -> None:
    room[:] = [0]
    with pytest.raises(EnvironmentFault, match="--image-size"):
        trained()


def test_other_errors_are_not_taken_for_it() -> None:
    assert not is_out_of_memory(tf.errors.InvalidArgumentError(None, None, "shape"))
    assert is_out_of_memory(tf.errors.ResourceExhaustedError(None, None, "OOM"))


@pytest.mark.parametrize("samples", [1, 3, 8])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_parts_have_one_size_and_the_mean_of_the_whole(samples: int, count: int) -> None:
    rng = np.random.default_rng(0)
    inputs, weighted = rng.normal(size=(samples, 5)), rng.random((samples, 2, 2)).astype(np.float32)
    parts = list(in_parts((inputs,), weighted, count))
    assert len(parts) == count
    assert len({len(part) for _, part in parts}) == 1

    def loss(rows, of):
        return (rows.sum(1, keepdims=True) * of[..., 0] * of[..., 1]).mean()

    found = np.mean([loss(rows, of) for (rows,), of in parts])
    assert found == pytest.approx(loss(inputs, weighted), rel=1e-5)


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
    assert step_bytes(chain, OWN, samples=10) == 4 * everything
    chain.get_layer("first").trainable = False
    behind = 10 * (smaller + 5 + 3 * 8 * 8 * 64) + 4 * (second + dense)
    assert step_bytes(chain, OWN, samples=10) == 4 * behind
    at = sides(chain, OWN).boundaries[-1]
    assert at.name == "smaller"
    stored = 10 * (smaller + 5 + 3 * 4 * 4 * 5) + 4 * (second + dense)
    assert step_bytes(chain, OWN, samples=10, boundary=at) == 4 * stored
