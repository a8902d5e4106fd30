"""A handle of TensorFlow Hub or Kaggle becomes a folder on this machine that holds the SavedModel.

    https://tfhub.dev/<publisher>/<model>/<version>
    <owner>/<model>/tensorFlow2/<variation>/<version>
    https://www.kaggle.com/models/<owner>/<model>/tensorFlow2/<variation>/<version>

A handle must name a version: the newest version changes without notice, and is unknown without network. A
module in the cache of `tensorflow_hub` (TFHUB_CACHE_DIR) or `kagglehub` (KAGGLEHUB_CACHE) is used where it
is. Downloads go to regraft's own folder, which survives a restart of the machine.
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
from regraft.backbones.weights import DOWNLOAD_ERRORS, download, explain_unreachable
from regraft.errors import EnvironmentFault, UsageError
from regraft.system.cache_dir import get_default_root
from regraft.system.console import Reporter
from regraft.system.files import make_temporary_folder

__all__ = ["KAGGLE", "Handle", "fetch_module", "locate_kaggle_folder", "parse_handle"]

TFHUB = "https://tfhub.dev"
KAGGLE = "https://www.kaggle.com"
_FRAMEWORKS = {"tensorflow2": "tensorFlow2", "tensorflow1": "tensorFlow1"}
_PART = r"[A-Za-z0-9][A-Za-z0-9._-]*"


@dataclass(frozen=True)
class Handle:
    """One version of a published module.

    Args:
        text: the handle as its publisher writes it: `https://tfhub.dev/...` or
            `owner/model/framework/variation/version`.
        subfolder: its folder within regraft's cache: `tfhub/` or `kaggle/`, then the handle.
    """

    text: str
    subfolder: str

    @property
    def name(self) -> str:
        """Return a name for models and folders, without slashes."""
        return re.sub(r"[^A-Za-z0-9.-]+", "_", self.subfolder.partition("/")[2])

    @property
    def url(self) -> str:
        """Return the address of the published archive."""
        if self.subfolder.startswith("tfhub/"):
            return f"{TFHUB}/{self.subfolder.removeprefix('tfhub/')}?tf-hub-format=compressed"
        return f"{KAGGLE}/api/v1/models/{self.subfolder.removeprefix('kaggle/')}/download"

    @property
    def folder(self) -> Path:
        """Return the folder where regraft keeps the module."""
        return get_default_root() / "savedmodels" / self.subfolder

    def find_on_disk(self) -> Path | None:
        """Return a folder on this machine with the module: regraft's own, else a public tool's; or None."""
        folders = (self.folder, *self._list_public_folders())
        return next((folder for folder in folders if is_savedmodel(folder)), None)

    def _list_public_folders(self) -> list[Path]:
        kind, _, rest = self.subfolder.partition("/")
        if kind == "tfhub":
            cache = os.environ.get("TFHUB_CACHE_DIR")
            # tensorflow_hub moves a module here once it is complete.
            return [Path(cache) / hashlib.sha1(self.text.encode()).hexdigest()] if cache else []
        folder = locate_kaggle_folder(rest)
        return [folder] if folder.with_name(f"{folder.name}.complete").exists() else []


def locate_kaggle_folder(handle: str) -> Path:
    """Return where `kagglehub` keeps a model."""
    cache = os.environ.get("KAGGLEHUB_CACHE")
    return (Path(cache) if cache else Path.home() / ".cache" / "kagglehub") / "models" / handle


def parse_handle(text: str) -> Handle | None:
    """Return the handle that a text means; None where it is not one.

    Raises:
        UsageError: the handle names no version, or a framework that is not TensorFlow.

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
        return _parse_tfhub(text, plain.partition("tfhub.dev/")[2].split("/"))
    page = re.match(r"https?://(?:www\.)?kaggle\.com/models/(.+)$", plain)
    parts = (page[1] if page else plain).split("/")
    if "variations" in parts:  # the long form, as in the addresses of Kaggle's pages
        parts = [part for part in parts if part not in ("frameworks", "variations", "versions")]
    if page or (len(parts) in (4, 5) and parts[2].lower() in _FRAMEWORKS):
        return _parse_kaggle(text, parts)
    return None


def _parse_tfhub(text: str, parts: list[str]) -> Handle:
    if not all(re.fullmatch(_PART, part) for part in parts) or len(parts) < 2:
        raise UsageError(f"backbone: expected {TFHUB}/PUBLISHER/MODEL/VERSION. Received: {text}.")
    path = "/".join(parts)
    if not parts[-1].isdecimal():
        raise _make_version_error(text, f"{TFHUB}/{path}/1", get_default_root() / "savedmodels/tfhub" / path)
    return Handle(f"https://tfhub.dev/{path}", f"tfhub/{path}")


def _parse_kaggle(text: str, parts: list[str]) -> Handle:
    form = "OWNER/MODEL/tensorFlow2/VARIATION/VERSION"
    if len(parts) not in (4, 5) or not all(re.fullmatch(_PART, part) for part in parts):
        raise UsageError(f"backbone: a Kaggle model is {form}. Received: {text}.")
    framework = _FRAMEWORKS.get(parts[2].lower())
    if framework is None:
        raise UsageError(
            f"backbone: only Kaggle's models for TensorFlow are SavedModels: {form}. Received: "
            f"{text}, for {parts[2]}. Presets for Keras are given as kerashub:NAME."
        )
    path = "/".join([parts[0], parts[1], framework, *parts[3:]])
    if len(parts) == 4 or not parts[4].isdecimal():
        raise _make_version_error(text, f"{path}/1", get_default_root() / "savedmodels/kaggle" / path)
    return Handle(path, f"kaggle/{path}")


def _make_version_error(text: str, example: str, folder: Path) -> UsageError:
    versions = sorted((path.name for path in folder.glob("*") if path.name.isdecimal()), key=int)
    note = f" On this machine: version {', '.join(versions)}." if versions else ""
    return UsageError(
        f"backbone: {text} names no version, and the newest one changes. Add one at the end, for example "
        f"{example}; its page lists them.{note}"
    )


def fetch_module(handle: Handle, *, reporter: Reporter) -> Path:
    """Return the folder of a module on this machine; download the module where necessary.

    Raises:
        EnvironmentFault: it is not on this machine and cannot be downloaded; nothing half-written remains.
    """
    if (folder := handle.find_on_disk()) is not None:
        return folder
    reason = explain_unreachable(handle.url)
    try:
        if reason is None:
            return _download(handle, reporter)
    except (*DOWNLOAD_ERRORS, tarfile.TarError, EOFError) as fault:
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
    with make_temporary_folder(target.parent, ".writing-") as folder:
        archive, unpacked = folder / "archive", folder / "module"
        with archive.open("wb") as file:
            download(handle.url, file, reporter=reporter)
        _unpack(archive, unpacked)
        try:
            unpacked.rename(target)
        except OSError:
            if not is_savedmodel(target):  # otherwise another process was first, which is as good
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
        # The filter keeps every file inside the folder, whatever the archive says.
        tar.extractall(folder, filter="data")
    if not is_savedmodel(folder):
        raise OSError("what the server sent holds no SavedModel")
