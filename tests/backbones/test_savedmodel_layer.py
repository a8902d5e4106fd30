"""A SavedModel as a layer: what trains, and what is saved."""

import keras
import numpy as np
import pytest
from helpers.networks import answer, pixels

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="SavedModels need TensorFlow"),
]
tf = pytest.importorskip("tensorflow")

from helpers.savedmodels import Net, hub1, images, reusable, signature_only  # noqa: E402

from regraft.backbones import savedmodel_layer  # noqa: E402
from regraft.backbones.load import load_backbone  # noqa: E402
from regraft.errors import UsageError  # noqa: E402
from regraft.models.freeze import freeze  # noqa: E402
from regraft.models.head import graft  # noqa: E402
from regraft.recipe import HeadSpec  # noqa: E402


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    return reusable(tmp_path_factory.mktemp("modules") / "vector")


def graft_and_train(module, unfreeze="all"):
    """Return a model on the module, fine-tuned for two steps, its layer, and the weights from before."""
    backbone = load_backbone(module, trust=True)
    model = graft(backbone, HeadSpec(), outputs=2)
    freeze(backbone, unfreeze)
    layer = backbone.layers[0]
    before = [np.array(weight) for weight in layer.weights]
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    model.fit(pixels(16, 8), np.arange(8) % 2, epochs=2, verbose=0)
    return model, layer, before


def test_answers_are_the_modules_own_in_inference_mode(module):
    backbone = load_backbone(module, trust=True)
    x = pixels(16)
    expected = tf.saved_model.load(str(module))
    np.testing.assert_allclose(
        answer(backbone.model, x), expected(x / 255, training=False).numpy(), rtol=1e-5, atol=1e-6
    )
    assert (backbone.contract, backbone.image_size, backbone.frozen_because) == ("unit", 16, "")
    assert backbone.weights.startswith("SavedModel folder vector sha256 ")


def test_fine_tuning_moves_exactly_the_trainable_variables(module):
    _, layer, before = graft_and_train(module)
    names = ["conv_kernel", "bn_gamma", "bn_beta", "bn_moving_mean", "bn_moving_variance"]
    assert [weight.name for weight in layer.weights] == names
    moved = [not np.array_equal(now, was) for now, was in zip(layer.weights, before, strict=True)]
    assert moved == [True, True, True, False, False]


def test_frozen_means_frozen(module):
    _, layer, before = graft_and_train(module, "none")
    for now, was in zip(layer.weights, before, strict=True):
        np.testing.assert_array_equal(now, was)


def test_regularisation_is_part_of_the_loss_where_it_trains(module):
    backbone = load_backbone(module, trust=True)
    layer = backbone.layers[0]
    backbone.model(pixels(16))
    penalty = 0.01 * np.sum(np.square(layer.weights[0]))
    np.testing.assert_allclose([float(loss) for loss in backbone.model.losses], [penalty], rtol=1e-5)
    freeze(backbone, "none")
    backbone.model(pixels(16))
    assert backbone.model.losses == []


def test_saved_reloaded_and_exported_it_predicts_the_same(module, tmp_path):
    model, _, _ = graft_and_train(module)
    x = pixels(16, 4)
    expected = model.predict(x, verbose=0)
    model.save(tmp_path / "model.keras")
    back = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    np.testing.assert_allclose(back.predict(x, verbose=0), expected, atol=1e-5)
    back.export(tmp_path / "exported", verbose=False)
    exported = tf.saved_model.load(str(tmp_path / "exported"))
    np.testing.assert_allclose(exported.serve(x).numpy(), expected, atol=1e-5)

    again = load_backbone(tmp_path / "model.keras")  # the head is cut off, the weights are the trained ones
    assert again.notes == ("The head was cut off: head_output.",)
    freeze(again, "all")
    assert len(again.model.trainable_variables) == 3
    np.testing.assert_array_equal(again.layers[0].weights[0], model.get_layer("vector").weights[0])


@pytest.mark.parametrize("kind", ["hub1", "signature"])
def test_what_cannot_be_fine_tuned_is_used_frozen_and_says_why(kind, tmp_path):
    if kind == "hub1":
        folder, reason = hub1(tmp_path / "old"), "TensorFlow 1's Hub format"
    else:
        net = Net()
        folder, reason = signature_only(tmp_path / "only", net, images(16)), "signatures only"
    backbone = load_backbone(folder, trust=True)
    assert reason in backbone.frozen_because
    assert any("can only be used frozen" in note for note in backbone.notes)
    assert backbone.model.output_shape == (None, 4)
    assert backbone.model.trainable_variables == []
    assert answer(backbone.model, pixels(16)).any()
    freeze(backbone, "none")
    with pytest.raises(UsageError, match=f"can only be used frozen.*{reason}"):
        freeze(backbone, "all")


def test_layer_without_its_module_says_so(module):
    layer = load_backbone(module, trust=True).layers[0]
    bare = savedmodel_layer.SavedModelLayer.from_config(layer.get_config())
    with pytest.raises(UsageError, match="copied without its SavedModel"):
        bare(np.zeros((1, 16, 16, 3)))
