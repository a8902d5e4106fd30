"""A model file, checked before Keras reads a byte of it.

Keras' safe mode refuses lambdas. This check refuses everything that an image model has no use for: classes
that are not on a list, files in files, links, more numbers than the file holds, values that are not numbers.
It imports neither Keras nor a backend.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

from regraft.errors import ModelRefused
from regraft.model_scan.archive import Archive, make_refusal, quote_name, read_archive
from regraft.model_scan.hdf5 import Array, count_numbers, read_arrays
from regraft.model_scan.keras_config import Configuration, Layer, find_oversized_layers, read_config

__all__ = ["ModelContents", "check_model_file", "is_sha256", "scan_model_file"]

SAVEDMODEL = "SavedModelLayer"  # the class of the layer that holds a SavedModel


@dataclass(frozen=True)
class ModelContents:
    """The content of a model file, as far as it could be read, and the reasons to refuse it.

    Attributes:
        archive: the members; None where the file is not an archive.
        configuration: the layers.
        arrays: the weights; () where they cannot be read.
        suspicious: reasons to refuse the file, each a sentence that names the layer, member or array; () for
            a sound file.
    """

    archive: Archive | None
    configuration: Configuration
    arrays: tuple[Array, ...]
    suspicious: tuple[str, ...]

    @property
    def savedmodels(self) -> tuple[str, ...]:
        """Return the SHA-256 of each SavedModel inside, which has to be trusted."""
        layers = (layer for layer in self.configuration.layers if layer.kind == SAVEDMODEL)
        return tuple(digest for layer in layers if (digest := _read_savedmodel_digest(layer)))

    @property
    def saved_by(self) -> str:
        """Return Keras' version and the date of saving, as the file states them."""
        try:
            metadata = json.loads(self.archive.metadata) if self.archive else {}
            return f"Keras {metadata['keras_version']}, {metadata['date_saved']}"
        except (ValueError, KeyError, TypeError):
            return "unknown"


def scan_model_file(path: Path, user_names: Collection[str] = ()) -> ModelContents:
    """Return what a model file holds, without building the model, also for a file that is refused.

    Args:
        path: the file.
        user_names: names under which the user's own program has registered classes and functions with Keras.

    Raises:
        EnvironmentFault: the file cannot be read.
    """
    begin = f"{path} is refused: "
    try:
        archive = read_archive(path)
    except ModelRefused as fault:
        return ModelContents(None, Configuration(), (), (str(fault).removeprefix(begin),))
    configuration = read_config(archive.config, user_names)
    suspicious = list(configuration.suspicious)
    savedmodels = [layer for layer in configuration.layers if layer.kind == SAVEDMODEL]
    suspicious += [
        f"{layer} has no SHA-256 of its SavedModel."
        for layer in savedmodels
        if not _read_savedmodel_digest(layer)
    ]
    if archive.assets and not savedmodels:
        suspicious.append(f"member {quote_name(archive.assets[0].name)} belongs to no layer.")
    arrays: tuple[Array, ...] = ()
    try:
        arrays = read_arrays(path, offset=archive.weights.offset, size=archive.weights.size)
    except ModelRefused as fault:
        suspicious.append(str(fault).removeprefix(begin))
    else:
        suspicious += find_oversized_layers(configuration, count_numbers(arrays))
    return ModelContents(archive, configuration, arrays, tuple(suspicious))


def check_model_file(path: Path, user_names: Collection[str] = ()) -> ModelContents:
    """Return what a model file holds if it is a `.keras` file written by Keras with nothing suspicious in it.

    Args:
        path, user_names: as in `scan_model_file`.

    Raises:
        ModelRefused: the file is anything else; the message names the layer, member or array.
        EnvironmentFault: the file cannot be read.
    """
    contents = scan_model_file(path, user_names)
    if contents.suspicious:
        others = len(contents.suspicious) - 1
        rest = f" And {others:,} more: see `regraft inspect`." if others else ""
        raise make_refusal(path, contents.suspicious[0] + rest)
    return contents


def _read_savedmodel_digest(layer: Layer) -> str | None:
    """Return the digest that a layer states for its SavedModel; None where it cannot be one."""
    facts = layer.config.get("facts")
    digest = facts.get("digest") if isinstance(facts, dict) else None
    return digest if is_sha256(digest) else None


def is_sha256(value: object) -> TypeGuard[str]:
    """Return whether a value read from a file is a SHA-256 in hex, and so may name a file.

    >>> is_sha256("0" * 64), is_sha256("../" + "0" * 61), is_sha256(None)
    (True, False, False)
    """
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None
