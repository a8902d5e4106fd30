"""Heads: what each setting builds, what each task answers, and a file that plain Keras opens."""

import subprocess
import sys
from dataclasses import replace

import keras
import numpy as np
import pytest
from conftest import small_network
from helpers.networks import answer, assert_close, pixels, tiny

from regraft.backbones.load import load_backbone
from regraft.errors import UsageError
from regraft.models.freeze import freeze
from regraft.models.head import HEAD_OUTPUT, UNITS, graft, is_head, is_linear, pool_features
from regraft.recipe import HeadSpec

REPLAY = """
import sys
import numpy as np
import keras

for file in sys.argv[1:]:
    model = keras.models.load_model(file, safe_mode=True)
    np.save(file + ".npy", keras.ops.convert_to_numpy(model(np.load(f"{file}.pixels.npy"), training=False)))
assert "regraft" not in sys.modules
"""


@pytest.fixture(scope="module")
def backbone():
    return load_backbone(small_network())


def test_probabilities_of_every_class(backbone):
    model = graft(backbone, HeadSpec(), outputs=5)
    output = answer(model, pixels(32, 3))
    assert output.shape == (3, 5)
    assert (output > 0).all()
    np.testing.assert_allclose(output.sum(axis=1), 1, rtol=1e-5)
    assert model.input_shape == (None, 32, 32, 3)
    assert model.name == "regraft_small_network"


@pytest.mark.parametrize(("pooling", "reduce"), [("avg", np.mean), ("max", np.max)])
def test_pooling_is_that_of_numpy(backbone, pooling, reduce):
    vector = keras.Model(backbone.model.inputs[0], pool_features(backbone, HeadSpec(pooling=pooling)))
    x = pixels(32)
    assert_close(answer(vector, x), reduce(answer(backbone.model, x), axis=(1, 2)), 1e-6)


def test_a_feature_vector_is_taken_as_it_is():
    backbone = load_backbone(tiny(output="vector"))
    assert pool_features(backbone, HeadSpec(pooling="max")) is backbone.model.outputs[0]
    model = graft(backbone, HeadSpec(pooling="max"), outputs=3)
    x = pixels(16)
    scores = answer(backbone.model, x) @ np.array(model.get_layer(HEAD_OUTPUT).kernel)
    expected = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    assert_close(answer(model, x), expected, 1e-5)


def test_the_answer_is_softmax_of_the_pooled_features(backbone):
    model = graft(backbone, HeadSpec(), outputs=3)
    dense = model.get_layer(HEAD_OUTPUT)
    dense.bias.assign([0.5, -1.0, 0.0])
    x = pixels(32)
    scores = answer(backbone.model, x).mean(axis=(1, 2)) @ np.array(dense.kernel) + np.array(dense.bias)
    assert_close(answer(model, x), np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True), 1e-5)


def test_dropout_is_there_only_when_asked_for(backbone):
    x = pixels(32)
    quiet = graft(backbone, HeadSpec(dropout=0), outputs=3)
    assert [layer.name for layer in quiet.layers[-2:]] == ["head_pool", HEAD_OUTPUT]
    loud = graft(backbone, HeadSpec(dropout=0.5), outputs=3)
    assert loud.get_layer("head_dropout").rate == 0.5
    loud.get_layer(HEAD_OUTPUT).set_weights(quiet.get_layer(HEAD_OUTPUT).get_weights())
    np.testing.assert_array_equal(answer(loud, x), answer(quiet, x))


def test_layers_are_the_backbones_own(backbone):
    model = graft(backbone, HeadSpec(), outputs=3)
    for layer in backbone.layers:
        assert model.get_layer(layer.name) is layer


def test_seed_decides_the_first_weights(backbone):
    one, same, other = (graft(backbone, HeadSpec(), outputs=3, seed=seed) for seed in (1, 1, 2))
    kernels = [np.array(model.get_layer(HEAD_OUTPUT).kernel) for model in (one, same, other)]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert not np.array_equal(kernels[0], kernels[2])


# --- from a HeadSpec: hidden layers and what comes before pooling

RICH = HeadSpec(
    pooling="both", attention="cbam", convolutions=(6,), hidden=(5, 4), normalization="layer", dropout=0.1
)


def of_head(model):
    return [layer.name for layer in model.layers if is_head(layer)]


def test_the_order_of_a_rich_head(backbone):
    names = of_head(graft(backbone, RICH, outputs=3))
    after = names[names.index("head_convolution_1") :]
    assert all(name.startswith("head_attention_") for name in names[: names.index("head_convolution_1")])
    assert sorted(after[1:3]) == ["head_pool_avg", "head_pool_max"]
    assert after[3:] == [
        "head_pool", "head_norm_0", "head_hidden_1", "head_norm_1", "head_hidden_2", "head_norm_2",
        "head_dropout", HEAD_OUTPUT,
    ]  # fmt: skip


def test_hidden_layers_are_those_of_numpy(backbone):
    model = graft(backbone, HeadSpec(hidden=(5, 4), dropout=0), outputs=3)
    vector = answer(backbone.model, pixels(32)).mean(axis=(1, 2))
    for name in ("head_hidden_1", "head_hidden_2", HEAD_OUTPUT):
        kernel, bias = (np.array(weight) for weight in model.get_layer(name).weights)
        scores = vector @ kernel + bias
        vector = np.maximum(scores, 0)
    expected = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    assert_close(answer(model, pixels(32)), expected, 1e-5)


def test_every_weight_of_a_head_comes_from_the_seed(backbone):
    one, same, other = (graft(backbone, RICH, outputs=3, seed=seed) for seed in (1, 1, 2))
    differ = 0
    for layer in filter(is_head, one.layers):
        for mine, equal, unlike in zip(
            layer.weights,
            same.get_layer(layer.name).weights,
            other.get_layer(layer.name).weights,
            strict=True,
        ):
            np.testing.assert_array_equal(np.array(mine), np.array(equal))
            differ += not np.array_equal(np.array(mine), np.array(unlike))
    assert differ == 5  # the kernels that are random: reduce, convolution, two hidden ones, output


def test_equal_layers_start_differently(backbone):
    model = graft(backbone, HeadSpec(hidden=(8, 8, 8)), outputs=3)
    one, other = (np.array(model.get_layer(f"head_hidden_{number}").kernel) for number in (2, 3))
    assert not np.array_equal(one, other)


@pytest.mark.slow
def test_statistics_of_a_batch_normalised_head_keep_up(backbone):
    model = graft(backbone, HeadSpec(normalization="batch", dropout=0), outputs=3)
    freeze(backbone, "none")
    x = pixels(32, 4)
    model.compile(optimizer=keras.optimizers.SGD(0.0), loss="categorical_crossentropy")
    for _ in range(30):
        model.train_on_batch(x, np.eye(3)[[0, 1, 2, 0]])
    mean = np.array(model.get_layer("head_norm_0").moving_mean)
    assert_close(mean, answer(backbone.model, x).mean(axis=(0, 1, 2)), 0.06)


@pytest.mark.parametrize(
    ("head", "linear"),
    [
        (HeadSpec(), True),
        (HeadSpec(pooling="both", dropout=0), True),
        (HeadSpec(pooling="gem"), False),
        (HeadSpec(pooling="attention"), False),
        (HeadSpec(attention="se"), False),
        (HeadSpec(convolutions=(4,)), False),
        (HeadSpec(hidden=(4,)), False),
        (HeadSpec(normalization="batch"), False),
    ],
)
def test_a_head_that_a_solver_can_fill(backbone, head, linear):
    assert head.linear == linear
    assert is_linear(graft(backbone, head, outputs=3)) == linear


def test_what_a_solver_sees_has_no_weights(backbone):
    for pooling in ("avg", "max", "both", "gem", "attention"):
        seen = keras.Model(backbone.model.inputs[0], pool_features(backbone, HeadSpec(pooling=pooling)))
        assert len(seen.weights) == len(backbone.model.weights)
        assert seen.output_shape == (None, 32 if pooling == "both" else 16)


# --- tasks


@pytest.mark.parametrize(
    ("task", "outputs", "units", "activation"),
    [
        ("multiclass", 3, 3, "softmax"),
        ("binary", 2, 1, "sigmoid"),
        ("multilabel", 4, 4, "sigmoid"),
        ("regression", 2, 2, "linear"),
    ],
)
def test_the_output_of_each_task(backbone, task, outputs, units, activation):
    model = graft(backbone, HeadSpec(), task=task, outputs=outputs)
    assert model.output_shape == (None, units)
    assert model.get_layer(HEAD_OUTPUT).activation.__name__ == activation


def test_a_regression_answers_in_the_targets_units(backbone, tmp_path):
    units = (np.array([10.0, 0.5]), np.array([100.0, -3.0]))
    model = graft(backbone, HeadSpec(), task="regression", outputs=2, units=units)
    plain = keras.Model(model.inputs[0], model.get_layer(HEAD_OUTPUT).output)
    x = pixels(32)
    assert_close(answer(model, x), answer(plain, x) * units[0] + units[1], 1e-6)
    assert is_linear(model)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    np.testing.assert_array_equal(answer(again, x), answer(model, x))
    assert again.layers[-1].name == UNITS


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "regresion"}, r'task: expected multiclass, .*\. Received: \'regresion\'. .*"regression"'),
        ({"units": ([1.0], [0.0])}, "units: .* Received: 1 and 1 for 3 outputs, multiclass"),
        ({"task": "regression", "units": ([1.0], [0.0])}, "units: .* Received: 1 and 1 for 3 outputs"),
    ],
)
def test_settings_that_do_not_fit_together(backbone, settings, message):
    with pytest.raises(UsageError, match=message):
        graft(backbone, HeadSpec(), outputs=3, **settings)


# --- tokens and vectors


def tokens():
    """As a vision transformer gives them: (batch, 16, 4)."""
    image = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(4, 4, strides=4, name="patches")(image)
    x = keras.layers.Reshape((16, 4), name="tokens")(x)
    return replace(load_backbone(tiny()), name="vit", model=keras.Model(image, x))


@pytest.mark.parametrize("pooling", ["avg", "max", "both", "attention"])
def test_tokens_are_pooled(pooling):
    output = answer(graft(tokens(), HeadSpec(pooling=pooling), outputs=3), pixels(16))
    np.testing.assert_allclose(output.sum(axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize(
    "head", [HeadSpec(convolutions=(4,)), HeadSpec(attention="se"), HeadSpec(pooling="gem")]
)
def test_what_needs_a_feature_map_is_refused_without_one(head):
    for backbone, shape in ((tokens(), "16, 4"), (load_backbone(tiny(output="vector")), "4")):
        with pytest.raises(UsageError, match=rf"head.* feature map .*gives \(None, {shape}\)"):
            graft(backbone, head, outputs=3)


# --- any layer or model


def own_head(*layers):
    return keras.Sequential([keras.layers.GlobalMaxPooling2D(), *layers], name="mine")


def test_a_users_own_model_is_a_head(backbone, tmp_path):
    head = own_head(keras.layers.Dense(8, "gelu"), keras.layers.Dense(3, "softmax"))
    model = graft(backbone, head, outputs=3)
    x = pixels(32)
    assert_close(answer(model, x), answer(head, answer(backbone.model, x)), 1e-6)
    assert of_head(model) == ["head_custom"]
    assert not is_linear(model)
    model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        answer(keras.models.load_model(tmp_path / "model.keras", safe_mode=True), x), answer(model, x)
    )


def test_a_functional_model_is_a_head(backbone):
    features = keras.Input((16, 16, 16))
    vector = keras.layers.Flatten()(features)
    head = keras.Model(features, keras.layers.Activation("sigmoid")(keras.layers.Dense(1)(vector)))
    assert graft(backbone, head, task="binary", outputs=2).output_shape == (None, 1)


def test_a_users_regression_head_gets_the_units_too(backbone):
    head = own_head(keras.layers.Dense(1))
    model = graft(backbone, head, task="regression", outputs=1, units=([2.0], [5.0]))
    x = pixels(32)
    assert_close(answer(model, x), 5 + 2 * answer(head, answer(backbone.model, x)), 1e-6)


@pytest.mark.parametrize(
    ("head", "task", "message"),
    [
        (
            lambda: keras.layers.Dense(3, "softmax"), "multiclass",
            r"answers of shape \(None, 3\) for 3 outputs, multiclass. "
            r"Received: .*, which makes \(None, 16, 16, 3\) of the backbone's \(None, 16, 16, 16\)",
        ),
        (lambda: own_head(keras.layers.Dense(4, "softmax")), "multiclass", r"mine, which makes \(None, 4\)"),
        (lambda: own_head(keras.layers.Dense(3)), "multiclass", "by softmax.* mine, which ends with linear"),
        (lambda: own_head(keras.layers.Dense(3, "softmax")), "multilabel", "by sigmoid.* with softmax"),
        (lambda: own_head(keras.layers.Dense(2, "softmax")), "binary", r"shape \(None, 1\) for 2 outputs"),
        (
            lambda: keras.Sequential([keras.Input((7,)), keras.layers.Dense(3, "softmax")]), "multiclass",
            r"expected a layer from \(None, 16, 16, 16\), the backbone's output, to \(None, 3\)",
        ),
        (lambda: keras.layers.Dense, "multiclass", "expected a HeadSpec, a Keras layer or a model"),
        (lambda: "dense", "multiclass", "expected a HeadSpec, a Keras layer or a model"),
    ],
)  # fmt: skip
def test_a_head_that_does_not_fit(backbone, head, task, message):
    with pytest.raises(UsageError, match=message):
        graft(backbone, head(), task=task, outputs=2 if task == "binary" else 3)


def test_layers_of_the_user_that_are_called_head_are_no_head():
    names = ["head", "head_", "header_output", "my_head_output", "head_pooler", "head_outputs"]
    assert not [name for name in names if is_head(keras.layers.Dense(1, name=name))]
    assert is_head(keras.layers.Dense(1, name="head_attention_place_gate"))


# --- the settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pooling": "atention"}, 'head.pooling: expected "avg" or .* Did you mean "attention"'),
        ({"hidden": (64, 0)}, r"head.hidden: expected whole numbers from 1. Received: \(64, 0\)"),
        ({"convolutions": (-1,)}, "head.convolutions: expected whole numbers from 1"),
        ({"hidden": (0.5,)}, "head.hidden: expected a list of whole numbers"),
        ({"hidden": (8,), "solver": "ridge"}, "head.solver: expected auto or gradient .* Received: ridge"),
        ({"pooling": "gem", "solver": "svm"}, "head.solver: expected auto or gradient"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(UsageError, match=message):
        HeadSpec(**settings)


def test_lists_of_toml_become_tuples():
    assert HeadSpec(hidden=[8, 4], convolutions=[2]) == HeadSpec(hidden=(8, 4), convolutions=(2,))


@pytest.mark.parametrize(
    ("head", "rate"),
    [
        (HeadSpec(), None),  # it will be solved, and noise would undo the solution
        (HeadSpec(solver="ridge"), None),
        (HeadSpec(solver="gradient"), 0.2),
        (HeadSpec(hidden=(4,)), 0.2),
        (HeadSpec(hidden=(4,), dropout=0), None),
        (HeadSpec(dropout=0.3), 0.3),
    ],
)
def test_only_a_head_that_is_trained_drops_features_by_itself(backbone, head, rate):
    layers = {layer.name: layer for layer in graft(backbone, head, outputs=3).layers}
    assert (layers["head_dropout"].rate if "head_dropout" in layers else None) == rate


@pytest.mark.parametrize(
    "head",
    [HeadSpec(), RICH, HeadSpec(pooling="gem"), HeadSpec(pooling="attention"), HeadSpec(attention="se")],
)
def test_a_trained_model_gets_a_new_head_in_place_of_the_old(backbone, head):
    again = load_backbone(graft(backbone, head, outputs=3))
    assert [layer.name for layer in again.layers] == [layer.name for layer in backbone.layers]
    assert of_head(graft(again, HeadSpec(), outputs=5)) == ["head_pool", HEAD_OUTPUT]


def test_two_heads_are_refused(backbone):
    grafted = graft(backbone, HeadSpec(), outputs=3)
    with pytest.raises(UsageError, match="small_network has a head already"):
        graft(replace(backbone, model=grafted, layers=tuple(grafted.layers)), HeadSpec(), outputs=3)


# --- contract 4: plain Keras out


SMALL = [
    ("small", head)
    for head in (
        RICH,
        HeadSpec(pooling="gem", attention="se", normalization="batch"),
        HeadSpec(pooling="attention"),
        HeadSpec(pooling="both"),
    )
]
PUBLISHED = [("mobilenet_v2", HeadSpec()), ("vgg16", HeadSpec(pooling="both"))]


@pytest.mark.slow
@pytest.mark.parametrize(
    "networks", [SMALL, pytest.param(PUBLISHED, marks=pytest.mark.soak)], ids=["small", "published"]
)
def test_saved_models_open_without_regraft(tmp_path, networks):
    """All in one process: starting Keras takes longer than the test. VGG16 has the contract "caffe"."""
    expected = {}
    for name, head in networks:
        weights = "imagenet" if name == "small" else "random"
        backbone = load_backbone(small_network() if name == "small" else name, weights=weights, image_size=32)
        model = graft(backbone, head, outputs=4)
        file = tmp_path / f"{len(expected)}.keras"
        model.save(file)
        x = pixels(32, 3)
        np.save(f"{file}.pixels.npy", x)
        expected[str(file)] = answer(model, x)
    subprocess.run([sys.executable, "-c", REPLAY, *expected], check=True, timeout=300)
    for file, probabilities in expected.items():
        np.testing.assert_allclose(np.load(file + ".npy"), probabilities, atol=1e-5, rtol=0)
