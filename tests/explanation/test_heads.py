"""The head alone gives the decision values of the model, from its graph and from Keras."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from conftest import small_network

from regraft.backbones.load import load_backbone
from regraft.explanation.heads import invert_activation, make_keras_head, read_head
from regraft.features.convert import convert
from regraft.features.openvino import OpenVinoEngine
from regraft.inference.predict import name_outputs
from regraft.models.head import graft
from regraft.models.inner_outputs import MAP, InnerLayer, name_tensors
from regraft.models.taps import find_taps
from regraft.recipe import HeadSpec
from regraft.tasks import TASKS

INNER = InnerLayer("top_conv", "avg")


def make_model(task: str = "multiclass", head: Any = None, taps: str = "last", **options: Any) -> keras.Model:
    keras.utils.set_random_seed(3)
    backbone = load_backbone(small_network())
    tensors = [tap.tensor for tap in find_taps(backbone, taps)]
    return graft(
        backbone, head or HeadSpec(), task=task, outputs=2 if task == "binary" else 3, taps=tensors, **options
    )


def write_graph(model: keras.Model, folder: Path, inner: InnerLayer | None = INNER) -> Path:
    convert(name_outputs(model, inner), folder / "graph.xml")
    return folder / "graph.xml"


def run(graph: Path, count: int = 3) -> dict[str, Any]:
    pixels = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3)).astype(np.uint8)
    return next(OpenVinoEngine(graph).run([pixels]))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("source", ["graph", "keras"])
def test_the_head_gives_the_answers_of_the_model(task: str, source: str, tmp_path: Path) -> None:
    options = {"units": ([2.0, 3.0, 50.0], [100.0, -5.0, 0.0])} if task == "regression" else {}
    model = make_model(task, **options)
    outputs, activation = run(write_graph(model, tmp_path)), TASKS[task].activation
    if source == "graph":
        head = read_head(tmp_path / "graph.xml", activation)
    else:
        head = make_keras_head(model, name_tensors(model, INNER)[MAP], activation)
    decisions = head(outputs[MAP])
    answers = keras.ops.convert_to_numpy(keras.activations.get(activation)(decisions))
    np.testing.assert_allclose(answers, outputs["answers"], rtol=1e-4, atol=1e-5)


def test_decision_values_are_those_before_the_softmax(tmp_path: Path) -> None:
    model = make_model()
    kernel, bias = model.get_layer("head_output").get_weights()
    graph = write_graph(model, tmp_path)
    features = run(graph)[MAP]
    expected = features.mean(axis=(1, 2)) @ kernel + bias
    np.testing.assert_allclose(read_head(graph, "softmax")(features), expected, atol=1e-5)
    head = make_keras_head(model, name_tensors(model, INNER)[MAP], "softmax")
    np.testing.assert_allclose(head(features), expected, atol=1e-5)


@pytest.mark.parametrize(
    "head",
    [
        HeadSpec(hidden=(8,)),
        HeadSpec(attention="cbam", convolutions=(4,)),
        HeadSpec(pooling="attention"),
        HeadSpec(pooling="gem"),
        "own",
    ],
    ids=str,
)
def test_a_head_of_any_kind_can_be_cut_from_the_graph(head: HeadSpec | str, tmp_path: Path) -> None:
    if head == "own":
        head = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(3, "softmax")])
    model = make_model(head=head)
    outputs = run(write_graph(model, tmp_path))
    decisions = read_head(tmp_path / "graph.xml", "softmax")(outputs[MAP])
    answers = np.exp(decisions) / np.exp(decisions).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(answers, outputs["answers"], rtol=1e-3, atol=1e-5)


def test_a_head_on_maxima_of_taps_cannot_be_cut_at_the_last_map(tmp_path: Path) -> None:
    model = make_model(head=HeadSpec("max"), taps="late")
    graph = write_graph(model, tmp_path)
    with pytest.raises(ValueError, match="sees more"):
        read_head(graph, "softmax")
    with pytest.raises(ValueError, match="sees more"):
        make_keras_head(model, name_tensors(model, INNER)[MAP], "softmax")


def test_the_heat_of_a_head_with_taps_adds_up_to_its_decision_values(tmp_path: Path) -> None:
    outputs = run(write_graph(make_model(taps="auto"), tmp_path))
    head = read_head(tmp_path / "graph.xml", "softmax")
    decisions = np.exp(head(outputs[head.source]))  # the bias is 0
    answers = decisions / decisions.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(answers, outputs["answers"], rtol=1e-3, atol=1e-5)


def test_a_graph_without_a_map_is_refused(tmp_path: Path) -> None:
    graph = write_graph(make_model(), tmp_path, inner=None)
    with pytest.raises(ValueError, match="no feature map"):
        read_head(graph, "softmax")


@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "linear"])
def test_inverted_answers_have_the_same_differences(activation: str) -> None:
    decisions = np.random.default_rng(0).normal(0, 3, (5, 4))
    answers = keras.ops.convert_to_numpy(keras.activations.get(activation)(decisions.astype("float32")))
    received = invert_activation(answers, activation)
    if activation == "softmax":
        decisions, received = decisions - decisions[:, :1], received - received[:, :1]
    np.testing.assert_allclose(received, decisions, atol=1e-4)


def test_certain_answers_have_finite_decision_values() -> None:
    for activation in ("softmax", "sigmoid"):
        assert np.isfinite(invert_activation(np.array([[0.0, 1.0]], np.float32), activation)).all()
