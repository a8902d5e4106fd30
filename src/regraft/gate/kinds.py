"""What somebody gives in a model's place, by its content: told, never opened."""

from __future__ import annotations

import os
import re
from pathlib import Path

from regraft.errors import ModelRefused

__all__ = ["expect_here", "kind_of", "kind_of_folder"]

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # longer than a drive's letter
_MAGIC = (
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file; open it with Keras and save it again as .keras"),
    (b"\x80\x02", "a pickle, which is a program"),
    (b"\x80\x03", "a pickle, which is a program"),
    (b"\x80\x04", "a pickle, which is a program"),
    (b"\x80\x05", "a pickle, which is a program"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"\x89PNG", "an image"),
    (b"\xff\xd8\xff", "an image"),
    (b"\x7fELF", "a program"),
    (b"PK\x05\x06", "an empty archive"),
    (b"PK\x03\x04", "a zip archive, as files of Keras and PyTorch are"),
)
_MEMBERS = (  # files by which a folder is known
    ("saved_model.pb", "a SavedModel, which is a program"),
    ("saved_model.pbtxt", "a SavedModel, which is a program"),
    ("_CHECKPOINT_METADATA", "a checkpoint of Orbax"),
    ("manifest.ocdbt", "a checkpoint of Orbax"),
    ("checkpoint", "a checkpoint of TensorFlow"),
    ("config.json", "a preset or a model of a hub"),
)


def kind_of(first: bytes) -> str:
    """What a file is by its first bytes, 8 at least, in words.

    >>> kind_of(b"\\x80\\x04\\x95xxxxx")
    'a pickle, which is a program'
    """
    named = (what for magic, what in _MAGIC if first.startswith(magic))
    return next(named, "a TensorFlow Lite model" if first[4:8] == b"TFL3" else "something else")


def kind_of_folder(folder: Path) -> str:
    """What a folder is by the names in it, in words; "" for nothing known."""
    return next((what for name, what in _MEMBERS if (folder / name).exists()), "")


def expect_here(path: str | os.PathLike[str], expected: str) -> None:
    """A path of this machine: nothing is ever fetched.

    Args:
        path: what was given.
        expected: what should have been, for the message.

    Raises:
        ModelRefused: it is an address, such as hf://OWNER/MODEL.
    """
    if _ADDRESS.match(os.fspath(path)) and not Path(path).exists():
        raise ModelRefused(f"Expected {expected}. Received: {path}, an address. Models are never fetched.")
