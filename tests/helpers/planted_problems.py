"""Faults planted in a folder of class folders: bad files, copies of pictures, swapped labels."""

import io
import random
import shutil
from pathlib import Path

from PIL import Image, ImageEnhance


def plant_bad_files(root: Path) -> set[str]:
    """12 files that cannot be used, in the first class folder; their names."""
    folder = sorted(entry for entry in root.iterdir() if entry.is_dir())[0]
    whole = sorted(folder.iterdir())[0].read_bytes()
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 60).convert("RGB").save(buffer, "PNG")
    png = buffer.getvalue()
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 60).convert("RGB").save(buffer, "JPEG")
    jpeg = buffer.getvalue()
    bad = {
        "empty.jpg": b"",
        "half.jpg": jpeg[: len(jpeg) // 2],
        "most.jpg": jpeg[: int(len(jpeg) * 0.8)],
        "half.png": png[: len(png) // 2],
        "flipped.png": png[:300] + bytes([png[300] ^ 255]) + png[301:],
        "page.jpg": b"<!DOCTYPE html><title>404 Not Found</title>",
        "answer.jpg": b'{"error": "not found"}',
        "words.png": b"There is no picture here.",
        "document.jpg": b"%PDF-1.7\n" + whole[:200],
        "archive.png": b"PK\x03\x04" + whole[:200],
        "phone.jpg": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + whole[:200],
        "random.jpg": random.Random(0).randbytes(2000),
    }
    for name, content in bad.items():
        (folder / name).write_bytes(content)
    return {f"{folder.name}/{name}" for name in bad}


def plant_copies(root: Path, *, seed: int = 0) -> set[frozenset[str]]:
    """9 pairs, each of a picture and a copy in its class folder: exact, saved again, resized, mirrored."""
    rng = random.Random(seed)
    files = sorted(path for path in root.glob("*/*") if _is_photo(path))
    found = set()
    for number, path in enumerate(rng.sample(files, 9)):
        copy = path.with_name(f"copy{number}.jpg")
        image = Image.open(path).convert("RGB")
        wide, high = image.size
        if number < 3:
            shutil.copy(path, copy)
        elif number == 3:
            image.save(copy, quality=60)
        elif number == 4:
            image.resize((wide // 2, high // 2)).save(copy, quality=80)
        elif number == 5:
            copy = copy.with_suffix(".webp")
            image.resize((wide * 3 // 4, high * 3 // 4)).save(copy, quality=70)
        elif number == 6:
            image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(copy, quality=85)
        elif number == 7:
            image.crop((wide // 100, high // 100, wide - wide // 100, high - high // 100)).save(copy)
        else:
            ImageEnhance.Brightness(image).enhance(1.1).save(copy, quality=85)
        found.add(frozenset({path.relative_to(root).as_posix(), copy.relative_to(root).as_posix()}))
    return found


def swap_labels(root: Path, *, seed: int = 0) -> set[str]:
    """6 images moved into another class folder; their names there."""
    rng = random.Random(seed)
    classes = sorted(entry.name for entry in root.iterdir() if entry.is_dir())
    files = sorted(path for path in root.glob("*/*") if _is_photo(path))
    found = set()
    for path in rng.sample(files, 6):
        wrong = rng.choice([name for name in classes if name != path.parent.name])
        path.rename(root / wrong / path.name)
        found.add(f"{wrong}/{path.name}")
    return found


def _is_photo(path: Path) -> bool:
    try:
        Image.open(path).load()
    except (OSError, SyntaxError, ValueError):
        return False
    return True
