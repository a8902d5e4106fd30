"""A model file, looked at before Keras sees a byte of it.

Keras' safe mode refuses lambdas. Here everything is refused that an image model has no use for: classes that
are not on a list, files in files, links, more numbers than the file holds, values that are none. Neither
Keras nor a backend is imported.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

from regraft.errors import ModelRefused
from regraft.model_scan.archive import Archive, quoted, read_archive, refused
from regraft.model_scan.hdf5 import Array, held, read_arrays
from regraft.model_scan.keras_config import Configuration, Layer, read_config, too_large

__all__ = ["Contents", "check_model_file", "is_sha256", "look_into"]

SAVEDMODEL = "SavedModelLayer"  # the layer that holds one


@dataclass(frozen=True)
class Contents:
    """What a model file holds, as far as it could be read, and why it is refused.

    Attributes:
        archive: its members; None where it is no archive.
        configuration: its layers.
        arrays: its weights; () where they cannot be read.
        suspicious: reasons, each a sentence that names the layer, member or array; none for a sound file.
    """

    archive: Archive | None
    configuration: Configuration
    arrays: tuple[Array, ...]
    suspicious: tuple[str, ...]

    @property
    def savedmodels(self) -> tuple[str, ...]:
        """SHA-256 of the SavedModels inside, which have to be trusted; see `backbone.trust`."""
        found = (_savedmodel(layer) for layer in self.configuration.layers if layer.kind == SAVEDMODEL)
        return tuple(digest for digest in found if digest)

    @property
    def saved_by(self) -> str:
        """Keras' version and the date, as the file says."""
        try:
            said = json.loads(self.archive.metadata) if self.archive else {}
            return f"Keras {said['keras_version']}, {said['date_saved']}"
        except (ValueError, KeyError, TypeError):
            return "unknown"


def look_into(path: Path, own: Collection[str] = ()) -> Contents:
    """What a model file holds, without building it; a refused one too.

    Args:
        path: the file.
        own: names under which the user's own program has registered classes and functions with Keras.

    Raises:
        EnvironmentFault: it cannot be read.
    """
    begin = f"{path} is refused: "
    try:
        archive = read_archive(path)
    except ModelRefused as fault:
        return Contents(None, Configuration(), (), (str(fault).removeprefix(begin),))
    configuration = read_config(archive.config, own)
    suspicious = list(configuration.suspicious)
    modules = [layer for layer in configuration.layers if layer.kind == SAVEDMODEL]
    suspicious += [
        f"{layer} has no SHA-256 of its SavedModel." for layer in modules if not _savedmodel(layer)
    ]
    if archive.assets and not modules:
        suspicious.append(f"member {quoted(archive.assets[0].name)} belongs to no layer.")
    arrays: tuple[Array, ...] = ()
    try:
        arrays = read_arrays(path, offset=archive.weights.offset, size=archive.weights.size)
    except ModelRefused as fault:
        suspicious.append(str(fault).removeprefix(begin))
    else:
        suspicious += too_large(configuration, held(arrays))
    return Contents(archive, configuration, arrays, tuple(suspicious))


def check_model_file(path: Path, own: Collection[str] = ()) -> Contents:
    """What a model file holds; a `.keras` file that Keras wrote and that has nothing suspicious.

    Args:
        path, own: as in `look_into`.

    Raises:
        ModelRefused: it is anything else; the message names the layer, member or array.
        EnvironmentFault: it cannot be read.
    """
    found = look_into(path, own)
    if found.suspicious:
        more = len(found.suspicious) - 1
        rest = f" And {more:,} more: see `regraft inspect`." if more else ""
        raise refused(path, found.suspicious[0] + rest)
    return found


def _savedmodel(layer: Layer) -> str | None:
    """What a layer says is the digest of its SavedModel; None for anything that cannot be one."""
    facts = layer.config.get("facts")
    digest = facts.get("digest") if isinstance(facts, dict) else None
    return digest if is_sha256(digest) else None


def is_sha256(said: object) -> TypeGuard[str]:
    """Whether something read from a file is a SHA-256 in hex, and so may name a file.

    >>> is_sha256("0" * 64), is_sha256("../" + "0" * 61), is_sha256(None)
    (True, False, False)
    """
    return isinstance(said, str) and re.fullmatch("[0-9a-f]{64}", said) is not None
