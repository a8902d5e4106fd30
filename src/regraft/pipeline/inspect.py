"""`regraft inspect`: what a model file or a run holds, without building it."""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regraft.errors import UsageError
from regraft.inference.bundle import load
from regraft.inference.model_files import sha256
from regraft.model_scan.archive import expect_here
from regraft.model_scan.hdf5 import Array
from regraft.model_scan.model_file import Contents, look_into

__all__ = ["Inspection", "Kind", "inspect"]


@dataclass(frozen=True)
class Kind:
    """Layers of one class: how many, the numbers they hold, and the package, "" for Keras' own."""

    name: str
    layers: int
    parameters: int
    package: str


@dataclass(frozen=True)
class Inspection:
    """What is in a model file, and around it where it belongs to a run.

    Attributes:
        file: the model file; `bytes` and `sha256` are its.
        saved_by: Keras' version and the date, as the file says.
        inputs: name and shape of each; outputs: names of the layers.
        kinds: the layers, the class with most parameters first.
        parameters: numbers in all layers; types: how many bytes of each type.
        savedmodels: digests of SavedModels inside, which need trust.
        members: names and bytes.
        suspicious: why it would be refused, as sentences; none for a sound file.
        manifest: that of the run; None for a file alone.
        changed: files of the run that are missing or not those its manifest describes.
    """

    file: str
    bytes: int
    sha256: str
    saved_by: str
    inputs: tuple[tuple[str, Any], ...]
    outputs: tuple[str, ...]
    kinds: tuple[Kind, ...]
    parameters: int
    types: dict[str, int]
    savedmodels: tuple[str, ...]
    members: dict[str, int]
    suspicious: tuple[str, ...]
    manifest: dict[str, Any] | None
    changed: tuple[str, ...]


def inspect(path: str | os.PathLike[str]) -> Inspection:
    """Look into a `.keras` file or a run folder; neither Keras nor a backend is imported.

    Raises:
        UsageError: there is no such file, or the folder is none that `train` wrote.
        ModelRefused: the folder's manifest is missing or damaged, or it is an address.
        EnvironmentFault: it cannot be read.
    """
    expect_here(path, "a .keras file or a run folder")
    given = Path(path)
    if not given.exists():
        raise UsageError(f"Expected a .keras file or a run folder. There is nothing at {given}.")
    manifest = load(given).manifest if given.is_dir() else None
    file = given / "model.keras" if manifest else given
    files = manifest["files"] if manifest else {}
    changed = tuple(name for name, digest in files.items() if _is_changed(given / Path(name).name, digest))
    if not file.is_file():
        raise UsageError(f"Expected a .keras file. Received: {file}, which is none.")
    contents = look_into(file)
    types: Counter[str] = Counter()
    for array in contents.arrays:
        types[array.dtype] += array.bytes
    return Inspection(
        file=str(file),
        bytes=file.stat().st_size,
        sha256=sha256(file),
        saved_by=contents.saved_by,
        inputs=tuple(contents.configuration.inputs),
        outputs=tuple(contents.configuration.outputs),
        kinds=_kinds(contents),
        parameters=sum(array.size for array in contents.arrays if array.learned),
        types=dict(types),
        savedmodels=contents.savedmodels,
        members={member.name: member.size for member in contents.archive.members} if contents.archive else {},
        suspicious=contents.suspicious,
        manifest=manifest,
        changed=changed,
    )


def _is_changed(file: Path, digest: str) -> bool:
    return not file.is_file() or sha256(file) != digest


def _kinds(contents: Contents) -> tuple[Kind, ...]:
    layers = contents.configuration.layers
    counts = Counter(layer.kind for layer in layers)
    packages = {layer.kind: layer.module.partition(".")[0] for layer in layers}
    held: Counter[str] = Counter()
    for array in contents.arrays:
        held[_group(array)] += array.size if array.learned else 0
    found = [
        Kind(name, count, held[_snake(name)], packages[name] if packages[name] != "keras" else "")
        for name, count in counts.items()
    ]
    return tuple(sorted(found, key=lambda kind: (-kind.parameters, kind.name)))


def _group(array: Array) -> str:
    """The kind of layer that an array belongs to, as Keras writes it: layers/conv2d_3/vars/0 -> conv2d."""
    parts = array.name.split("/")
    last = len(parts) - 1 - parts[::-1].index("layers") if "layers" in parts else 0
    return re.sub(r"_\d+$", "", parts[min(last + 1, len(parts) - 1)])


def _snake(name: str) -> str:
    r"""A class's name as Keras writes it in files of weights.

    >>> _snake("DepthwiseConv2D")
    'depthwise_conv2d'
    """
    spaced = re.sub(r"(.)([A-Z][a-z0-9]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", spaced).lower()
