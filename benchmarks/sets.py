"""Sets with known targets, made from photographs in class folders: a scale, an angle, two side by side.

Each is a folder of JPEG files and a `table.csv`, whose column `part` keeps the photographs' own train and
test apart. Everything random comes from the seed.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageOps

__all__ = ["angles", "pairs", "scales"]

SIDE = 256
GREY = (127, 127, 127)


def scales(photos: Path, out: Path, *, seed: int = 0) -> Path:
    """Each photograph on a grey canvas at a scale of 0.3 to 1.0, which is the target."""

    def make(photo: Image.Image, rng: random.Random) -> tuple[Image.Image, float]:
        scale = rng.uniform(0.3, 1.0)
        side = round(SIDE * scale)
        canvas = Image.new("RGB", (SIDE, SIDE), GREY)
        left, top = rng.randint(0, SIDE - side), rng.randint(0, SIDE - side)
        canvas.paste(photo.resize((side, side), Image.Resampling.LANCZOS), (left, top))
        return canvas, scale

    return _numbers(photos, out, "scale", make, seed)


def angles(photos: Path, out: Path, *, seed: int = 0) -> Path:
    """Each photograph turned by -45 to 45 degrees, which is the target; the corners are grey."""

    def make(photo: Image.Image, rng: random.Random) -> tuple[Image.Image, float]:
        angle = rng.uniform(-45, 45)
        square = photo.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        return square.rotate(angle, Image.Resampling.BICUBIC, fillcolor=GREY), angle

    return _numbers(photos, out, "angle", make, seed)


def pairs(photos: Path, out: Path, *, seed: int = 0) -> Path:
    """Two photographs of the same part side by side; the labels are their classes, with | between them.

    Each photograph is in one pair only: else training and validation would share it.
    """
    rng = random.Random(seed)
    rows = []
    for part, files in _parts(photos).items():
        rng.shuffle(files)
        for number, (one, two) in enumerate(zip(files[::2], files[1::2], strict=False)):
            canvas = Image.new("RGB", (2 * SIDE, SIDE), GREY)
            for place, file in enumerate((one, two)):
                canvas.paste(_opened(file).resize((SIDE, SIDE), Image.Resampling.LANCZOS), (place * SIDE, 0))
            labels = sorted({one.parent.name, two.parent.name})
            rows.append([_save(canvas, out, part, number), "|".join(labels), part])
    return _table(out, "labels", rows)


def _numbers(
    photos: Path,
    out: Path,
    name: str,
    make: Callable[[Image.Image, random.Random], tuple[Image.Image, float]],
    seed: int,
) -> Path:
    rng = random.Random(seed)
    rows = []
    for part, files in _parts(photos).items():
        for number, file in enumerate(files):
            image, target = make(_opened(file), rng)
            rows.append([_save(image, out, part, number), f"{target:.5f}", part])
    return _table(out, name, rows)


def _parts(photos: Path) -> dict[str, list[Path]]:
    """The photographs of each part, sorted: of train and test where there are such folders."""
    parts = [part for part in ("train", "test") if (photos / part).is_dir()]
    return {part: sorted((photos / part).glob("*/*.*")) for part in parts} or {
        "train": sorted(photos.glob("*/*.*"))
    }


def _opened(file: Path) -> Image.Image:
    with Image.open(file) as image:
        return ImageOps.exif_transpose(image).convert("RGB")


def _save(image: Image.Image, out: Path, part: str, number: int) -> str:
    path = out / part / f"{number:05}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, quality=92)
    return path.relative_to(out).as_posix()


def _table(out: Path, target: str, rows: list[list[str]]) -> Path:
    path = out / "table.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", target, "part"])
        writer.writerows(rows)
    return path
