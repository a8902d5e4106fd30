"""The SavedModels that this machine trusts, by content, because a user has vouched for them.

The graph of a SavedModel is a program that may read and write files, and there is no way to tell whether it
will. So it is run only when it is trusted, wherever it comes from: a folder, a handle or a `.keras` file.
"""

from __future__ import annotations

from pathlib import Path

from regraft.errors import ModelRefused
from regraft.model_scan.model_file import is_sha256
from regraft.system.cache_dir import get_default_root

__all__ = ["expect_trust", "is_trusted", "make_trust_refusal", "trust"]

_TRUSTED_HERE: set[str] = set()  # where the folder cannot be written, trust lasts as long as the process


def expect_trust(source: str, digest: str, *, user_trusts: bool) -> None:
    """Check that a SavedModel is trusted; a user's word for it is remembered on this machine.

    Args:
        source: what holds the SavedModel, for the message.
        digest: its SHA-256, see `regraft.backbones.savedmodel.digest_folder`.
        user_trusts: whether the user vouches for it now.

    Raises:
        ModelRefused: no user has ever vouched for it on this machine.
    """
    if user_trusts:
        trust(digest)
    elif not is_trusted(digest):
        raise make_trust_refusal(source, f", sha256 {digest},")


def trust(digest: str) -> None:
    """Trust the SavedModel with this SHA-256, in hex, from now on and on this machine.

    `--trust` and `trust=True` do this for the SavedModel that they are given with.

    >>> trust("0" * 64)
    """
    _check_digest(digest)
    _TRUSTED_HERE.add(digest)
    try:
        _get_folder().mkdir(parents=True, exist_ok=True)
        (_get_folder() / digest).touch()
    except OSError:
        pass


def is_trusted(digest: str) -> bool:
    """Return whether the SavedModel with this SHA-256 is trusted on this machine."""
    _check_digest(digest)
    return digest in _TRUSTED_HERE or (_get_folder() / digest).exists()


def make_trust_refusal(source: str, details: str = "") -> ModelRefused:
    """Return the error for a SavedModel that is not trusted; `details` follow the word "SavedModel"."""
    return ModelRefused(
        f"{source} holds a SavedModel{details} that was never trusted on this machine. Its graph is a "
        "program, which may read and write files. If you know where it comes from, say so once: --trust, or "
        "trust=True in Python."
    )


def _get_folder() -> Path:
    return get_default_root() / "trusted-savedmodels"


def _check_digest(digest: object) -> None:
    """Refuse anything but a SHA-256: the digest may come from a model file, and names a file in the cache."""
    if not is_sha256(digest):
        raise ModelRefused("A SavedModel in the file has no SHA-256, or none that is valid.")
