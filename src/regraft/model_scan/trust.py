"""Which SavedModels this machine trusts: those of which somebody said so, by their content.

The graph of a SavedModel is a program that may read and write files, and nothing can tell whether it will.
So it is run only when it is trusted, wherever it lies: in a folder, behind a handle, in a `.keras` file.
"""

from __future__ import annotations

from pathlib import Path

from regraft.errors import ModelRefused
from regraft.model_scan.model_file import is_sha256
from regraft.system.cache_dir import default_root

__all__ = ["expect_trust", "is_trusted", "refusal", "trust"]

_SAID: set[str] = set()  # where the folder cannot be written, trust lasts as long as the process


def expect_trust(source: str, digest: str, *, said: bool) -> None:
    """Go on only with a SavedModel that is trusted; saying so is remembered on this machine.

    Args:
        source: what holds it, for the message.
        digest: its SHA-256, see `backbone.savedmodel.digest_of`.
        said: the user says that it is trusted.

    Raises:
        ModelRefused: nobody ever said so here.
    """
    if said:
        trust(digest)
    elif not is_trusted(digest):
        raise refusal(source, f", sha256 {digest},")


def trust(digest: str) -> None:
    """Trust the SavedModel with this SHA-256, in hex; remembered on this machine.

    `--trust` and `trust=True` do this for the module that they are said of.

    >>> trust("0" * 64)
    """
    _expect_digest(digest)
    _SAID.add(digest)
    try:
        _folder().mkdir(parents=True, exist_ok=True)
        (_folder() / digest).touch()
    except OSError:
        pass


def is_trusted(digest: str) -> bool:
    """Whether somebody trusted the SavedModel with this SHA-256 on this machine."""
    _expect_digest(digest)
    return digest in _SAID or (_folder() / digest).exists()


def refusal(source: str, which: str = "") -> ModelRefused:
    """The error for a SavedModel that nobody trusts; `which` is put behind what it is."""
    return ModelRefused(
        f"{source} holds a SavedModel{which} that was never trusted on this machine. Its graph is a program, "
        "which may read and write files. If you know where it comes from, say so once: --trust, or "
        "trust=True in Python."
    )


def _folder() -> Path:
    return default_root() / "trusted-savedmodels"


def _expect_digest(digest: object) -> None:
    """A model file may say anything; a digest names a file below."""
    if not is_sha256(digest):
        raise ModelRefused("A SavedModel in the file has no SHA-256 that could be one.")
