"""What reveals a class without the image is reported, and nothing else is."""

from pathlib import Path

import numpy as np
import pytest
from conftest import write_photos
from PIL import Image

import regraft
from regraft.data.catalog import Catalog, Sample
from regraft.data.images.decode import ImageFacts
from regraft.evaluation import shortcuts
from regraft.evaluation.problems import find_data_cautions
from regraft.evaluation.shortcuts import find_shortcuts
from regraft.pipeline.check import check
from regraft.recipe import Recipe


def find_kinds(paths, labels, facts, *, task="multiclass", groups=None):
    samples = (
        Sample(path, int(label), f"{n:032x}")
        for n, (path, label) in enumerate(zip(paths, labels, strict=True))
    )
    catalog = Catalog(Path(), ("cat", "dog", "fox"), tuple(samples), task=task)
    groups = np.arange(len(labels)) if groups is None else groups
    return [shortcut.kind for shortcut in find_shortcuts(catalog, facts, groups=groups)]


@pytest.fixture
def labels():
    return np.arange(150) % 3


@pytest.fixture
def anywhere(labels):
    """Sizes, formats and folders that have nothing to do with the class."""
    rng = np.random.default_rng(0)
    wide, high = rng.integers(300, 900, (2, len(labels)))
    formats = rng.choice(["JPEG", "PNG"], len(labels))
    folders = rng.choice(["monday", "friday"], len(labels))
    names = ("cat", "dog", "fox")
    paths = [
        f"train/{names[label]}/{day}/{n}" for n, (label, day) in enumerate(zip(labels, folders, strict=True))
    ]
    return paths, [
        ImageFacts(int(w), int(h), str(kind)) for w, h, kind in zip(wide, high, formats, strict=True)
    ]


def test_chance_and_the_folder_of_the_class_itself_are_no_shortcut(labels, anywhere):
    assert find_kinds(anywhere[0], labels, anywhere[1]) == []


def test_a_size_for_each_class_is_one(labels, anywhere):
    paths, facts = anywhere
    sized = [
        ImageFacts(400 + 100 * int(label), fact.height, fact.format)
        for label, fact in zip(labels, facts, strict=True)
    ]
    assert find_kinds(paths, labels, sized) == ["size"]


def test_an_aspect_is_one(labels, anywhere):
    paths, facts = anywhere
    turned = [
        ImageFacts(fact.width, fact.width * (2 if label else 1), fact.format)
        for label, fact in zip(labels, facts, strict=True)
    ]
    assert find_kinds(paths, labels, turned) == ["size"]


def test_a_format_is_one(labels, anywhere):
    paths, facts = anywhere
    saved = [
        ImageFacts(fact.width, fact.height, ("PNG", "JPEG", "WEBP")[label])
        for label, fact in zip(labels, facts, strict=True)
    ]
    assert find_kinds(paths, labels, saved) == ["format"]


def test_a_folder_beside_that_of_the_class_is_one(labels, anywhere):
    rooms = [f"clinic{label // 2}/{n}.png" for n, label in enumerate(labels)]
    assert find_kinds(rooms, labels, anywhere[1]) == ["folder"]


def test_copies_do_not_make_one(labels, anywhere):
    """Every image ten times: its size is its own, and says nothing of others."""
    image = np.arange(len(labels)) // 10
    facts = [anywhere[1][number] for number in image]
    paths = [f"{n}.png" for n in range(len(facts))]
    assert "size" in find_kinds(paths, image % 3, facts)
    assert find_kinds(paths, image % 3, facts, groups=image) == []


def test_numbers_have_no_class_to_be_told(labels, anywhere):
    assert find_kinds(anywhere[0], labels, anywhere[1], task="multilabel") == []


def test_a_sample_of_many_images_is_enough(anywhere):
    images = 2 * shortcuts.MAX_IMAGES + 1
    labels = np.arange(images) % 2  # every third image is looked at
    facts = [anywhere[1][n] for n in np.random.default_rng(0).integers(150, size=images)]
    saved = [ImageFacts(640, 480, ("JPEG", "PNG")[label]) for label in labels]
    paths = [f"{n}.png" for n in range(images)]
    assert find_kinds(paths, labels, saved) == ["format"]
    assert find_kinds(paths, labels, facts) == []


@pytest.mark.parametrize(("class_weight", "count"), [("none", 1), ("balanced", 0)])
def test_training_is_warned_of_imbalance_unless_it_is_balanced(class_weight, count):
    samples = tuple(Sample(f"{n}.png", int(n >= 10_000), f"{n:032x}") for n in range(10_005))
    catalog, facts = Catalog(Path(), ("cat", "dog"), samples), [ImageFacts(64, 64, "PNG")] * 10_005
    warnings = find_data_cautions(catalog, facts, groups=np.arange(10_005), class_weight=class_weight)
    assert len(warnings) == count
    assert all(text.startswith("cat has 10,000 images, dog 5.") for text in warnings)


@pytest.mark.slow
def test_training_warns_of_what_a_check_finds(tmp_path, network_file, in_this_process):
    write_photos(tmp_path / "photos", classes=1, each=150, size=20)
    for number, path in enumerate(sorted((tmp_path / "photos" / "blue").iterdir())[:14]):
        (tmp_path / "photos" / "other").mkdir(exist_ok=True)
        turned = Image.open(path).transpose(Image.Transpose.ROTATE_90).resize((60, 20))
        turned.save(tmp_path / "photos" / "other" / f"{number}.webp")
    run = regraft.train(tmp_path / "photos", Recipe(backbone=str(network_file), phases=()), tmp_path / "run")
    problems = check(tmp_path / "photos", labels=False).findings.problems
    codes = ("shortcut_size", "shortcut_format", "imbalance")
    expected = [problem.summary for problem in problems if problem.code in codes]
    assert len(expected) == 3
    assert [text for text in run.metrics["warnings"] if text in expected] == expected
