"""A `.keras` file as an archive: its members and where they lie. Nothing is unpacked.

Keras stores members uncompressed, one directly after the other, without a comment. An archive of any other
form was not written by Keras, so it is refused: no member can grow while it is read, and every byte of the
file belongs to a member.
"""

from __future__ import annotations

import os
import re
import stat
import struct
import zipfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from regraft.errors import EnvironmentFault, ModelRefused, describe_os_error

__all__ = [
    "CONFIG",
    "WEIGHTS",
    "Archive",
    "Member",
    "describe_file_kind",
    "describe_folder_kind",
    "expect_local_path",
    "make_refusal",
    "quote_name",
    "read_archive",
]

CONFIG, METADATA, WEIGHTS, ASSETS = "config.json", "metadata.json", "model.weights.h5", "assets/"
MOST_MEMBERS = 10_000
MOST_BYTES = {CONFIG: 8 << 20, METADATA: 64 << 10}  # the largest of keras.applications takes 1 MiB

_LOCAL, _END, _END64, _LOCATOR64 = b"PK\x03\x04", b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
_UTF8_NAMES = 0x800
_UNSAFE_CHARACTERS = set("\\:\0")

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # two letters or more: one is a Windows drive
_MAGIC = (
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file; open it with Keras and save it again as .keras"),
    *((bytes([0x80, protocol]), "a pickle, which is a program") for protocol in range(2, 6)),
    (b"\x1f\x8b", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"\x89PNG", "an image"),
    (b"\xff\xd8\xff", "an image"),
    (b"\x7fELF", "a program"),
    (b"PK\x05\x06", "an empty archive"),
    (b"PK\x03\x04", "a zip archive, as files of Keras and PyTorch are"),
)
_FOLDER_MARKS = (  # files by which a folder is recognised
    ("saved_model.pb", "a SavedModel, which is a program"),
    ("saved_model.pbtxt", "a SavedModel, which is a program"),
    ("_CHECKPOINT_METADATA", "a checkpoint of Orbax"),
    ("manifest.ocdbt", "a checkpoint of Orbax"),
    ("checkpoint", "a checkpoint of TensorFlow"),
    ("config.json", "a preset or a model of a hub"),
)


@dataclass(frozen=True)
class Member:
    """A member of an archive: its name, and where its bytes begin in the archive's file."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True)
class Archive:
    """The content of a `.keras` file: its `members` in order, and the text of two of them."""

    path: Path
    members: tuple[Member, ...]
    config: bytes
    metadata: bytes

    @property
    def weights(self) -> Member:
        """Return the HDF5 file with the weights."""
        return next(member for member in self.members if member.name == WEIGHTS)

    @property
    def assets(self) -> tuple[Member, ...]:
        """Return the files that layers have added."""
        return tuple(member for member in self.members if member.name.startswith(ASSETS))


def make_refusal(path: Path, reason: str) -> ModelRefused:
    """Return the error for a model file; `reason` names the member, layer or array."""
    return ModelRefused(f"{path} is refused: {reason}")


def quote_name(name: str, most: int = 100) -> str:
    r"""Return a name from a file as one printable line of ASCII.

    >>> print(quote_name("a" + chr(10) + "b"))
    'a\nb'
    """
    shown = ascii(name)
    return shown if len(shown) <= most else shown[:most] + "...'"


def read_archive(path: Path) -> Archive:
    """Check a `.keras` file as an archive: compare every byte with its checksum, unpack nothing.

    Raises:
        ModelRefused: the file is of another kind, damaged, or not an archive that Keras writes; the message
            names the member.
        EnvironmentFault: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            _expect_kind(path, file)
            _expect_end(path, file)
            with zipfile.ZipFile(file) as archive:
                members = _locate_members(path, file, archive)
                damaged = archive.testzip()
                if damaged is not None:
                    raise make_refusal(path, f"member {quote_name(damaged)} is damaged.")
                return Archive(path, members, archive.read(CONFIG), archive.read(METADATA))
    except (zipfile.BadZipFile, NotImplementedError, struct.error, UnicodeDecodeError, EOFError) as fault:
        raise make_refusal(path, f"it is damaged, or not an archive that Keras wrote ({fault}).") from fault
    except OSError as fault:
        raise EnvironmentFault(f"{path} cannot be read: {describe_os_error(fault)}.") from fault


def _expect_kind(path: Path, file: BinaryIO) -> None:
    first = file.read(8)
    if first.startswith(_LOCAL):
        return
    raise make_refusal(
        path, f"expected a .keras file as Keras' model.save writes it. Received: {describe_file_kind(first)}."
    )


def _expect_end(path: Path, file: BinaryIO) -> None:
    """Check the end of an archive, which says how long its list of members is: it is read in one go."""
    size = file.seek(0, 2)
    file.seek(max(size - 98, 0))
    tail = file.read()
    end, before = tail[-22:], tail[:-22]
    if not end.startswith(_END) or end[20:] != b"\0\0":
        raise make_refusal(
            path, "it does not end as an archive does: it was cut off, or something follows its end."
        )
    count, length = struct.unpack("<HI", end[10:16])
    if before[-20:].startswith(_LOCATOR64):
        if not before[-76:].startswith(_END64):
            raise make_refusal(path, "its list of members is damaged.")
        count, length = struct.unpack("<QQ", before[-44:-28])
    if count > MOST_MEMBERS or length > MOST_MEMBERS * 512:
        raise make_refusal(path, f"it has more than {MOST_MEMBERS:,} members.")


def _locate_members(path: Path, file: BinaryIO, archive: zipfile.ZipFile) -> tuple[Member, ...]:
    """Check every member, and that together they fill the file up to the list of members."""
    infos = archive.infolist()
    if any(info.filename.endswith("data.pkl") for info in infos):
        raise make_refusal(path, "expected a .keras file. Received: a PyTorch file, which holds a pickle.")
    for info in infos:
        if fault := _find_fault(info):
            raise make_refusal(path, f"member {quote_name(info.orig_filename)} {fault}.")
    names = Counter(info.filename for info in infos)
    for name, times in names.items():
        if times > 1:
            raise make_refusal(path, f"member {quote_name(name)} is there {times:,} times.")
    for name in (CONFIG, METADATA, WEIGHTS):
        if name not in names:
            raise make_refusal(
                path, f"member {name} is missing. Expected a .keras file as Keras' model.save writes it."
            )
    members, end = [], 0
    for info in sorted(infos, key=lambda info: info.header_offset):
        members.append(_locate_member(path, file, info, end))
        end = members[-1].offset + members[-1].size
    if end != archive.start_dir:
        raise make_refusal(path, "there are bytes after its last member that belong to none.")
    return tuple(members)


def _find_fault(info: zipfile.ZipInfo) -> str:
    """Return what is wrong with a member as the archive lists it; "" for nothing."""
    name = info.orig_filename
    is_expected = name in (CONFIG, METADATA, WEIGHTS) or name.startswith(ASSETS)
    kind = stat.S_IFMT(info.external_attr >> 16)
    is_stored = info.compress_type == zipfile.ZIP_STORED and info.compress_size == info.file_size
    most = MOST_BYTES.get(name, info.file_size)
    checks = {
        "would be written outside its folder": ".." in name.split("/")
        or name[:1] == "/"
        or set(name) & _UNSAFE_CHARACTERS,
        "is not a member that a .keras file has": not is_expected,
        "is not a file but a link, a folder or a device": kind not in (0, stat.S_IFREG) or name.endswith("/"),
        "is encrypted": info.flag_bits & 1,
        "is stored in a way that Keras does not use": info.flag_bits & ~_UTF8_NAMES,
        "is compressed, which Keras never does; open the model with Keras and save it again": not is_stored,
        f"has {info.file_size:,} bytes, more than the {most:,} allowed": info.file_size > most,
    }
    return next((fault for fault, is_there in checks.items() if is_there), "")


def _locate_member(path: Path, file: BinaryIO, info: zipfile.ZipInfo, start: int) -> Member:
    """Find where a member's bytes begin; its header must agree with the list and lie at `start`."""
    file.seek(info.header_offset)
    header = file.read(30)
    signature, _, flags, method, _, _, _, packed, size, name_length, extra_length = struct.unpack(
        "<4s5H3I2H", header
    )
    name, extra = file.read(name_length), file.read(extra_length)
    if extra[:4] == b"\x01\x00\x10\x00" and (packed, size) == (0xFFFFFFFF, 0xFFFFFFFF):
        size, packed = struct.unpack("<QQ", extra[4:20])
    text = name.decode("utf-8" if flags & _UTF8_NAMES else "cp437")
    if (signature, text, method, packed, size) != (
        _LOCAL,
        info.orig_filename,
        info.compress_type,
        info.compress_size,
        info.file_size,
    ):
        raise make_refusal(path, f"member {quote_name(info.filename)} is not what the list of members says.")
    if info.header_offset != start:
        raise make_refusal(path, f"member {quote_name(info.filename)} does not follow the one before it.")
    member = Member(info.filename, info.header_offset + 30 + name_length + extra_length, info.file_size)
    if member.name.startswith(ASSETS) and file.read(4) == _LOCAL:
        raise make_refusal(path, f"member {quote_name(member.name)} is an archive itself.")
    return member


def describe_file_kind(first: bytes) -> str:
    """Return the kind of a file in words, from its first bytes, at least 8.

    >>> describe_file_kind(b"\\x80\\x04\\x95xxxxx")
    'a pickle, which is a program'
    """
    kinds = (kind for magic, kind in _MAGIC if first.startswith(magic))
    return next(kinds, "a TensorFlow Lite model" if first[4:8] == b"TFL3" else "something else")


def describe_folder_kind(folder: Path) -> str:
    """Return the kind of a folder in words, from the names in it; "" where they say nothing."""
    return next((kind for name, kind in _FOLDER_MARKS if (folder / name).exists()), "")


def expect_local_path(path: str | os.PathLike[str], expected: str) -> None:
    """Check that a path names something on this machine: nothing is ever fetched.

    Args:
        path: the path.
        expected: what the path should name, for the message.

    Raises:
        ModelRefused: the path is an address, such as hf://OWNER/MODEL.
    """
    if _ADDRESS.match(os.fspath(path)) and not Path(path).exists():
        raise ModelRefused(f"Expected {expected}. Received: {path}, an address. Models are never fetched.")
