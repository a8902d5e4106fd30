"""The documentation is true: links lead somewhere, excerpts are the programs', commands and code work."""

from __future__ import annotations

import ast
import csv
import re
import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from conftest import write_photos
from test_examples import EXAMPLES, example
from typer.testing import CliRunner

import regraft
from regraft.backbones.zoo import ZOO
from regraft.cli import app
from regraft.recipe import Recipe

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
GALLERY = (ROOT / "docs" / "gallery.md").read_text("utf-8")
GUIDE = (ROOT / "docs" / "coming-from-keras.md").read_text("utf-8")
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(text: str, language: str) -> list[str]:
    return [code for name, code in FENCE.findall(text) if name == language]


def regraft_blocks() -> list[str]:
    return [code for code in blocks(GUIDE, "python") if code.startswith("# regraft\n")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text("utf-8")
    for target in re.findall(r"\]\(([^)]+)\)", text):
        path, _, anchor = target.partition("#")
        if not path.startswith("https://"):
            file = (page.parent / path).resolve() if path else page
            assert file.exists(), target
            assert not anchor or f'id="{anchor}"' in file.read_text("utf-8"), target


def test_every_program_is_in_the_gallery_as_it_is() -> None:
    excerpts = dict(re.findall(r"\(\.\./examples/(\w+\.py)\):\n\n```python\n(.*?)```", GALLERY, re.DOTALL))
    programs = {file.name: file.read_text("utf-8") for file in EXAMPLES.glob("*.py")}
    assert set(excerpts) == set(programs)
    for name, excerpt in excerpts.items():
        assert excerpt in programs[name].replace("import sys\n\n", ""), f"docs/gallery.md: {name} has changed"
        assert "def main(" in excerpt


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_compiles_and_names_what_there_is(page: Path) -> None:
    import keras

    for code in blocks(page.read_text("utf-8"), "python"):
        tree = ast.parse(code)
        for node in ast.walk(tree):
            name = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
            if re.fullmatch(r"keras(\.\w+)+", name):
                found: Any = keras
                for part in name.split(".")[1:]:
                    found = getattr(found, part)
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("regraft"):
                module = __import__(str(node.module), fromlist=["_"])
                for alias in node.names:
                    assert hasattr(module, alias.name)


# --- the command line


@pytest.fixture
def recipes(monkeypatch: pytest.MonkeyPatch) -> list[Recipe]:
    """The recipes that `regraft.train` is called with; nothing runs."""
    seen: list[Recipe] = []

    def train(data: object, recipe: Recipe, out: object, **_: object) -> SimpleNamespace:
        seen.append(recipe)
        return SimpleNamespace(path=Path(), interrupted=False, metrics={})

    monkeypatch.setattr("regraft.pipeline.train.train", train)
    return seen


def alike(recipe: Recipe) -> Recipe:
    """A recipe less what the command line has no option for, its image size written out."""
    phases = tuple(replace(phase, backbone_rate=0.3) for phase in recipe.phases)
    named = recipe.backbone in ZOO
    size = ZOO[recipe.backbone].size_at(recipe.image_size) if named else recipe.image_size
    return replace(recipe, phases=phases, head=replace(recipe.head, dropout=0.2), image_size=size)


def commands() -> Iterator[tuple[str, str]]:
    """Row and command of each shell block of the gallery."""
    for row, section in re.findall(r'^<a id="(\w+)">(.*?)(?=^<a id|\Z)', GALLERY, re.MULTILINE | re.DOTALL):
        for block in blocks(section, "shell"):
            for line in block.strip().splitlines():
                yield row, line


@pytest.mark.slow
@pytest.mark.parametrize(("row", "command"), list(commands()))
def test_commands_make_the_recipe_of_the_program_beside_them(
    row: str, command: str, recipes: list[Recipe]
) -> None:
    program, verb, *words = shlex.split(command)
    assert program == "regraft"
    parsed: Any = typer.main.get_command(app)
    parsed.commands[verb].make_context(verb, list(words))  # every option exists and has a value of its kind
    if verb != "train":
        return
    CliRunner().invoke(app, [verb, *words], catch_exceptions=False)
    (said,) = recipes
    module = example(row.replace("s", "s0").replace("r", "r0") if len(row) == 2 else row)
    recipes.clear()
    arguments = ["PHOTOS"] + [word for word in words if row == "r15" and word.startswith("https")]
    module.main(*arguments)
    assert alike(said) in [alike(recipe) for recipe in recipes]


# --- the guide's code


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos, a table of them, and one more photo."""
    folder = tmp_path_factory.mktemp("place")
    files = sorted(write_photos(folder / "photos", each=5).rglob("*.png"))
    with (folder / "photos.csv").open("w", newline="") as out:
        rows = [[file.relative_to(folder).as_posix(), file.parent.name] for file in files]
        csv.writer(out).writerows([["file", "label"], *rows])
    (folder / "photo.jpg").write_bytes(files[0].read_bytes())
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("code", regraft_blocks(), ids=lambda code: code.split("\n")[-2][:40])
def test_code_of_the_guide_runs(
    code: str,
    place: Path,
    network_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As printed, but that a run has a small backbone instead of one that must be downloaded."""
    whole = regraft.train

    def train(data: str, recipe: Recipe, out: str) -> regraft.Run:
        return whole(data, replace(recipe, backbone=str(network_file), phases=()), out, overwrite=True)

    monkeypatch.chdir(place)
    monkeypatch.setattr("regraft.pipeline.train.train", train)
    if "regraft.load(" in code and not (place / "runs" / "folder").exists():
        train("photos", Recipe(), "runs/folder")
    exec(compile(code, "coming-from-keras.md", "exec"), {})
    printed = capsys.readouterr().out.split("\n")
    for promised in re.findall(r"^print\(.*\)  # (.*)$", code, re.MULTILINE):
        assert promised in printed


def test_the_guide_has_code_of_both_kinds() -> None:
    assert len(regraft_blocks()) >= 12
    assert len([code for code in blocks(GUIDE, "python") if code.startswith("# Keras")]) >= 10
