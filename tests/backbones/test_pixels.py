"""What a network does to pixels is read from its graph, and doubted where its statistics speak against it."""

import keras
import numpy as np
import pytest
from helpers.networks import answer, pixels

from regraft.backbones.load import load_backbone
from regraft.backbones.pixel_check import check_pixels, make_natural_images
from regraft.backbones.pixel_map import (
    CONTRACT_MAPS,
    PixelMap,
    find_entry_tensor,
    name_contract,
    trace_pixels,
)
from regraft.backbones.preprocessing import CONTRACTS, apply_contract
from regraft.backbones.zoo import ZOO

layers = keras.layers
MODES = {"tf": "mobilenet_v2", "torch": "densenet", "caffe": "resnet"}


def trace(convert, size=8):
    image = keras.Input((size, size, 3))
    model = keras.Model(image, layers.Conv2D(2, 3)(layers.ZeroPadding2D()(convert(image))))
    tensor = find_entry_tensor(model)
    return model, tensor, trace_pixels(model, tensor)


@pytest.mark.parametrize("contract", CONTRACTS)
def test_contracts_are_read_from_the_graph(contract):
    _, _, pixel_map = trace(lambda x: apply_contract(contract, x))
    assert name_contract(pixel_map) == contract
    x = pixels(8)
    image = keras.Input((8, 8, 3))
    expected = answer(keras.Model(image, apply_contract(contract, image)), x) if contract != "raw" else x
    np.testing.assert_allclose(CONTRACT_MAPS[contract].apply(x), expected, atol=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_traced_preprocess_input_is_recognised(mode):
    preprocess = getattr(keras.applications, MODES[mode]).preprocess_input
    assert name_contract(trace(preprocess)[2]) == mode


def test_other_conversions_are_told_by_their_range():
    _, _, pixel_map = trace(layers.Rescaling(2 / 255, offset=-0.5))
    assert (name_contract(pixel_map), str(pixel_map)) == (None, "-0.5..1.5")
    assert "BGR" in str(CONTRACT_MAPS["caffe"])
    twice = trace(lambda x: layers.Rescaling(2.0, offset=-1.0)(layers.Rescaling(1 / 255)(x)))[2]
    assert name_contract(twice) == "tf"


def test_what_is_no_change_of_colours_is_not_traced():
    assert trace(keras.ops.square)[2] is None
    image = keras.Input((8, 8, 3))
    grey = keras.ops.mean(image, axis=-1, keepdims=True)
    assert find_entry_tensor(keras.Model(image, layers.Conv2D(2, 3)(grey))) is None
    assert find_entry_tensor(keras.Model(image, layers.ReLU()(image))) is None


def trained_on(contract, size=24):
    """A network whose first batch normalisation has the statistics of natural images under a contract."""
    keras.utils.set_random_seed(0)
    image = keras.Input((size, size, 3))
    x = layers.Conv2D(32, 3, strides=2, use_bias=False, name="conv")(image)
    x = layers.Conv2D(4, 3, name="last")(layers.BatchNormalization(name="norm")(x))
    model = keras.Model(image, x, name="own")
    random = np.random.default_rng(7)  # other images than those of the check
    images = np.clip(make_natural_images(size)[:, ::-1] + random.normal(0, 12, (12, 1, 1, 3)), 0, 255)
    first = keras.Model(image, model.get_layer("norm").input)
    values = answer(first, CONTRACT_MAPS[contract].apply(images)).reshape(-1, 32)
    model.get_layer("norm").set_weights([np.ones(32), np.zeros(32), values.mean(0), values.var(0)])
    return model


@pytest.mark.parametrize("right", CONTRACTS)
def test_every_wrong_contract_is_doubted_and_the_right_one_is_named(right):
    model = trained_on(right)
    for contract in CONTRACTS:
        backbone = load_backbone(model, pixels=contract)
        if contract == right:
            assert backbone.cautions == ()
        else:
            assert f"would fit: --pixels {right}." in backbone.cautions[0]


def test_wrong_conversion_in_the_graph_is_doubted():
    model = trained_on("tf")
    image = keras.Input((24, 24, 3))
    wrong = keras.Model(image, model(layers.Rescaling(1 / 255)(image)))
    (caution,) = load_backbone(wrong).cautions
    assert "with 0..1, photographs give" in caution
    assert caution.endswith(
        "-1..1 would fit. The conversion is part of its graph: build it with another one."
    )
    right = keras.Model(image, model(layers.Rescaling(1 / 127.5, offset=-1)(image)))
    backbone = load_backbone(right)
    assert backbone.cautions == ()
    assert backbone.notes[-1] == "Pixels: RGB 0..255, which the graph converts to -1..1 (contract tf)."
    (caution,) = load_backbone(right, pixels="unit").cautions
    assert "--pixels raw" in caution


def test_values_that_no_contract_explains_are_doubted_only_where_they_are_impossible():
    model = trained_on("unit")
    norm = model.get_layer("norm")
    gamma, beta, mean, variance = norm.get_weights()
    norm.set_weights([gamma, beta, mean + 3e4, variance * 100])
    (caution,) = load_backbone(model).cautions
    assert "and so does every other contract" in caution
    norm.set_weights([gamma, beta, mean + 3 * np.sqrt(variance), variance])  # unlike photographs, not absurd
    assert load_backbone(model, pixels="unit").cautions == ()


def test_weights_without_statistics_tell_nothing():
    model = trained_on("tf")
    norm = model.get_layer("norm")
    norm.set_weights([np.ones(32), np.zeros(32), np.zeros(32), np.ones(32)])
    backbone = load_backbone(model)
    assert backbone.cautions == ()
    assert backbone.notes[-1].endswith("Its weights do not tell whether that is right.")
    assert load_backbone(trained_on("tf"), weights="random").cautions == ()


def test_family_tells_where_the_weights_do_not():
    entry = ZOO["vgg16"]
    image = keras.Input((32, 32, 3))
    model = keras.Model(image, layers.Conv2D(2, 3)(image))
    assert check_pixels(model, "caffe", entry).caution == ""
    assert check_pixels(model, "raw", entry).caution.endswith("such pixels: --pixels caffe.")
    assert check_pixels(model, "raw", ZOO["convnext_tiny"]).caution == ""
    assert "take the contract raw" in check_pixels(model, "tf", ZOO["convnext_tiny"]).caution
    scaled = keras.Model(image, layers.Conv2D(2, 3)(layers.Rescaling(1 / 255)(image)))
    assert "part of its graph" in check_pixels(scaled, "raw", entry).caution


@pytest.mark.slow
@pytest.mark.parametrize(
    ("constructor", "size", "file", "right"),
    [
        ("MobileNetV2", 96, "mobilenet_v2_imagenet_224_notop.weights.h5", "tf"),
        pytest.param("Xception", 96, "xception_imagenet_notop_f16.weights.h5", "tf", marks=pytest.mark.soak),
        (None, 224, "efficientnet_lite0_notop.keras", "raw"),
    ],
    ids=["mobilenet_v2", "xception", "efficientnet_lite0"],
)
def test_real_weights_are_doubted_under_every_wrong_contract(constructor, size, file, right, shared_file):
    path = shared_file(f"weights/{file}")
    if constructor is None:
        body = keras.models.load_model(path, compile=False)
    else:
        build = getattr(keras.applications, constructor)
        body = build(include_top=False, weights=path, input_shape=(size, size, 3))
    model = keras.Model(body.inputs[0], body.outputs[0], name="renamed")
    doubted = {contract for contract in CONTRACTS if load_backbone(model, pixels=contract).cautions}
    assert doubted == CONTRACTS.keys() - {right}


def test_maps_that_differ_by_a_rounding_are_one():
    assert CONTRACT_MAPS["tf"].is_near(PixelMap.from_channels(1 / 128, -127 / 128))
    assert not CONTRACT_MAPS["tf"].is_near(CONTRACT_MAPS["torch"])
