"""Recipes: checked when made, the same after a round through TOML, clear about what is wrong."""

from dataclasses import FrozenInstanceError, fields, replace

import pytest

from regraft.errors import UsageError
from regraft.recipe import HeadSpec, Phase, Recipe, parse_duration

EVERYTHING = Recipe(
    data='photos "of" cats\\and\ndogs ü',
    validation=0.3,
    backbone="resnet50",
    weights="random",
    image_size=160,
    unfreeze="last:20",
    budget=60.0,
    seed=7,
    head=HeadSpec("max", 0.5),
    finetune=Phase(3, 24, 1e-4, 0.1, 0.0, 0.0, 7, ("flip",)),
)


def written(tmp_path, text):
    path = tmp_path / "recipe.toml"
    path.write_text(text, "utf-8")
    return path


@pytest.mark.parametrize("recipe", [Recipe(), EVERYTHING, replace(EVERYTHING, finetune=Phase(augment=()))])
def test_a_recipe_is_the_same_after_toml(tmp_path, recipe):
    assert Recipe.from_toml(written(tmp_path, recipe.to_toml())) == recipe


def test_the_example_differs_from_every_default():
    for kind, made in ((Recipe, EVERYTHING), (HeadSpec, EVERYTHING.head), (Phase, EVERYTHING.finetune)):
        default = kind()
        same = [f.name for f in fields(kind) if getattr(made, f.name) == getattr(default, f.name)]
        assert same in ([], ["task"])


def test_an_empty_recipe_is_the_default(tmp_path):
    assert Recipe.from_toml(written(tmp_path, "")) == Recipe()


def test_whole_numbers_will_do_for_fractions(tmp_path):
    recipe = Recipe.from_toml(written(tmp_path, "budget = 60\n[head]\ndropout = 0\n"))
    assert (recipe.budget, recipe.head.dropout) == (60, 0)


def test_a_recipe_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        Recipe().seed = 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("backbon = 'x'", r'unknown key backbon. Did you mean "backbone"\?'),
        ("[head]\npoling = 'avg'", r'head: unknown key poling. Did you mean "pooling"\?'),
        (
            "[finetune]\nlearning_rat = 1",
            r'finetune: unknown key learning_rat. Did you mean "learning_rate"\?',
        ),
        ("[finetun]\nepochs = 1", r'unknown key finetun. Did you mean "finetune"\?'),
        ("zzz = 1", "unknown key zzz.$"),
        ("head = 3", "head: expected a table. Received: 3"),
        ("finetune = []", "finetune: expected a table"),
        ("seed = ", "is not TOML"),
        ("task = 'regres'", 'task: expected "multiclass". Received: regres'),
        ("validation = 1.0", "validation: expected a share between 0 and 1. Received: 1.0"),
        ("validation = 'half'", "validation: expected a number. Received: half"),
        ("validation = nan", "validation: expected"),
        ("image_size = 0", "image_size: expected pixels, from 1"),
        ("image_size = 22.4", "image_size: expected a whole number. Received: 22.4"),
        ("unfreeze = 'some'", "unfreeze: expected none, all, auto, last:N"),
        ("unfreeze = 20", "unfreeze: expected a text. Received: 20"),
        ("budget = 0", "budget: expected seconds above 0"),
        ("budget = '10min'", "budget: expected a number"),
        ("budget = inf", "budget: expected a number"),
        ("seed = -1", "seed: expected a whole number from 0"),
        ("seed = true", "seed: expected a whole number. Received: True"),
        ("data = 1", "data: expected a text"),
        ("[head]\npooling = 'mean'", 'head.pooling: expected "avg" or "max". Received: mean'),
        ("[head]\ndropout = 1.0", "head.dropout: expected a number from 0 to below 1"),
        ("[finetune]\nepochs = 0", "epochs: expected a whole number from 1"),
        ("[finetune]\nepochs = 1.5", "epochs: expected a whole number. Received: 1.5"),
        ("[finetune]\nbatch_size = 0", "batch_size: expected a whole number from 1"),
        ("[finetune]\nlearning_rate = -1", "learning_rate: expected a number above 0"),
        ("[finetune]\nlearning_rate = inf", "learning_rate: expected a number. Received: inf"),
        ("[finetune]\nbackbone_rate = 2", "backbone_rate: expected above 0 and up to 1"),
        ("[finetune]\nwarmup = 1", "warmup: expected a share"),
        ("[finetune]\nweight_decay = -1", "weight_decay: expected a number from 0"),
        ("[finetune]\npatience = 0", "patience: expected a whole number from 1"),
        ("[finetune]\naugment = ['spin']", "augment: expected any of flip, crop. Received: spin"),
        ("[finetune]\naugment = 'flip'", "augment: expected a list of texts. Received: flip"),
        ("[finetune]\naugment = 5", "augment: expected a list of texts. Received: 5"),
    ],
)
def test_what_is_wrong_is_said_with_its_name(tmp_path, text, message):
    with pytest.raises(UsageError, match=message) as caught:
        Recipe.from_toml(written(tmp_path, text))
    assert caught.value.exit_code == 2


def test_a_file_that_is_not_there_or_no_text_is_a_usage_error(tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name, words in (("nothing.toml", "No such file"), ("binary", "is not TOML"), (".", "directory")):
        with pytest.raises(UsageError, match=words):
            Recipe.from_toml(tmp_path / name)


@pytest.mark.parametrize("plan", ["none", "all", "auto", "last:20", "from:140", "stage:conv5"])
def test_every_plan_is_accepted(plan):
    assert Recipe(unfreeze=plan).unfreeze == plan


@pytest.mark.parametrize(
    "plan", ["", "last", "last:", "last:x", "last:-1", "stage:", "None", "all ", "none\n"]
)
def test_what_only_resembles_a_plan_is_refused(plan):
    with pytest.raises(UsageError, match="unfreeze"):
        Recipe(unfreeze=plan)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("90s", 90),
        ("90 sec", 90),
        ("10min", 600),
        ("10m", 600),
        (" 1.5H ", 5400),
        ("0.5 min", 30),
    ],
)
def test_times_are_read(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "0s", "-5", "ten", "5 days", "1h30", "nan", "inf", "1e3"])
def test_what_is_no_time_is_refused_with_an_example(text):
    with pytest.raises(UsageError, match="such as 90s, 10min or 1h"):
        parse_duration(text)
