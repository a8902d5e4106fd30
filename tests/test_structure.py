"""What holds of the source as a whole: import order, public names, the core's neutrality, start-up."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

import regraft

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "regraft"
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
TABLE = re.findall(r"^\| `([a-z_.]+)` \| (Keras|no Keras) \|", ARCHITECTURE, re.MULTILINE)
PACKAGES = [name for name, _ in TABLE]
WITHOUT_KERAS = {name for name, rule in TABLE if rule == "no Keras"}
OLD_PATHS = {"backbone.savedlayer"}  # saved files name them
MODULES = sorted(
    path.relative_to(SOURCE).as_posix()
    for path in SOURCE.rglob("*.py")
    if path.name not in ("__init__.py", "__main__.py")
)
NAMES = {module[:-3].replace("/", "."): module for module in MODULES}
BACKENDS = {"tensorflow", "jax", "torch"}
MAY_NAME_A_BACKEND = {
    "backbones/savedmodel.py",
    "exports/litert.py",
    "exports/programs/run_savedmodel.py",
    "features/engine.py",
}
NOT_OF_KERAS = {"_replace", "_getframe"}  # of named tuples and of `sys`
NAME_MODULES_OF_KERAS = {  # names in model files; names of importers, since `system` imports no Keras
    "model_scan/allowlist.py",
    "model_scan/keras_config.py",
    "system/imports.py",
}
VERBS = {
    "embed",
    "len",
    "open",
    "need",
    "feed",
    "seed",
    "speed",
    "exceed",
    "proceed",
    "flatten",
    "shorten",
    "listen",
}
IRREGULAR = {
    "begun", "bound", "built", "done", "drawn", "found", "given", "gone", "held", "kept", "known", "laid",
    "left", "lost", "made", "met", "said", "sent", "shown", "spent", "told", "won", "worn",
}  # fmt: skip
ALLOWED_PARTICIPLES = {"_squared_error": "the name of a loss"}  # with reasons; five at most
WITHOUT_MEANING = {"found", "said", "kept", "whole", "each", "place", "told"}
SLOW_EXAMPLES = {"estimators/image_estimators.py"}  # they train


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def imports_of(module: str) -> set[str]:
    """The modules of regraft that one of them imports, anywhere in it."""
    names = {name.removeprefix("regraft.") for name in imported(SOURCE / NAMES[module])}
    return names & NAMES.keys()


def package_of(module: str) -> str:
    """The innermost package of the table that a module lies in."""
    parents = [module.rsplit(".", depth)[0] for depth in range(module.count(".") + 1)]
    return next(parent for parent in parents if parent in PACKAGES)


def upward(imports: dict[str, set[str]]) -> list[tuple[str, str]]:
    """The imports from a package that stands later in the table."""
    rank = {module: PACKAGES.index(package_of(module)) for module in imports}
    return [(module, name) for module in imports for name in imports[module] if rank[name] > rank[module]]


def cycles(imports: dict[str, set[str]]) -> list[str]:
    """The modules that import themselves by way of others."""

    def reach(module: str) -> set[str]:
        reached: set[str] = set()
        waiting = set(imports[module])
        while waiting:
            reached |= waiting
            waiting = {name for one in waiting for name in imports[one]} - reached
        return reached

    return [module for module in imports if module in reach(module)]


IMPORTS = {module: imports_of(module) for module in NAMES if module not in OLD_PATHS}


def test_every_package_stands_in_the_architecture_and_the_other_way_round() -> None:
    assert {package_of(module) for module in IMPORTS} == set(PACKAGES)
    assert len([module for module in NAMES if "." not in module]) <= 3  # beside __init__ and __main__


def test_a_package_imports_only_packages_above_it() -> None:
    assert not upward(IMPORTS)


def test_no_module_imports_itself_by_way_of_others() -> None:
    assert not cycles(IMPORTS)


def test_an_upward_import_and_a_cycle_would_be_seen() -> None:
    changed = IMPORTS | {"data.split": IMPORTS["data.split"] | {"features.store"}}
    assert ("data.split", "features.store") in upward(changed)
    changed = IMPORTS | {"features.shard": IMPORTS["features.shard"] | {"features.extract"}}
    assert "features.shard" in cycles(changed)


@pytest.mark.parametrize("module", sorted(IMPORTS))
def test_packages_without_keras_import_none(module: str) -> None:
    def at_import(node: ast.AST) -> list[ast.AST]:
        lazy = (ast.FunctionDef, ast.AsyncFunctionDef, ast.If)
        inner = [child for child in ast.iter_child_nodes(node) if not isinstance(child, lazy)]
        return [*inner, *(found for child in inner for found in at_import(child))]

    if package_of(module) in WITHOUT_KERAS:
        for node in at_import(ast.parse((SOURCE / NAMES[module]).read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.split(".")[0] == "keras"]


@pytest.mark.parametrize("module", MODULES)
def test_the_core_names_no_backend(module: str) -> None:
    roots = {name.split(".")[0] for name in imported(SOURCE / module)}
    assert module in MAY_NAME_A_BACKEND or not roots & BACKENDS


def private_names(tree: ast.AST) -> set[str]:
    """The private attributes of other objects, and those that a layer of ours has only by inheritance."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            is_own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            is_own |= isinstance(node.value, ast.Call) and ast.unparse(node.value) == "super()"
            names |= set() if is_own else {node.attr}
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr", "setattr"):
            names |= {str(argument.value) for argument in node.args if isinstance(argument, ast.Constant)}
        elif isinstance(node, ast.ClassDef) and any("keras" in ast.unparse(base) for base in node.bases):
            inner = [*ast.walk(node)]
            defined = {one.name for one in inner if isinstance(one, ast.FunctionDef)}
            used = [one for one in inner if isinstance(one, ast.Attribute)]
            defined |= {one.attr for one in used if isinstance(one.ctx, ast.Store)}
            names |= {one.attr for one in used} - defined
    return {name for name in names if name.startswith("_") and not name.endswith("__")} - NOT_OF_KERAS


@pytest.mark.parametrize("module", MODULES)
def test_only_one_module_uses_private_names_of_keras(module: str) -> None:
    text = (SOURCE / module).read_text("utf-8")
    if module != "backbones/graph.py":
        assert private_names(ast.parse(text)) == set()
    assert "keras.src" not in text or module in NAME_MODULES_OF_KERAS


def test_a_private_name_would_be_seen() -> None:
    code = "x._keras_history; getattr(x, '_layers'); self._mine\n"
    code += "class A(keras.Layer):\n def f(self): self._losses"
    assert private_names(ast.parse(code)) == {"_keras_history", "_layers", "_losses"}


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


def functions_named_by_a_participle(tree: ast.AST) -> set[str]:
    """Functions and methods whose name begins with one; a property may be an adjective."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            word = node.name.strip("_").partition("_")[0]
            is_participle = word in IRREGULAR or (word.endswith(("ed", "en")) and word not in VERBS)
            decorators = {ast.unparse(decorator).rpartition(".")[2] for decorator in node.decorator_list}
            if is_participle and not decorators & {"property", "cached_property", "setter"}:
                names.add(node.name)
    return names - ALLOWED_PARTICIPLES.keys()


def variables(tree: ast.AST) -> set[str]:
    """The names of variables and arguments, without the fields of classes."""
    fields = {
        id(statement.target)
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        for statement in node.body
        if isinstance(statement, ast.AnnAssign)
    }
    names = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    return names | {
        node.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and id(node) not in fields
    }


@pytest.mark.parametrize("module", MODULES)
def test_functions_are_verbs_and_variables_say_what_they_hold(module: str) -> None:
    tree = ast.parse((SOURCE / module).read_text("utf-8"))
    assert functions_named_by_a_participle(tree) == set()
    assert variables(tree) & WITHOUT_MEANING == set()


def test_a_participle_and_a_variable_without_meaning_would_be_seen() -> None:
    code = "class A:\n kept: int\n @property\n def known(self): ...\n def _parted(self): ...\n"
    code += "def made_of(said): return [x for found, x in said if (whole := x)]\ndef embed(): ...\n"
    tree = ast.parse(code)
    assert functions_named_by_a_participle(tree) == {"_parted", "made_of"}
    assert variables(tree) & WITHOUT_MEANING == {"said", "found", "whole"}


def repeated_classes(trees: Iterable[ast.Module]) -> set[str]:
    """The names that more than one public class has."""
    names = [node.name for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)]
    return {name for name, count in Counter(names).items() if count > 1 and not name.startswith("_")}


def test_no_two_public_classes_have_one_name() -> None:
    assert repeated_classes(ast.parse((SOURCE / module).read_text("utf-8")) for module in MODULES) == set()


def test_a_repeated_class_would_be_seen() -> None:
    assert repeated_classes(
        map(ast.parse, ["class A: ...\nclass _B: ...", "class _B: ...\nclass A: ..."])
    ) == {"A"}


@pytest.mark.parametrize(
    "code",
    [
        "import regraft",
        "import regraft.cli",
        "import regraft.cli; sys.argv = ['regraft', '--help']; regraft.cli.main()",
    ],
)
def test_importing_and_help_load_no_backend(code: str) -> None:
    heavy = ("keras", "tensorflow", "jax", "openvino", "sklearn", "PIL")
    report = f"print([name for name in {heavy} if name in sys.modules])"
    check = f"import atexit, sys\natexit.register(lambda: {report})\n{code}"
    out = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert out.stdout.splitlines()[-1] == "[]"
    assert "--help" not in code or "train" in out.stdout


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
