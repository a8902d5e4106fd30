"""Decode and resize images on one core, in turn with Pillow's resize and with the one in use.

Both sides run `decode`, with everything else that it does. Seconds are those of the processor, which other
programs hardly change.

usage: decoding.py [--rounds N] [--data FOLDER] [--size PIXELS] [--images N] [--json FILE]
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
from rows import IMAGES, Row, Sheet, Side, are_present, compute_ratios, make_parser

from regraft.data.images import resize
from regraft.data.images.decode import decode
from regraft.data.images.decoder_name import DECODER


def measure_rate(files: list[bytes], size: int, *, fast: bool = True) -> float:
    """Return images decoded in a second of processor time, with cykooz-resizer or Pillow."""
    resize.FAST = fast
    start = time.process_time()
    for data in files:
        decode(data, size)
    return len(files) / (time.process_time() - start)


def measure_differences(files: list[bytes], size: int) -> tuple[int, float]:
    """Return the largest and the mean difference between the pixels of both, of 255."""
    largest, total = 0, 0.0
    for data in files:
        resize.FAST = False
        slow = decode(data, size).pixels.astype(int)
        resize.FAST = True
        difference = np.abs(decode(data, size).pixels - slow)
        largest, total = max(largest, int(difference.max())), total + float(difference.mean())
    return largest, total / len(files)


def measure(files: list[bytes], options: argparse.Namespace) -> Sheet:
    """Measure both rates in turn, and the difference of the pixels."""
    slow, fast = [], []
    for _ in range(options.rounds):
        slow.append(measure_rate(files, options.size, fast=False))
        fast.append(measure_rate(files, options.size))
    largest, mean = measure_differences(files, options.size)
    remark = f"{len(files):,} images at {options.size} px, one core; {DECODER}"
    speed = Row(
        "decoding and resizing against Pillow's resize",
        "times",
        compute_ratios(fast, slow),
        at_least=1.4,
        sides=(
            Side("Pillow's resize", "images/s", tuple(slow)),
            Side("cykooz-resizer", "images/s", tuple(fast)),
        ),
        remark=remark,
    )
    distance = Row(
        "largest difference of a pixel from Pillow's", "of 255", (float(largest),), at_most=1,
        remark=f"{mean:.3f} of 255 on average",
    )  # fmt: skip
    return Sheet([speed, distance])


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data", type=Path, default=IMAGES)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--images", type=int, default=None, help="use only the first N images")
    options = parser.parse_args()
    if not resize.FAST:
        print("skipped: cykooz-resizer not found")
    if not resize.FAST or not are_present(options.data):
        return
    files = [path.read_bytes() for path in sorted(options.data.rglob("*.jpg"))[: options.images]]
    measure_rate(files[:50], options.size)  # warms up both sides
    sheet = measure(files, options)
    for row in sheet.rows:
        print(f"{row.name}: {row.median:.2f} {row.unit} ({min(row.values):.2f} to {max(row.values):.2f})")
        for side in row.sides:
            print(f"  {side.name}: {statistics.median(side.values):.0f} {side.unit}")
        print(f"  {row.remark}")
    sheet.write(options.json)


if __name__ == "__main__":
    main()
