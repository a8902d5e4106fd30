"""Links lead somewhere, the gallery shows the programs as they are, and commands and code work."""

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


def find_blocks(text: str, language: str) -> list[str]:
    return [code for name, code in FENCE.findall(text) if name == language]


def list_regraft_blocks() -> list[str]:
    return [code for code in find_blocks(GUIDE, "python") if code.startswith("# regraft\n")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text("utf-8")
    for target in re.findall(r"\]\(([^)]+)\)", text):
        path, _, anchor = target.partition("#")
        if not path.startswith("https://"):
            file = (page.parent / path).resolve() if path else page
            assert file.exists(), target
            assert not anchor or f'id="{anchor}"' in file.read_text("utf-8"), target


def test_the_gallery_shows_every_program_as_it_is() -> None:
    excerpts = dict(re.findall(r"\(\.\./examples/(\w+\.py)\):\n\n```python\n(.*?)```", GALLERY, re.DOTALL))
    programs = {file.name: file.read_text("utf-8") for file in EXAMPLES.glob("*.py")}
    assert set(excerpts) == set(programs)
    for name, excerpt in excerpts.items():
        assert excerpt in programs[name].replace("import sys\n\n", ""), f"docs/gallery.md: {name} has changed"
        assert "def main(" in excerpt


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_compiles_and_its_names_exist(page: Path) -> None:
    import keras

    for code in find_blocks(page.read_text("utf-8"), "python"):
        tree = ast.parse(code)
        for node in ast.walk(tree):
            name = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
            if re.fullmatch(r"keras(\.\w+)+", name):
                value: Any = keras
                for attribute in name.split(".")[1:]:
                    value = getattr(value, attribute)
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("regraft"):
                module = __import__(str(node.module), fromlist=["_"])
                for alias in node.names:
                    assert hasattr(module, alias.name)


def test_the_reference_describes_every_public_name() -> None:
    pages = "".join(
        (ROOT / "docs" / "reference" / f"{name}.md").read_text("utf-8") for name in ("python", "recipe")
    )
    described = set(re.findall(r"regraft\.(\w+)$", pages, re.MULTILINE))
    assert described == {*regraft.__all__}


# --- the command line


@pytest.fixture
def recipes(monkeypatch: pytest.MonkeyPatch) -> list[Recipe]:
    """Collect the recipes that `regraft.train` is called with; nothing runs."""
    calls: list[Recipe] = []

    def train(data: object, recipe: Recipe, out: object, **_: object) -> SimpleNamespace:
        calls.append(recipe)
        return SimpleNamespace(path=Path(), interrupted=False, metrics={})

    monkeypatch.setattr("regraft.pipeline.train.train", train)
    return calls


def drop_settings_without_option(recipe: Recipe) -> Recipe:
    """Reset the settings that have no command line option, and write out the image size."""
    phases = tuple(replace(phase, backbone_rate=0.3) for phase in recipe.phases)
    is_named = recipe.backbone in ZOO
    size = ZOO[recipe.backbone].choose_size(recipe.image_size) if is_named else recipe.image_size
    return replace(recipe, phases=phases, head=replace(recipe.head, dropout=0.2), image_size=size)


def list_commands() -> Iterator[tuple[str, str]]:
    """Yield row and command of every line in a shell block of the gallery."""
    for row, section in re.findall(r'^<a id="(\w+)">(.*?)(?=^<a id|\Z)', GALLERY, re.MULTILINE | re.DOTALL):
        for block in find_blocks(section, "shell"):
            for line in block.strip().splitlines():
                yield row, line


def find_program(row: str) -> str:
    """Return the name of the program whose docstring names this system of the gallery."""
    line = f"System {row.upper()} of docs/gallery.md."
    (program,) = (file.stem for file in EXAMPLES.glob("*.py") if line in file.read_text("utf-8"))
    return program


@pytest.mark.slow
@pytest.mark.parametrize(("row", "command"), list(list_commands()))
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
    (recipe,) = recipes
    module = example(find_program(row))
    recipes.clear()
    arguments = ["IMAGES"] + [word for word in words if row == "r15" and word.startswith("https")]
    module.main(*arguments)
    expected = [drop_settings_without_option(call) for call in recipes]
    assert drop_settings_without_option(recipe) in expected


# --- the guide's code


@pytest.fixture(scope="module")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder of images, a table of them, and one more image."""
    folder = tmp_path_factory.mktemp("data")
    files = sorted(write_photos(folder / "photos", each=5).rglob("*.png"))
    with (folder / "photos.csv").open("w", newline="") as out:
        rows = [[file.relative_to(folder).as_posix(), file.parent.name] for file in files]
        csv.writer(out).writerows([["file", "label"], *rows])
    (folder / "photo.jpg").write_bytes(files[0].read_bytes())
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("code", list_regraft_blocks(), ids=lambda code: code.split("\n")[-2][:40])
def test_code_of_the_guide_runs(
    code: str,
    data_folder: Path,
    network_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Run it as printed, but with a small backbone instead of one that must be downloaded."""
    train_run = regraft.train

    def train(data: str, recipe: Recipe, out: str) -> regraft.Run:
        return train_run(data, replace(recipe, backbone=str(network_file), phases=()), out, overwrite=True)

    monkeypatch.chdir(data_folder)
    monkeypatch.setattr("regraft.pipeline.train.train", train)
    if "regraft.load(" in code and not (data_folder / "runs" / "folder").exists():
        train("photos", Recipe(), "runs/folder")
    exec(compile(code, "coming-from-keras.md", "exec"), {})
    printed = capsys.readouterr().out.split("\n")
    for line in re.findall(r"^print\(.*\)  # (.*)$", code, re.MULTILINE):
        assert line in printed


def test_the_guide_has_code_of_both_kinds() -> None:
    assert len(list_regraft_blocks()) >= 12
    assert len([code for code in find_blocks(GUIDE, "python") if code.startswith("# Keras")]) >= 10
