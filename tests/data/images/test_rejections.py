"""Every code and note is documented, and a file is refused with the same code everywhere."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from conftest import write_photos

import regraft
import regraft.data.images.rejections
from regraft.data import samples
from regraft.data.images import decoder_process, headers
from regraft.data.images.rejections import NOTES
from regraft.recipe import Recipe

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "refusals.md").read_text("utf-8")
CODES = set(re.findall(r"`(\w+)`", regraft.data.images.rejections.__doc__ or ""))
SOURCE = "".join(path.read_text("utf-8") for path in (ROOT / "src" / "regraft").rglob("*.py"))


def first_column(section: str) -> set[str]:
    part = PAGE.split(f"## {section}\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (.+) \| (.+) \|$", part, re.MULTILINE)
    assert len(rows) == part.count("\n| `")
    return {code for code, *_ in rows}


def test_every_code_is_on_the_page_and_is_raised_somewhere() -> None:
    assert first_column("Refusals") == CODES
    for code in CODES:
        assert f'"{code}"' in SOURCE, code


def test_every_note_is_on_the_page_and_is_made_somewhere() -> None:
    assert first_column("Notes on files that are used") == set(NOTES)
    assert set(re.findall(r'notes\.append\(\s*"(\w+)"', SOURCE)) <= set(NOTES)
    for note in NOTES:
        assert SOURCE.count(f'"{note}"') > 1, note


def test_the_page_states_the_limits_as_they_are() -> None:
    assert (
        f"{headers.MAX_PIXELS // 10**6} million pixels; 20 million for WebP, 40 for AVIF, 50 for HEIF" in PAGE
    )
    assert [headers.LOWER_MAX_PIXELS[kind] // 10**6 for kind in ("WEBP", "AVIF", "HEIF")] == [20, 40, 50]
    assert f"{samples.MAX_FILE_BYTES // 2**20} MiB" in PAGE
    assert f"{decoder_process.MEMORY // 2**20} MiB" in PAGE
    assert f"{decoder_process.TIMEOUT:.0f} seconds" in PAGE


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory, corpora: Path) -> Path:
    """Good images, and a class of unusual and turned ones."""
    folder = write_photos(tmp_path_factory.mktemp("mixed") / "photos")
    for path in (corpora / "unusual").iterdir():
        shutil.copy(path, folder / "red")
    for path in (corpora / "orientation").glob("*.jpg"):
        shutil.copy(path, folder / "blue")
    return folder


@pytest.mark.slow
def test_training_and_prediction_say_the_same_of_every_file(
    mixed: Path, network_file: Path, tmp_path: Path
) -> None:
    run = regraft.train(mixed, Recipe(backbone=str(network_file), phases=()), tmp_path / "run")
    lines = (run.path / "refused.jsonl").read_text("utf-8").splitlines()
    trained = {row["image"]: (row["code"], row["detail"]) for row in map(json.loads, lines)}
    files = [path for path in sorted(mixed.rglob("*")) if path.is_file()]
    names = [path.relative_to(mixed).as_posix() for path in files]
    bundle = regraft.load(run.path)
    said = dict(zip(names, bundle.predict(files), strict=True))
    predicted = {name: (each.code, each.detail) for name, each in said.items() if hasattr(each, "code")}
    assert len(trained) > 15
    assert {code for code, _ in trained.values()} > {"corrupt", "truncated", "too_many_pixels"}
    ignored = {name for name in predicted if name not in trained}  # no images, and not named like one
    assert all(predicted[name][0] == "not_an_image" for name in ignored)
    assert {name: predicted[name] for name in trained} == trained
    upright = said["blue/Landscape_0.jpg"]
    for number in range(1, 9):
        turned = said[f"blue/Landscape_{number}.jpg"]
        assert turned.label == upright.label
        assert turned.probability == pytest.approx(upright.probability, abs=0.01)
