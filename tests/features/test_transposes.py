"""Transpositions that meet cancel, and the model computes the same."""

from __future__ import annotations

import numpy as np
import pytest

openvino = pytest.importorskip("openvino")
from openvino import opset13 as ops  # noqa: E402

from regraft.features.transposes import sink_transposes  # noqa: E402

FIRST, LAST = [0, 3, 1, 2], [0, 2, 3, 1]  # channels first, and last again


def make_model(*names: str):
    """Return a model that transposes its images back and forth before these operations."""
    rng = np.random.default_rng(0)
    pixels = ops.parameter([-1, 4, 6, 3], np.float32)
    x = ops.transpose(ops.transpose(pixels, FIRST), LAST)
    x = ops.transpose(ops.relu(ops.transpose(x, FIRST)), LAST)  # the next operation takes a transposition
    for name in names:
        x = {
            "clamp": lambda x: ops.clamp(x, -0.5, 0.5),
            "bias": lambda x: ops.add(x, rng.normal(size=3).astype(np.float32)),
            "number": lambda x: ops.multiply(np.float32(2), x),
            "plane": lambda x: ops.multiply(x, rng.normal(size=(4, 6, 1)).astype(np.float32)),
            "sum": lambda x: ops.add(x, ops.sigmoid(x)),
            "pad": lambda x: ops.pad(x, [0, 1, 2, 0], [0, 3, 0, 1], "constant", np.float32(7)),
            "beside": lambda x: ops.concat([x, ops.exp(x)], 3),
            "below": lambda x: ops.concat([x, ops.exp(x)], 1),
            "mean": lambda x: ops.reduce_mean(x, [1, 2], keep_dims=True),
            "vector": lambda x: ops.reduce_mean(x, [1, 2], keep_dims=False),
            "rows": lambda x: ops.reduce_max(x, [3], keep_dims=False),
        }[name](x)
    return openvino.Model([ops.result(x)], [pixels])


def predict(model, pixels: np.ndarray) -> np.ndarray:
    compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return compiled(pixels)[0]


def count_transposes(model) -> int:
    return sum(node.get_type_name() == "Transpose" for node in model.get_ops())


CASES = [
    "clamp", "bias clamp", "number", "plane", "sum", "pad", "beside clamp", "below clamp", "mean clamp",
    "vector", "rows", "pad sum beside vector",
]  # fmt: skip


@pytest.mark.parametrize("names", CASES)
def test_a_model_without_convolutions_loses_its_transpositions_and_predicts_the_same(names: str) -> None:
    model = make_model(*names.split())
    pixels = np.random.default_rng(1).normal(size=(2, 4, 6, 3)).astype(np.float32)
    expected = predict(model, pixels)
    assert count_transposes(model) > 0
    sink_transposes(model)
    assert count_transposes(model) == 0
    received = predict(model, pixels)
    assert received.shape == expected.shape
    np.testing.assert_allclose(received, expected, rtol=1e-6, atol=1e-6)


def test_an_output_that_several_operations_take_stays_correct() -> None:
    pixels = ops.parameter([-1, 4, 6, 3], np.float32)
    turned = ops.transpose(ops.relu(pixels), FIRST)
    results = [ops.transpose(ops.exp(turned), LAST), ops.reshape(turned, [0, -1], True)]
    model = openvino.Model([ops.result(result) for result in results], [pixels])
    images = np.random.default_rng(1).normal(size=(2, 4, 6, 3)).astype(np.float32)
    expected = openvino.compile_model(model, "CPU")(images)
    expected = [expected[0].copy(), expected[1].copy()]
    sink_transposes(model)
    received = openvino.compile_model(model, "CPU")(images)
    for number, value in enumerate(expected):
        np.testing.assert_allclose(received[number], value, rtol=1e-6)
