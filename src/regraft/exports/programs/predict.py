"""Answer images with the model in this folder: python predict.py IMAGE ..."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

__all__ = ["describe", "read_pixels"]


def read_pixels(path: str, model: dict[str, Any]) -> np.ndarray[Any, Any]:
    """Return an image as the model takes it: RGB, uint8 (height, width, 3), upright."""
    image: Image.Image = Image.open(path)
    size = model["pixels"]["size"]
    if model["pixels"]["any_size"]:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    image.draft("RGB", (size, size))  # a large JPEG is averaged first, as in training
    first = (image.width, size) if model["pixels"]["first_pass"] == "height" else (size, image.height)
    for shape in (first, (size, size)):
        image = image.convert("RGB").resize(shape, Image.Resampling.BILINEAR)
    return np.asarray(ImageOps.exif_transpose(image))


def describe(answer: np.ndarray[Any, Any], model: dict[str, Any]) -> str:
    """Return the label and its probability, or the value of each target, as text."""
    names, numbers = model["outputs"], answer.tolist()
    numbers = [1 - numbers[0], *numbers] if model["task"] == "binary" else numbers
    values = dict(zip(names, numbers, strict=True))
    limits = {name: model["thresholds"].get(name, 0.5) for name in names}
    if model["task"] == "multilabel":
        values = {name: value for name, value in values.items() if value >= limits[name]}
    elif model["task"] != "regression":
        values = dict([max(values.items(), key=lambda pair: pair[1])])
    return ", ".join(f"{name} {value:.3f}" for name, value in values.items())


if __name__ == "__main__":
    from runtime import load  # type: ignore[import-not-found]  # it lies beside this file

    here = Path(__file__).resolve().parent
    model = json.loads((here / "model.json").read_text("utf-8"))
    run, count = load(here / model["model"]), model["pixels"]["images_per_sample"]
    for start in range(1, len(sys.argv), count):
        paths = sys.argv[start : start + count]
        images = [read_pixels(path, model) for path in paths]
        sample = images[0] if count == 1 else np.stack(images)
        print("\t".join([*paths, describe(run(sample[None])["answers"][0], model)]))
