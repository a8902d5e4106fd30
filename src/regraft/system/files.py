"""Checks of single files and folders: the digest of a file, and that an output may be written."""

from __future__ import annotations

import hashlib
from pathlib import Path

from regraft.errors import UsageError, wrap_os_errors

__all__ = ["hash_file", "require_absent"]


def hash_file(path: Path, algorithm: str = "sha256") -> str:
    """Return the digest of a file in hex.

    Raises:
        EnvironmentFault: it cannot be read.
    """
    with wrap_os_errors(f"{path} cannot be read"), path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def require_absent(path: Path, *, overwrite: bool, kind: str = "folder") -> None:
    """Raise UsageError if the output `path` exists and must not be replaced; `kind` names it: file or folder.

    >>> require_absent(Path("."), overwrite=False)
    Traceback (most recent call last):
    regraft.errors.UsageError: . exists already. Choose another folder, or replace it with --overwrite.
    """
    if path.exists() and not overwrite:
        raise UsageError(f"{path} exists already. Choose another {kind}, or replace it with --overwrite.")
