"""Surgery: old layers answer as before, new ones are named, and the original network stays as it was."""

from functools import partial

import keras
import numpy as np
import pytest
from conftest import small_network
from helpers.networks import answer, assert_close, nested, pixels, values

from regraft.backbones.load import load_backbone
from regraft.backbones.zoo import Stages
from regraft.errors import UsageError
from regraft.models.attention import cbam, squeeze_excitation
from regraft.models.cut import cut
from regraft.models.freeze import freeze, resolve_plan
from regraft.models.head import graft
from regraft.models.surgery import cut_at, insert_after, replace_layer
from regraft.recipe import HeadSpec

STAGES = Stages("opens", ((r"^stem", "stem"), (r"^(block\d)_", r"\1"), (r"^top", "top")))


@pytest.fixture
def backbone():
    """The small network with stages: scale, stem_*, block1_*, block2_*, top_conv."""
    backbone = load_backbone(small_network())
    backbone.stages.update(STAGES.find_starts(layer.name for layer in backbone.layers))
    return backbone


def names(backbone):
    return [layer.name for layer in backbone.layers]


def reload(backbone, tmp_path):
    backbone.model.save(tmp_path / "changed.keras")
    return load_backbone(tmp_path / "changed.keras")


# --- cutting


@pytest.mark.parametrize("name", ["block1", "block1_add"])
def test_cut_at_a_stage_or_a_layer(backbone, name):
    short = cut_at(backbone, name)
    assert names(short) == names(backbone)[:9]
    assert short.stages == {"stem": 0, "block1": 4}
    assert short.new_layers == ()
    assert short.weights == backbone.weights
    x = pixels(32)
    within = keras.Model(backbone.model.inputs[0], backbone.model.get_layer("block1_add").output)
    np.testing.assert_array_equal(answer(short.model, x), answer(within, x))


def test_cut_at_a_branch_leaves_the_other_branch_out(backbone):
    assert names(cut_at(backbone, "block2_bn"))[-2:] == ["block2_conv", "block2_bn"]


def test_cut_at_the_last_layer_changes_nothing(backbone):
    assert names(cut_at(backbone, "top")) == names(cut_at(backbone, "top_conv")) == names(backbone)


def test_what_is_cut_off_is_not_saved(backbone, tmp_path):
    short = cut_at(backbone, "stem")
    again = reload(short, tmp_path)
    assert names(again) == ["scale", "stem_conv", "stem_bn", "stem_relu"]
    np.testing.assert_array_equal(answer(again.model, pixels(32)), answer(short.model, pixels(32)))


# --- inserting


def test_a_block_after_a_stage_is_used_by_all_that_used_the_stage(backbone, tmp_path):
    """The next block and its shortcut both use the end of block 1."""
    x = pixels(32)
    expected = answer(backbone.model, x)
    changed = insert_after(backbone, "block1", keras.layers.Rescaling(2.0, name="twice"))
    first = keras.Model(backbone.model.inputs[0], backbone.model.get_layer("block1_add").output)
    rest = keras.Model(backbone.model.get_layer("block1_add").output, backbone.model.outputs[0])
    by_hand = answer(rest, 2 * answer(first, x))
    assert np.abs(by_hand - expected).max() > 0.01
    assert_close(answer(changed.model, x), by_hand, 1e-6)
    assert_close(answer(reload(changed, tmp_path).model, x), by_hand, 1e-6)
    np.testing.assert_array_equal(answer(backbone.model, x), expected)  # the one given is as it was
    assert names(backbone) == names(load_backbone(small_network()))


def test_new_layers_are_named_and_in_their_stage(backbone):
    changed = insert_after(backbone, "block1", squeeze_excitation)
    assert changed.new_layers == ("se_reduce", "se_expand")
    assert changed.weights.endswith("; after block1 new: se_reduce, se_expand")
    position = names(changed).index("se_reduce")
    assert changed.stages["block1"] < position < changed.stages["block2"]
    assert names(changed)[changed.stages["block2"]] == "block2_conv"
    assert [name for name in names(changed) if not name.startswith("se_")] == names(backbone)


@pytest.mark.slow
def test_new_layers_train_and_the_rest_does_not(backbone):
    changed = insert_after(backbone, "block1", partial(cbam, ratio=1))
    model = graft(changed, HeadSpec(dropout=0), outputs=3)
    assert freeze(changed, "none").layers == 3
    before = values(model)
    joined = cut(model, resolve_plan(changed, "none")).join_halves()
    joined.compile(optimizer=keras.optimizers.AdamW(0.05), loss="sparse_categorical_crossentropy")
    for _ in range(2):
        joined.train_on_batch(pixels(32, 3), np.arange(3))
    moved = {path for path, value in before.items() if values(model)[path].tobytes() != value.tobytes()}
    assert moved == {
        "cbam_reduce/kernel", "cbam_reduce/bias", "cbam_expand/kernel", "cbam_expand/bias",
        "cbam_convolution/kernel", "head_output/kernel", "head_output/bias",
    }  # fmt: skip


@pytest.mark.slow
def test_changes_follow_one_another(backbone, tmp_path):
    x = pixels(32)
    expected = answer(cut_at(backbone, "block2").model, x)
    changed = insert_after(backbone, "block1", partial(cbam, name="one"))
    changed = insert_after(changed, "stem_relu", partial(squeeze_excitation, name="two"))
    changed = cut_at(changed, "block2")
    assert changed.new_layers == ("two_reduce", "two_expand", "one_reduce", "one_expand", "one_convolution")
    assert list(changed.stages) == ["stem", "block1", "block2"]
    assert_close(answer(changed.model, x), expected, 1e-6)  # new attention changes nothing at first
    assert_close(answer(reload(changed, tmp_path).model, x), expected, 1e-6)
    short = cut_at(changed, "stem")  # what is cut off is no longer new
    assert short.new_layers == ("two_reduce", "two_expand")


# --- replacing


def test_another_kernel_size_keeps_the_bias(backbone):
    bias = np.arange(16, dtype="float32")
    backbone.model.get_layer("top_conv").bias.assign(bias)
    changed = replace_layer(backbone, "top_conv", keras.layers.Conv2D(16, 3, padding="same", name="top_conv"))
    assert changed.new_layers == ("top_conv",)
    assert changed.weights.endswith("; top_conv replaced: new kernel, kept bias")
    np.testing.assert_array_equal(np.array(changed.model.get_layer("top_conv").bias), bias)
    assert changed.model.get_layer("top_conv").kernel.shape == (3, 3, 8, 16)
    assert backbone.model.get_layer("top_conv").kernel.shape == (1, 1, 8, 16)


def test_a_layer_of_the_same_shape_keeps_everything(backbone, tmp_path):
    spread = keras.layers.Conv2D(8, 3, padding="same", use_bias=False, dilation_rate=2, name="block1_conv")
    changed = replace_layer(backbone, "block1_conv", spread)
    assert changed.new_layers == ()
    assert changed.weights.endswith("; block1_conv replaced: kept kernel")
    assert changed.stages == backbone.stages
    x = pixels(32)
    assert np.abs(answer(changed.model, x) - answer(backbone.model, x)).max() > 1e-3
    assert_close(answer(reload(changed, tmp_path).model, x), answer(changed.model, x), 1e-6)


def test_a_layer_with_weights_of_its_own_keeps_them(backbone):
    own = keras.layers.Conv2D(16, 1, name="own")
    own.build((None, 16, 16, 8))
    kernel = np.array(own.kernel)
    changed = replace_layer(backbone, "top_conv", own)
    np.testing.assert_array_equal(np.array(changed.model.get_layer("own").kernel), kernel)
    assert changed.new_layers == ("own",)
    assert changed.stages["top"] == names(changed).index("own")


def test_a_layer_without_weights(backbone):
    changed = replace_layer(backbone, "block1_relu", keras.layers.Activation("gelu", name="block1_gelu"))
    assert changed.new_layers == ()
    assert changed.weights.endswith("; block1_relu replaced")


def test_a_container_is_replaced_with_what_it_holds():
    backbone = load_backbone(nested())
    block = keras.Sequential([keras.layers.Conv2D(4, 5, padding="same", name="inner2_conv")], name="block2")
    changed = replace_layer(backbone, "block2", block)
    assert changed.new_layers == ("block2",)
    np.testing.assert_array_equal(np.array(block.layers[0].bias), np.array(backbone.layers[1].layers[0].bias))


# --- what cannot be


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: cut_at(b, "blok1"), r'no layer blok1. Did you mean "block1".*15 layers.* stem, block1'),
        (lambda b: insert_after(b, "nowhere", cbam), "small_network has no layer nowhere"),
        (lambda b: replace_layer(b, "block1", keras.layers.ReLU()), "has no layer block1"),
        (
            lambda b: insert_after(b, "block1", keras.layers.Conv2D(8, 3)),
            r"A block after block1 must keep the shape \(None, 16, 16, 8\). .* makes \(None, 14, 14, 8\)",
        ),
        (lambda b: insert_after(b, "stem", keras.layers.Flatten()), "must keep the shape"),
        (
            lambda b: insert_after(b, "stem", keras.layers.ReLU(name="block1_relu")),
            "cannot be built with a block after stem. Keras says: .*block1_relu",
        ),
        (
            lambda b: replace_layer(b, "block1_conv", keras.layers.Conv2D(5, 3, padding="same")),
            "small_network cannot be built with block1_conv replaced. Keras says",
        ),
        (lambda b: insert_after(insert_after(b, "stem", cbam), "block1", cbam), "cannot be built"),
    ],
)
def test_what_cannot_be_is_refused(backbone, change, message):
    before = answer(backbone.model, pixels(32))
    with pytest.raises(UsageError, match=message):
        change(backbone)
    np.testing.assert_array_equal(answer(backbone.model, pixels(32)), before)


def test_a_stage_that_several_tensors_leave(backbone):
    backbone.stages["block2"] += 2  # now it begins within the block, beside its shortcut
    with pytest.raises(UsageError, match=r"one tensor to leave block1 .* 2, made by block1_add, block2_bn"):
        cut_at(backbone, "block1")


def test_a_layer_that_is_called_twice():
    image = keras.Input((8, 8, 3))
    relu = keras.layers.ReLU(name="relu")
    x = keras.layers.Conv2D(4, 3, name="two")(relu(keras.layers.Conv2D(4, 3, name="one")(image)))
    backbone = load_backbone(keras.Model(image, relu(x)))
    with pytest.raises(UsageError, match=r"Expected one tensor to leave relu .* Received: 2"):
        insert_after(backbone, "relu", cbam)


# --- published networks


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size", "stage", "layer"),
    [
        ("mobilenet_v2", 32, "block_13", "Conv1"),
        pytest.param("resnet50", 32, "conv4", "conv1_conv", marks=pytest.mark.soak),
        pytest.param("inception_v3", 75, "mixed7", "mixed7", marks=pytest.mark.soak),
    ],
)
def test_published_networks(tmp_path, name, size, stage, layer):
    backbone = load_backbone(name, weights="random", image_size=size)
    x = pixels(size)
    expected = answer(cut_at(backbone, stage).model, x)
    changed = cut_at(insert_after(backbone, stage, cbam), stage)
    assert_close(answer(changed.model, x), expected, 1e-6)
    assert list(changed.stages) == list(backbone.stages)[: list(backbone.stages).index(stage) + 1]
    assert_close(answer(reload(changed, tmp_path).model, x), expected, 1e-5)
    old = backbone.model.get_layer(layer)
    if not isinstance(old, keras.layers.Conv2D):
        return
    other = keras.layers.Conv2D(
        old.filters, 5, strides=2, padding=old.padding, use_bias=old.use_bias, name=layer
    )
    replaced = replace_layer(backbone, layer, other)
    assert replaced.new_layers == (layer,)
    assert replaced.stages == backbone.stages
    assert np.isfinite(answer(replaced.model, x)).all()
    assert_close(answer(cut_at(backbone, stage).model, x), expected, 1e-6)
