"""Networks within a network: one graph of the same layers, with the same answers, names and plans."""

import keras
import numpy as np
import pytest
from helpers.networks import answer, assert_close, nested, pixels, tiny

from regraft.backbones.load import load_backbone
from regraft.backbones.nested import as_functional, unfold_networks
from regraft.errors import UsageError
from regraft.features.keras_engine import fingerprint
from regraft.models.cut import cut
from regraft.models.freeze import freeze, resolve_plan
from regraft.models.head import graft
from regraft.models.taps import find_taps
from regraft.recipe import HeadSpec

layers = keras.layers


def network(size=32, name="base"):
    """A network with batch normalisation, whose statistics are not 0 and 1, dropout and residual sums."""
    image = keras.Input((size, size, 3))
    x = layers.Conv2D(4, 3, strides=2, padding="same", name="stem")(image)
    x = layers.BatchNormalization(name="stem_bn")(x)
    for number in (1, 2):
        y = layers.Conv2D(4, 3, padding="same", activation="relu", name=f"mix{number}")(x)
        x = layers.Add(name=f"add{number}")([x, layers.Dropout(0.5, name=f"drop{number}")(y)])
        x = layers.Conv2D(4, 3, strides=2, padding="same", name=f"shrink{number}")(x)
    model = keras.Model(image, x, name=name)
    rng = np.random.default_rng(0)
    model.get_layer("stem_bn").set_weights([rng.uniform(0.5, 2, 4) for _ in range(4)])
    return model


def put_inside(base, *top, **options):
    image = keras.Input(base.inputs[0].shape[1:])
    x = base(image, **options)
    for layer in top:
        x = layer(x)
    return keras.Model(image, x)


TOP = [layers.GlobalAveragePooling2D, lambda: layers.Dropout(0.2), lambda: layers.Dense(6)]


def make_classifier():
    return [make() for make in TOP]


BUILD = {
    "functional": put_inside,
    "inference mode": lambda base: put_inside(base, training=False),
    "twice nested": lambda base: put_inside(put_inside(base)),
    "classifier": lambda base: put_inside(base, *make_classifier(), training=False),
    "sequential": lambda base: keras.Sequential([keras.Input((32, 32, 3)), base, *make_classifier()]),
    "sequential head": lambda base: put_inside(base, keras.Sequential(make_classifier())),
    "sequential base": lambda base: put_inside(keras.Sequential([keras.Input((32, 32, 3)), base])),
}


@pytest.mark.parametrize("build", BUILD.values(), ids=BUILD)
def test_nested_network_is_the_network_itself(build, tmp_path):
    base = network()
    expected = load_backbone(base)
    build(base).save(tmp_path / "model.keras")
    for model in (build(base), tmp_path / "model.keras"):
        backbone = load_backbone(model)
        assert [layer.name for layer in backbone.layers] == [layer.name for layer in expected.layers]
        assert backbone.stages == expected.stages == {"stage_1": 0, "stage_2": 5, "stage_3": 9}
        assert backbone.name == "base"
        assert fingerprint(backbone.model) == fingerprint(expected.model)
        np.testing.assert_array_equal(answer(backbone.model, pixels(32)), answer(expected.model, pixels(32)))
    in_memory = load_backbone(build(base))
    assert {id(layer) for layer in in_memory.layers} == {id(layer) for layer in base.layers[1:]}  # shared


def test_plans_taps_and_cuts_reach_inside():
    backbone = load_backbone(put_inside(network(), *make_classifier(), training=False))
    assert [layer.name for layer in resolve_plan(backbone, "stage:stage_3").layers] == ["shrink2"]
    assert [tap.layer for tap in find_taps(backbone, "auto")] == [
        "stem_bn",
        "add1",
        "shrink1",
        "add2",
        "shrink2",
    ]
    assert freeze(backbone, "stage:stage_2").layers == 3
    model = graft(backbone, HeadSpec(), outputs=2)
    halves = cut(model, resolve_plan(backbone, "stage:stage_3"))
    x = pixels(32)
    crossing = halves.prefix(x, training=False)
    tensors = [crossing[name] for name in halves.names]
    assert_close(answer(halves.suffix, tensors if len(tensors) > 1 else tensors[0]), answer(model, x))


def test_equal_names_are_made_different(tmp_path):
    base = network()
    model = put_inside(base, layers.Conv2D(4, 1, name="stem"))
    model.save(tmp_path / "model.keras")
    backbone = load_backbone(tmp_path / "model.keras")
    assert [layer.name for layer in backbone.layers if "stem" in layer.name] == [
        "base_stem",
        "stem_bn",
        "stem",
    ]
    assert backbone.notes[0] == "Two layers had one name: now stem of base is base_stem."
    np.testing.assert_array_equal(answer(backbone.model, pixels(32)), answer(model, pixels(32)))
    backbone.model.save(tmp_path / "again.keras")
    again = load_backbone(tmp_path / "again.keras")
    np.testing.assert_array_equal(answer(again.model, pixels(32)), answer(model, pixels(32)))


def test_network_that_is_called_twice_stays_one_layer():
    base, image = network(), keras.Input((32, 32, 3))
    both = layers.Add()([base(image), base(keras.ops.flip(image, axis=2))])
    backbone = load_backbone(keras.Model(image, both))
    assert base in backbone.layers
    assert backbone.notes[0].startswith("base stays one layer, for it is called 2 times, with 1 inputs and 1")
    assert resolve_plan(backbone, "all").count.layers == 1


def test_layer_that_a_nested_network_shares_is_called_twice_in_the_graph(tmp_path):
    image = keras.Input((16, 16, 3))
    shared = layers.Conv2D(3, 3, padding="same", name="shared")
    inner = keras.Model(image, layers.Conv2D(4, 3, name="last")(shared(shared(image))), name="inner")
    put_inside(inner).save(tmp_path / "model.keras")
    backbone = load_backbone(tmp_path / "model.keras")
    assert [layer.name for layer in backbone.layers] == ["shared", "last"]
    np.testing.assert_allclose(answer(backbone.model, pixels(16)), answer(inner, pixels(16)), rtol=1e-5)
    freeze(backbone, "from:1")
    model = graft(backbone, HeadSpec(), outputs=2)
    halves = cut(model, resolve_plan(backbone, "from:1"))
    assert [layer.name for layer in halves.suffix.layers if layer.weights] == ["last", "head_output"]


def test_blocks_stay_layers():
    model = nested()
    assert unfold_networks(model) == (model, (), ())


def test_a_model_with_a_call_of_its_own_stays_one_layer():
    @keras.saving.register_keras_serializable("tests")
    class Halved(type(network())):
        def call(self, inputs, training=None, mask=None):
            return super().call(inputs, training=training) / 2

    base = network()
    halved = Halved(base.inputs, base.outputs)
    backbone = load_backbone(put_inside(halved))
    assert backbone.layers == (halved,)
    np.testing.assert_allclose(answer(backbone.model, pixels(32)), answer(base, pixels(32)) / 2, rtol=1e-5)


def test_inner_network_of_several_inputs_stays_one_layer():
    image, other = keras.Input((8, 8, 3)), keras.Input((8, 8, 3))
    inner = keras.Model([image, other], layers.Conv2D(4, 3)(layers.Add()([image, other])), name="two")
    outer = keras.Input((8, 8, 3))
    backbone = load_backbone(keras.Model(outer, inner([outer, outer])))
    assert backbone.layers == (inner,)
    assert "with 2 inputs" in backbone.notes[0]


def test_sequential_model_is_taken_as_its_layers():
    model = keras.Sequential([keras.Input((16, 16, 3)), layers.Conv2D(4, 3, name="only")], name="row")
    assert [layer.name for layer in load_backbone(model).layers] == ["only"]
    assert as_functional(tiny()).name == "tiny"


def test_two_inputs_are_refused():
    first, second = keras.Input((16, 16, 3)), keras.Input((16, 16, 3))
    with pytest.raises(UsageError, match=r"one input and one output.*Received: Functional"):
        load_backbone(keras.Model([first, second], layers.Add()([first, second])))


@pytest.mark.parametrize("layout", ["nested", "flat"])
def test_file_of_weights_fits_the_model_as_it_is_and_its_one_graph(layout, tmp_path):
    learnt, other = network(), network()
    source = put_inside(learnt, *make_classifier()) if layout == "nested" else learnt
    source.save_weights(tmp_path / "a.weights.h5")
    backbone = load_backbone(put_inside(other, *make_classifier()), weights=tmp_path / "a.weights.h5")
    np.testing.assert_array_equal(answer(backbone.model, pixels(32)), answer(learnt, pixels(32)))
    assert not np.array_equal(other.get_layer("stem").kernel, learnt.get_layer("stem").kernel)  # a copy


def test_random_weights_and_an_open_size():
    base = keras.Sequential([keras.Input((None, None, 3)), layers.Conv2D(4, 3), layers.Conv2D(4, 3)])
    model = put_inside(base, *make_classifier())
    backbone = load_backbone(model, image_size=20)
    assert backbone.model.output_shape == (None, 16, 16, 4)
    np.testing.assert_allclose(answer(backbone.model, pixels(20)), answer(base, pixels(20)), rtol=1e-5)
    fresh = load_backbone(model, image_size=20, weights="random", seed=1)
    assert not np.array_equal(fresh.layers[0].kernel, base.layers[0].kernel)
