"""What regraft relies on in Keras' private names, so that an upgrade of Keras fails here and says why."""

from __future__ import annotations

import ast
import inspect

import keras
import numpy as np
import pytest

from regraft.backbones import graph

layers = keras.layers


def build_branches() -> keras.Model:
    """A network of two branches in which one layer is called twice."""
    image = keras.Input((8, 8, 3), name="image")
    shared = layers.Conv2D(3, 1, name="shared")
    once = shared(image)
    twice = shared(once)
    both = layers.Add(name="both")([once, keras.ops.relu(twice)])
    return keras.Model(image, layers.Dropout(0.5, name="drop")(both))


def names(nodes) -> list[str]:
    return [node.operation.name for node in nodes]


def check_nodes_by_depth() -> None:
    """The nodes of a Functional model, a call each, with inputs before what uses them."""
    model = build_branches()
    nodes = graph.list_nodes(model)
    made: set[int] = set()
    for node in nodes:
        assert made.issuperset(id(tensor) for tensor in node.input_tensors)
        made |= {id(tensor) for tensor in node.outputs}
    assert names(nodes)[0] == "image"
    assert names(nodes)[-1] == "drop"
    assert names(nodes).count("shared") == 2
    assert len(nodes) == 6  # the relu is a node, too


def check_history() -> None:
    """A symbolic tensor knows the operation that makes it, and which call of that."""
    model = build_branches()
    assert graph.find_operation(model.output) is model.get_layer("drop")
    relu = model.get_layer("both").input[1]
    assert graph.find_operation(graph.find_node(relu).input_tensors[0]) is model.get_layer("shared")


def check_inbound_nodes() -> None:
    """An operation lists its calls, in the order in which they were made."""
    model = build_branches()
    once = model.get_layer("both").input[0]
    twice = graph.find_node(model.get_layer("both").input[1]).input_tensors[0]
    assert graph.find_node(once).input_tensors[0] is model.inputs[0]
    assert graph.find_node(twice).input_tensors[0] is once
    assert graph.find_node(model.inputs[0]).is_input


def check_run_through_graph() -> None:
    """A Functional model calls its operations again on another tensor, and others in their place."""
    model, image = build_branches(), keras.Input((8, 8, 3))
    identity = layers.Identity(name="identity")
    drop = model.get_layer("drop")
    again = keras.Model(image, graph.replay_graph(model, image, lambda x: identity if x is drop else x))
    assert [layer.name for layer in again.layers if layer.weights] == ["shared"]
    assert again.get_layer("shared") is model.get_layer("shared")
    assert graph.find_operation(again.output) is identity


def check_functional() -> None:
    """A Sequential model runs a Functional one of the same layers once its input is known."""
    inner = keras.Sequential([layers.Dense(2)])
    assert graph.get_functional(inner) is None
    inner.build((None, 4))
    assert names(graph.list_nodes(graph.get_functional(inner)))[1:] == [inner.layers[0].name]


def check_flatten_layers() -> None:
    """A container comes before its contents, and each layer once."""
    inner = keras.Sequential([layers.Dense(2), layers.Dense(3)], name="inner")
    model = keras.Sequential([keras.Input((4,)), inner])
    flat = graph.flatten_layers(model)
    assert flat[0] is model
    assert flat.index(inner) < flat.index(inner.layers[0])
    assert len(flat) == len({id(layer) for layer in flat})
    assert {*inner.layers} <= {*flat}


def check_layers() -> None:
    """A layer lists the layers within it; those of a wrapper are among them."""
    assert graph.has_layers_within(layers.TimeDistributed(layers.Dense(2)))
    assert not graph.has_layers_within(layers.Dense(2))


def check_own_variables() -> None:
    """A layer lists its own weights that train and those that do not, whatever its flag says."""
    norm = layers.BatchNormalization()
    norm.build((None, 4))
    norm.trainable = False
    assert [weight.name for weight in graph.list_own_weights(norm)] == ["gamma", "beta"]
    assert [weight.name for weight in graph.list_own_statistics(norm)] == ["moving_mean", "moving_variance"]
    assert graph.list_own_weights(keras.Sequential([keras.Input((4,)), norm])) == []


def check_seed_generators() -> None:
    """Every layer that draws random numbers holds a generator of its own."""
    for layer in (layers.Dropout(0.5), layers.GaussianNoise(1.0), layers.RandomFlip(seed=1)):
        assert graph.has_random_numbers(layer)
    assert graph.has_random_numbers(layers.TimeDistributed(layers.Dropout(0.5)))
    assert not graph.has_random_numbers(layers.Dense(2))


def check_value() -> None:
    """A variable keeps its value in one of the backend's, which may be replaced."""
    tf = pytest.importorskip("tensorflow")
    if keras.backend.backend() != "tensorflow":
        pytest.skip("only SavedModels need this")
    weight, storage = keras.Variable(np.zeros(2), dtype="float32"), tf.Variable([1.0, 2.0])
    graph.share_storage(weight, storage)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(weight), [1, 2])
    weight.assign([3.0, 4.0])
    np.testing.assert_array_equal(storage.numpy(), [3, 4])


def check_optimizer() -> None:
    """An optimizer's variables are its counter, its rate, the sums of gradients, and what it remembers."""
    weight = keras.Variable(np.zeros(2), dtype="float32")
    optimizer = keras.optimizers.Adam(0.1, gradient_accumulation_steps=2)
    optimizer.build([weight])
    assert len(graph.list_moments(optimizer)) == 2
    optimizer.apply([keras.ops.ones(2)])
    assert int(graph.get_step_counter(optimizer)) == 1  # `iterations` counts whole steps
    assert int(optimizer.iterations) == 0


CHECKS = {
    "_nodes_by_depth": check_nodes_by_depth,
    "_keras_history": check_history,
    "_inbound_nodes": check_inbound_nodes,
    "_run_through_graph": check_run_through_graph,
    "_functional": check_functional,
    "_flatten_layers": check_flatten_layers,
    "_layers": check_layers,
    "_trainable_variables": check_own_variables,
    "_non_trainable_variables": check_own_variables,
    "_seed_generators": check_seed_generators,
    "_value": check_value,
    "_iterations": check_optimizer,
    "_accumulated_gradients": check_optimizer,
}


@pytest.mark.parametrize("name", CHECKS)
def test_keras_still_has_the_private_name(name: str) -> None:
    CHECKS[name]()


def test_every_private_name_is_checked() -> None:
    nodes = list(ast.walk(ast.parse(inspect.getsource(graph))))
    attributes = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    strings = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    assert {name for name in attributes | strings if name.startswith("_")} == CHECKS.keys()


def test_descendants_are_what_operations_feed() -> None:
    model = build_branches()
    nodes = graph.list_nodes(model)
    assert names(graph.find_descendants(nodes, {id(model.get_layer("both"))})) == ["both", "drop"]
    assert len(graph.find_descendants(nodes, {id(model.get_layer("shared"))})) == 5
    assert graph.find_descendants(nodes, ()) == []


def test_tensors_that_enter_are_those_of_other_nodes() -> None:
    model = build_branches()
    nodes = graph.list_nodes(model)
    both = graph.find_descendants(nodes, {id(model.get_layer("both"))})
    assert [tensor is other for tensor, other in zip(
        graph.list_entering_tensors(both), model.get_layer("both").input, strict=True
    )] == [True, True]  # fmt: skip
    assert graph.list_entering_tensors(nodes) == []
