"""Freeze plans: what the plan names trains, nothing else does, batch normalisation never."""

from dataclasses import replace

import keras
import numpy as np
import pytest
from conftest import small_network
from helpers.networks import nested, tiny

from regraft.backbones.load import load_backbone
from regraft.backbones.zoo import Stages
from regraft.errors import UsageError
from regraft.models.freeze import FrozenWeightsGuard, freeze, list_mutable_weights, resolve_plan

# Layers of small_network: scale, stem_conv, stem_bn, stem_relu, twice conv, bn, relu, drop, add; top_conv.
CONVOLUTIONS = ["stem_conv", "block1_conv", "block2_conv", "top_conv"]


@pytest.fixture
def backbone():
    return load_backbone(small_network())


@pytest.fixture
def staged_backbone():
    """Return the small network with stages, like a backbone of the table."""
    backbone = load_backbone(small_network())
    rule = Stages("opens", ((r"^stem", "stem"), (r"^(block\d)_", r"\1"), (r"^top", "top")))
    backbone.stages.update(rule.find_starts(layer.name for layer in backbone.layers))
    return backbone


def training(model):
    """Return the names of the layers, inner ones too, whose own weights train in the model."""
    moving = {id(variable) for variable in model.trainable_variables}
    flat = {id(layer): layer for layer in model._flatten_layers(include_self=False)}
    names = [layer.name for layer in flat.values() if {id(v) for v in layer._trainable_variables} & moving]
    return sorted(names)


@pytest.mark.parametrize(
    ("plan", "first", "names"),
    [
        ("none", 15, []),
        ("all", 0, CONVOLUTIONS),
        ("last:0", 15, []),
        ("last:1", 14, ["top_conv"]),
        ("last:3", 12, ["top_conv"]),
        ("last:6", 9, ["block2_conv", "top_conv"]),
        ("last:15", 0, CONVOLUTIONS),
        ("from:15", 15, []),
        ("from:4", 4, CONVOLUTIONS[1:]),
        ("from:5", 5, CONVOLUTIONS[2:]),
        ("from:0", 0, CONVOLUTIONS),
        ("stage:block2", 9, CONVOLUTIONS[2:]),
        ("stage:stem", 0, CONVOLUTIONS),
    ],
)
def test_exactly_the_plan_trains(staged_backbone, plan, first, names):
    assert resolve_plan(staged_backbone, plan).layers == tuple(staged_backbone.layers[first:])
    trained = freeze(staged_backbone, plan)
    assert training(staged_backbone.model) == sorted(names)
    assert trained.layers == len(names)
    assert trained.parameters == sum(np.prod(v.shape) for v in staged_backbone.model.trainable_variables)


def test_flags_follow_the_plan_also_where_there_are_no_weights(backbone):
    """The flag of a frozen dropout is false."""
    freeze(backbone, "last:3")
    flags = {layer.name: layer.trainable for layer in backbone.layers}
    assert [name for name, flag in flags.items() if flag] == ["block2_drop", "block2_add", "top_conv"]


def test_plans_work_again_and_again(backbone):
    counts = [
        (plan, freeze(backbone, plan).layers, len(backbone.model.trainable_variables))
        for plan in ["all", "none", "last:3", "all", "last:3", "none", "none", "all"]
    ]
    expected = {"all": (4, 5), "none": (0, 0), "last:3": (1, 2)}  # only top_conv has a bias
    assert counts == [(plan, *expected[plan]) for plan, *_ in counts]


def test_whatever_the_flags_were_before(backbone):
    model = backbone.model
    model.trainable = False
    model.layers[-1].trainable = True  # hidden from the container, yet it would train in a model around it
    outer = keras.Model(model.inputs, model.outputs)
    assert freeze(backbone, "none").layers == len(outer.trainable_variables) == 0
    assert freeze(backbone, "all").layers == 4
    assert len(outer.trainable_variables) == 5


# --- layers within layers


@pytest.mark.slow
def test_batch_normalisation_in_a_container_never_trains():
    backbone = load_backbone(nested())
    freeze(backbone, "none")  # now "all" changes the containers' flags, which goes down to what they hold
    trained = freeze(backbone, "all")
    assert training(backbone.model) == ["inner1_conv", "inner2_conv", "inner3_conv", "top_conv"]
    assert trained.layers == 4
    for block in backbone.layers[:3]:
        assert block.trainable
        assert [layer.trainable for layer in block.layers] == [True, False, True]


def test_plans_reach_into_containers_again_and_again():
    backbone = load_backbone(nested())
    names = ["inner1_conv", "inner2_conv", "inner3_conv", "top_conv"]
    for plan, count in [("all", 4), ("none", 0), ("last:2", 2), ("all", 4), ("last:1", 1), ("last:3", 3)]:
        trained = freeze(backbone, plan)
        assert training(backbone.model) == names[4 - count :]
        assert trained.layers == count
        network = keras.Model(backbone.model.inputs, backbone.model.outputs)
        assert trained.parameters == sum(np.prod(v.shape) for v in network.trainable_variables)


def test_an_inner_layer_thawed_behind_its_container_is_frozen():
    backbone = load_backbone(nested())
    freeze(backbone, "none")
    backbone.layers[0].layers[0].trainable = True  # the container's flag still says False
    freeze(backbone, "none")
    assert training(backbone.model) == []


def test_layers_made_frozen_and_models_saved_frozen_thaw(tmp_path):
    image = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, name="one", trainable=False)(image)
    model = keras.Model(image, keras.layers.Conv2D(4, 3, name="two")(x))
    backbone = load_backbone(model)
    freeze(backbone, "none")
    assert training(model) == []
    model.save(tmp_path / "frozen.keras")
    again = load_backbone(tmp_path / "frozen.keras")
    assert training(again.model) == []
    for one in (backbone, again):
        assert freeze(one, "all").layers == 2
        assert training(one.model) == ["one", "two"]


@pytest.mark.slow
def test_convolutions_of_mobilenet_train_without_its_batch_normalisation():
    backbone = load_backbone("mobilenet", weights="random", image_size=32)
    trained = freeze(backbone, "stage:block_13")
    assert training(backbone.model) == ["conv_dw_13", "conv_pw_13"]
    assert str(trained) == "2 layers, 1,057,792 parameters"


# --- plans that are no suffix


def test_a_pattern_trains_the_layers_whose_names_it_is_found_in(backbone):
    trained = freeze(backbone, "match:^(stem|block2)_conv$")
    assert training(backbone.model) == ["block2_conv", "stem_conv"]
    assert trained.layers == 2
    assert resolve_plan(backbone, "match:1_conv").layers == (backbone.layers[4],)


def test_a_pattern_brings_batch_normalisation_along_but_never_trains_it(backbone):
    assert freeze(backbone, "match:block1_").layers == 1
    assert training(backbone.model) == ["block1_conv"]


def test_a_predicate_is_a_plan(backbone):
    freeze(backbone, lambda layer: isinstance(layer, keras.layers.Conv2D) and layer.filters == 8)
    assert training(backbone.model) == sorted(CONVOLUTIONS[:3])


def test_a_pattern_reaches_into_containers():
    backbone = load_backbone(nested())
    freeze(backbone, "match:inner2")
    assert training(backbone.model) == ["inner2_conv"]
    freeze(backbone, "match:inner2_conv")  # one layer alone: the dropout beside it stays frozen
    flags = {part.name: part.trainable for part in (backbone.layers[1], *backbone.layers[1].layers)}
    assert flags == {"block2": True, "inner2_conv": True, "inner2_bn": False, "inner2_drop": False}
    freeze(backbone, "match:block3")  # the container stands for what it holds
    assert training(backbone.model) == ["inner3_conv"]


@pytest.mark.parametrize("plan", ["all", "none", "match:block1", "last:1"])
def test_new_layers_train_under_every_plan(plan):
    original = load_backbone(small_network())
    changed = replace(original, new_layers=("stem_conv", "stem_bn"))
    freeze(changed, plan)
    assert {"stem_conv", "stem_bn"} <= set(training(changed.model))
    assert set(changed.layers[1:3]) <= set(resolve_plan(changed, plan).layers)
    freeze(original, plan)  # the same layers, once they are no longer new
    assert "stem_bn" not in training(original.model)


# --- nothing else moves


def test_the_guard_sees_one_bit(backbone):
    freeze(backbone, "last:1")
    model = backbone.model
    guard = FrozenWeightsGuard(model)
    model.get_layer("top_conv").kernel.assign_add(np.ones((1, 1, 8, 16)))
    guard.check()
    statistics = model.get_layer("block1_bn").moving_mean
    statistics.assign(np.nextafter(np.array(statistics), np.float32(1)))
    with pytest.raises(
        RuntimeError, match=r"changed 1 of 15 weights .* block1_bn/moving_mean.*defect of regraft"
    ):
        guard.check()


def test_later_flags_do_not_blind_the_guard(backbone):
    freeze(backbone, "none")
    guard = FrozenWeightsGuard(backbone.model)
    freeze(backbone, "all")
    backbone.model.get_layer("top_conv").bias.assign(np.ones(16))
    with pytest.raises(RuntimeError, match="top_conv/bias"):
        guard.check()


@pytest.mark.slow
def test_statistics_of_new_batch_normalisation_may_move(backbone):
    freeze(backbone, "none")
    image = backbone.model.inputs[0]
    norm = keras.layers.BatchNormalization(name="head_norm")
    model = keras.Model(image, norm(keras.layers.GlobalAveragePooling2D()(backbone.model.outputs[0])))
    assert {id(weight) for weight in list_mutable_weights(model)} == {id(weight) for weight in norm.weights}
    guard = FrozenWeightsGuard(model)
    model.compile(optimizer="sgd", loss="mse")
    model.train_on_batch(np.ones((2, 32, 32, 3)), np.zeros((2, 16)))
    guard.check()


def test_a_normalization_layer_is_a_setting_and_may_not_move():
    backbone = load_backbone(tiny())
    freeze(backbone, "all")
    assert {weight.path for weight in list_mutable_weights(backbone.model)} == {"conv/kernel", "conv/bias"}


# --- errors


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ("match:[", r"unfreeze: \[ is not a regular expression: unterminated"),
        (
            "match:conv9",
            "expected match:conv9 to name layers of small_network. It names none; "
            "with weights it has stem_conv, block1_conv, block2_conv, top_conv",
        ),
        ("match:_bn$", r"only stem_bn, block1_bn, block2_bn, without weights that train \(batch"),
        ("match:relu|add", "only stem_relu, block1_relu, .*without weights that train"),
        (lambda layer: False, "expected the function given to name layers .* It names none"),
    ],
)
def test_a_pattern_that_names_nothing_that_can_train(backbone, plan, message):
    with pytest.raises(UsageError, match=message):
        resolve_plan(backbone, plan)


@pytest.mark.parametrize("plan", ["last:16", "last:9999", "from:16", "from:9999"])
def test_more_layers_than_there_are(backbone, plan):
    with pytest.raises(UsageError, match=f"small_network has 15 layers. Received: {plan}"):
        freeze(backbone, plan)


@pytest.mark.parametrize(
    "plan",
    [
        "",
        "some",
        "last",
        "last:",
        "last:-1",
        "last:x",
        "last:1.5",
        "from:",
        "none:3",
        "all:2",
        "All",
        "auto",
        "match",
        "match:",
        ":",
    ],
)
def test_nonsense_lists_the_forms(backbone, plan):
    with pytest.raises(UsageError, match=r"expected none, all, last:N, from:I, stage:NAME or match:REGEX"):
        freeze(backbone, plan)


def test_unknown_stage_lists_the_stages_and_the_nearest(staged_backbone):
    with pytest.raises(
        UsageError, match=r"no stage blok1.*Did you mean \"block1\".*stem, block1, block2, top"
    ):
        freeze(staged_backbone, "stage:blok1")


def test_backbone_without_stages_says_so(backbone):
    with pytest.raises(UsageError, match="not divided into stages"):
        freeze(backbone, "stage:conv5")


def test_refused_plan_changes_nothing(backbone):
    freeze(backbone, "last:3")
    with pytest.raises(UsageError):
        freeze(backbone, "last:9999")
    assert training(backbone.model) == ["top_conv"]
