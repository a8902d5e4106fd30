"""The table of backbones: names, files, stages."""

import subprocess
import sys

import pytest

from regraft.backbones.zoo import ZOO, Stages, find_entry, find_weights_on_disk, locate_keras_cache
from regraft.errors import UsageError


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("ResNet50", "resnet50"),
        ("resnet-50", "resnet50"),
        ("ResNet50V2", "resnet50_v2"),
        ("MobileNetV2", "mobilenet_v2"),
        ("mobilenet_v3_small", "mobilenet_v3_small"),
        ("MobileNetV3Small", "mobilenet_v3_small"),
        ("EfficientNetV2B0", "efficientnet_v2_b0"),
        ("efficientnetv2-s", "efficientnet_v2_s"),
        ("ConvNeXtXLarge", "convnext_xlarge"),
        ("NASNetMobile", "nasnet_mobile"),
        ("Inception_ResNet_V2", "inception_resnet_v2"),
    ],
)
def test_spellings_resolve(typed, name):
    assert find_entry(typed) is ZOO[name]


def test_every_name_and_constructor_finds_its_own_entry():
    assert len(ZOO) == 40
    for name, entry in ZOO.items():
        assert find_entry(name) is find_entry(entry.constructor) is entry


def test_unknown_name_is_told_the_nearest():
    with pytest.raises(UsageError, match=r'"mobilnet_v2".*Did you mean "mobilenet_v2".*regraft backbones'):
        find_entry("mobilnet_v2")


def test_the_table_imports_no_keras():
    code = "import regraft.backbones.zoo, sys; sys.exit('keras' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_only_mobilenets_have_a_file_a_size():
    assert ZOO["mobilenet"].weights_file_at(128) == "mobilenet_1_0_128_tf_no_top.h5"
    assert ZOO["mobilenet"].weights_file_at(96) == "mobilenet_1_0_224_tf_no_top.h5"
    assert ZOO["mobilenet_v2"].weights_file_at(96).endswith("_1.0_96_no_top.h5")
    assert (
        ZOO["mobilenet_v2"]
        .weights_url_at(160)
        .endswith("/mobilenet_v2/" + find_entry("mobilenet_v2").weights_file_at(160))
    )
    assert [name for name, entry in ZOO.items() if entry.weights_file_at(128) != entry.weights_file] == [
        "mobilenet",
        "mobilenet_v2",
    ]


def test_weights_are_found_in_the_keras_cache(tmp_path, temporary_folder, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    entry = ZOO["mobilenet_v2"]
    assert find_weights_on_disk(entry) is None
    file = locate_keras_cache() / entry.weights_file
    file.parent.mkdir()
    file.touch()
    assert find_weights_on_disk(entry) == file == tmp_path / "models" / entry.weights_file
    assert find_weights_on_disk(entry, 100) == file
    assert find_weights_on_disk(entry, 96) is None


def test_weights_are_found_where_keras_puts_them_when_its_cache_is_read_only(
    tmp_path, temporary_folder, monkeypatch
):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "home"))
    file = tmp_path / ".keras" / "models" / ZOO["vgg16"].weights_file
    file.parent.mkdir(parents=True)
    file.touch()
    assert find_weights_on_disk(ZOO["vgg16"]) == file


def test_without_keras_home_the_cache_is_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("KERAS_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert locate_keras_cache() == tmp_path / ".keras" / "models"


def test_a_stage_opens_with_its_first_match():
    stages = Stages("opens", (("^stem$", "stem"), (r"^(block\d)_", r"\1")))
    names = ["pad", "stem", "relu", "block1_a", "add", "block1_b", "block2_a", "relu_1"]
    assert stages.find_starts(names) == {"stem": 0, "block1": 3, "block2": 6}


def test_a_stage_closes_with_its_match():
    stages = Stages("closes", ((r"^(mixed\d)$", r"\1"),))
    assert stages.find_starts(["conv", "mixed0", "conv_1", "mixed1", "relu"]) == {"mixed0": 0, "mixed1": 2}


def test_unknown_layer_names_show_no_stages():
    assert ZOO["resnet50"].stages.find_starts(["a", "b"]) == {}
