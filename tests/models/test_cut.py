"""Prefix and suffix give the same as the model, and frozen weights stay as they are."""

import keras
import numpy as np
import pytest
from conftest import small_network
from helpers.networks import answer, assert_close, nested, pixels, values

from regraft.backbones.graph import find_node, flatten_layers
from regraft.backbones.load import load_backbone
from regraft.models.cut import cut, partition_graph
from regraft.models.freeze import freeze, resolve_plan
from regraft.models.head import graft
from regraft.recipe import HeadSpec

LABELS = np.array([0, 1, 2, 0])


def make_plan(plan, *, model=None, dropout=0.2):
    """Return the small network, or another, with a head of three classes, and the plan applied to it."""
    backbone = load_backbone(small_network() if model is None else model)
    model = graft(backbone, HeadSpec(dropout=dropout), outputs=3)
    freeze(backbone, plan)
    return model, resolve_plan(backbone, plan)


def in_two_steps(halves, x):
    features = halves.prefix(x, training=False)
    crossing = [features[name] for name in halves.names]
    return answer(halves.suffix, crossing if len(crossing) > 1 else crossing[0])


def fit(model, x, steps, how="train_on_batch", learning_rate=0.05):
    model.compile(optimizer=keras.optimizers.AdamW(learning_rate), loss="sparse_categorical_crossentropy")
    if how == "fit":
        model.fit(x, LABELS, epochs=steps, verbose=0)
    else:
        for _ in range(steps):
            model.train_on_batch(x, LABELS)


def list_changed(model, before):
    """Return the paths of the weights that differ from `before` in any bit."""
    now = values(model)
    return {path for path, value in before.items() if now[path].tobytes() != value.tobytes()}


# --- contract 3: cached equals whole


@pytest.mark.parametrize(
    ("plan", "crossing"),
    [("none", 1), ("last:1", 1), ("last:3", 2), ("last:6", 1), ("last:8", 2), ("from:4", 1), ("all", 1)],
)
def test_suffix_of_prefix_is_the_model(plan, crossing):
    model, resolved = make_plan(plan)
    halves = cut(model, resolved)
    x = pixels(32)
    assert len(halves.names) == crossing
    assert_close(in_two_steps(halves, x), answer(model, x), 1e-6)
    assert_close(answer(halves.join_halves(), x), answer(model, x), 1e-6)


@pytest.mark.parametrize("last", [1, 2, 3])
def test_layers_within_layers(last):
    model, plan = make_plan(f"last:{last}", model=nested(), dropout=0)
    halves = cut(model, plan)
    assert_close(in_two_steps(halves, pixels(16)), answer(model, pixels(16)), 1e-6)
    assert all(not layer.startswith("block3") for layer in names(halves.prefix)) == (last > 1)


def names(model):
    return [layer.name for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]


def fit_norms(backbone):
    """Return the model, with batch normalisation fitted: random weights let signals vanish or explode."""
    norms = [part for layer in backbone.layers for part in flatten_layers(layer) if is_norm(part)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    backbone.model(pixels(backbone.image_size, 4), training=True)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return backbone.model


def is_norm(layer):
    return isinstance(layer, keras.layers.BatchNormalization)


FAMILIES = [
    # name, side, boundaries looked at (None: every one), most tensors that cross
    ("mobilenet_v2", 32, 12, 2),
    ("resnet50", 32, 4, 2),
    ("inception_v3", 75, 4, 6),
    ("densenet121", 32, 4, 2),
    ("efficientnet_b0", 32, 4, 3),
    ("convnext_tiny", 32, 4, 2),
    ("vgg16", 32, None, 1),
    ("nasnet_mobile", 32, 4, 11),
]
SHORT = {"mobilenet_v2", "inception_v3", "vgg16"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size", "count", "most"),
    [family if family[0] in SHORT else pytest.param(*family, marks=pytest.mark.soak) for family in FAMILIES],
)
def test_every_boundary_of_every_family_gives_the_model(name, size, count, most):
    """Prefix and suffix give the model's output, and as many numbers cross as the boundary states."""
    backbone = load_backbone(name, weights="random", image_size=size)
    model, x = fit_norms(backbone), pixels(size, 2)
    expected = answer(model, x)
    assert np.abs(expected[0] - expected[1]).max() > 1e-3 * np.abs(expected).max()  # not a constant
    last = model.layers[-1]
    while not last.weights:
        last = find_node(last.output).parent_nodes[0].operation

    def only(layer):
        return layer is last

    boundaries = partition_graph(model, only).boundaries
    assert max(len(boundary.tensors) for boundary in boundaries) == most
    rng = np.random.default_rng(0)
    chosen = (
        boundaries
        if count is None
        else [boundaries[n] for n in rng.choice(len(boundaries), count, replace=False)]
    )
    for boundary in chosen:
        halves = cut(model, only, boundary)
        features = halves.prefix(x, training=False)
        assert sum(np.prod(value.shape[1:]) for value in features.values()) == boundary.numbers
        assert_close(in_two_steps(halves, x), expected, 1e-6)


@pytest.fixture
def float64():
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")


def without_dropout(plan):
    """A head in the network's own precision (`graft` gives one of 32 bits), and every dropout off."""
    backbone = load_backbone(small_network())
    freeze(backbone, plan)
    for layer in backbone.layers:
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0
    vector = keras.layers.GlobalAveragePooling2D()(backbone.model.outputs[0])
    answers = keras.layers.Dense(3, "softmax", name="head")(vector)
    return keras.Model(backbone.model.inputs[0], answers), resolve_plan(backbone, plan)


@pytest.mark.slow
@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("plan", ["none", "last:1", "last:3", "from:5", "match:block1_conv"])
def test_one_step_of_the_cut_equals_one_step_of_the_whole(float64, plan):
    (model, _), (other, resolved) = without_dropout(plan), without_dropout(plan)
    other.set_weights(model.get_weights())
    x = pixels(32, 4).astype("float64")
    before = values(model)
    for network in (model, cut(other, resolved).join_halves()):
        step(network, x)
    after = values(model)
    for path, value in values(other).items():
        np.testing.assert_allclose(value, after[path], rtol=1e-9, atol=1e-12)
    assert len(list_changed(other, before)) == len(model.trainable_variables)


def step(model, inputs):
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss="sparse_categorical_crossentropy")
    model.train_on_batch(inputs, LABELS)


@pytest.mark.slow
@pytest.mark.usefixtures("eager")
def test_one_step_on_the_features_of_any_boundary_equals_one_step_of_the_whole(float64):
    """The suffix alone trains on the output of the prefix."""
    model, plan = without_dropout("last:3")
    x, before = pixels(32, 4).astype("float64"), model.get_weights()
    step(model, x)
    expected = model.get_weights()
    boundaries = partition_graph(model, plan).boundaries
    assert len(boundaries) > 8
    for boundary in boundaries:
        model.set_weights(before)
        halves = cut(model, plan, boundary)
        features = halves.prefix(x, training=False)
        crossing = [features[name] for name in halves.names]
        step(halves.make_trainable_suffix(), crossing if len(crossing) > 1 else crossing[0])
        for value, target in zip(model.get_weights(), expected, strict=True):
            np.testing.assert_allclose(value, target, rtol=1e-9, atol=1e-12)


def test_boundaries_go_from_the_pixels_to_where_what_is_frozen_ends():
    model, plan = make_plan("last:3")
    boundaries = partition_graph(model, plan).boundaries
    assert boundaries[0].tensors[0] is model.inputs[0]
    assert boundaries[0].numbers == 32 * 32 * 3
    positions = [boundary.position for boundary in boundaries]
    assert positions == sorted(set(positions))
    latest = cut(model, plan)
    assert len(boundaries[-1].tensors) == len(latest.names) == 2
    assert boundaries[-1].name == "block1_add and 1 more"
    assert latest.prefix.count_params() == cut(model, plan, boundaries[-1]).prefix.count_params()


def test_frozen_dropout_behind_a_boundary_does_not_act():
    """The boundary lies ahead of a frozen block, so its dropout is in the suffix."""
    model, plan = make_plan("last:1", dropout=0)
    x = pixels(32)
    boundaries = partition_graph(model, plan).boundaries
    boundary = next(boundary for boundary in boundaries if boundary.name == "stem_relu")
    halves = cut(model, plan, boundary)
    inputs = halves.prefix(x, training=False)["cut_0"]
    trained = keras.ops.convert_to_numpy(halves.make_trainable_suffix()(inputs, training=True))
    assert_close(trained, answer(model, x), 1e-6)


def test_layers_are_shared_not_copied():
    model, plan = make_plan("last:3")
    halves = cut(model, plan)
    assert set(names(halves.prefix) + names(halves.suffix)) == set(names(model))
    for half in (halves.prefix, halves.suffix):
        for name in names(half):
            assert half.get_layer(name) is model.get_layer(name)
    assert {id(w) for w in halves.join_halves().weights} == {id(w) for w in model.weights}


def test_a_layer_that_is_called_twice_stays_whole():
    image = keras.Input((8, 8, 3))
    relu = keras.layers.ReLU(name="relu")
    x = relu(keras.layers.Conv2D(4, 3, name="one", trainable=False)(image))
    model = keras.Model(image, relu(keras.layers.Conv2D(4, 3, name="two")(x)))
    halves = cut(model, lambda layer: layer.name == "two")
    assert names(halves.prefix) == ["one"]
    other = partition_graph(model, lambda layer: layer.name == "two").boundaries
    assert [boundary.name for boundary in other] == [model.layers[0].name, "one"]
    assert_close(in_two_steps(halves, pixels(8)), answer(model, pixels(8)), 1e-6)


def test_operations_that_are_no_layers():
    image = keras.Input((8, 8, 3))
    x = keras.ops.flip(keras.layers.Conv2D(4, 3, name="one", trainable=False)(image), axis=-1)
    model = keras.Model(image, keras.ops.relu(keras.layers.Conv2D(4, 3, name="two")(x) + x[:, 1:-1, 1:-1]))
    halves = cut(model, lambda layer: layer.name == "two")
    assert_close(in_two_steps(halves, pixels(8)), answer(model, pixels(8)), 1e-6)


def test_nothing_trains():
    model, plan = make_plan("none")
    model.get_layer("head_output").trainable = False
    with pytest.raises(ValueError, match=r"something that trains. Received: all of it frozen"):
        cut(model, plan)


@pytest.mark.slow
def test_a_prefix_that_trains_is_not_joined():
    halves = cut(make_plan("all")[0], lambda layer: layer.name in ("top_conv", "head_output"))
    with pytest.raises(
        ValueError, match=r"frozen. Received: 3 weights that train, among them stem_conv/kernel"
    ):
        halves.join_halves()


@pytest.mark.slow
def test_a_model_saved_after_cutting_and_training(tmp_path):
    model, plan = make_plan("last:3")
    x = pixels(32, 4)
    fit(cut(model, plan).join_halves(), x, 1)
    cut(model, plan)  # once more, as a second phase does
    model.save(tmp_path / "trained.keras")
    again = keras.models.load_model(tmp_path / "trained.keras", safe_mode=True)
    np.testing.assert_array_equal(answer(again, x), answer(model, x))
    assert names(again) == names(model)


# --- contract 2: frozen means frozen


@pytest.mark.slow
@pytest.mark.parametrize("how", ["fit", "train_on_batch"])
def test_only_the_plan_moves(how):
    model, plan = make_plan("last:3")
    before = values(model)
    x = pixels(32, 4)
    fit(cut(model, plan).join_halves(), x, 3, how)
    assert list_changed(model, before) == {
        "top_conv/kernel",
        "top_conv/bias",
        "head_output/kernel",
        "head_output/bias",
    }


@pytest.mark.slow
@pytest.mark.parametrize("how", ["fit", "train_on_batch"])
def test_batch_normalisation_stays_when_everything_trains(how):
    model, plan = make_plan("all")
    before = values(model)
    fit(cut(model, plan).join_halves(), pixels(32, 4), 3, how)
    assert list_changed(model, before) == {path for path in before if "_bn" not in path}


@pytest.mark.parametrize(
    "plan",
    [
        "last:1",
        "match:block1_conv",  # in the middle; the dropout of the block after it is not part of the plan
    ],
)
def test_no_dropout_acts_in_frozen_layers(plan):
    """In training mode the same pixels give the same answer, for a plan whose layers have no dropout."""
    joined = cut(*make_plan(plan, dropout=0)).join_halves()
    x = pixels(32)
    trained = [keras.ops.convert_to_numpy(joined(x, training=True)) for _ in range(2)]
    np.testing.assert_array_equal(trained[0], trained[1])
    assert_close(trained[0], answer(joined, x), 1e-6)


@pytest.mark.slow
def test_no_dropout_acts_in_the_frozen_part_during_fit():
    """This differs from a plain call: `fit` passes its own mode on to every layer."""
    model, plan = make_plan("last:1", dropout=0)
    x = pixels(32, 4)
    joined = cut(model, plan).join_halves()
    joined.compile(optimizer=keras.optimizers.SGD(0.0), loss="sparse_categorical_crossentropy")
    expected = joined.evaluate(x, LABELS, verbose=0)
    losses = joined.fit(x, LABELS, epochs=3, verbose=0).history["loss"]
    np.testing.assert_allclose(losses, expected, rtol=1e-6)


def test_a_plan_in_the_middle_moves_only_that():
    model, plan = make_plan("match:block1_conv")
    before = values(model)
    fit(cut(model, plan).join_halves(), pixels(32, 4), 2)
    assert list_changed(model, before) == {"block1_conv/kernel", "head_output/kernel", "head_output/bias"}


@pytest.mark.slow
@pytest.mark.parametrize(("plan", "dropout"), [("last:3", 0.0), ("none", 0.5), ("last:1", 0.5)])
def test_dropout_of_the_part_that_trains_acts(plan, dropout):
    """Also where it comes right after the frozen part: in the head, or as the first layer of the plan."""
    joined = cut(*make_plan(plan, dropout=dropout)).join_halves()
    x = pixels(32)
    one, other = (keras.ops.convert_to_numpy(joined(x, training=True)) for _ in range(2))
    assert np.abs(one - other).max() > 1e-3
    np.testing.assert_array_equal(answer(joined, x), answer(joined, x))
