"""`regraft inspect`: report the content of a model file or run folder without building the model."""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regraft.errors import UsageError
from regraft.inference.bundle import load
from regraft.model_scan.archive import expect_local_path
from regraft.model_scan.hdf5 import Array
from regraft.model_scan.model_file import ModelContents, scan_model_file
from regraft.system.files import hash_file

__all__ = ["Inspection", "LayerGroup", "inspect"]


@dataclass(frozen=True)
class LayerGroup:
    """The layers of one class: their number, their parameters, and their package ("" for Keras)."""

    name: str
    layers: int
    parameters: int
    package: str


@dataclass(frozen=True)
class Inspection:
    """The content of a model file and, if it belongs to a run, of the run. Returned by `inspect`.

    Attributes:
        file: the model file.
        bytes, sha256: its size and digest.
        saved_by: the version of Keras and the date, as stated in the file.
        inputs: name and shape of each input.
        outputs: names of the output layers.
        kinds: the layers by class, the class with most parameters first.
        parameters: the number of parameters in all layers.
        types: data type -> bytes stored as that type.
        savedmodels: digests of SavedModels inside, which need trust.
        members: name -> size in bytes of each file in the archive.
        suspicious: why the file would be refused, as sentences; empty for a sound file.
        manifest: the manifest of the run; None for a single file.
        changed: files of the run that are missing or differ from the manifest.
    """

    file: str
    bytes: int
    sha256: str
    saved_by: str
    inputs: tuple[tuple[str, Any], ...]
    outputs: tuple[str, ...]
    kinds: tuple[LayerGroup, ...]
    parameters: int
    types: dict[str, int]
    savedmodels: tuple[str, ...]
    members: dict[str, int]
    suspicious: tuple[str, ...]
    manifest: dict[str, Any] | None
    changed: tuple[str, ...]


def inspect(path: str | os.PathLike[str]) -> Inspection:
    """Report the content of a `.keras` file or a run folder, as the command `regraft inspect` does.

    The model is not built: neither Keras nor a backend is imported.

    Args:
        path: a `.keras` file or a run folder.

    Raises:
        UsageError: there is no such file, or the folder was not written by `train`.
        ModelRefused: the manifest of the folder is missing or damaged, or the path is a URL.
        EnvironmentFault: the file cannot be read.

    Example:
        >>> import keras, tempfile
        >>> file = Path(tempfile.mkdtemp()) / "model.keras"
        >>> keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]).save(file)
        >>> inspection = inspect(file)
        >>> inspection.parameters, inspection.suspicious
        (10, ())
        >>> [(kind.name, kind.layers, kind.parameters) for kind in inspection.kinds]
        [('Dense', 1, 10), ('InputLayer', 1, 0)]
    """
    expect_local_path(path, "a .keras file or a run folder")
    path = Path(path)
    if not path.exists():
        raise UsageError(f"Expected a .keras file or a run folder. There is nothing at {path}.")
    manifest = load(path).manifest if path.is_dir() else None
    file = path / "model.keras" if manifest else path
    files = manifest["files"] if manifest else {}
    changed = tuple(name for name, digest in files.items() if _is_changed(path / Path(name).name, digest))
    if not file.is_file():
        raise UsageError(f"Expected a .keras file. Received: {file}, which is none.")
    contents = scan_model_file(file)
    types: Counter[str] = Counter()
    for array in contents.arrays:
        types[array.dtype] += array.bytes
    return Inspection(
        file=str(file),
        bytes=file.stat().st_size,
        sha256=hash_file(file),
        saved_by=contents.saved_by,
        inputs=tuple(contents.configuration.inputs),
        outputs=tuple(contents.configuration.outputs),
        kinds=_group_layers(contents),
        parameters=sum(array.size for array in contents.arrays if array.is_learned),
        types=dict(types),
        savedmodels=contents.savedmodels,
        members={member.name: member.size for member in contents.archive.members} if contents.archive else {},
        suspicious=contents.suspicious,
        manifest=manifest,
        changed=changed,
    )


def _is_changed(file: Path, digest: str) -> bool:
    return not file.is_file() or hash_file(file) != digest


def _group_layers(contents: ModelContents) -> tuple[LayerGroup, ...]:
    layers = contents.configuration.layers
    counts = Counter(layer.kind for layer in layers)
    packages = {layer.kind: layer.module.partition(".")[0] for layer in layers}
    parameters: Counter[str] = Counter()
    for array in contents.arrays:
        parameters[_layer_class(array)] += array.size if array.is_learned else 0
    groups = [
        LayerGroup(
            name,
            count,
            parameters[_to_snake_case(name)],
            packages[name] if packages[name] != "keras" else "",
        )
        for name, count in counts.items()
    ]
    return tuple(sorted(groups, key=lambda group: (-group.parameters, group.name)))


def _layer_class(array: Array) -> str:
    """Return the class of an array's layer in Keras' spelling: layers/conv2d_3/vars/0 -> conv2d."""
    parts = array.name.split("/")
    last = len(parts) - 1 - parts[::-1].index("layers") if "layers" in parts else 0
    return re.sub(r"_\d+$", "", parts[min(last + 1, len(parts) - 1)])


def _to_snake_case(name: str) -> str:
    r"""Return the name of a class as Keras spells it in files of weights.

    >>> _to_snake_case("DepthwiseConv2D")
    'depthwise_conv2d'
    """
    spaced = re.sub(r"(.)([A-Z][a-z0-9]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", spaced).lower()
