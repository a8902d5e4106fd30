"""`regraft check`: what is planted is found, and what is said can be read by people and programs."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from planted import plant_bad_files, plant_copies, swap_labels

from regraft.checkup import check
from regraft.recipe import Recipe


def paths(problem, most=None):
    """The images of a problem's cases, a set a case."""
    return [frozenset(image.image for image in case.images) for case in problem.cases[:most]]


def copies_found(checkup):
    return {
        case
        for code in ("copies", "near_copies")
        if (problem := checkup.problem(code))
        for case in paths(problem)
    }


@pytest.fixture(scope="session")
def scenes(tmp_path_factory):
    """Three classes of forty pictures: blobs in any place and shade, on a ground in the class's colour."""
    root = tmp_path_factory.mktemp("scenes")
    rng = np.random.default_rng(0)
    for name, colour in (("blue", (40, 60, 190)), ("green", (40, 180, 60)), ("red", (200, 40, 30))):
        (root / name).mkdir()
        for number in range(40):
            coarse = rng.normal(0, 50, (5, 5, 3)) + np.array(colour)
            small = Image.fromarray(np.clip(coarse, 0, 255).astype(np.uint8))
            small.resize((80, 60), Image.Resampling.BICUBIC).save(
                root / name / f"{number:02}.jpg", quality=90
            )
    return root


@pytest.fixture
def planted(scenes, tmp_path):
    return Path(shutil.copytree(scenes, tmp_path / "photos"))


def test_what_is_planted_is_found(planted, network_file, in_this_process):
    swapped, copies, bad = swap_labels(planted), plant_copies(planted), plant_bad_files(planted)
    found = check(planted, Recipe(backbone=str(network_file)))
    assert {item.image for item in found.findings.refused} == bad
    assert copies_found(found) == copies
    suspects = set().union(*paths(found.problem("suspicious_labels"), 30))
    assert len(suspects & swapped) >= 5


@pytest.mark.soak
def test_what_is_planted_in_photographs_is_found(clothing, mobilenet_weights, tmp_path):
    root = tmp_path / "clothing"
    for part in ("train", "test"):
        shutil.copytree(clothing / part, root, dirs_exist_ok=True)
    for path in [root, *root.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    there = frozenset(
        {
            "shorts/6075b4a5-5b1a-4ce0-aea0-9dbfbca7c35c.jpg",
            "skirt/637a56e4-7fa6-4f75-8859-0f8902461554.jpg",
        }
    )  # in the data as they were published
    swapped, copies, bad = swap_labels(root), plant_copies(root), plant_bad_files(root)
    found = check(root, Recipe(weights=str(mobilenet_weights)))
    assert {item.image for item in found.findings.refused} == bad
    assert copies_found(found) == copies | {there}
    assert there in paths(found.problem("contradictory_copies"))
    suspects = set().union(*paths(found.problem("suspicious_labels"), 30))
    assert len(suspects & swapped) >= 5
