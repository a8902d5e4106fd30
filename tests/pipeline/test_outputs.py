"""Outputs never replace what a command reads, nor files that regraft did not write."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import regraft
from regraft.cli import app
from regraft.data.catalog import Catalog
from regraft.pipeline.demo import run_demo
from regraft.pipeline.outputs import (
    CHECK_FOLDER,
    DEMO_FOLDER,
    RUN_FOLDER,
    FolderKind,
    claim_folder,
    require_inputs_outside,
    require_replaceable,
)
from regraft.recipe import Recipe

MANIFEST = {"format": 2, "task": "binary", "outputs": ["a", "b"], "files": {}}
FINDINGS = {"form": 1, "task": "binary", "outputs": ["a", "b"], "problems": []}


def make_run(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps(MANIFEST))
    (folder / "model.keras").write_bytes(b"model")
    return folder


def make_check(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "check.json").write_text(json.dumps(FINDINGS))
    (folder / "check.html").write_text("<html>")
    return folder


def make_demo(folder: Path) -> Path:
    make_run(folder / "grafted")
    (folder / "backbone.keras").write_bytes(b"model")
    for name in ("digits/train/5/001.png", "store/one/shard"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_bytes(b"content")
    return folder


def list_files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("kind", "make"), [(RUN_FOLDER, make_run), (CHECK_FOLDER, make_check), (DEMO_FOLDER, make_demo)]
)
def test_what_regraft_wrote_is_replaced(
    kind: FolderKind, make: Callable[[Path], Path], tmp_path: Path
) -> None:
    out = make(tmp_path / "out")
    (out / ".DS_Store").write_bytes(b"a file manager's")
    require_replaceable(out, overwrite=True, kind=kind)
    with pytest.raises(regraft.UsageError, match="exists already"):
        require_replaceable(out, overwrite=False, kind=kind)


@pytest.mark.parametrize(
    ("kind", "make"), [(RUN_FOLDER, make_run), (CHECK_FOLDER, make_check), (DEMO_FOLDER, make_demo)]
)
@pytest.mark.parametrize("name", ["notes.txt", "more/hat/1.jpg", ".git/HEAD", "zoo/report.html"])
def test_a_folder_with_other_files_is_refused_by_the_name_of_the_first(
    kind: FolderKind, make: Callable[[Path], Path], name: str, tmp_path: Path
) -> None:
    out = make(tmp_path / "out")
    (out / name).parent.mkdir(parents=True, exist_ok=True)
    (out / name).write_text("the user's")
    with pytest.raises(regraft.UsageError, match=f"holds {name}, which regraft did not write"):
        require_replaceable(out, overwrite=True, kind=kind)


def test_images_of_ones_own_among_the_digits_of_a_demo_stay(tmp_path: Path) -> None:
    mine = make_demo(tmp_path / "demo") / "digits" / "train" / "5" / "mine.png"
    mine.write_bytes(b"an image")
    with pytest.raises(regraft.UsageError, match=r"digits/train/5/mine\.png"):
        run_demo(tmp_path / "demo", overwrite=True)
    assert mine.exists()


def test_a_link_to_a_folder_in_a_run_is_a_file_of_somebody_else(tmp_path: Path, photos: Path) -> None:
    out = make_run(tmp_path / "run")
    (out / "photos").symlink_to(photos)
    with pytest.raises(regraft.UsageError, match="holds photos"):
        require_replaceable(out, overwrite=True, kind=RUN_FOLDER)


@pytest.mark.parametrize(
    "manifest",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"version": 1, "files": []}',
        '{"format": "coco", "task": 1, "outputs": 1, "files": 1}',
    ],
)
def test_a_folder_whose_manifest_is_not_of_a_run_is_refused(manifest: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(manifest)
    with pytest.raises(regraft.UsageError, match="is not a run folder"):
        require_replaceable(tmp_path, overwrite=True, kind=RUN_FOLDER)


@pytest.mark.parametrize(("name", "kind"), [("check.json", CHECK_FOLDER), ("backbone.keras", DEMO_FOLDER)])
def test_a_folder_is_not_of_a_kind_for_the_name_of_a_file(
    name: str, kind: FolderKind, tmp_path: Path
) -> None:
    (tmp_path / name).write_text('{"my": "own"}')
    with pytest.raises(regraft.UsageError, match=f"is not a {kind.noun}"):
        require_replaceable(tmp_path, overwrite=True, kind=kind)


def test_files_put_into_the_folder_during_the_run_are_in_it_afterwards(tmp_path: Path) -> None:
    out = make_run(tmp_path / "run")
    with claim_folder(out, overwrite=True) as folder:
        (folder / "manifest.json").write_text("new")
        (out / "notes.txt").write_text("mine")
        (out / "more" / "cat").mkdir(parents=True)
        (out / "more" / "cat" / "1.jpg").write_bytes(b"an image")
    expected = {"manifest.json": b"new", "notes.txt": b"mine", "more/cat/1.jpg": b"an image"}
    assert list_files(out) == expected
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("out", ["work", "work/photos", "link", "work/../work"])
def test_an_output_that_is_or_contains_the_data_is_refused_before_anything_starts(
    out: str, make_photos: Callable[..., Path], tmp_path: Path
) -> None:
    photos = make_photos("work/photos")
    (tmp_path / "link").symlink_to(tmp_path / "work")
    before = list_files(tmp_path)
    for command in (regraft.train, regraft.search):
        with pytest.raises(regraft.UsageError, match=r"Received: .*, which (is|contains) the data"):
            command(photos, Recipe(phases=()), tmp_path / out, overwrite=True)
    assert list_files(tmp_path) == before
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.parametrize(
    ("recipe", "noun"),
    [
        ({"backbone": "work/small.keras"}, "backbone"),
        ({"weights": "work/small.weights.h5"}, "file of weights"),
        ({"root": "work/images"}, "folder of images"),
        ({}, "store"),
    ],
)
def test_an_output_that_contains_another_input_is_refused(
    recipe: dict[str, str], noun: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "work" / "images").mkdir(parents=True)
    for name in ("small.keras", "small.weights.h5"):
        (tmp_path / "work" / name).write_bytes(b"weights")
    store = None if recipe else "work/store"
    with pytest.raises(regraft.UsageError, match=f"work, which contains the {noun}: work/"):
        require_inputs_outside(Path("work"), "photos.csv", Recipe(**recipe), store=store)
    require_inputs_outside(Path("run"), "photos.csv", Recipe(**recipe), store=store)


def test_the_default_store_and_the_images_of_a_catalog_are_inputs(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = Catalog.from_folder(photos)
    with pytest.raises(regraft.UsageError, match="which is the data"):
        require_inputs_outside(photos, catalog, Recipe(), store=tmp_path / "store")
    pixels = np.zeros((4, 8, 8, 3), np.uint8) + np.arange(4, dtype=np.uint8)[:, None, None, None]
    arrays = Catalog.from_arrays(pixels, [0, 1, 0, 1], store=tmp_path / "spooled")
    with pytest.raises(regraft.UsageError, match="contains the folder of images"):
        require_inputs_outside(tmp_path / "spooled", arrays, Recipe(), store=tmp_path / "store")
    monkeypatch.setenv("REGRAFT_HOME", str(tmp_path / "home" / "cache"))
    with pytest.raises(regraft.UsageError, match="contains the store"):
        require_inputs_outside(tmp_path / "home", arrays, Recipe(), store=None)


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "photos", "--no-labels", "-o", "photos", "--overwrite"),
        ("check", "table.csv", "--image", "a", "--target", "b", "--json", "table.csv", "--overwrite"),
        ("check", "photos", "--no-labels", "--json", "photos/red/000.png", "--overwrite"),
        ("check", "photos", "--no-labels", "--weights", "w.h5", "--json", "w.h5", "--overwrite"),
        ("embed", "table.csv", "--image", "a", "-o", "table.csv", "--overwrite"),
        ("embed", "table.csv", "--image", "a", "-o", "link.csv", "--overwrite"),
        ("embed", "photos", "-o", "photos/red/image.csv", "--overwrite"),
        ("search", "photos", "-o", "photos", "--overwrite"),
        ("train", "photos", "--backbone", "photos/red", "-o", "photos/red", "--overwrite"),
    ],
)
def test_commands_refuse_outputs_that_would_cost_an_input(
    arguments: tuple[str, ...], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "table.csv").write_text("a,b\nphotos/red/000.png,red\n")
    (tmp_path / "link.csv").symlink_to(tmp_path / "table.csv")
    (tmp_path / "w.h5").write_bytes(b"weights")
    (photos / "red" / "image.csv").write_bytes((photos / "red" / "000.png").read_bytes())
    before = list_files(tmp_path)
    monkeypatch.setattr("regraft.pipeline.prepare.choose_backend", lambda *names, **_: None)
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, regraft.UsageError), result.output
    assert any(words in str(result.exception) for words in ("which is the", "which contains", "is an image"))
    assert list_files(tmp_path) == before
