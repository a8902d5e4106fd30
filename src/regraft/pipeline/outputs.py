"""Where a command may write: never over its inputs, nor over files that regraft did not write."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from regraft.backbones.info import locate_backbone, locate_weights
from regraft.data.catalog import Catalog
from regraft.data.images.rejections import HEAD_BYTES, sniff
from regraft.data.sources import is_in_memory, name_data
from regraft.errors import EnvironmentFault, UsageError, wrap_os_errors
from regraft.inference.bundle import MANIFEST
from regraft.inference.model_files import ESTIMATOR, GRAPH
from regraft.inference.predict import SELFTEST
from regraft.pipeline.predictions import PREDICTIONS, SPLIT
from regraft.pipeline.signing import SIGNATURE
from regraft.recipe import Recipe
from regraft.report.bill_of_materials import BILL
from regraft.report.model_card import MODEL_CARD
from regraft.settings.network_list import split_for_each
from regraft.system.cache_dir import get_default_root
from regraft.system.files import make_temporary_folder, replace_atomically, require_absent
from regraft.uncertainty.file import UNCERTAINTY

__all__ = [
    "CHECK_FOLDER",
    "DEMO_FOLDER",
    "RUN_FOLDER",
    "FolderKind",
    "claim_folder",
    "require_inputs_outside",
    "require_new_file",
    "require_replaceable",
]

Data = Catalog | str | os.PathLike[str]


@dataclass(frozen=True)
class FolderKind:
    """A kind of folder that regraft writes.

    Attributes:
        noun: names it in messages.
        record: the JSON file by which such a folder is recognised; its first key is the format's number.
        keys: keys that are in every record.
        files: matches the names of all files that regraft writes into such a folder.
    """

    noun: str
    record: str
    keys: tuple[str, ...]
    files: re.Pattern[str]

    def is_kind_of(self, folder: Path) -> bool:
        """Tell whether a folder has a record that parses as one of this kind."""
        try:
            record = json.loads((folder / self.record).read_bytes())
        except (OSError, ValueError):
            return False
        has_keys = isinstance(record, dict) and all(key in record for key in self.keys)
        return has_keys and isinstance(record[self.keys[0]], int)

    def find_other_file(self, folder: Path) -> str | None:
        """Return the first file in a folder that regraft does not write into this kind of folder."""
        for parent, folders, files in os.walk(folder):
            folders.sort()
            links = [name for name in folders if Path(parent, name).is_symlink()]
            for name in sorted([*files, *links]):
                path = Path(parent, name).relative_to(folder).as_posix()
                if not self.files.fullmatch(path) and not _SYSTEM_FILES.fullmatch(name):
                    return path
        return None


_SYSTEM_FILES = re.compile(r"\.DS_Store|\._.*|Thumbs\.db|desktop\.ini")  # file managers write them unasked
_RUN_FILES = "|".join(
    re.escape(name)
    for name in (
        "history.csv", MANIFEST, PREDICTIONS, "metrics.json", "model.keras", ESTIMATOR, *GRAPH, "recipe.toml",
        "refused.jsonl", "report.html", SELFTEST, SPLIT, UNCERTAINTY, MODEL_CARD, BILL, SIGNATURE,
    )
)  # fmt: skip
_RUN_KEYS = ("format", "task", "outputs", "files")
RUN_FOLDER = FolderKind("run folder", MANIFEST, _RUN_KEYS, re.compile(_RUN_FILES))
CHECK_FOLDER = FolderKind(
    "folder of `regraft check`",
    "check.json",
    ("form", "task", "outputs", "problems"),
    re.compile(r"check\.(json|html)"),
)
DEMO_FOLDER = FolderKind(
    "finished demo",
    f"grafted/{MANIFEST}",
    _RUN_KEYS,
    re.compile(rf"backbone\.keras|digits/\w+/\d/\d+\.png|grafted/({_RUN_FILES})|store/.*"),
)


def require_inputs_outside(
    out: Path, data: Data, recipe: Recipe, *, store: str | os.PathLike[str] | None
) -> None:
    """Check that an output file or folder is not an input of the command and contains none.

    Args:
        out: the output; it need not exist.
        data, store: as for `train`.
        recipe: names backbone, weights, and the folder of a table's images.

    Raises:
        UsageError: it is an input or contains one, by resolved path.
    """
    target = Path(os.path.realpath(out))
    for noun, path in _list_inputs(data, recipe, store):
        resolved = Path(os.path.realpath(path))
        if resolved.is_relative_to(target):
            relation = f"is the {noun}" if resolved == target else f"contains the {noun}: {path}"
            raise UsageError(
                "Expected an output apart from everything that the command reads. "
                f"Received: {out}, which {relation}. Choose another."
            )


def _list_inputs(
    data: Data, recipe: Recipe, store: str | os.PathLike[str] | None
) -> Iterator[tuple[str, str | os.PathLike[str]]]:
    """Yield a noun and the path of everything on disk that a command reads."""
    named = name_data(data, recipe)
    if not is_in_memory(named.data):
        yield "data", named.data
    if isinstance(data, Catalog):
        yield "folder of images", data.root
    elif named.root:
        yield "folder of images", named.root
    yield "store", store or get_default_root()
    for backbone in recipe.networks:
        if (path := locate_backbone(backbone)) is not None:
            yield "backbone", path
    for weights in split_for_each(recipe.weights, len(recipe.networks), "weights"):
        if (path := locate_weights(weights)) is not None:
            yield "file of weights", path


def require_replaceable(out: Path, *, overwrite: bool, kind: FolderKind) -> None:
    """Check that a folder can be made, or replaced without the loss of a file that regraft did not write.

    Raises:
        UsageError: `out` exists and is not to be replaced, is not of this kind, or holds other files.
    """
    require_absent(out, overwrite=overwrite)
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    refusal = "so --overwrite does not replace it"
    if not out.is_dir() or not kind.is_kind_of(out):
        raise UsageError(
            f"{out} is not a {kind.noun} (it has no {kind.record} that regraft wrote), {refusal}. "
            "Choose another."
        )
    if (other := kind.find_other_file(out)) is not None:
        raise UsageError(
            f"{out} holds {other}, which regraft did not write, {refusal}. "
            "Move it elsewhere, or choose another folder."
        )


def require_new_file(file: Path, *, overwrite: bool) -> None:
    """Check that a file can be made, or replaced although it exists.

    Raises:
        UsageError: `file` is a folder, exists and is not to be replaced, or is an image.
    """
    if file.is_dir():
        raise UsageError(f"Expected a file to make. Received: {file}, a folder.")
    require_absent(file, overwrite=overwrite, kind="file")
    if file.is_file():
        with wrap_os_errors(f"{file} cannot be read"), file.open("rb") as stream:
            is_image = sniff(stream.read(HEAD_BYTES)) is None
        if is_image:
            raise UsageError(f"{file} is an image, so --overwrite does not replace it. Choose another file.")


@contextmanager
def claim_folder(out: Path, *, overwrite: bool, kind: FolderKind = RUN_FOLDER) -> Iterator[Path]:
    """Yield a temporary folder that replaces `out` on success and is deleted on error.

    Raises:
        UsageError: see `require_replaceable`.
        EnvironmentFault: nothing can be written there.
    """
    require_replaceable(out, overwrite=overwrite, kind=kind)
    with ExitStack() as stack:
        with wrap_os_errors(f"Nothing can be written to {out.parent}"):
            out.parent.mkdir(parents=True, exist_ok=True)
            folder = stack.enter_context(make_temporary_folder(out.parent, f".{out.name}.writing-"))
        try:
            yield folder
            replace_atomically(folder, out)
            _return_other_files(folder, out, kind)
        except EnvironmentFault:
            raise
        except OSError as error:
            raise EnvironmentFault(f"The folder {out} cannot be written: {error}.") from error


def _return_other_files(replaced: Path, out: Path, kind: FolderKind) -> None:
    """Move what somebody put into a folder while its replacement was being made to that replacement."""
    while not replaced.is_symlink() and (other := kind.find_other_file(replaced)) is not None:
        name = other.split("/")[0]
        (replaced / name).rename(out / name)
