"""A classifier is cut off where include_top=False ends; any other network stays as it is."""

import keras
import numpy as np
import pytest
from helpers.networks import answer, assert_close, pixels, tiny

from regraft.backbones.classifier import cut_off_classifier
from regraft.backbones.load import load_backbone
from regraft.backbones.zoo import ZOO, recognise_model
from regraft.errors import UsageError
from regraft.models.head import graft
from regraft.recipe import HeadSpec

pytestmark = pytest.mark.slow

FAMILIES = [
    "mobilenet",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "nasnet_mobile",
    "resnet50",
    "resnet50_v2",
    "vgg16",
    "vgg19",
    "xception",
    "inception_v3",
    "inception_resnet_v2",
    "densenet121",
    "efficientnet_b0",
    "efficientnet_v2_b0",
    "convnext_tiny",
]
SHORT = {"mobilenet_v3_small", "resnet50", "vgg16", "convnext_tiny"}  # each ends in its own way


def build_published(name, include_top, activation="softmax"):
    entry = ZOO[name]
    shape = (entry.min_size, entry.min_size, 3)
    constructor = getattr(keras.applications, entry.constructor)
    if not include_top:
        return constructor(include_top=False, weights=None, input_shape=shape)
    return constructor(weights=None, input_shape=shape, classes=7, classifier_activation=activation)


@pytest.mark.parametrize(
    "name", [name if name in SHORT else pytest.param(name, marks=pytest.mark.soak) for name in FAMILIES]
)
def test_family_is_cut_to_what_include_top_false_builds(name):
    entry = ZOO[name]
    backbone = load_backbone(build_published(name, True))
    bare = build_published(name, False)
    assert [type(layer) for layer in backbone.layers] == [type(layer) for layer in bare.layers[1:]]
    assert "classifier was cut off" in backbone.notes[0]
    assert backbone.contract == entry.pixels
    assert list(backbone.stages) == list(entry.stages.find_starts(layer.name for layer in backbone.layers))
    bare.set_weights(backbone.model.get_weights())
    x = pixels(entry.min_size)
    preprocess = getattr(keras.applications, entry.module).preprocess_input
    assert_close(answer(backbone.model, x), answer(bare, preprocess(x.copy())))


def test_every_family_is_tested():
    assert {ZOO[name].module for name in FAMILIES} == {entry.module for entry in ZOO.values()}


def test_keras_names_are_recognised():
    for name in ("mobilenet", "vgg16"):
        assert recognise_model(build_published(name, False).name).module == ZOO[name].module


def test_logits_of_a_published_network_are_a_classifier_too():
    backbone = load_backbone(build_published("vgg16", True, activation=None))
    assert backbone.model.output_shape == (None, 1, 1, 512)


def test_pooled_network_is_no_classifier():
    model = keras.applications.VGG16(include_top=False, weights=None, pooling="avg", input_shape=(32, 32, 3))
    backbone = load_backbone(model)
    assert backbone.model.output_shape == (None, 512)
    assert not any("cut off" in note for note in backbone.notes)


def test_own_classifier_with_hidden_layers():
    body = tiny()
    x = keras.layers.Flatten(name="flat")(body.output)
    x = keras.layers.Dropout(0.5, name="drop")(keras.layers.Dense(8, "relu", name="hidden")(x))
    model = keras.Model(body.input, keras.layers.Dense(1, "sigmoid", name="cat")(x), name="mine")
    body_again, note = cut_off_classifier(model)
    assert note == "The classifier was cut off: flat, hidden, drop, cat."
    np.testing.assert_array_equal(answer(body_again, pixels(16)), answer(body, pixels(16)))


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_embedding_is_left_alone(activation):
    body = tiny()
    x = keras.layers.GlobalAveragePooling2D()(body.output)
    model = keras.Model(body.input, keras.layers.Dense(8, activation)(x))
    assert cut_off_classifier(model) == (model, "")


def add_top(body, *layers):
    x = keras.layers.GlobalAveragePooling2D(name="pool")(body.output)
    for layer in layers:
        x = layer(x)
    return keras.Model(body.input, x, name="mine")


@pytest.mark.parametrize(
    "layers",
    [
        [keras.layers.Dense(6, name="top")],
        [keras.layers.Dense(16, "relu"), keras.layers.Dropout(0.5), keras.layers.Dense(6, name="top")],
        [keras.layers.Dense(6, name="top"), keras.layers.Activation("linear", dtype="float32")],
        [keras.layers.Dense(64, name="predictions")],
    ],
    ids=["one", "two", "activation", "name"],
)
def test_logits_are_cut_off_and_the_note_says_what_was_assumed(layers):
    body = tiny()
    model = add_top(body, *layers)
    cut, note = cut_off_classifier(model)
    names = ", ".join(["pool", *(layer.name for layer in layers)])
    answers = f"its {model.output_shape[-1]} answers are taken for logits"
    assert (
        note == f"The classifier was cut off: {names} ({answers}; --classifier keep uses them as features)."
    )
    np.testing.assert_array_equal(answer(cut, pixels(16)), answer(body, pixels(16)))


def test_wide_linear_layer_is_an_embedding_unless_it_shall_be_cut():
    body = tiny()
    model = add_top(body, keras.layers.Dense(64, name="top"))
    cut, note = cut_off_classifier(model)
    assert (cut, "top is taken for an embedding, so its 64 answers are the features" in note) == (model, True)
    assert cut_off_classifier(model, choice="cut")[0].output_shape == body.output_shape


def test_classifier_stays_where_its_answers_shall_be_the_features():
    model = add_top(tiny(), keras.layers.Dense(1000, name="logits"))
    note = "The classifier stays: its 1000 answers are the features."
    assert cut_off_classifier(model, choice="keep") == (model, note)
    backbone = load_backbone(model, classifier="keep")
    assert (backbone.model.output_shape, backbone.notes[0]) == ((None, 1000), note)
    assert load_backbone(model).model.output_shape == tiny().output_shape


def test_cut_without_a_feature_map_ends_before_the_last_dense_layer():
    vector = tiny(output="vector")
    scaled = keras.layers.UnitNormalization(name="unit")(vector.output)
    model = keras.Model(vector.input, keras.layers.Dense(3)(keras.layers.Reshape((4,))(scaled)))
    assert cut_off_classifier(model, choice="cut")[0].output_shape == tiny().output_shape
    image = keras.Input((16, 16, 3))
    rows = keras.layers.Dense(5, "relu", name="rows")(image)  # of every pixel: nothing collapses
    cut, note = cut_off_classifier(keras.Model(image, keras.layers.Dense(3, name="last")(rows)), choice="cut")
    assert (cut.output_shape[-1], note) == (5, "The classifier was cut off: last.")
    with pytest.raises(UsageError, match="classifier cut: expected a Dense layer at the end of tiny"):
        cut_off_classifier(tiny(), choice="cut")


@pytest.mark.parametrize("name", ["vgg16", "kerashub:resnet_18_imagenet"])
def test_named_backbones_have_no_classifier_to_choose(name):
    with pytest.raises(UsageError, match=r"classifier: only models and \.keras files of your own"):
        load_backbone(name, classifier="cut", weights="random")


def test_attention_over_a_map_is_left_alone():
    body = tiny()
    gate = keras.layers.Conv2D(4, 1, activation="sigmoid")(body.output)
    model = keras.Model(body.input, gate)
    assert cut_off_classifier(model) == (model, "")


def test_head_of_regraft_is_cut_off_and_the_rest_is_the_backbone_again(tmp_path):
    first = load_backbone("mobilenet", weights="random", image_size=32)
    graft(first, HeadSpec(), outputs=3).save(tmp_path / "trained.keras")
    again = load_backbone(tmp_path / "trained.keras")
    assert (again.name, again.contract, again.stages) == ("mobilenet", "tf", first.stages)
    assert again.notes == ("The head was cut off: head_pool, head_output.",)
    assert [layer.name for layer in again.layers] == [layer.name for layer in first.layers]
    np.testing.assert_array_equal(answer(again.model, pixels(32)), answer(first.model, pixels(32)))
    assert graft(again, HeadSpec(), outputs=5).output_shape == (None, 5)


def test_layer_of_the_user_s_own_called_head_is_none_of_ours():
    body = tiny()
    model = keras.Model(body.input, keras.layers.Conv2D(4, 1, name="head_conv")(body.output))
    assert cut_off_classifier(model) == (model, "")


def test_head_on_several_maps_is_refused():
    body = tiny()
    pooled = [
        keras.layers.GlobalAveragePooling2D(name=f"head_pool_{number}")(tensor)
        for number, tensor in enumerate([body.output, body.get_layer("norm").output])
    ]
    joined = keras.layers.Concatenate(name="head_join")(pooled)
    with pytest.raises(UsageError, match="its head takes 2 tensors"):
        load_backbone(keras.Model(body.input, joined))
