"""The file model.json of an export: what an answer means, and what the pixels have to be."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import regraft
from regraft.exports.formats import Format
from regraft.exports.resizing import find_first_pass
from regraft.inference.bundle import Bundle
from regraft.metrics.coverage import LEVELS
from regraft.uncertainty.conformal import Conformal
from regraft.uncertainty.familiarity import LEVEL, Familiarity
from regraft.uncertainty.intervals import NumberIntervals

__all__ = ["CONTENTS", "make_contents", "write_contents"]

CONTENTS = "model.json"
CONTENTS_FORMAT = 1
PRIVATE = ("names", "labels")  # of training images: nothing that runs the model needs them


def make_contents(bundle: Bundle, kind: Format, *, int8: bool, any_size: bool) -> dict[str, Any]:
    """Return the content of model.json as plain values; docs/export.md describes each of them.

    Args:
        bundle: the run.
        kind: the format of the export.
        int8: whether the network is quantized.
        any_size: whether it takes images of any size.
    """
    uncertainty = bundle.uncertainty
    conformal = uncertainty.conformal if uncertainty else None
    familiarity = uncertainty.familiarity if uncertainty else None
    return {
        "format": CONTENTS_FORMAT,
        "made_by": f"regraft {regraft.__version__}",
        "runtime": kind.name,
        "model": kind.model,
        "precision": "int8" if int8 else "f32",
        "task": bundle.task,
        "outputs": bundle.outputs,
        "thresholds": bundle.thresholds,
        "pixels": {
            "size": bundle.image_size,
            "any_size": any_size,
            "images_per_sample": bundle.images_per_sample,
            "type": "uint8",
            "colour": "sRGB, 0..255, channels last",
            "orientation": bundle.manifest["pixels"].get("orientation", ""),
            "resize": bundle.manifest["pixels"].get("resize", ""),
            "first_pass": find_first_pass(bundle),
            "decoder": bundle.manifest["pixels"].get("decoder", ""),
        },
        "calibration": _read_calibration(bundle),
        "coverage": None if conformal is None else _list_limits(conformal),
        "familiarity": None if familiarity is None else _pack_familiarity(familiarity),
        "backbone": bundle.manifest.get("backbone"),
        "head": bundle.manifest.get("head"),
        "created": bundle.manifest.get("created"),
    }


def write_contents(contents: dict[str, Any], folder: Path) -> None:
    """Write model.json to a folder."""
    text = json.dumps(contents, indent=1, ensure_ascii=False, allow_nan=False)
    (folder / CONTENTS).write_text(text + "\n", "utf-8")


def _read_calibration(bundle: Bundle) -> dict[str, Any]:
    """Return how calibrated the answers are; the model's last layer has absorbed the map."""
    try:
        metrics = json.loads((bundle.path / "metrics.json").read_text("utf-8"))
        errors = {part: values["ece"] for part, values in metrics.items() if "ece" in values}
    except (OSError, ValueError, TypeError):  # nothing but this figure needs the file
        errors = {}
    return {"inside_the_model": True, "ece": errors}


def _list_limits(conformal: Conformal) -> dict[str, Any]:
    """Return the limits of sets or intervals at each level; null stands for an infinite width."""
    levels = {}
    for level in LEVELS:
        values = np.asarray(conformal.find_limits(level), np.float64)
        levels[f"{level:g}"] = [float(value) if np.isfinite(value) else None for value in values]
    if not isinstance(conformal, NumberIntervals):
        return {"kind": "sets", "least_probability": levels}
    spread = conformal.spread
    parts: dict[str, NDArray[Any]] = {"weights": spread.weights, "bias": spread.bias, "bounds": spread.bounds}
    return {"kind": "intervals", "half_width_over_spread": levels, "spread": _pack_arrays(parts)}


def _pack_familiarity(familiarity: Familiarity) -> dict[str, Any]:
    arrays = {
        name: array for name, array in familiarity.to_arrays().items() if name not in (*PRIVATE, "task")
    }
    return {"level": LEVEL, "arrays": _pack_arrays(arrays)}


def _pack_arrays(arrays: dict[str, NDArray[Any]]) -> dict[str, dict[str, Any]]:
    """Return arrays as plain values: their type in NumPy's words, shape, and bytes in base64.

    >>> _pack_arrays({"ranks": np.array([1, 2], np.int8)})
    {'ranks': {'type': '|i1', 'shape': [2], 'base64': 'AQI='}}
    """
    packed = {}
    for name, array in arrays.items():
        ordered = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        text = base64.b64encode(ordered.tobytes()).decode()
        packed[name] = {"type": ordered.dtype.str, "shape": list(array.shape), "base64": text}
    return packed
