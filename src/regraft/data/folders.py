"""A folder on disk -> its class folders and their images: layout, junk, what is not followed.

What is left out is said in notes.
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from regraft.data.images.decode import EXTENSIONS
from regraft.data.images.rejections import CONTRADICTED, Refusal
from regraft.data.samples import Listing, Refused, Sample, contradictions, look_at_all, same_files
from regraft.errors import DataError, EnvironmentFault, UsageError
from regraft.system.console import Reporter

__all__ = ["LAYOUT", "PART_NAMES", "list_folder", "list_images"]

LAYOUT = """Expected one folder a class, the images inside:
    photos/cat/1.jpg  photos/cat/2.jpg  photos/dog/1.jpg
or the same inside train/, validation/ and test/."""

PART_NAMES = {
    "train": "train", "training": "train",
    "validation": "validation", "val": "validation", "valid": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip
LONG = 300  # characters of a path that nobody reads whole
_JUNK = {"thumbs.db", "desktop.ini", "__macosx"}


@dataclass(frozen=True)
class _ClassFolder:
    """One class in one part ("" where nothing has been cut): its name and the files below its folder."""

    part: str
    name: str
    files: tuple[Path, ...]


@dataclass
class _Walk:
    """What is left out on the way through folders: sentences in `notes`, and how much `junk` of systems."""

    notes: list[str] = field(default_factory=list)
    junk: int = 0

    def skips(self, name: str) -> bool:
        """Whether a name is junk, which then is counted."""
        is_junk = _is_junk(name)
        self.junk += is_junk
        return is_junk

    def sentences(self) -> list[str]:
        """The notes, and how much junk there was."""
        s = "s" * (self.junk != 1)
        were = "were" if s else "was"
        said = f"{self.junk:,} hidden or system file{s} or folder{s}, such as .DS_Store, {were} left out."
        return [*self.notes, *([said] if self.junk else [])]


def _class_folders(root: Path, walk: _Walk) -> list[_ClassFolder]:
    """The class folders of `root`, or of its train, validation (val, valid) and test folders.

    What is left out on the way is noted in `walk`.

    Raises:
        UsageError: `root` is no folder.
        DataError: it has no class folders, or it cannot be told which folders are classes.
        EnvironmentFault: it cannot be read.
    """
    try:
        if not root.is_dir():
            what = "a file" if root.is_file() else "there is nothing by that name"
            raise UsageError(f"Expected a folder of images. Received: {root} ({what}).")
        parts = _parts(root)
        found = [
            _ClassFolder(part, each.name, tuple(_files_below(each, walk)))
            for part, folder in parts
            for each in _subfolders(folder, walk)
        ]
        stray = sum(_stray_images(folder) for folder in {root, *(folder for _, folder in parts)})
    except OSError as error:
        raise EnvironmentFault(f"The folder {root} cannot be read: {error.strerror or error}.") from error
    outside = f"{stray} image{'s lie' if stray != 1 else ' lies'} outside any class folder"
    if not found:
        raise DataError(f"No class folders in {root}{f': {outside}' if stray else ''}. {LAYOUT}")
    if stray:
        walk.notes.append(f"{outside}, and was left out." if stray == 1 else f"{outside}, and were left out.")
    return found


def list_images(path: Path) -> Iterator[Path]:
    """Every file below a folder that may be an image, junk left out, sorted; a file gives itself."""
    if path.is_dir():
        yield from (file for file in _files_below(path, _Walk()) if file.suffix.lower() in EXTENSIONS)
    else:
        yield path


def list_folder(root: Path, *, reporter: Reporter) -> Listing:
    """The images of class folders, each with its class. Errors are those of `_class_folders`."""
    walk = _Walk()
    found = _class_folders(root, walk)
    notes = walk.sentences()
    classes = tuple(sorted({folder.name for folder in found if folder.files}))
    empty = sorted({folder.name for folder in found} - set(classes))
    notes += [f"The class folder {name} is empty and was left out." for name in empty]
    notes += _twins(classes)
    index = {name: label for label, name in enumerate(classes)}
    jobs = [(folder, file) for folder in found for file in folder.files]
    verdicts = look_at_all([file for _, file in jobs], reporter=reporter)
    samples, refused, ignored = [], [], Counter[str]()
    for (folder, file), verdict in zip(jobs, verdicts, strict=True):
        name = "/".join(file.parts[len(root.parts) :])  # `relative_to` takes ten times as long
        if isinstance(verdict, str):
            samples.append(Sample(name, index[folder.name], verdict, folder.part))
        elif _is_bystander(file, verdict):
            ignored[file.suffix.lower()] += 1
        else:
            refused.append(Refused(name, verdict.code, verdict.detail))
    notes += [f"{n} {kind} file{'s' * (n > 1)} ignored: not images." for kind, n in sorted(ignored.items())]
    samples.sort(key=lambda sample: sample.path)
    linked, against = same_files(root, samples), contradictions(samples, classes)
    if linked:
        what = (
            "files are links to images that are" if len(linked) > 1 else "file is a link to an image that is"
        )
        notes.append(f"{len(linked):,} {what} listed already; each image counts once.")
    refused += [Refused(samples[at].path, CONTRADICTED, why) for at, why in against.items()]
    refused.sort(key=lambda item: item.image)
    kept = tuple(sample for at, sample in enumerate(samples) if at not in linked and at not in against)
    return Listing(root, classes, kept, tuple(refused), tuple(notes), "multiclass", "")


def _twins(classes: tuple[str, ...]) -> list[str]:
    """Names of classes that a person may take for one: other code points, or capitals."""
    alike: dict[str, list[str]] = defaultdict(list)
    for name in classes:
        alike[unicodedata.normalize("NFC", name).casefold()].append(name)
    return [
        f"The class folders {' and '.join(ascii(name) for name in names)} have names that look alike, and "
        "count as different classes."
        for names in alike.values()
        if len(names) > 1
    ]


def _is_bystander(file: Path, verdict: Refusal) -> bool:
    """A file that nobody meant as an image: notes.txt, labels.csv. Not so a text called photo.jpg."""
    named_otherwise = bool(file.suffix) and file.suffix.lower() not in EXTENSIONS
    return named_otherwise and verdict.code in ("not_an_image", "empty")


def _files_below(folder: Path, walk: _Walk) -> Iterator[Path]:
    """Every file below a folder but junk, sorted. Links to folders are not followed; `walk` notes that."""

    def unreadable(error: OSError) -> None:
        name = os.fspath(error.filename)
        shown = name if len(name) < LONG else f"{name[: LONG // 2]} ... {name[-LONG // 2 :]}"
        walk.notes.append(f"The folder {shown} cannot be read: {error.strerror}.")

    for here, folders, files in os.walk(folder, onerror=unreadable):
        folders[:] = sorted(name for name in folders if not walk.skips(name))
        walk.notes += [_not_followed(name) for name in folders if _safely(Path(here, name).is_symlink)]
        yield from (Path(here, name) for name in sorted(files) if not walk.skips(name))


def _is_junk(name: str) -> bool:
    return name.startswith(".") or name.lower() in _JUNK


def _not_followed(name: str) -> str:
    return f"The folder {name} is a symbolic link and was not followed."


def _parts(root: Path) -> list[tuple[str, Path]]:
    """The parts the user cut, when every subfolder is one; otherwise the root itself, uncut."""
    names = sorted(
        entry.name for entry in os.scandir(root) if _safely(entry.is_dir) and not _is_junk(entry.name)
    )
    parts = [(PART_NAMES[name.lower()], root / name) for name in names if name.lower() in PART_NAMES]
    others = [name for name in names if name.lower() not in PART_NAMES]
    if "train" not in dict(parts):
        return [("", root)]
    if others:
        if len(parts) > 1 and any(_subfolders(folder, _Walk()) for part, folder in parts if part == "train"):
            raise DataError(f"Is {others[0]!r} a class? It lies beside train/ in {root}. {LAYOUT}")
        return [("", root)]
    twice = [part for part, n in Counter(part for part, _ in parts).items() if n > 1]
    if twice:
        raise DataError(f"Two folders of {root} both mean {twice[0]!r}: {', '.join(names)}. Keep one.")
    return parts


def _subfolders(folder: Path, walk: _Walk) -> list[Path]:
    found = []
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if walk.skips(entry.name):
            continue
        if entry.is_symlink() and not _safely(Path(entry.path).exists):
            walk.notes.append(f"The link {entry.name} leads nowhere and was left out.")
        elif _safely(entry.is_dir) and entry.is_symlink():
            walk.notes.append(_not_followed(entry.name))
        elif _safely(entry.is_dir):
            found.append(Path(entry.path))
    return found


def _safely(is_so: Callable[[], bool]) -> bool:
    """Whether something is so; it is not of links that lead to each other and of names that are too long."""
    try:
        return is_so()
    except OSError:
        return False


def _stray_images(folder: Path) -> int:
    """Images beside the class folders, which belong to no class."""
    return sum(
        not _is_junk(entry.name) and Path(entry.name).suffix.lower() in EXTENSIONS and _safely(entry.is_file)
        for entry in os.scandir(folder)
    )
