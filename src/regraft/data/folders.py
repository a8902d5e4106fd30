"""List the class folders of a folder on disk and their images.

Notes tell what was left out: hidden and system files, links to folders, empty folders and stray images.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, cast

from regraft.data.folder_scan import (
    FolderScan,
    describe_ignored,
    has_other_extension,
    is_ignored,
    looks_like_image,
)
from regraft.data.images.rejections import CONFLICTING_COPIES
from regraft.data.parts import LAYOUT, describe_parts, find_part_folders, open_wrappers
from regraft.data.samples import (
    Listing,
    RejectedFile,
    Sample,
    find_contradictions,
    find_same_files,
    inspect_files,
    sniff_file,
)
from regraft.errors import DataError, UsageError, wrap_os_errors
from regraft.system.console import Reporter, format_names

__all__ = ["list_all_images", "list_folder", "list_images", "suggest_inner_folder"]


class _Folder(NamedTuple):
    """A class in a part ("" where the data are not split) with the files below its folder.

    The files that lie directly in a part, or in the root, have the class "".
    """

    path: Path
    part: str
    class_name: str
    files: tuple[Path, ...]


def list_folder(root: Path, *, reporter: Reporter) -> Listing:
    """List the images of class folders, each with its class. Errors are those of `Catalog.from_folder`."""
    scan = FolderScan()
    folders = _find_folders(root, scan)
    strays = _describe_strays(root, folders)
    class_folders = [folder for folder in folders if folder.class_name]
    if not class_folders:
        raise DataError(f"No class folders in {root}{f': {strays}' if strays else ''}. {LAYOUT}")
    if strays:
        scan.notes.append(f"{strays}, and {'was' if strays.startswith('1 ') else 'were'} left out.")
    listing = _inspect(root, class_folders, scan, reporter=reporter)
    samples, classes, notes = listing.samples, listing.outputs, list(listing.notes)
    repeated, contradictory = find_same_files(root, samples), find_contradictions(samples, classes)
    if n := len(repeated):
        links = "files are links to images that are" if n > 1 else "file is a link to an image that is"
        notes.append(f"{n:,} {links} listed already; each image counts once.")
    refused = [
        *listing.refused,
        *(RejectedFile(samples[n].path, CONFLICTING_COPIES, detail) for n, detail in contradictory.items()),
    ]
    refused.sort(key=lambda item: item.image)
    unused = repeated | contradictory.keys()
    used = tuple(sample for number, sample in enumerate(samples) if number not in unused)
    return listing._replace(samples=used, refused=tuple(refused), notes=tuple(notes))


def list_all_images(root: Path, *, reporter: Reporter) -> Listing:
    """List every image below a folder, with its class and part where it lies in a class folder, else "".

    Raises:
        UsageError: `root` is not a folder.
        EnvironmentFault: it cannot be read.
    """
    scan = FolderScan()
    try:
        folders = _find_folders(root, scan)
    except DataError as unclear:
        scan = FolderScan(
            [f"The folders are taken neither for classes nor for parts. {str(unclear).splitlines()[0]}"]
        )
        folders = [_Folder(root, "", "", tuple(scan.iter_files(root)))]
    listing = _inspect(root, folders, scan, reporter=reporter)
    names = [listing.outputs[cast("int", sample.target)] for sample in listing.samples]
    if n := names.count(""):
        note = f"{n:,} image{'s' * (n != 1)} without a class: outside any class folder."
        listing = listing._replace(notes=(*listing.notes, note))
    return listing


def list_images(path: Path, *, reporter: Reporter) -> list[Path]:
    """Return a file itself, or every file below a folder that is or should be an image; report the others."""
    if not path.is_dir():
        return [path]
    scan = FolderScan()
    files = list(scan.iter_files(path))
    ignored = {file for file in files if has_other_extension(file) and is_ignored(file, sniff_file(file))}
    images = [file for file in files if file not in ignored]
    for note in (*scan.describe(), *describe_ignored(ignored)):
        reporter.info(f"{path}: {note}")
    if not images:
        reporter.warn(f"No images in {path}.")
    return images


def suggest_inner_folder(root: Path) -> str:
    """Return a sentence that names the folder below, where `root` is only a folder around it; else ""."""
    inner = open_wrappers(root)
    return "" if inner == root else f"The class folders may be those of {inner}: give that folder.\n"


def _find_folders(root: Path, scan: FolderScan) -> list[_Folder]:
    """Return the class folders of `root` or of its parts, and what lies outside them.

    Raises:
        UsageError: `root` is not a folder.
        DataError: it is unclear which folders are classes.
        EnvironmentFault: it cannot be read.
    """
    with wrap_os_errors(f"The folder {root} cannot be read"):
        if not root.is_dir():
            description = "a file" if root.is_file() else "there is nothing by that name"
            raise UsageError(f"Expected a folder of images. Received: {root} ({description}).")
        top_folders, top_files = scan.list_entries(root)
        parts = find_part_folders(root, top_folders)
        scan.notes += describe_parts(root, parts)
        folders = [_Folder(root, "", "", tuple(top_files))]
        for part, part_folder in parts:
            class_folders = top_folders
            if part:
                class_folders, files = scan.list_entries(part_folder)
                folders.append(_Folder(part_folder, part, "", tuple(files)))
            for path in class_folders:
                name = unicodedata.normalize("NFC", path.name)
                folders.append(_Folder(path, part, name, tuple(scan.iter_files(path))))
        scan.notes += _describe_nested_folders(root, folders)
    return folders


def _describe_strays(root: Path, folders: Iterable[_Folder]) -> str:
    """Count the images outside any class folder, and say in which parts; return "" if there are none."""
    counts = {
        folder.path: sum(map(looks_like_image, folder.files)) for folder in folders if not folder.class_name
    }
    total, parts = sum(counts.values()), [path.name for path, n in counts.items() if n and path != root]
    where = f" (in {format_names(parts)})" if parts else ""
    lie = "s lie" if total != 1 else " lies"
    return f"{total:,} image{lie} outside any class folder{where}" if total else ""


def _describe_nested_folders(root: Path, folders: Iterable[_Folder]) -> list[str]:
    """Return a note that names the folders inside class folders."""
    start = len(root.parts)
    nested = {
        "/".join(file.parts[start : len(folder.path.parts) + 1])
        for folder in folders
        for file in folder.files
        if len(file.parts) > len(folder.path.parts) + 1
    }
    names = format_names(sorted(nested))
    return [f"Images in a folder inside a class folder belong to that class: {names}."] if nested else []


def _inspect(root: Path, folders: Sequence[_Folder], scan: FolderScan, *, reporter: Reporter) -> Listing:
    """Inspect the files of folders: images become samples, other files are refused or ignored."""
    classes = tuple(sorted({folder.class_name for folder in folders if folder.files}))
    empty = sorted({folder.class_name for folder in folders} - {*classes, ""})
    numbers = {name: number for number, name in enumerate(classes)}
    jobs = [(folder, file) for folder in folders for file in folder.files]
    results = inspect_files([file for _, file in jobs], reporter=reporter)
    samples, refused, ignored = [], [], []
    for (folder, file), result in zip(jobs, results, strict=True):
        name = "/".join(file.parts[len(root.parts) :])  # `relative_to` takes ten times as long
        if isinstance(result, str):
            samples.append(Sample(name, numbers[folder.class_name], result, folder.part))
        elif is_ignored(file, result):
            ignored.append(file)
        else:
            refused.append(RejectedFile(name, result.code, result.detail))
    notes = scan.describe()
    if empty:
        are = "s {} are empty and were" if len(empty) > 1 else " {} is empty and was"
        notes.append(f"The class folder{are.format(format_names(empty))} left out.")
    notes += [*_describe_confusable_names(classes), *describe_ignored(ignored)]
    samples.sort(key=lambda sample: sample.path)
    refused.sort(key=lambda item: item.image)
    return Listing(root, classes, tuple(samples), tuple(refused), tuple(notes), "multiclass", "")


def _describe_confusable_names(classes: tuple[str, ...]) -> list[str]:
    """Return notes on class names that differ in capitals only."""
    alike: dict[str, list[str]] = defaultdict(list)
    for name in classes:
        alike[name.casefold()].append(name)
    return [
        f"The class folders {' and '.join(ascii(name) for name in names)} have names that look alike, and "
        "count as different classes."
        for names in alike.values()
        if len(names) > 1
    ]
