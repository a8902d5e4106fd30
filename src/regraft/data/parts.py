"""The parts of a data set: their names as people write them, and the folders that stand for them."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

from regraft.data.folder_scan import list_class_names
from regraft.errors import DataError
from regraft.system.console import format_names

__all__ = ["LAYOUT", "describe_parts", "find_part_folders", "open_wrappers", "read_part", "read_parts"]

LAYOUT = """Expected one folder a class, the images inside:
    photos/cat/1.jpg  photos/cat/2.jpg  photos/dog/1.jpg
or the same inside train/, validation/ and test/."""

_PARTS = {
    "train": "train", "training": "train",
    "validation": "validation", "val": "validation", "valid": "validation", "dev": "validation",
    "development": "validation", "eval": "validation", "evaluation": "validation",
    "test": "test", "testing": "test", "holdout": "test",
}  # fmt: skip
_THING = "set|sets|data|dataset|subset|split|part|folder|image|images|img|imgs|photos|pictures|samples"
_PART_WORD = re.compile(rf"({'|'.join(_PARTS)})({_THING})?")
_FILLER = re.compile(_THING)


@cache
def read_part(name: str) -> str:
    """Return the part that a name says as a word; "" for any other name.

    >>> [read_part(name) for name in ("Training set", "test2017", "dev", "trained", "test_track")]
    ['train', 'test', 'validation', '', '']
    """
    return read_parts([name]).get(name, "")


def read_parts(names: Iterable[str]) -> dict[str, str]:
    """Return the part of each name that says one. A word that all names share says nothing about parts.

    >>> read_parts(["seg_train", "seg_test"])
    {'seg_train': 'train', 'seg_test': 'test'}
    """
    words = {name: [word for word in _split_words(name) if not _FILLER.fullmatch(word)] for name in names}
    shared = set[str]().union(*words.values()).intersection(*words.values()) if len(words) > 1 else set[str]()
    parts = {}
    for name, own in words.items():
        telling = [word for word in own if word not in shared or _PART_WORD.fullmatch(word)]
        match = _PART_WORD.fullmatch(telling[0]) if len(telling) == 1 else None
        if match:
            parts[name] = _PARTS[match[1]]
    return parts


def _split_words(name: str) -> list[str]:
    """Return the words of a name in small letters, without numbers: trainSet_2017 is train and set."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return [word.lower() for word in re.findall(r"[^\W\d_]+", spaced)]


def find_part_folders(root: Path, folders: Sequence[Path]) -> list[tuple[str, Path]]:
    """Tell by the names and contents of the folders in `root` whether they are parts.

    Returns:
        Each part with the folder in which its class folders lie; [("", root)] where there are no parts.

    Raises:
        DataError: it is unclear which folders are parts and which are classes.
    """
    inner = {folder.name: open_wrappers(folder) for folder in folders}
    alike = _find_alike(inner)
    parts = read_parts(inner) | read_parts(alike)
    if any(name not in parts for name in alike):
        raise DataError(_describe_two_readings(root, alike))
    if not alike and not _names_tell_parts(parts, inner):
        return [("", root)]
    if others := [name for name in inner if name not in parts]:
        raise DataError(
            f"Is {others[0]!r} a class? It lies beside {format_names(parts)} in {root}.\n"
            f"Move it elsewhere, or rename it to the part it is. {LAYOUT}"
        )
    for part, count in Counter(parts.values()).items():
        if count > 1:
            names = format_names(name for name in parts if parts[name] == part)
            raise DataError(
                f"{count} folders of {root} both mean {part!r}: {names}. Put them together, or keep one."
            )
    return [(part, inner[name]) for name, part in parts.items()]


def open_wrappers(folder: Path) -> Path:
    """Return the folder inside that holds several folders, where each one on the way holds nothing else."""
    names = list_class_names(folder)
    if len(names) != 1:
        return folder
    inner = open_wrappers(folder / names.pop())
    return inner if len(list_class_names(inner)) > 1 else folder


def _find_alike(folders: Mapping[str, Path]) -> dict[str, set[str]]:
    """Return the folders that share two names of subfolders or more, with them, if most folders do."""
    contents = {
        name: {unicodedata.normalize("NFC", inside) for inside in list_class_names(folder)}
        for name, folder in folders.items()
    }
    counts = Counter(name for names in contents.values() for name in names)
    shared = {name for name, count in counts.items() if count > 1}
    alike = {name: names & shared for name, names in contents.items() if len(names & shared) > 1}
    return alike if len(alike) > 1 and 2 * len(alike) >= len(folders) else {}


def _names_tell_parts(parts: Mapping[str, str], folders: Mapping[str, Path]) -> bool:
    """Tell whether names alone make folders parts: train and another, not a class called train."""
    if "train" not in parts.values():
        return False
    if len(parts) == len(folders):
        return len(parts) == 1 or len(set(parts.values())) > 1
    has_classes = any(list_class_names(folders[name]) for name, part in parts.items() if part == "train")
    return len(parts) > 1 and has_classes


def _describe_two_readings(root: Path, alike: Mapping[str, set[str]]) -> str:
    inside = sorted(set[str]().union(*alike.values()))
    first, outer, inner = next(iter(alike)), format_names(alike), format_names(inside)
    if read_parts(inside).keys() == set(inside):
        return (
            f"Expected class folders inside folders of parts, such as {inside[0]}/{first}. "
            f"Received parts inside class folders, such as {first}/{inside[0]}, in {root}.\n"
            f"Put the parts outside, or list the images in a table with a split column."
        )
    return (
        f"Are the folders of {root} classes or parts? They hold folders of the same names.\n"
        f"    If the classes are {outer}: put the images of each straight into its folder, or use a table.\n"
        f"    If the classes are {inner}: rename {outer} to train, validation and test, or put them together."
    )


def describe_parts(root: Path, parts: Iterable[tuple[str, Path]]) -> list[str]:
    """Return a note on how the folders of parts were read, if their names say it in words of their own.

    >>> describe_parts(Path("data"), [("train", Path("data/train")), ("validation", Path("data/dev_set"))])
    ['Parts: train is train, dev_set is validation.']
    """
    names = {path.relative_to(root).parts[0]: part for part, path in parts if part}
    if all(part.startswith(name.lower()) for name, part in names.items()):
        return []
    return [f"Parts: {format_names(f'{name} is {part}' for name, part in names.items())}."]
