"""Recipes: checked when made, unchanged by TOML, and clear about mistakes."""

from dataclasses import FrozenInstanceError, fields, replace

import pytest

from regraft.cli.amounts import parse_duration, parse_size
from regraft.errors import UsageError
from regraft.recipe import HeadSpec, Phase, Recipe

EVERYTHING = Recipe(
    data='photos "of" cats\\and\ndogs ü',
    image=("front", "back"),
    target=("label",),
    group="patient",
    split="part",
    weight="sure",
    separator="|",
    slice=("hospital", "camera"),
    root="images",
    task="multilabel",
    validation=0.3,
    backbone="resnet50",
    weights="random",
    pixels="unit",
    classifier="keep",
    image_size=160,
    depth=12,
    augment=("flip", "mixup"),
    views=3,
    feature_noise=0.1,
    class_weight="balanced",
    precision="bf16",
    budget=60.0,
    store_limit=1e9,
    refit="never",
    seed=7,
    head=HeadSpec("max", "se", (64,), (32, 16), "batch", 0.5, "gradient", source="python:Dense"),
    phases=(Phase("none", 3, 24, 1e-4, 0.1, 0.5, 0.0, 0.0, 7), Phase("last:20")),
)
FAST = Recipe(backbone="auto", max_latency=20.0)  # not with a backbone that is named
TAPPED = Recipe(head=HeadSpec(solver="lda", taps="late"))  # not with a head that has layers of its own


def write_recipe(tmp_path, text):
    path = tmp_path / "recipe.toml"
    path.write_text(text, "utf-8")
    return path


@pytest.mark.parametrize(
    "recipe", [Recipe(), EVERYTHING, replace(EVERYTHING, phases=(), augment=()), TAPPED, FAST]
)
def test_a_recipe_is_the_same_after_toml(tmp_path, recipe):
    assert Recipe.from_toml(write_recipe(tmp_path, recipe.to_toml())) == recipe


def test_the_example_differs_from_every_default():
    for kind, example in ((Recipe, EVERYTHING), (HeadSpec, EVERYTHING.head), (Phase, EVERYTHING.phases[0])):
        default = kind()
        same = [f.name for f in fields(kind) if getattr(example, f.name) == getattr(default, f.name)]
        assert same == {HeadSpec: ["taps"], Recipe: ["max_latency"], Phase: []}[kind]
    assert FAST.max_latency != Recipe().max_latency
    assert TAPPED.head.taps != HeadSpec().taps


def test_an_empty_recipe_is_the_default(tmp_path):
    assert Recipe.from_toml(write_recipe(tmp_path, "")) == Recipe()


def test_whole_numbers_are_accepted_as_fractions(tmp_path):
    recipe = Recipe.from_toml(write_recipe(tmp_path, "budget = 60\n[head]\ndropout = 0\n"))
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
            "[[phases]]\nlearning_rat = 1",
            r'phase 1: unknown key learning_rat. Did you mean "learning_rate"\?',
        ),
        ("[[phase]]\nepochs = 1", r'unknown key phase. Did you mean "phases"\?'),
        ("zzz = 1", "unknown key zzz.$"),
        ("head = 3", "head: expected a table. Received: 3"),
        ("phases = 3", "phases: expected a list of tables"),
        ("phases = [3]", "phase 1: expected a table"),
        ("seed = ", "is not TOML"),
        (
            "task = 'regres'",
            'task: expected "auto" or "multiclass" or "binary" or .*"regression". Received: regres',
        ),
        ("validation = 1.0", "validation: expected a share from 0 to below 1. Received: 1.0"),
        ("validation = 'half'", "validation: expected a number. Received: half"),
        ("validation = nan", "validation: expected"),
        ("image_size = 0", "image_size: expected pixels, from 1"),
        ("image_size = 22.4", "image_size: expected a whole number. Received: 22.4"),
        ("[[phases]]\nunfreeze = 'some'", "unfreeze: expected none, all, auto, last:N"),
        ("[[phases]]\nunfreeze = 20", "unfreeze: expected none, all, auto, .* Received: 20"),
        ("budget = 0", "budget: expected seconds above 0"),
        ("budget = '10min'", "budget: expected a number"),
        ("budget = inf", "budget: expected a number"),
        ("seed = -1", "seed: expected a whole number from 0"),
        ("seed = true", "seed: expected a whole number. Received: True"),
        ("data = 1", "data: expected a text"),
        (
            "[head]\npooling = 'mean'",
            'head.pooling: expected "avg" or "max" or "both" or "gem" or "attention". Received: mean',
        ),
        ("[head]\ndropout = 1.0", "head.dropout: expected a number from 0 to below 1"),
        ("[[phases]]\nepochs = 0", "epochs: expected a whole number from 1"),
        ("[[phases]]\nepochs = 1.5", "epochs: expected a whole number. Received: 1.5"),
        ("[[phases]]\nbatch_size = 0", "batch_size: expected a whole number from 1"),
        ("[[phases]]\nlearning_rate = -1", "learning_rate: expected a number above 0"),
        ("[[phases]]\nlearning_rate = inf", "learning_rate: expected a number. Received: inf"),
        ("[[phases]]\nbackbone_rate = 2", "backbone_rate: expected above 0 and up to 1"),
        ("[[phases]]\nwarmup = 1", "warmup: expected a share"),
        ("[[phases]]\nweight_decay = -1", "weight_decay: expected a number from 0"),
        ("[[phases]]\npatience = 0", "patience: expected a whole number from 1"),
        ("augment = ['spin']", "augment: expected auto, or any of flip, crop, .* Received: spin"),
        ("augment = ['auto', 'flip']", "augment: expected auto, or any of"),
        ("[head]\nhidden = ['a']", "head.hidden: expected a list of whole numbers"),
        ("views = 0", "views: expected a whole number from 1"),
        ("augment = 'flip'", "augment: expected a list of texts. Received: flip"),
        ("augment = 5", "augment: expected a list of texts. Received: 5"),
    ],
)
def test_a_wrong_value_is_reported_with_its_name(tmp_path, text, message):
    with pytest.raises(UsageError, match=message) as caught:
        Recipe.from_toml(write_recipe(tmp_path, text))
    assert caught.value.exit_code == 2


def test_a_missing_or_binary_file_is_a_usage_error(tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name, words in (("nothing.toml", "No such file"), ("binary", "is not TOML"), (".", "directory")):
        with pytest.raises(UsageError, match=words):
            Recipe.from_toml(tmp_path / name)


@pytest.mark.parametrize("plan", ["none", "all", "auto", "last:20", "from:140", "stage:conv5", "match:_bn$"])
def test_every_plan_is_accepted(plan):
    assert Phase(plan).unfreeze == plan


@pytest.mark.parametrize(
    "plan", ["", "last", "last:", "last:x", "last:-1", "stage:", "None", "all ", "none\n"]
)
def test_what_only_resembles_a_plan_is_refused(plan):
    with pytest.raises(UsageError, match="unfreeze"):
        Phase(plan)


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
def test_an_invalid_time_is_refused_with_an_example(text):
    with pytest.raises(UsageError, match="such as 90s, 10min or 1h"):
        parse_duration(text)


def test_views_are_for_a_frozen_backbone_with_named_augmentation():
    frozen = Recipe(phases=())
    assert frozen.view_count == 1
    assert replace(frozen, augment=("flip",)).view_count == 4
    assert replace(frozen, augment=("flip",), views=2).view_count == 2
    assert Recipe(augment=("flip",)).view_count == 1


@pytest.mark.parametrize(
    ("text", "expected"), [("500MB", 5e8), ("10GB", 1e10), ("1.5 tb", 1.5e12), ("2kb", 2000), ("0", 0)]
)
def test_a_size_is_bytes(text, expected) -> None:
    assert parse_size(text) == expected


@pytest.mark.parametrize("text", ["", "ten", "-1GB", "10 apples", "10GBs"])
def test_an_invalid_size_is_refused(text) -> None:
    with pytest.raises(UsageError, match="such as 500MB or 10GB"):
        parse_size(text)


def test_a_negative_limit_is_refused() -> None:
    with pytest.raises(UsageError, match="store_limit: expected bytes, from 0"):
        Recipe(store_limit=-1.0)
