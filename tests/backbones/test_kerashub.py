"""KerasHub presets: the same numbers as KerasHub's own preprocessing and backbone, in one flat graph."""

import subprocess
import sys
import time

import keras
import numpy as np
import pytest
from helpers.backends import make_light_environment
from helpers.networks import answer, pixels

pytestmark = pytest.mark.slow

hub = pytest.importorskip("keras_hub", reason='KerasHub is not installed: pip install "regraft[hub]"')

from regraft.backbones.load import load_backbone  # noqa: E402
from regraft.errors import EnvironmentFault, ModelRefused, UsageError  # noqa: E402
from regraft.models.freeze import freeze  # noqa: E402

MEAN, DEVIATION = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def statistics(model):
    """Change the initial statistics of batch normalisation, with which it does nothing."""
    rng = np.random.default_rng(0)
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([weight + rng.uniform(0, 0.3, weight.shape) for weight in layer.get_weights()])


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    keras.utils.set_random_seed(1)
    backbone = hub.models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[3],
        stackwise_num_filters=[64, 8],
        stackwise_num_blocks=[1, 1],
        stackwise_num_strides=[1, 2],
        block_type="basic_block",
    )
    statistics(backbone)
    converter = hub.layers.ResNetImageConverter(
        image_size=(32, 32),
        scale=list(1 / (255 * DEVIATION)),
        offset=list(-MEAN / DEVIATION),
    )
    return save_preset(tmp_path_factory.mktemp("presets") / "tiny_resnet", backbone, converter)


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    keras.utils.set_random_seed(2)
    backbone = hub.models.ViTBackbone(
        image_shape=(16, 16, 3), patch_size=8, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=16
    )
    converter = hub.layers.ViTImageConverter(
        image_size=(16, 16), scale=1 / 127.5, offset=-1.0, crop_to_aspect_ratio=False
    )
    return save_preset(tmp_path_factory.mktemp("presets") / "tiny_vit", backbone, converter)


def save_preset(folder, backbone, converter):
    backbone.save_to_preset(str(folder))
    converter.save_to_preset(str(folder))
    return folder


def reference(folder, x):
    """Return KerasHub's own features of square images."""
    backbone = hub.models.Backbone.from_preset(str(folder))
    converter = hub.layers.ImageConverter.from_preset(str(folder))
    return answer(backbone, converter(x))


@pytest.mark.parametrize(("preset", "size"), [("resnet", 32), ("vit", 16)])
def test_answers_are_kerashubs_own(preset, size, request):
    folder = request.getfixturevalue(preset)
    backbone = load_backbone(folder)
    assert (backbone.image_size, backbone.contract) == (size, "preset")
    x = pixels(size)
    np.testing.assert_allclose(answer(backbone.model, x), reference(folder, x), rtol=1e-4, atol=1e-4)


def test_prefix_names_a_preset_too(resnet):
    backbone = load_backbone(f"kerashub:{resnet}")
    assert (backbone.name, backbone.weights) == ("tiny_resnet", f"KerasHub preset {resnet}")


def test_layers_and_stages_of_a_cnn(resnet):
    backbone = load_backbone(resnet)
    assert list(backbone.stages) == ["stack0", "stack1"]
    assert not any(getattr(layer, "layers", None) for layer in backbone.layers)
    assert backbone.layers[backbone.stages["stack1"]].name.startswith("stack1_")


def test_transformer_is_divided_into_its_blocks(vit):
    backbone = load_backbone(vit)
    assert backbone.model.output_shape == (None, 5, 8)
    assert list(backbone.stages) == ["transformer_block_1", "transformer_block_2"]
    freeze(backbone, "stage:transformer_block_2")
    moving = [layer.name for layer in backbone.layers if layer.trainable_variables]
    assert moving == ["transformer_block_2", "ln"]


@pytest.mark.parametrize("preset", ["resnet", "vit"])
def test_saved_model_remembers_what_was_frozen(preset, request, tmp_path):
    backbone = load_backbone(request.getfixturevalue(preset))
    freeze(backbone, f"stage:{list(backbone.stages)[-1]}")
    backbone.model.save(tmp_path / "model.keras")
    back = load_backbone(tmp_path / "model.keras")
    assert [layer.name for layer in back.layers] == [layer.name for layer in backbone.layers]
    count = len(backbone.model.trainable_variables)
    assert 0 < len(back.model.trainable_variables) == count < len(back.model.variables)
    x = pixels(backbone.image_size)
    np.testing.assert_allclose(answer(back.model, x), answer(backbone.model, x), atol=1e-5)


def test_cnn_takes_any_size_a_transformer_its_own(resnet, vit):
    assert load_backbone(resnet, image_size=48).model.output_shape[1] == 6
    with pytest.raises(UsageError, match=r"image_size: .* cannot be built for 24 pixels"):
        load_backbone(vit, image_size=24)


def test_crop_policy_is_said(resnet, vit):
    assert "crops images to squares; regraft squeezes" in load_backbone(resnet).notes[0]
    assert load_backbone(vit).notes == ()


def test_random_weights_on_the_same_architecture(resnet):
    one, same = (load_backbone(resnet, weights="random", seed=4) for _ in range(2))
    np.testing.assert_array_equal(answer(one.model, pixels(32)), answer(same.model, pixels(32)))
    assert one.weights == "random (seed 4)"
    assert not np.array_equal(one.model.get_weights()[0], load_backbone(resnet).model.get_weights()[0])


def test_preset_without_a_converter_takes_a_stated_contract(tmp_path, resnet):
    backbone = hub.models.Backbone.from_preset(str(resnet))
    backbone.save_to_preset(str(tmp_path / "bare"))
    assert load_backbone(tmp_path / "bare", image_size=32).contract == "raw"
    assert load_backbone(tmp_path / "bare", image_size=32, pixels="torch").contract == "torch"
    with pytest.raises(UsageError, match="brings its own pixel contract"):
        load_backbone(resnet, pixels="torch")


def test_unknown_preset_names_the_nearest():
    with pytest.raises(
        UsageError, match=r'knows no preset "resnet_50_imagnet".*Did you mean "resnet_50_imagenet"'
    ):
        load_backbone("kerashub:resnet_50_imagnet")


def test_offline_says_at_once_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # nobody listens there
    started = time.monotonic()
    with pytest.raises(EnvironmentFault, match=r"(?s)resnet_50_imagenet is not on this machine.*to: .*keras"):
        load_backbone("kerashub:resnet_50_imagenet")
    assert time.monotonic() - started < 10


def test_folder_that_is_no_preset_of_images(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelRefused, match="cannot be read as a preset"):
        load_backbone(tmp_path)


def test_kerashub_that_is_missing_is_named(monkeypatch, resnet):
    monkeypatch.setitem(sys.modules, "keras_hub", None)
    with pytest.raises(EnvironmentFault, match=r'pip install "regraft\[hub\]"'):
        load_backbone(resnet)


def test_it_is_imported_only_when_asked_for():
    code = "import regraft.backbones.load, sys; print('keras_hub' in sys.modules)"
    command, environment = [sys.executable, "-c", code], make_light_environment()
    out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120, env=environment)
    assert out.stdout.strip() == "False"
