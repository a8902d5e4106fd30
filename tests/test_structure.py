"""What holds of the source as a whole: import order, public names, the core's neutrality, start-up."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

import regraft

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "regraft"
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
ROOMS = re.findall(r"^\| `([a-z_/]+\.py)` \|", ARCHITECTURE, re.MULTILINE)
MODULES = sorted(
    path.relative_to(SOURCE).as_posix()
    for path in SOURCE.rglob("*.py")
    if path.name not in ("__init__.py", "__main__.py")
)
BACKENDS = {"tensorflow", "jax", "torch"}
MAY_NAME_A_BACKEND = {"backbone/savedmodel.py", "features/engine.py"}
SLOW_EXAMPLES = {"embedder.py", "estimators.py"}  # they train


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_every_module_has_its_room_in_the_architecture() -> None:
    assert sorted(ROOMS) == MODULES


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_modules_above_it(module: str) -> None:
    place = {f"regraft.{room[:-3].replace('/', '.')}": number for number, room in enumerate(ROOMS)}
    here = ROOMS.index(module)
    below = [name for name in imported(SOURCE / module) if place.get(name, -1) >= here]
    assert not below


@pytest.mark.parametrize("module", MODULES)
def test_the_core_names_no_backend(module: str) -> None:
    roots = {name.split(".")[0] for name in imported(SOURCE / module)}
    assert module in MAY_NAME_A_BACKEND or not roots & BACKENDS


def test_public_names_are_all_there() -> None:
    assert sorted(regraft.__all__) == sorted(regraft._HOME)
    for name in regraft.__all__:
        assert getattr(regraft, name) is not None


def test_every_module_says_what_it_offers() -> None:
    for module in MODULES:
        tree = ast.parse((SOURCE / module).read_text("utf-8"))
        assert ast.get_docstring(tree), module
        names = {target.id for node in tree.body if isinstance(node, ast.Assign) for target in node.targets
                 if isinstance(target, ast.Name)}  # fmt: skip
        assert "__all__" in names, module


@pytest.mark.parametrize("code", ["import regraft", "import regraft.cli"])
def test_importing_loads_no_backend(code: str) -> None:
    heavy = ("keras", "tensorflow", "jax", "sklearn", "PIL")
    check = f"{code}; import sys; print([name for name in {heavy} if name in sys.modules])"
    out = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_help_answers_without_loading_a_backend() -> None:
    begun = time.monotonic()
    out = subprocess.run(
        [sys.executable, "-m", "regraft", "--help"], capture_output=True, text=True, check=True
    )
    assert "train" in out.stdout
    assert time.monotonic() - begun < 5  # a backend alone takes longer than the half second this should


@pytest.mark.parametrize(
    "module",
    [pytest.param(module, marks=[pytest.mark.slow] if module in SLOW_EXAMPLES else []) for module in MODULES],
)
def test_docstring_examples_run(module: str) -> None:
    import doctest
    import importlib

    found = importlib.import_module(f"regraft.{module[:-3].replace('/', '.')}")
    result = doctest.testmod(
        found, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.IGNORE_EXCEPTION_DETAIL
    )
    assert result.failed == 0
