"""Sign a run folder and verify the signature, in the format of OpenSSF Model Signing, by a pair of keys.

The signature covers the path and the content of every file in the folder, except itself. It is a file that
any program for that format verifies. Nothing is sent anywhere.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from regraft.errors import EnvironmentFault, ModelRefused, UsageError, shorten_error, wrap_os_errors
from regraft.inference.bundle import load
from regraft.report.model_card import MODEL_CARD
from regraft.system.console import format_names
from regraft.system.files import hash_file, make_temporary_file

__all__ = ["SIGNATURE", "sign_run", "verify_run"]

SIGNATURE = "model.sig"
INSTALL = 'pip install "regraft[sign]"'
MAKE_KEYS = (  # one line each, for a shell
    "openssl ecparam -name prime256v1 -genkey -noout -out key.pem; "
    "openssl ec -in key.pem -pubout -out key.pub"
)


def sign_run(run: Path, key: Path, *, password: str | None = None, overwrite: bool = False) -> Path:
    """Sign all files of a run folder with a private key; return the path of the signature.

    Args:
        run: the run folder; its `model.sig` is written.
        key: the private key, a PEM file with an elliptic-curve key (P-256, P-384 or P-521).
        password: of the key; None if it has none.
        overwrite: replace a signature that is there.

    Raises:
        UsageError: there is no such run or key, the key cannot be used, or there is a signature already.
        ModelRefused: a file of the run is not the one that its manifest describes.
        EnvironmentFault: model-signing is not installed, or the signature cannot be written.

    Example:
        sign_run(Path("runs/clothes"), Path("key.pem"))
    """
    _require_sound(run)
    _require_key(key, "private key")
    _require_key_outside(run, key)
    target = run / SIGNATURE
    if target.exists() and not overwrite:
        raise UsageError(f"{target} exists already. Replace it with --overwrite.")
    signing = _import_library()
    encoded = None if password is None else password.encode()
    try:
        config = signing.signing.Config().use_elliptic_key_signer(private_key=key, password=encoded)
    except (ValueError, TypeError, AttributeError) as error:
        raise UsageError(
            f"Expected a private key on an elliptic curve in PEM, and its password if it has one. {key}: "
            f"{shorten_error(error)}. To make a pair of keys: {MAKE_KEYS}"
        ) from error
    with (
        wrap_os_errors(f"{target} cannot be written"),
        make_temporary_file(run.absolute().parent, f".{run.absolute().name}.signing-") as temporary,
    ):
        config.set_hashing_config(_make_hashing(signing)).sign(run, temporary)
        temporary.replace(target)
    return target


def verify_run(run: Path, key: Path) -> int:
    """Check that a run folder is as it was when it was signed; return how many files the signature covers.

    Args:
        run: the run folder with its `model.sig`.
        key: the public key of the signer, a PEM file.

    Raises:
        UsageError: there is no such run, signature or key.
        ModelRefused: the signature is not by this key, or a file was changed, added or removed since.
        EnvironmentFault: model-signing is not installed.

    Example:
        verify_run(Path("runs/clothes"), Path("key.pub"))
    """
    if not run.is_dir():
        raise UsageError(f"Expected a run folder. There is none at {run}.")
    _require_key(key, "public key")
    signature = run / SIGNATURE
    if not signature.is_file():
        raise UsageError(f"Expected a signature, {signature}. There is none. `regraft sign` writes one.")
    signing = _import_library()
    try:
        config = signing.verifying.Config().use_elliptic_key_verifier(public_key=key)
    except (ValueError, TypeError, AttributeError) as error:
        raise UsageError(
            f"Expected the signer's public key in PEM. {key}: {shorten_error(error)}. "
            "A private key's public one: openssl ec -in key.pem -pubout -out key.pub"
        ) from error
    try:
        config.set_hashing_config(_make_hashing(signing)).verify(run, signature)
    except Exception as error:  # of several libraries: whatever is wrong, nothing is verified
        raise ModelRefused(
            f"{run} is not verified: {_explain(error)}. Use another copy, or ask its maker to sign it again."
        ) from error
    return sum(path.is_file() for path in run.rglob("*")) - 1


def _import_library() -> Any:
    try:
        import model_signing
    except ImportError as error:
        raise EnvironmentFault(
            f"Signing needs the package model-signing ({shorten_error(error)}). Install it: {INSTALL}"
        ) from error
    return model_signing


def _make_hashing(signing: Any) -> object:
    """Return how files are hashed: all of them but the signature, and no file of git is left out."""
    return signing.hashing.Config().set_ignored_paths(paths=[SIGNATURE], ignore_git_paths=False)


def _require_sound(run: Path) -> None:
    """Check the files of a run against its manifest, but for the model card, which its maker may complete."""
    for name, digest in load(run).manifest["files"].items():
        if name != MODEL_CARD and hash_file(run / name) != digest:
            raise ModelRefused(
                f"{run / name} is not the file its manifest.json describes, so it is not signed."
            )


def _require_key(key: Path, noun: str) -> None:
    if not key.is_file():
        raise UsageError(
            f"Expected the file of a {noun}. There is none at {key}. To make a pair: {MAKE_KEYS}"
        )


def _require_key_outside(run: Path, key: Path) -> None:
    """Check that the private key is not among the files that are signed and then given away."""
    if Path(os.path.realpath(key)).is_relative_to(os.path.realpath(run)):
        raise UsageError(f"The private key {key} lies in the run folder {run}. Move it elsewhere.")


def _explain(error: Exception) -> str:
    """Return why a signature is refused, in a sentence without its full stop."""
    text = str(error)
    if type(error).__name__ == "InvalidSignature" or "Key mismatch" in text:
        return "the signature is not by this key"
    if "Signature mismatch" not in text:
        return f"its signature cannot be read ({shorten_error(error)})"
    changes = {
        "changed": re.findall(r"Hash mismatch for \\*'(.*?)\\*':", text),
        "added": _split_names(re.search(r"Extra files found in model .*?: (.*?)[\"\]]", text)),
        "missing": _split_names(re.search(r"Missing files in model .*?: (.*?)[\"\]]", text)),
    }
    words = [f"{change}: {format_names(names)}" for change, names in changes.items() if names]
    return f"its files are not those that were signed ({'; '.join(words) or shorten_error(error)})"


def _split_names(match: re.Match[str] | None) -> list[str]:
    return match[1].split(", ") if match else []
