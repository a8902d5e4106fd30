"""A name of the table is the table's, whatever lies on the disk; `./NAME` is a path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import regraft
from regraft.backbones import load
from regraft.backbones.info import locate_backbone, locate_weights
from regraft.backbones.load import load_backbone
from regraft.backbones.zoo import is_zoo_name
from regraft.pipeline import embed
from regraft.recipe import Recipe


@pytest.fixture(autouse=True)
def crowded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with files and folders called like backbones and weights, from which everything starts."""
    monkeypatch.chdir(tmp_path)
    for folder in ("mobilenet_v2", "ResNet-50", "imagenet", "mine"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "report.html").write_text("<html>")
    for file in ("vgg16", "random"):
        (tmp_path / file).touch()
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenet_v2", "MobileNetV2", "ResNet-50", "vgg16", "VGG16"])
def test_a_name_is_a_name_where_a_file_or_folder_is_called_so(name: str) -> None:
    assert is_zoo_name(name)
    assert locate_backbone(name) is None
    assert load_backbone(name, weights="random", image_size=32).image_size == 32


@pytest.mark.parametrize("path", ["./mobilenet_v2", "mine", Path("mobilenet_v2"), "../{}/mobilenet_v2"])
def test_a_path_is_a_path_where_it_ends_in_a_name(path: str | Path, crowded: Path) -> None:
    path = path.format(crowded.name) if isinstance(path, str) else path
    assert not is_zoo_name(path)
    with pytest.raises(regraft.UsageError, match="holds neither a SavedModel"):
        load_backbone(path, weights="random", image_size=32)


@pytest.mark.parametrize("path", ["./xception", "models/xception", "models\\xception"])
def test_a_path_to_nothing_is_no_name(path: str) -> None:
    with pytest.raises(regraft.UsageError, match=r'No backbone is called.* Did you mean "xception"'):
        load_backbone(path, weights="random", image_size=71)


@pytest.mark.parametrize("word", ["imagenet", "random"])
def test_a_word_for_weights_is_a_word_where_a_file_is_called_so(word: str) -> None:
    assert locate_weights(word) is None
    assert locate_weights(f"./{word}") == Path(word)


def test_a_folder_called_like_a_backbone_or_its_weights_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> str:
        raise AssertionError(f"{path} was read")

    monkeypatch.setattr(embed, "_digest_content", refuse)
    recipe = Recipe(backbone="mobilenet_v2", weights="random", image_size=32)
    assert [*embed.load_embedding_network(recipe).output.values()][-1].shape == (None, 1280)


@pytest.mark.slow
def test_the_recipe_of_a_run_keeps_the_name(make_photos: Any, tmp_path: Path) -> None:
    photos = make_photos(classes=2, each=4)
    recipe = Recipe(backbone="mobilenet_v2", weights="random", image_size=32, phases=())
    run = regraft.train(photos, recipe, tmp_path / "run", store=tmp_path / "store")
    written = Recipe.from_toml(run.path / "recipe.toml")
    assert (written.backbone, written.weights) == ("mobilenet_v2", "random")


@pytest.mark.parametrize(
    ("name", "preset"),
    [
        ("resnet_50_imagenet", "./resnet_50_imagenet"),
        ("./resnet_50_imagenet", "./resnet_50_imagenet"),
        ("kerashub:resnet_50_imagenet", "resnet_50_imagenet"),
    ],
)
def test_the_folder_of_a_preset_is_a_path_and_only_the_prefix_makes_a_name(
    name: str, preset: str, crowded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (crowded / "resnet_50_imagenet").mkdir()
    (crowded / "resnet_50_imagenet" / "config.json").write_text("{}")
    monkeypatch.setattr(load, "_from_preset", lambda text, request: text)
    assert load_backbone(name) == preset
