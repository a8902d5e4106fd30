"""Families are recognised by their layers, and stages by the resolution."""

import keras
import pytest
from helpers.networks import branched, tiny

from regraft.backbones.load import load_backbone
from regraft.backbones.recognise import MARKS, find_stages, recognise_layers
from regraft.backbones.zoo import ZOO, recognise_model

SMALL = [
    "mobilenet", "mobilenet_v2", "mobilenet_v3_small", "nasnet_mobile", "resnet50", "resnet50_v2", "vgg16",
    "vgg19", "xception", "inception_v3", "inception_resnet_v2", "densenet121", "efficientnet_b0",
    "efficientnet_v2_b0",
]  # fmt: skip


def test_every_family_but_one_has_a_mark():
    assert {entry.module for entry in ZOO.values()} - MARKS.keys() == {"convnext"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n == "vgg16" else pytest.mark.soak) for n in SMALL]
)
def test_family_is_recognised_by_its_layers(name):
    entry = ZOO[name]
    shape = (entry.min_size, entry.min_size, 3)
    model = getattr(keras.applications, entry.constructor)(include_top=False, weights=None, input_shape=shape)
    recognised = recognise_layers((layer.name for layer in model.layers), entry.features)
    assert (recognised.module, recognised.pixels) == (entry.module, entry.pixels)
    renamed = load_backbone(keras.Model(model.inputs[0], model.outputs[0], name="mine"))
    assert (renamed.name, renamed.contract) == ("mine", entry.pixels)
    named = load_backbone(model)
    assert recognise_model(model.name).module == entry.module
    assert renamed.stages == named.stages


def test_other_networks_are_not_recognised():
    assert recognise_layers(["conv", "block5_conv3"], 100) is None
    assert recognise_layers(["conv", "dense"], 512) is None


def test_stages_begin_where_the_resolution_halves():
    layers = keras.layers
    x = image = keras.Input((37, 37, 3))
    x = layers.Rescaling(1 / 255)(x)
    x = layers.Conv2D(4, 3, strides=2)(x)  # 18
    x = layers.Conv2D(4, 3)(x)  # 16
    side = layers.Conv2D(4, 1, strides=2, padding="same", name="side")(x)  # 8
    x = layers.MaxPooling2D(name="pool")(layers.Conv2D(4, 3, padding="same", name="wide")(x))
    x = layers.Add()([x, side])
    x = layers.Conv2D(4, 3)(x)  # 6
    x = layers.Conv2D(4, 3, name="small")(x)  # 4
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(image, x)
    stages = find_stages(None, model, model.layers[1:])
    names = [model.layers[1:][start].name for start in stages.values()]
    assert list(stages) == ["stage_1", "stage_2", "stage_3"]
    assert names[1:] == ["pool", "small"]


def test_network_of_one_resolution_has_no_stages():
    assert load_backbone(tiny()).stages == {}
    assert load_backbone(branched()).stages == {}
