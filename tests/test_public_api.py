"""The public API: its names and signatures are those of public_api.txt, and the documents use nothing else.

To accept a change, run this file: `.venv/bin/python tests/test_public_api.py` rewrites public_api.txt.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

import regraft

ROOT = Path(__file__).resolve().parents[1]
SNAPSHOT = Path(__file__).with_name("public_api.txt")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "examples").glob("*.py"))]
PUBLIC = {"regraft": set(regraft.__all__), "regraft.surgery": set(regraft.surgery.__all__)}


class Plain(str):
    """A text that signatures show without quotation marks."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def unquote(annotation: Any) -> Any:
    return Plain(annotation) if isinstance(annotation, str) else annotation


def describe_signature(function: Any) -> str:
    signature = inspect.signature(function)
    parameters = [
        parameter.replace(annotation=unquote(parameter.annotation))
        for parameter in signature.parameters.values()
    ]
    text = str(inspect.Signature(parameters, return_annotation=unquote(signature.return_annotation)))
    return re.sub(r" object at 0x[0-9a-f]+", "", text)


def describe_class(name: str, kind: type) -> Iterator[str]:
    """Yield a line for the class and one for each public method and property that regraft defines."""
    bases = ", ".join(base.__name__ for base in kind.__bases__ if base.__module__.startswith("regraft"))
    is_exception = issubclass(kind, Exception)
    yield f"class {name}{f'[{bases}]' if bases else ''}{'' if is_exception else describe_signature(kind)}"
    ours = [base for base in kind.__mro__ if base.__module__.startswith("regraft")]
    members = {member for base in ours for member in vars(base) if not member.startswith("_")}
    fields = set(inspect.signature(kind).parameters) if not is_exception else set()
    for member in sorted(members - fields):
        value = inspect.getattr_static(kind, member)
        if isinstance(value, property | cached_property):
            getter = value.fget if isinstance(value, property) else value.func
            result = inspect.signature(getter).return_annotation
            yield f"    {name}.{member}: {result}"
        elif isinstance(value, classmethod | staticmethod) or inspect.isfunction(value):
            mark = f"{type(value).__name__} " if not inspect.isfunction(value) else ""
            yield f"    {mark}{name}.{member}{describe_signature(getattr(kind, member))}"
        elif not type(value).__module__.startswith("sklearn"):  # it adds methods of its own
            yield f"    {name}.{member} = {value!r}"


def describe_api() -> Iterator[str]:
    for module, names in PUBLIC.items():
        for name in sorted(names):
            value = getattr(regraft if module == "regraft" else regraft.surgery, name)
            full = f"{module}.{name}"
            if inspect.isclass(value) and value.__name__ != name:
                yield f"{full} = {module}.{value.__name__}"
            elif inspect.isclass(value):
                yield from describe_class(full, value)
            else:
                yield full + (describe_signature(value) if inspect.isfunction(value) else "")


def test_the_public_api_is_the_snapshot() -> None:
    assert "\n".join(describe_api()) + "\n" == SNAPSHOT.read_text("utf-8"), (
        "The public API has changed. If that is intended, run `.venv/bin/python tests/test_public_api.py` "
        "and describe the change in CHANGELOG.md."
    )


def test_a_changed_signature_would_be_seen() -> None:
    class Changed(regraft.Bundle):
        __module__ = "regraft.test"

        def evaluate(self, data: object, extra: object = None) -> None: ...

    before = list(describe_class("Bundle", regraft.Bundle))
    after = list(describe_class("Bundle", Changed))
    differing = {line.split("(")[0] for line in set(after[1:]) ^ set(before[1:])}
    assert differing == {"    Bundle.evaluate"}


def read_code(page: Path) -> list[str]:
    text = page.read_text("utf-8")
    if page.suffix == ".py":
        return [text]
    return re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_documents_use_only_the_public_api(page: Path) -> None:
    for code in read_code(page):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names if alias.name.split(".")[0] == "regraft"]
                assert set(names) <= set(PUBLIC), names
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "regraft":
                assert {alias.name for alias in node.names} <= PUBLIC.get(str(node.module), set()), (
                    node.module
                )
    text = page.read_text("utf-8")
    for name in re.findall(r"\bregraft\.([A-Za-z_]\w*)", re.sub(r"[/~.\w-]*/[\w./-]*", "", text)):
        assert name in PUBLIC["regraft"], f"regraft.{name}"


if __name__ == "__main__":
    SNAPSHOT.write_text("\n".join(describe_api()) + "\n", "utf-8")
