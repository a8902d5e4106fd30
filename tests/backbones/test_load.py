"""Backbones from names, files and models: the same numbers as Keras, or an error that says what to do."""

import random
import re

import keras
import numpy as np
import pytest
from helpers.networks import answer, assert_close, pixels, tiny, with_statistics

from regraft.backbones.load import load_backbone
from regraft.backbones.preprocessing import apply_contract
from regraft.backbones.zoo import ZOO
from regraft.errors import EnvironmentFault, ModelRefused, UsageError

pytestmark = pytest.mark.slow

# One of each family at its smallest size: side of the feature map, first stages, last stages.
FAMILIES = {
    "mobilenet": (1, ["stem", "block_1"], ["block_12", "block_13"]),
    "mobilenet_v2": (1, ["stem", "block_1"], ["block_16", "top"]),
    "mobilenet_v3_small": (1, ["stem", "block_1"], ["block_10", "top"]),
    "nasnet_mobile": (1, ["stem_1", "stem_2", "normal_0"], ["normal_11", "normal_12"]),
    "resnet50": (1, ["conv1", "conv2"], ["conv4", "conv5"]),
    "resnet50_v2": (1, ["conv1", "conv2"], ["conv4", "conv5"]),
    "vgg16": (1, ["block1", "block2"], ["block4", "block5"]),
    "vgg19": (1, ["block1", "block2"], ["block4", "block5"]),
    "xception": (3, ["block1", "block2"], ["block13", "block14"]),
    "inception_v3": (1, ["mixed0", "mixed1"], ["mixed9", "mixed10"]),
    "inception_resnet_v2": (1, ["mixed_5b", "block35_1"], ["block8_10", "top"]),
    "densenet121": (1, ["conv1", "conv2"], ["conv4", "conv5"]),
    "efficientnet_b0": (1, ["stem", "block1"], ["block7", "top"]),
    "efficientnet_v2_b0": (1, ["stem", "block1"], ["block6", "top"]),
    "efficientnet_v2_s": (1, ["stem", "block1"], ["block6", "top"]),
    "convnext_tiny": (1, ["stem", "stage_0"], ["stage_2", "stage_3"]),
}
SHORT = {"mobilenet_v2", "vgg16", "efficientnet_b0", "convnext_tiny"}


@pytest.fixture(scope="module")
def vgg():
    return load_backbone("vgg16", weights="random", image_size=32, seed=1)


# --- names


@pytest.mark.parametrize(
    "name", [name if name in SHORT else pytest.param(name, marks=pytest.mark.soak) for name in FAMILIES]
)
def test_family(name):
    """Pixels in, Keras' own answer out; width and stages as the table says."""
    entry = ZOO[name]
    backbone = load_backbone(name, weights="random", image_size=entry.min_size)
    side, first, last = FAMILIES[name]
    assert backbone.model.output_shape == (None, side, side, entry.features)
    assert (backbone.contract, backbone.image_size) == (entry.pixels, entry.min_size)

    starts = list(backbone.stages.values())
    assert starts[0] == 0
    assert starts == sorted(set(starts))
    assert starts[-1] < len(backbone.layers)
    assert list(backbone.stages)[: len(first)] == first
    assert list(backbone.stages)[-len(last) :] == last

    bare = getattr(keras.applications, entry.constructor)(
        include_top=False, weights=None, input_shape=(entry.min_size, entry.min_size, 3)
    )
    # The bare model's layers less its input are exactly the backbone's.
    assert [type(layer) for layer in bare.layers[1:]] == [type(layer) for layer in backbone.layers]
    bare.set_weights(backbone.model.get_weights())
    x = pixels(entry.min_size)
    preprocess = getattr(keras.applications, entry.module).preprocess_input
    assert_close(answer(backbone.model, x), answer(bare, preprocess(x.copy())))


def test_every_family_is_tested():
    assert {ZOO[name].module for name in FAMILIES} == {entry.module for entry in ZOO.values()}


def test_default_size_is_the_published_one():
    backbone = load_backbone("VGG16", weights="random")
    assert backbone.model.input_shape == (None, 224, 224, 3)
    assert backbone.model.output_shape == (None, 7, 7, 512)


def test_plain_arrays_are_taken_without_a_warning(vgg, recwarn):
    vgg.model(pixels(32))
    assert not recwarn.list


def test_layers_leave_out_input_and_contract(vgg):
    assert vgg.layers == tuple(vgg.model.layers[2:])
    assert vgg.layers[0].name == "block1_conv1"
    assert vgg.layers[vgg.stages["block5"]].name == "block5_conv1"


def test_too_small_a_size_names_the_minimum():
    with pytest.raises(UsageError, match=r"xception takes .* at least 71 pixels.*Received: 70"):
        load_backbone("xception", weights="random", image_size=70)


def test_unknown_name():
    with pytest.raises(UsageError, match='Did you mean "resnet50"'):
        load_backbone("resnet5", weights="random")


def test_channels_first_is_refused():
    keras.config.set_image_data_format("channels_first")
    try:
        with pytest.raises(EnvironmentFault, match="channels_last"):
            load_backbone("vgg16", weights="random")
    finally:
        keras.config.set_image_data_format("channels_last")


def test_contract_of_a_named_backbone_cannot_be_stated():
    with pytest.raises(UsageError, match=r"vgg16 has the contract caffe.*Received: 'tf'"):
        load_backbone("vgg16", weights="random", pixels="tf")


# --- random weights


def test_seed_decides_random_weights_and_leaves_the_global_state_alone(vgg):
    before = random.getstate(), np.random.get_state()[1].copy()
    same, other = (load_backbone("vgg16", weights="random", image_size=32, seed=s) for s in (1, 2))
    assert random.getstate() == before[0]
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])
    np.testing.assert_array_equal(same.model.get_weights()[0], vgg.model.get_weights()[0])
    assert not np.array_equal(same.model.get_weights()[0], other.model.get_weights()[0])
    assert same.weights == "random (seed 1)"


# --- files and models


def test_keras_file_is_a_backbone(tmp_path):
    model = with_statistics(tiny())
    model.save(tmp_path / "own.keras")
    backbone = load_backbone(str(tmp_path / "own.keras"))
    np.testing.assert_array_equal(answer(backbone.model, pixels(16)), answer(model, pixels(16)))
    assert (backbone.name, backbone.image_size, backbone.contract, backbone.stages) == ("tiny", 16, "raw", {})
    assert [layer.name for layer in backbone.layers][1:] == ["norm", "conv"]
    assert backbone.weights.startswith("file own.keras sha256 ")


def test_saved_backbone_comes_back_whole(tmp_path, vgg):
    vgg.model.save(tmp_path / "saved.keras")
    back = load_backbone(tmp_path / "saved.keras")
    assert (back.name, back.contract, back.stages) == ("vgg16", "caffe", vgg.stages)
    assert [layer.name for layer in back.layers] == [layer.name for layer in vgg.layers]
    np.testing.assert_array_equal(answer(back.model, pixels(32)), answer(vgg.model, pixels(32)))


def test_model_object_is_a_backbone():
    model = tiny(output="vector")
    backbone = load_backbone(model)
    assert backbone.model is model
    assert backbone.model.output_shape == (None, 4)


def test_open_size_must_be_given_and_is_then_fixed():
    model = with_statistics(tiny(size=None))
    with pytest.raises(UsageError, match="any size; say which"):
        load_backbone(model)
    backbone = load_backbone(model, image_size=24)
    assert backbone.model.input_shape == (None, 24, 24, 3)
    np.testing.assert_array_equal(answer(backbone.model, pixels(24)), answer(model, pixels(24)))


def test_size_that_a_model_cannot_take():
    with pytest.raises(UsageError, match=r"image_size: tiny cannot be built for 2 pixels.*Keras says"):
        load_backbone(tiny(size=None), image_size=2)


def test_fixed_size_cannot_be_changed():
    with pytest.raises(UsageError, match=r"takes 16 and nothing else\. Received: 32"):
        load_backbone(tiny(), image_size=32)


def test_random_weights_replace_learnt_ones_and_keep_input_statistics():
    model = with_statistics(tiny())
    before_loading = model.get_weights()
    one, same = (load_backbone(model, weights="random", seed=3) for _ in range(2))
    np.testing.assert_array_equal(answer(one.model, pixels(16)), answer(same.model, pixels(16)))
    assert not np.array_equal(one.model.get_layer("conv").kernel, model.get_layer("conv").kernel)
    np.testing.assert_array_equal(one.model.get_layer("norm").mean, model.get_layer("norm").mean)
    for now, before in zip(model.get_weights(), before_loading, strict=True):
        np.testing.assert_array_equal(now, before)


def test_model_that_is_no_backbone():
    image = keras.Input((16, 16, 3))
    grey = keras.Input((16, 16, 1))
    wide = keras.Input((16, 32, 3))
    unbuilt = keras.Sequential([keras.layers.Conv2D(4, 3)])
    for model, reason in [
        (unbuilt, "Functional model"),
        (keras.Model(image, [image, image]), "one input and one output"),
        (keras.Model(grey, grey), r"RGB pixels.*16, 16, 1\)"),
        (keras.Model(wide, wide), "square images.*16 x 32"),
        (keras.Model(image, keras.layers.Reshape((4, 4, 16, 3))(image)), "feature map.*feature vector"),
    ]:
        with pytest.raises(UsageError, match=reason):
            load_backbone(model)


def test_unreadable_and_unsafe_files_are_refused(tmp_path):
    (tmp_path / "text.keras").write_text("no archive")
    image = keras.Input((16, 16, 3))
    keras.Model(image, keras.layers.Lambda(lambda x: x * 2)(image)).save(tmp_path / "code.keras")
    for file, reason in (("text.keras", "expected a .keras file"), ("code.keras", "Lambda.*runs a program")):
        with pytest.raises(ModelRefused, match=reason):
            load_backbone(tmp_path / file)


def test_missing_model_file():
    with pytest.raises(UsageError, match="no such file"):
        load_backbone("nowhere.keras")


def test_folder_that_holds_no_backbone(tmp_path):
    with pytest.raises(UsageError, match=r"neither a SavedModel \(saved_model\.pb\) nor a preset"):
        load_backbone(tmp_path)


@pytest.mark.parametrize("inside", ["model.keras", "other.keras", "1/saved_model.pb"])
def test_a_folder_with_one_model_in_it_is_refused_with_the_name_of_that(tmp_path, inside):
    (tmp_path / inside).parent.mkdir(exist_ok=True)
    (tmp_path / inside).touch()
    (tmp_path / "manifest.json").touch()
    name = re.escape(str(tmp_path / inside.removesuffix("/saved_model.pb")))
    with pytest.raises(UsageError, match=rf"Name the model in it: {name}\."):
        load_backbone(tmp_path)


# --- pixel contracts of the user's own models


@pytest.mark.parametrize("contract", ["unit", "tf", "torch", "caffe"])
def test_stated_contract_comes_in_front(contract, tmp_path):
    image = keras.Input((16, 16, 3))
    model = keras.Model(image, keras.layers.Conv2D(4, 3, name="conv")(image), name="own")
    backbone = load_backbone(model, pixels=contract)
    assert backbone.contract == contract
    assert backbone.layers == (model.get_layer("conv"),)
    x = pixels(16)
    seen = keras.Model(image, apply_contract(contract, image))
    np.testing.assert_allclose(
        answer(backbone.model, x), answer(model, answer(seen, x)), rtol=1e-4, atol=1e-4
    )
    backbone.model.save(tmp_path / "saved.keras")
    back = load_backbone(tmp_path / "saved.keras")
    assert back.contract == contract
    np.testing.assert_allclose(answer(back.model, x), answer(backbone.model, x), atol=1e-5)
    with pytest.raises(UsageError, match=f"has the contract {contract} in its graph"):
        load_backbone(tmp_path / "saved.keras", pixels="tf")


def test_unknown_contract_names_the_nearest():
    with pytest.raises(UsageError, match='Did you mean "torch"'):
        load_backbone(tiny(), pixels="troch")


def test_bare_model_of_keras_gets_the_contract_of_its_family():
    """Handing over VGG16 without preprocess_input is the commonest mistake; an own name is left alone."""
    bare = keras.applications.VGG16(include_top=False, weights=None, input_shape=(32, 32, 3))
    backbone = load_backbone(bare)
    assert backbone.contract == "caffe"
    assert "comes without preprocessing" in backbone.notes[0]
    x = pixels(32)
    assert_close(answer(backbone.model, x), answer(bare, keras.applications.vgg16.preprocess_input(x.copy())))
    assert load_backbone(bare, pixels="raw").contract == "raw"

    image = keras.Input((32, 32, 3))
    converted = keras.applications.vgg16.preprocess_input(image)
    within = keras.applications.VGG16(include_top=False, weights=None, input_tensor=converted)
    assert load_backbone(keras.Model(image, within.output, name="vgg16")).contract == "raw"
