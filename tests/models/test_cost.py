"""The work of layers equals a count by hand."""

import keras
from conftest import small_network

from regraft.backbones.graph import list_nodes
from regraft.models.cut import NUMBER_COST, count_multiplications, estimate_work


def of(network, name):
    return count_multiplications(node for node in list_nodes(network) if node.operation.name == name)


def test_multiplications_are_counted_as_by_hand():
    network = small_network(32)
    assert of(network, "stem_conv") == 16 * 16 * 3 * 3 * 3 * 8  # 3 x 3 x 3 kernel, 8 filters, 16 x 16 places
    assert of(network, "stem_relu") == 0
    assert of(network, "stem_bn") == 0
    blocks = 2 * 16 * 16 * 3 * 3 * 8 * 8
    expected = of(network, "stem_conv") + blocks + 16 * 16 * 8 * 16
    assert count_multiplications(list_nodes(network)) == expected


def test_work_counts_what_is_passed_on_besides():
    network = small_network(32)
    relu = [node for node in list_nodes(network) if node.operation.name == "stem_relu"]
    assert estimate_work(relu) == NUMBER_COST * 16 * 16 * 8
    stem = [node for node in list_nodes(network) if node.operation.name == "stem_conv"]
    assert estimate_work(stem) == count_multiplications(stem) + NUMBER_COST * 16 * 16 * 8


def test_a_layer_that_is_called_twice_counts_twice():
    image = keras.Input((8, 8, 3))
    dense = keras.layers.Dense(3)
    model = keras.Model(image, dense(dense(image)))
    assert count_multiplications(list_nodes(model)) == 2 * 64 * 9


def test_nodes_come_after_those_that_feed_them():
    made = set()
    for node in list_nodes(small_network()):
        assert all(id(tensor) in made for tensor in node.input_tensors)
        made |= {id(tensor) for tensor in node.outputs}
