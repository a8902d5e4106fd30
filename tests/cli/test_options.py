"""Options: names of columns with commas, and the folder of a table's images."""

import shlex

import pytest

from regraft.cli.options import make_recipe, split_columns
from regraft.pipeline.recommend import RankedBackbone, _make_train_command
from regraft.recipe import Recipe


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("weight", ("weight",)),
        ("weight, height", ("weight", "height")),
        ('"length, m"', ("length, m",)),
        ('weight,"length, m"', ("weight", "length, m")),
        ('weight, "12"" disc, new"', ("weight", '12" disc, new')),
        ("none", ("none",)),
        ("", ()),
    ],
)
def test_columns_are_divided_at_commas_outside_quotes(text, names):
    assert split_columns(text) == names
    assert make_recipe({"target": text}).target == names


def test_the_folder_of_the_images_is_a_setting():
    assert make_recipe({"root": "images"}).root == "images"
    assert make_recipe({}, None).root == ""


def test_a_recommended_command_names_the_same_columns_and_folder():
    recipe = Recipe(image=("file",), target=("weight", '12" disc, new'), root="my images")
    best = RankedBackbone("resnet50", "imagenet", 1.0, 1.0, 1.0, 1.0, 1, 1.0, 224, 2048)
    words = shlex.split(_make_train_command("t.csv", recipe, best))
    options = dict(zip(words[3::2], words[4::2], strict=True))
    assert make_recipe({"target": options["--target"], "root": options["--root"]}).target == recipe.target
    assert options["--root"] == "my images"
