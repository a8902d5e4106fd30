"""Whatever a file holds, the guarded decoder ends with pixels or a known code, soon and in little memory."""

from __future__ import annotations

import re
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from helpers.mutations import mutants

import regraft.data.images.rejections
from regraft.data.images.decode import DecodedImage, decode, digest
from regraft.data.images.decoder_process import DecoderProcess
from regraft.data.images.rejections import Rejection

CODES = set(re.findall(r"`(\w+)`", regraft.data.images.rejections.__doc__ or ""))
SIZE = 64
SECONDS = 5
MEGABYTES = 480  # of one child: two and the process that reads them stay below 1,000


def peak(child: DecoderProcess) -> int:
    """The most memory a child has had, in MB."""
    if child._process is None:  # it died on this file
        return 0
    status = Path(f"/proc/{child._process._process.pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) // 1000


def here(data: bytes, name: str) -> DecodedImage | Rejection:
    try:
        return decode(data, SIZE, name=name)
    except Rejection as refusal:
        return refusal


def sweep(files: list[tuple[str, bytes]], folder: Path) -> Counter[str]:
    """Every file through a child, twice, and through this process; how many ended how."""
    found: Counter[str] = Counter()
    child, slowest, most = DecoderProcess(), 0.0, 0
    child.decode(folder, "", SIZE)  # it starts
    for name, data in files:
        path = folder / f"file{Path(name).suffix}"
        path.write_bytes(data)
        begun = time.monotonic()
        first, second = (child.decode(path, digest(data), SIZE) for _ in range(2))
        slowest = max(slowest, (time.monotonic() - begun) / 2)
        most = max(most, peak(child))
        for other in (second, here(data, path.name)):
            if isinstance(first, Rejection):
                assert isinstance(other, Rejection), name
                assert (other.code, other.detail) == (first.code, first.detail), name
            else:
                assert isinstance(other, DecodedImage), name
                assert other.facts == first.facts, name
                np.testing.assert_array_equal(other.pixels, first.pixels, err_msg=name)
        found[first.code if isinstance(first, Rejection) else "decoded"] += 1
    child.end()
    print(f"\n{len(files)} files: slowest {slowest:.2f} s, child's peak {most} MB, {dict(found)}")
    assert set(found) <= CODES | {"decoded"}
    assert not found["decoder_died"] + found["decode_timeout"]
    assert slowest < SECONDS
    assert most < MEGABYTES
    return found


def photographs(clothing: Path, count: int) -> list[Path]:
    every = sorted(clothing.rglob("*.jpg"))
    return every[:: len(every) // count][:count]


def test_broken_photographs_end_decoded_or_refused(clothing: Path, tmp_path: Path) -> None:
    found = sweep(list(mutants(photographs(clothing, 8), 60)), tmp_path)
    assert found["decoded"] > 5
    assert found["truncated"] > 5
    assert found["corrupt"] > 5


@pytest.mark.soak
def test_thousands_of_broken_photographs_end_decoded_or_refused(clothing: Path, tmp_path: Path) -> None:
    sweep(list(mutants(photographs(clothing, 200), 2000, seed=1)), tmp_path)


@pytest.mark.soak
def test_unusual_and_turned_files_do_too(corpora: Path, tmp_path: Path) -> None:
    files = [path for path in sorted(corpora.rglob("*")) if path.is_file()]
    found = sweep([(path.name, path.read_bytes()) for path in files], tmp_path)
    assert found["decoded"] > 70
