"""SavedModels of images are read, also with an open size or names; anything else gives one message."""

import keras
import numpy as np
import pytest
from conftest import write_photos
from helpers.networks import answer, pixels

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="SavedModels need TensorFlow")
tf = pytest.importorskip("tensorflow")

from helpers.savedmodels import images, reusable, signature_only  # noqa: E402

from regraft.backbones.load import load_backbone  # noqa: E402
from regraft.backbones.savedmodel import digest_folder, is_savedmodel  # noqa: E402
from regraft.errors import EnvironmentFault, ModelRefused, UsageError  # noqa: E402


@pytest.mark.slow
def test_open_size_is_224_or_what_is_asked_for(tmp_path):
    folder = reusable(tmp_path / "any", side=None, pooled=False)
    backbone = load_backbone(folder, trust=True)
    assert (backbone.image_size, backbone.model.output_shape) == (224, (None, 112, 112, 4))
    assert "224 pixels" in backbone.notes[0]
    assert load_backbone(folder, trust=True, image_size=32).model.output_shape == (None, 16, 16, 4)


def test_fixed_size_cannot_be_changed(tmp_path):
    folder = reusable(tmp_path / "fixed")
    with pytest.raises(UsageError, match=r"takes 16 and nothing else\. Received: 32"):
        load_backbone(folder, trust=True, image_size=32)


@pytest.mark.slow
def test_stated_contract_takes_the_place_of_unit(tmp_path):
    folder = reusable(tmp_path / "module")
    backbone = load_backbone(folder, trust=True, pixels="tf")
    x = pixels(16)
    expected = tf.saved_model.load(str(folder))(x / 127.5 - 1, training=False)
    np.testing.assert_allclose(answer(backbone.model, x), expected, rtol=1e-4, atol=1e-5)


def text(words):
    return tf.strings.length(words)


def several(x):
    return {"boxes": x[:, 0, 0], "scores": x[:, 0, 1]}


def number(x):
    return tf.reduce_mean(x)


@pytest.mark.parametrize(
    ("function", "spec", "reason"),
    [
        (text, tf.TensorSpec([None], tf.string), "takes .*string"),
        (lambda x: x, tf.TensorSpec([None, 16, 16, 3], tf.uint8), "takes .*uint8"),
        (lambda x: x, tf.TensorSpec([None, 8], tf.float32), "takes .*float32"),
        (several, images(16), "gives 2 tensors: boxes, scores"),
        (number, images(16), r"to one image it gives \(?"),
    ],
)
def test_module_that_is_no_image_model(tmp_path, function, spec, reason):
    folder = signature_only(tmp_path / "module", function, spec)
    with pytest.raises(ModelRefused, match=f"is not an image model.*{reason}"):
        load_backbone(folder, trust=True)


def test_damaged_module(tmp_path):
    (tmp_path / "saved_model.pb").write_bytes(b"nothing")
    with pytest.raises(ModelRefused, match="cannot be read as a SavedModel"):
        load_backbone(tmp_path, trust=True)


def test_it_brings_its_own_weights(tmp_path):
    folder = reusable(tmp_path / "module")
    with pytest.raises(UsageError, match="brings its own weights"):
        load_backbone(folder, weights="random")


def test_another_backend_is_told_what_is_missing(tmp_path, monkeypatch):
    folder = reusable(tmp_path / "module")
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(EnvironmentFault, match="runs on jax here"):
        load_backbone(folder, trust=True)


def test_digest_covers_names_and_content(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "saved_model.pb").write_text("x")
    assert is_savedmodel(tmp_path / "a")
    first = digest_folder(tmp_path / "a")
    (tmp_path / "a" / "saved_model.pb").rename(tmp_path / "a" / "other")
    assert digest_folder(tmp_path / "a") != first
    assert not is_savedmodel(tmp_path / "a")


@pytest.mark.slow
def test_features_are_the_networks_own(tmp_path, capsys):
    """The engine traces networks for OpenVINO; a module's variables are not where Keras' are."""
    from regraft.data.catalog import Catalog
    from regraft.data.images.decode import decode
    from regraft.features.extract import extract_features
    from regraft.features.store import Store

    backbone = load_backbone(reusable(tmp_path / "module"), trust=True)
    network = keras.Model(backbone.model.inputs[0], {"vector": backbone.model.outputs[0]})
    catalog = Catalog.from_folder(write_photos(tmp_path / "photos", classes=2, each=3))
    features = extract_features(network, catalog, store=Store(tmp_path / "store"))
    rows = features.matrix(catalog.samples, "vector")
    files = [catalog.root / sample.path for sample in catalog.samples]
    shown = np.stack([decode(file.read_bytes(), 16).pixels for file in files]).astype("float32")
    expected = answer(backbone.model, shown)
    np.testing.assert_allclose(rows, expected, rtol=6e-4, atol=1e-5)
    assert "OpenVINO cannot run" not in capsys.readouterr().err
