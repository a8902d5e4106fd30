"""Decoding and resizing photographs on one core: Pillow's resize against the one in use, in turn.

Both sides run the whole of `decode`, so everything else that it does is in both. The seconds are the
processor's, which other programs change little.

usage: decoding.py [--rounds N] [--data FOLDER] [--size PIXELS] [--images N] [--json FILE]
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
from rows import Row, Sheet, Side, add_json, ratios

from regraft.data.images import resize
from regraft.data.images.decode import decode
from regraft.data.images.decoder_name import DECODER

PHOTOS = Path(__file__).resolve().parents[2] / "shared" / "images" / "clothing"


def rate(files: list[bytes], size: int, *, fast: bool = True) -> float:
    """Images decoded in a second of one processor's time, by cykooz-resizer or by Pillow."""
    resize.FAST = fast
    begun = time.process_time()
    for data in files:
        decode(data, size)
    return len(files) / (time.process_time() - begun)


def differences(files: list[bytes], size: int) -> tuple[int, float]:
    """The largest and the mean difference between the pixels of both, of 255."""
    largest, total = 0, 0.0
    for data in files:
        resize.FAST = False
        slow = decode(data, size).pixels.astype(int)
        resize.FAST = True
        apart = np.abs(decode(data, size).pixels - slow)
        largest, total = max(largest, int(apart.max())), total + float(apart.mean())
    return largest, total / len(files)


def measure(files: list[bytes], given: argparse.Namespace) -> Sheet:
    """Both rates in turn, and how far the pixels are apart."""
    slow, fast = [], []
    for _ in range(given.rounds):
        slow.append(rate(files, given.size, fast=False))
        fast.append(rate(files, given.size))
    largest, mean = differences(files, given.size)
    remark = f"{len(files):,} photographs at {given.size} px, one core; {DECODER}"
    speed = Row(
        "decoding and resizing against Pillow's resize",
        "times",
        ratios(fast, slow),
        at_least=1.4,
        sides=(
            Side("Pillow's resize", "images/s", tuple(slow)),
            Side("cykooz-resizer", "images/s", tuple(fast)),
        ),
        remark=remark,
    )
    distance = Row(
        "largest difference of a pixel from Pillow's", "of 255", (float(largest),), at_most=1,
        remark=f"{mean:.3f} of 255 in the mean",
    )  # fmt: skip
    return Sheet([speed, distance])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data", type=Path, default=PHOTOS)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--images", type=int, default=None, help="the first so many only")
    add_json(parser)
    given = parser.parse_args()
    if not resize.FAST or not given.data.exists():
        missing = given.data if resize.FAST else "cykooz-resizer"
        print(f"skipped: {missing} is not here")
        return
    files = [path.read_bytes() for path in sorted(given.data.rglob("*.jpg"))[: given.images]]
    rate(files[:50], given.size)  # so that both sides find all things warm
    sheet = measure(files, given)
    for row in sheet.rows:
        print(f"{row.name}: {row.median:.2f} {row.unit} ({min(row.values):.2f} to {max(row.values):.2f})")
        for side in row.sides:
            print(f"  {side.name}: {statistics.median(side.values):.0f} {side.unit}")
        print(f"  {row.remark}")
    sheet.write(given.json)


if __name__ == "__main__":
    main()
