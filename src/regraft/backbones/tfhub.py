"""A handle of TensorFlow Hub or Kaggle -> a folder on this machine that holds the SavedModel.

    https://tfhub.dev/<publisher>/<model>/<version>
    <owner>/<model>/tensorFlow2/<variation>/<version>
    https://www.kaggle.com/models/<owner>/<model>/tensorFlow2/<variation>/<version>

A version must be named: what a bare handle means changes under one's feet, and cannot be known without
network. What lies in the caches of `tensorflow_hub` (TFHUB_CACHE_DIR) or `kagglehub` (KAGGLEHUB_CACHE) is
used where it is; downloads go to regraft's own folder, which survives a restart of the machine.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path

from regraft.backbones.savedmodel import is_savedmodel
from regraft.backbones.weights import FAULTS, receive, unreachable
from regraft.errors import EnvironmentFault, UsageError
from regraft.system.atomic import new_folder
from regraft.system.cache_dir import default_root
from regraft.system.console import Reporter

__all__ = ["KAGGLE", "Handle", "fetch", "kaggle_folder", "parse_handle"]

TFHUB = "https://tfhub.dev"
KAGGLE = "https://www.kaggle.com"
_FRAMEWORKS = {"tensorflow2": "tensorFlow2", "tensorflow1": "tensorFlow1"}
_PART = r"[A-Za-z0-9][A-Za-z0-9._-]*"


@dataclass(frozen=True)
class Handle:
    """One version of a published module.

    Args:
        text: how its publisher writes it: `https://tfhub.dev/...` or
            `owner/model/framework/variation/version`.
        place: where it lies below regraft's cache, and below Kaggle's for a Kaggle handle.
    """

    text: str
    place: str

    @property
    def name(self) -> str:
        """A name for models and folders, without slashes."""
        return re.sub(r"[^A-Za-z0-9.-]+", "_", self.place.partition("/")[2])

    @property
    def url(self) -> str:
        """Where a compressed archive of it is published."""
        if self.place.startswith("tfhub/"):
            return f"{TFHUB}/{self.place.removeprefix('tfhub/')}?tf-hub-format=compressed"
        return f"{KAGGLE}/api/v1/models/{self.place.removeprefix('kaggle/')}/download"

    @property
    def folder(self) -> Path:
        """Where regraft keeps it."""
        return default_root() / "savedmodels" / self.place

    def on_disk(self) -> Path | None:
        """A folder of this machine that holds it whole: regraft's, else that of a public tool; or None."""
        return next((folder for folder in (self.folder, *self._elsewhere()) if is_savedmodel(folder)), None)

    def _elsewhere(self) -> list[Path]:
        kind, _, rest = self.place.partition("/")
        if kind == "tfhub":
            cache = os.environ.get("TFHUB_CACHE_DIR")
            # tensorflow_hub moves a module into place when it is whole.
            return [Path(cache) / hashlib.sha1(self.text.encode()).hexdigest()] if cache else []
        folder = kaggle_folder(rest)
        return [folder] if folder.with_name(f"{folder.name}.complete").exists() else []


def kaggle_folder(handle: str) -> Path:
    """Return where `kagglehub` keeps a model."""
    cache = os.environ.get("KAGGLEHUB_CACHE")
    return (Path(cache) if cache else Path.home() / ".cache" / "kagglehub") / "models" / handle


def parse_handle(text: str) -> Handle | None:
    """The handle that a text means; None where it is none.

    Raises:
        UsageError: it names no version, or a framework that is not TensorFlow.

    Example:
        >>> parse_handle("google/resnet-v2/TensorFlow2/50-feature-vector/2").text
        'google/resnet-v2/tensorFlow2/50-feature-vector/2'
        >>> parse_handle("https://tfhub.dev/google/imagenet/resnet_v2_50/feature_vector/5").name
        'google_imagenet_resnet_v2_50_feature_vector_5'
        >>> parse_handle("resnet50") is None
        True
    """
    plain = text.partition("?")[0].rstrip("/")
    if re.match(r"https?://(www\.)?tfhub\.dev/", plain):
        return _tfhub(text, plain.partition("tfhub.dev/")[2].split("/"))
    found = re.match(r"https?://(?:www\.)?kaggle\.com/models/(.+)$", plain)
    parts = (found[1] if found else plain).split("/")
    if "variations" in parts:  # the long form of Kaggle's own pages
        parts = [part for part in parts if part not in ("frameworks", "variations", "versions")]
    if found or (len(parts) in (4, 5) and parts[2].lower() in _FRAMEWORKS):
        return _kaggle(text, parts)
    return None


def _tfhub(text: str, parts: list[str]) -> Handle:
    if not all(re.fullmatch(_PART, part) for part in parts) or len(parts) < 2:
        raise UsageError(f"backbone: expected {TFHUB}/PUBLISHER/MODEL/VERSION. Received: {text}.")
    if not parts[-1].isdecimal():
        raise _unpinned(
            text, f"{TFHUB}/{'/'.join(parts)}/1", default_root() / "savedmodels/tfhub" / "/".join(parts)
        )
    joined = "/".join(parts)
    return Handle(f"https://tfhub.dev/{joined}", f"tfhub/{joined}")


def _kaggle(text: str, parts: list[str]) -> Handle:
    wanted = "OWNER/MODEL/tensorFlow2/VARIATION/VERSION"
    if len(parts) not in (4, 5) or not all(re.fullmatch(_PART, part) for part in parts):
        raise UsageError(f"backbone: a Kaggle model is {wanted}. Received: {text}.")
    framework = _FRAMEWORKS.get(parts[2].lower())
    if framework is None:
        raise UsageError(
            f"backbone: of Kaggle's models, those for TensorFlow are SavedModels: {wanted}. Received: "
            f"{text}, for {parts[2]}. Presets for Keras are given as kerashub:NAME."
        )
    joined = "/".join([parts[0], parts[1], framework, *parts[3:]])
    if len(parts) == 4 or not parts[4].isdecimal():
        raise _unpinned(text, f"{joined}/1", default_root() / "savedmodels/kaggle" / joined)
    return Handle(joined, f"kaggle/{joined}")


def _unpinned(text: str, example: str, folder: Path) -> UsageError:
    here = sorted((path.name for path in folder.glob("*") if path.name.isdecimal()), key=int)
    known = f" On this machine: version {', '.join(here)}." if here else ""
    return UsageError(
        f"backbone: {text} names no version, and what the newest is changes. Put one behind it, for example "
        f"{example}; its page lists them.{known}"
    )


def fetch(handle: Handle, *, reporter: Reporter) -> Path:
    """Return the folder of a module on this machine; it is downloaded where necessary.

    Raises:
        EnvironmentFault: it is not here and cannot be had; nothing is left half-written.
    """
    if (folder := handle.on_disk()) is not None:
        return folder
    reason = unreachable(handle.url)
    try:
        if reason is None:
            return _download(handle, reporter)
    except (*FAULTS, tarfile.TarError, EOFError) as fault:
        reason = str(fault) or type(fault).__name__
    raise EnvironmentFault(
        f"{handle.text} is not on this machine and cannot be downloaded: {reason}\n  from: {handle.url}\n"
        f"  to: {handle.folder}\n"
        "Unpack its archive there (saved_model.pb lies at the top), or give the folder of the SavedModel "
        "instead."
    )


def _download(handle: Handle, reporter: Reporter) -> Path:
    target = handle.folder
    target.parent.mkdir(parents=True, exist_ok=True)
    reporter.info(f"Downloading {handle.text} to {target}.")
    with new_folder(target.parent, ".writing-") as beside:
        archive, unpacked = beside / "archive", beside / "module"
        with archive.open("wb") as file:
            receive(handle.url, file, reporter=reporter)
        _unpack(archive, unpacked)
        try:
            unpacked.rename(target)
        except OSError:
            if not is_savedmodel(target):  # another process was first, which is as good
                raise
    return target


def _unpack(archive: Path, folder: Path) -> None:
    folder.mkdir()
    with tarfile.open(archive, "r:*") as tar:
        size, free = 0, shutil.disk_usage(folder).free
        for member in tar:
            size += member.size
            if size > free:
                raise OSError(f"its archive unpacks to {size:,} bytes or more, {free:,} are free")
        # The filter keeps files inside the folder, whatever the archive says.
        tar.extractall(folder, filter="data")
    if not is_savedmodel(folder):
        raise OSError("what the server sent holds no SavedModel")
