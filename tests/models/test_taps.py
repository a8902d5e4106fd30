"""Taps: found in any graph, pooled and concatenated, chosen where they add information."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from conftest import small_network
from helpers.networks import answer, assert_close, pixels
from sklearn.preprocessing import StandardScaler

from regraft.backbones.load import load_backbone
from regraft.errors import UsageError
from regraft.models.freeze import freeze
from regraft.models.head import HEAD_OUTPUT, graft, is_linear
from regraft.models.taps import cut_at_taps, find_taps
from regraft.pipeline.train import train
from regraft.recipe import HeadSpec, Phase, Recipe
from regraft.solvers.cross_validation import TrainingRows
from regraft.solvers.feature_scoring import choose_taps
from regraft.solvers.kernel_probe import make_gram


@pytest.fixture(scope="module")
def backbone():
    return load_backbone(small_network())


def layers_of(taps) -> list[str]:
    return [tap.layer for tap in taps]


# --- where they are


def test_taps_are_what_layers_with_kernels_read_and_the_output(backbone) -> None:
    assert layers_of(find_taps(backbone, "auto")) == ["stem_relu", "block1_add", "block2_add", "top_conv"]
    assert layers_of(find_taps(backbone, "last")) == ["top_conv"]


def test_late_taps_have_the_resolution_of_the_output() -> None:
    image = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(4, 3, padding="same", name="early")(image)
    x = keras.layers.ReLU(name="large")(x)
    x = keras.layers.Conv2D(4, 3, strides=2, padding="same", name="half")(x)
    x = keras.layers.ReLU(name="small")(x)
    model = keras.Model(image, keras.layers.Conv2D(4, 1, name="top")(x))
    backbone = load_backbone(model)
    assert layers_of(find_taps(backbone, "auto")) == ["large", "small", "top"]
    assert layers_of(find_taps(backbone, "late")) == ["small", "top"]


def test_tokens_are_tapped() -> None:
    image = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(6, 4, strides=4, name="patches")(image)
    x = keras.layers.Reshape((16, 6), name="tokens")(x)
    for number in (1, 2):
        x = keras.layers.Add(name=f"block{number}")(
            [x, keras.layers.MultiHeadAttention(2, 3, name=f"attention{number}")(x, x)]
        )
    backbone = load_backbone(keras.Model(image, keras.layers.LayerNormalization(name="norm")(x)))
    assert layers_of(find_taps(backbone, "late")) == ["tokens", "block1", "norm"]


def test_a_backbone_without_layers_to_tap_is_refused() -> None:
    image = keras.Input((8, 8, 3))
    plain = load_backbone(keras.Model(image, keras.layers.GlobalAveragePooling2D()(image)))
    with pytest.raises(UsageError, match="shows its output only"):
        find_taps(plain, "late")
    assert len(find_taps(plain, "auto")) == 1


# --- the model


@pytest.mark.parametrize("pooling", ["avg", "max", "both"])
def test_the_features_are_the_poolings_side_by_side(backbone, pooling) -> None:
    taps = find_taps(backbone, "auto")[1:]
    model = graft(backbone, HeadSpec(pooling=pooling), outputs=3, taps=[tap.tensor for tap in taps])
    assert is_linear(model)
    x = pixels(32)
    maps = [answer(keras.Model(backbone.model.inputs[0], tap.tensor), x) for tap in taps]
    reduced = {"avg": [np.mean], "max": [np.max], "both": [np.mean, np.max]}[pooling]
    vector = np.concatenate([reduce(tensor, axis=(1, 2)) for tensor in maps for reduce in reduced], 1)
    scores = vector @ np.array(model.get_layer(HEAD_OUTPUT).kernel)
    assert_close(answer(model, x), np.exp(scores) / np.exp(scores).sum(1, keepdims=True), 1e-5)


@pytest.mark.parametrize("count", [1, 3])
def test_cut_behind_the_poolings_it_gives_a_tensor_a_tap(backbone, count) -> None:
    freeze(backbone, "none")
    taps = find_taps(backbone, "auto")[-count:]
    model = graft(backbone, HeadSpec(dropout=0), outputs=3, taps=[tap.tensor for tap in taps])
    parts = cut_at_taps(model, taps)
    x = pixels(32)
    tensors = parts.prefix(x, training=False)
    assert list(tensors) == list(parts.names) == [tap.name for tap in taps]
    assert [tensor.shape[-1] for tensor in tensors.values()] == [tap.tensor.shape[-1] for tap in taps]
    crossing = list(tensors.values())
    assert_close(answer(parts.suffix, crossing if count > 1 else crossing[0]), answer(model, x), 1e-6)


# --- which of them


def make_rows(n: int = 120, classes: int = 3) -> tuple[TrainingRows, np.ndarray]:
    labels = np.arange(n) % classes
    return TrainingRows(np.zeros((n, 0)), np.eye(classes)[labels], np.ones(n), "multiclass"), labels


def test_blocks_that_tell_something_new_are_chosen_and_others_are_not() -> None:
    rng = np.random.default_rng(0)
    part, labels = make_rows()
    first, second = (
        np.eye(3)[labels] * one + rng.normal(size=(120, 3)) / 2 for one in ([1, 0, 0], [0, 1, 0])
    )
    noise = rng.normal(size=(120, 200))
    assert choose_taps([noise, second, noise[:, :5], first], part) == (1, 3)
    assert choose_taps([first, second, first], part) == (1, 2)


def test_the_last_block_is_always_chosen() -> None:
    part, labels = make_rows()
    assert choose_taps([np.eye(3)[labels], np.random.default_rng(0).normal(size=(120, 4))], part) == (0, 1)
    assert choose_taps([np.eye(3)[labels]], part) == (0,)


@pytest.mark.slow
def test_rows_of_one_group_do_not_tell_of_each_other() -> None:
    """A block that only tells single images apart, with four views of each, is worth nothing."""
    rng = np.random.default_rng(0)
    image = np.repeat(np.arange(100), 4)
    labels = rng.permutation(np.arange(100) % 2)[image]
    part = TrainingRows(np.zeros((400, 0)), labels[:, None].astype(float), np.ones(400), "binary")
    last, tells = labels[:, None] + rng.normal(size=(400, 2)), rng.normal(size=(100, 60))[image]
    assert choose_taps([tells, last], part) == (0, 1)
    assert choose_taps([tells, last], part, groups=image) == (1,)


@pytest.mark.parametrize("task", ["multilabel", "regression"])
def test_labels_and_numbers_choose_too(task: str) -> None:
    rng = np.random.default_rng(1)
    block, other = rng.normal(size=(300, 4)), rng.normal(size=(300, 4))
    values = block @ rng.normal(size=(4, 2)) + rng.normal(size=(300, 2))
    targets = values if task == "regression" else (values > 0).astype(float)
    part = TrainingRows(np.zeros((300, 0)), targets, np.ones(300), task)
    assert choose_taps([other, block, rng.normal(size=(300, 4))], part) == (1, 2)


def test_the_sum_of_gram_matrices_is_that_of_the_blocks_side_by_side() -> None:
    rng = np.random.default_rng(0)
    blocks = [rng.normal(3, 2, (20, width)) for width in (5, 30)]
    side = np.hstack([StandardScaler().fit_transform(block) / block.shape[1] ** 0.5 for block in blocks])
    np.testing.assert_allclose(sum(make_gram(block) for block in blocks), side @ side.T, atol=1e-5)


# --- a run


@pytest.mark.slow
@pytest.mark.parametrize("which", ["late", "auto"])
def test_a_run_with_taps_answers_from_pixels_as_from_features(
    photos, network_file, tmp_path, in_this_process, which
) -> None:
    recipe = Recipe(backbone=str(network_file), head=HeadSpec(taps=which), phases=())
    run = train(photos, recipe, tmp_path / "run")
    saved = keras.models.load_model(run.path / "model.keras", safe_mode=True)
    assert len([layer for layer in saved.layers if layer.name.startswith("head_pool_")]) in (0, 2, 3, 4)
    scores = {item.part: item.scores["top1"].value for item in run.bundle.evaluate(photos)}
    assert scores["all"] > 0.9
    assert run.metrics["validation"]["top1"]["value"] > 0.8


@pytest.mark.slow
def test_fine_tuning_goes_on_from_the_same_graph(photos, network_file, tmp_path, in_this_process) -> None:
    phase = Phase("match:block2.*", epochs=1)
    unsure = HeadSpec(taps="late", solver="ridge")  # so that there is something to gain
    recipe = Recipe(backbone=str(network_file), head=unsure, phases=(phase,))
    run = train(photos, recipe, tmp_path / "run")
    assert "head_pool_4" in [layer.name for layer in run.model.layers]
    before = keras.models.load_model(network_file).get_layer("block2_conv").get_weights()
    assert not np.array_equal(run.model.get_layer("block2_conv").get_weights(), before)


def test_taps_go_with_a_linear_head_only() -> None:
    for head in ({"hidden": (8,)}, {"solver": "neighbours"}, {"pooling": "attention"}):
        with pytest.raises(UsageError, match=r"head\.taps: expected auto, last"):
            HeadSpec(taps="late", **head)
        assert not HeadSpec(**head).chooses_taps


def test_taps_of_a_head_of_ones_own_are_refused(photos, network_file, tmp_path, in_this_process) -> None:
    recipe = Recipe(backbone=str(network_file), head=HeadSpec(taps="late"))
    own = keras.Sequential([keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3, "softmax")])
    with pytest.raises(UsageError, match="head of your own"):
        train(photos, recipe, tmp_path / "run", head=own)
