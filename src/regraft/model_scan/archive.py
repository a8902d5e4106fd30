"""A `.keras` file as an archive: its members, where they lie, nothing unpacked; what else a file may be.

Keras stores members as they are, one behind the other, without a comment: an archive that is anything else
was not written by it. So nothing can grow while it is read, and no byte of the file belongs to nobody.
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

from regraft.errors import EnvironmentFault, ModelRefused

__all__ = [
    "CONFIG",
    "WEIGHTS",
    "Archive",
    "Member",
    "expect_here",
    "kind_of",
    "kind_of_folder",
    "quoted",
    "read_archive",
    "refused",
]

CONFIG, METADATA, WEIGHTS, ASSETS = "config.json", "metadata.json", "model.weights.h5", "assets/"
MOST_MEMBERS = 10_000
MOST_BYTES = {CONFIG: 8 << 20, METADATA: 64 << 10}  # the largest of keras.applications takes 1 MiB

_LOCAL, _END, _END64, _LOCATOR64 = b"PK\x03\x04", b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
_UTF8_NAMES = 0x800
_BAD = set("\\:\0")

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # longer than a drive's letter
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
_MEMBERS = (  # files by which a folder is known
    ("saved_model.pb", "a SavedModel, which is a program"),
    ("saved_model.pbtxt", "a SavedModel, which is a program"),
    ("_CHECKPOINT_METADATA", "a checkpoint of Orbax"),
    ("manifest.ocdbt", "a checkpoint of Orbax"),
    ("checkpoint", "a checkpoint of TensorFlow"),
    ("config.json", "a preset or a model of a hub"),
)


@dataclass(frozen=True)
class Member:
    """One member: its name, and its bytes in the archive's file from `offset` on."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True)
class Archive:
    """What is in a `.keras` file: `members` in their order, and the two texts among them."""

    path: Path
    members: tuple[Member, ...]
    config: bytes
    metadata: bytes

    @property
    def weights(self) -> Member:
        """The HDF5 file with the weights."""
        return next(member for member in self.members if member.name == WEIGHTS)

    @property
    def assets(self) -> tuple[Member, ...]:
        """Files that layers bring along."""
        return tuple(member for member in self.members if member.name.startswith(ASSETS))


def refused(path: Path, why: str) -> ModelRefused:
    """The error for a model file, with the place in it and the reason."""
    return ModelRefused(f"{path} is refused: {why}")


def quoted(name: str, most: int = 100) -> str:
    r"""A name from a file as one printable line.

    >>> print(quoted("a" + chr(10) + "b"))
    'a\nb'
    """
    shown = ascii(name)
    return shown if len(shown) <= most else shown[:most] + "...'"


def read_archive(path: Path) -> Archive:
    """Look through a `.keras` file; every byte is compared with its checksum, none is unpacked.

    Raises:
        ModelRefused: it is another kind of file, damaged, or no archive that Keras writes; the member is
            named.
        EnvironmentFault: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            _expect_kind(path, file)
            _expect_end(path, file)
            with zipfile.ZipFile(file) as archive:
                members = _members(path, file, archive)
                damaged = archive.testzip()
                if damaged is not None:
                    raise refused(path, f"member {quoted(damaged)} is damaged.")
                return Archive(path, members, archive.read(CONFIG), archive.read(METADATA))
    except (zipfile.BadZipFile, NotImplementedError, struct.error, UnicodeDecodeError, EOFError) as fault:
        raise refused(path, f"it is damaged or no archive that Keras wrote ({fault}).") from fault
    except OSError as fault:
        raise EnvironmentFault(f"{path} cannot be read: {fault.strerror or fault}.") from fault


def _expect_kind(path: Path, file: BinaryIO) -> None:
    first = file.read(8)
    if first.startswith(_LOCAL):
        return
    raise refused(path, f"expected a .keras file as Keras' model.save writes it. Received: {kind_of(first)}.")


def _expect_end(path: Path, file: BinaryIO) -> None:
    """The list of members is read whole, so first see how long it says it is."""
    size = file.seek(0, 2)
    file.seek(max(size - 98, 0))
    tail = file.read()
    end, before = tail[-22:], tail[:-22]
    if not end.startswith(_END) or end[20:] != b"\0\0":
        raise refused(path, "it does not end as an archive does: it was cut off, or something is behind it.")
    count, length = struct.unpack("<HI", end[10:16])
    if before[-20:].startswith(_LOCATOR64):
        if not before[-76:].startswith(_END64):
            raise refused(path, "its list of members is damaged.")
        count, length = struct.unpack("<QQ", before[-44:-28])
    if count > MOST_MEMBERS or length > MOST_MEMBERS * 512:
        raise refused(path, f"it has more than {MOST_MEMBERS:,} members.")


def _members(path: Path, file: BinaryIO, archive: zipfile.ZipFile) -> tuple[Member, ...]:
    listed = archive.infolist()
    if any(info.filename.endswith("data.pkl") for info in listed):
        raise refused(path, "expected a .keras file. Received: a PyTorch file, which holds a pickle.")
    for info in listed:
        why = _wrong(info)
        if why:
            raise refused(path, f"member {quoted(info.orig_filename)} {why}.")
    names = Counter(info.filename for info in listed)
    for name, times in names.items():
        if times > 1:
            raise refused(path, f"member {quoted(name)} is there {times:,} times.")
    for name in (CONFIG, METADATA, WEIGHTS):
        if name not in names:
            raise refused(
                path, f"member {name} is missing. Expected a .keras file as Keras' model.save writes it."
            )
    found, at = [], 0
    for info in sorted(listed, key=lambda info: info.header_offset):
        found.append(_located(path, file, info, at))
        at = found[-1].offset + found[-1].size
    if at != archive.start_dir:
        raise refused(path, "there are bytes behind its last member that belong to none.")
    return tuple(found)


def _wrong(info: zipfile.ZipInfo) -> str:
    """What is wrong with a member as the archive lists it; "" for nothing."""
    name = info.orig_filename
    known = name in (CONFIG, METADATA, WEIGHTS) or name.startswith(ASSETS)
    kind = stat.S_IFMT(info.external_attr >> 16)
    stored = info.compress_type == zipfile.ZIP_STORED and info.compress_size == info.file_size
    most = MOST_BYTES.get(name, info.file_size)
    checks = {
        "would be written outside its folder": ".." in name.split("/") or name[:1] == "/" or set(name) & _BAD,
        "is none that a .keras file has": not known,
        "is no file but a link, a folder or a device": kind not in (0, stat.S_IFREG) or name.endswith("/"),
        "is encrypted": info.flag_bits & 1,
        "is stored in a way that Keras does not use": info.flag_bits & ~_UTF8_NAMES,
        "is compressed, which Keras never does; open the model with Keras and save it again": not stored,
        f"has {info.file_size:,} bytes, of {most:,} at most": info.file_size > most,
    }
    return next((why for why, so in checks.items() if so), "")


def _located(path: Path, file: BinaryIO, info: zipfile.ZipInfo, at: int) -> Member:
    """Where a member's bytes begin: its own header says the same as the list, and follows the one before."""
    file.seek(info.header_offset)
    header = file.read(30)
    signature, _, flags, method, _, _, _, packed, size, name_length, extra_length = struct.unpack(
        "<4s5H3I2H", header
    )
    name, extra = file.read(name_length), file.read(extra_length)
    if extra[:4] == b"\x01\x00\x10\x00" and (packed, size) == (0xFFFFFFFF, 0xFFFFFFFF):
        size, packed = struct.unpack("<QQ", extra[4:20])
    expected = name.decode("utf-8" if flags & _UTF8_NAMES else "cp437")
    said = (signature, expected, method, packed, size)
    if said != (_LOCAL, info.orig_filename, info.compress_type, info.compress_size, info.file_size):
        raise refused(path, f"member {quoted(info.filename)} is not what the list of members says.")
    if info.header_offset != at:
        raise refused(path, f"member {quoted(info.filename)} does not follow the one before it.")
    member = Member(info.filename, info.header_offset + 30 + name_length + extra_length, info.file_size)
    if member.name.startswith(ASSETS) and file.read(4) == _LOCAL:
        raise refused(path, f"member {quoted(member.name)} is an archive itself.")
    return member


def kind_of(first: bytes) -> str:
    """What a file is by its first bytes, 8 at least, in words.

    >>> kind_of(b"\\x80\\x04\\x95xxxxx")
    'a pickle, which is a program'
    """
    named = (what for magic, what in _MAGIC if first.startswith(magic))
    return next(named, "a TensorFlow Lite model" if first[4:8] == b"TFL3" else "something else")


def kind_of_folder(folder: Path) -> str:
    """What a folder is by the names in it, in words; "" for nothing known."""
    return next((what for name, what in _MEMBERS if (folder / name).exists()), "")


def expect_here(path: str | os.PathLike[str], expected: str) -> None:
    """A path of this machine: nothing is ever fetched.

    Args:
        path: what was given.
        expected: what should have been, for the message.

    Raises:
        ModelRefused: it is an address, such as hf://OWNER/MODEL.
    """
    if _ADDRESS.match(os.fspath(path)) and not Path(path).exists():
        raise ModelRefused(f"Expected {expected}. Received: {path}, an address. Models are never fetched.")
