"""Find out where the files are that a table names wrongly, for the message that refuses its rows."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path, PurePath

from regraft.data.images.decode import EXTENSIONS

__all__ = ["describe_where_files_lie"]

MAX_TRIED = 20  # missing files
MAX_LISTED = 20_000  # files of a folder and those below it
FIRST_TRIED = (".jpg", ".png", ".jpeg")  # of the extensions


def describe_where_files_lie(root: Path, missing: Sequence[str]) -> str:
    """Return a sentence that tells where most of the missing files of a table are; "" if that is unknown.

    Args:
        root: the folder that paths are relative to.
        missing: paths, as the table has them, for which there is no file.
    """
    tried = list(dict.fromkeys(missing))[:MAX_TRIED]
    root = Path(os.path.abspath(root))  # noqa: PTH100 - links stay
    bases = [base for base in (root, root.parent) if base != base.parent] if tried else []
    searches = (partial(_search, root, base, _index_files(base)) for base in bases)
    for find in chain([partial(_try_extensions, root)], searches):
        ways = Counter(way for path in tried for way in find(path))
        way, count = next(iter(ways.most_common(1)), ("", 0))
        if count and 2 * count >= len(tried):
            return f"Missing files were found {way}: {count} of {len(tried)} looked for."
    return ""


def _try_extensions(root: Path, path: str) -> Iterator[str]:
    """Yield how the name of a file becomes right by an extension that is added or replaced."""
    suffix = PurePath(path).suffix
    for extension in dict.fromkeys((*FIRST_TRIED, *sorted(EXTENSIONS))):
        for form in (extension, extension.upper()):
            if os.path.exists(root / f"{path}{form}"):  # noqa: PTH110 - any name will do
                yield f"with {form} added to the name"
            elif suffix and os.path.exists(root / f"{path.removesuffix(suffix)}{form}"):  # noqa: PTH110
                yield f"with {form} instead of {suffix}"


def _search(root: Path, base: Path, index: Mapping[str, list[str]], path: str) -> Iterator[str]:
    """Yield where the only file below `base` is that has this path, or at least this name."""
    wanted = _fold(path)
    files = index.get(PurePath(wanted).name, [])
    for ending in dict.fromkeys((f"/{wanted}", f"/{PurePath(wanted).name}")):
        matches = [file for file in files if f"/{_fold(file)}".endswith(ending)]
        if len(matches) == 1:
            real = PurePath(os.path.relpath(base / matches[0], root))
            folder = PurePath(*real.parts[: len(real.parts) - ending.count("/")])
            if folder.parts:
                yield f"in the folder {str(folder)!r}"
            else:
                yield "in other capitals"
            return


def _index_files(folder: Path) -> dict[str, list[str]]:
    """Return the files below a folder, relative to it, by their folded names; not all where they are many."""
    index: dict[str, list[str]] = defaultdict(list)
    count = 0
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            index[_fold(name)].append(os.path.relpath(os.path.join(parent, name), folder))  # noqa: PTH118
        count += len(files)
        if count > MAX_LISTED:
            break
    return index


def _fold(text: str) -> str:
    return unicodedata.normalize("NFC", text.replace("\\", "/")).casefold()
