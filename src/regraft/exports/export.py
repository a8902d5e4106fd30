"""Export the model of a run for another runtime.

An export is a folder: the model, `model.json` with everything that its answers mean, two small programs that
answer images with nothing but the runtime, NumPy and Pillow, and the run's model card if it has one. It is
replayed before it is handed over: on the self-test of the run and on its images, from their files.
"""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from regraft.errors import DataError, ModelRefused, UsageError
from regraft.exports.contents import CONTENTS, make_contents, write_contents
from regraft.exports.conversion import require_writer, write_network
from regraft.exports.formats import Format, choose_format, require_packages
from regraft.exports.replay import (
    RUNTIME,
    Replay,
    Runtime,
    load_runtime,
    replay_exactly,
    replay_quantized,
    replay_unresized,
)
from regraft.exports.run_images import RunImages
from regraft.inference.bundle import Bundle, load
from regraft.model_scan.model_file import scan_model_file
from regraft.models.inner_outputs import ANSWERS
from regraft.pipeline.outputs import FolderKind, claim_folder
from regraft.pipeline.run_answers import open_run_answers
from regraft.report.model_card import MODEL_CARD
from regraft.system.console import TERMINAL
from regraft.tasks import TASKS

__all__ = ["EXPORT_FOLDER", "Export", "export"]

REPLAYED = 64  # images that an export is replayed on
CALIBRATING = 300  # training images that show the range of activations
JUDGING = 2000  # validation images, at most, that judge a quantized network
MOST_POINTS = 0.5  # that the score may drop by through int8
PROGRAMS = Path(__file__).with_name("programs")
EXPORT_FOLDER = FolderKind(
    "folder of `regraft export`",
    CONTENTS,
    ("format", "runtime", "model", "task", "outputs"),
    re.compile(
        r"model\.(json|xml|bin|onnx|tflite|keras)|saved_model/.*|predict\.py|runtime\.py|README\.md|"
        r"__pycache__/.*\.pyc"
    ),
)


@dataclass(frozen=True)
class Export:
    """An export.

    Attributes:
        path: its folder.
        format: the name of its format.
        bytes: size of the model, without the other files.
        images: images of the run that it answered; in float32 the self-test comes on top.
        difference: the largest difference of an answer to the run's; None for int8, which is judged by score.
        drop: by how many points the score on these images is lower than the run's; None unless int8.
    """

    path: Path
    format: str
    bytes: int
    images: int
    difference: float | None = None
    drop: float | None = None


def export(
    run: Bundle | str | os.PathLike[str],
    to: str,
    out: str | os.PathLike[str] = "export",
    *,
    int8: bool = False,
    any_size: bool = False,
    overwrite: bool = False,
    trust: bool = False,
) -> Export:
    """Write the model of a run in another format, once it has been shown to answer as the run does.

    Args:
        run: a run folder that `train` wrote, or the run as `load` returns it.
        to: "openvino", "onnx", "litert", "savedmodel" or "keras". All but "openvino" and "keras" need Keras
            on TensorFlow.
        out: the folder to create.
        int8: quantize the network to 8-bit integers ("openvino", "onnx", "litert"), with training images. It
            is written only if the score on validation drops by at most 0.5 points.
        any_size: let the network take images of any size and resize them itself ("openvino", "onnx").
        overwrite: replace `out` if it is an earlier export.
        trust: you know where a SavedModel inside the model comes from; see `load_backbone`.

    Raises:
        UsageError: there is no such run or format, the format lacks what is asked, or `out` exists.
        ModelRefused: the run is damaged, its network cannot be written in this format, or the export gives
            other answers.
        DataError: `int8`, and the images of the run are gone.
        EnvironmentFault: a package is missing, Keras runs on another backend, or `out` cannot be written.

    Example:
        export("runs/clothes", "onnx", "clothes-onnx", any_size=True)
    """
    kind = choose_format(to, int8=int8, any_size=any_size)
    bundle = run if isinstance(run, Bundle) else load(run, trust=trust)
    _require_exportable(bundle, kind, any_size=any_size)
    require_packages(kind, int8=int8)
    require_writer(kind)
    images = RunImages.find(bundle)
    with claim_folder(Path(out), overwrite=overwrite, kind=EXPORT_FOLDER) as folder:
        calibrating = _collect_calibrating_images(images) if int8 else None
        write_network(bundle, kind, folder, images=calibrating, any_size=any_size)
        write_contents(make_contents(bundle, kind, int8=int8, any_size=any_size), folder)
        _add_programs(bundle, kind, folder)
        runtime = load_runtime(folder, kind)
        size = sum(path.stat().st_size for path in _list_model_files(folder))
        if int8:
            drop, judged = _measure_drop(runtime, images)
            result = Export(Path(out), to, size, judged, drop=drop)
        else:
            replay = _replay(runtime, images, any_size=any_size)
            result = Export(Path(out), to, size, replay.images, replay.difference)
        shutil.rmtree(folder / "__pycache__", ignore_errors=True)
    return result


def _require_exportable(bundle: Bundle, kind: Format, *, any_size: bool) -> None:
    """Check that a format can hold the head and the network of a run, and that there is one image to resize.

    Raises:
        ModelRefused: it cannot.
        UsageError: there are several.
    """
    if bundle.estimator is not None:
        raise ModelRefused(
            f"The head of {bundle.path} is an estimator of scikit-learn, which no {kind.name} model can "
            "hold. Train with a head that becomes a layer: --solver logistic, ridge or lda."
        )
    if kind.name != "openvino" and scan_model_file(bundle.path / "model.keras").savedmodels:
        raise ModelRefused(
            f"The network of {bundle.path} holds a SavedModel, which an export to {kind.name} cannot carry "
            "without regraft. Export to openvino, whose graph holds its operations."
        )
    if any_size and bundle.images_per_sample > 1:
        raise UsageError(
            f"--any-size expects a model of one image. Received: {bundle.path}, whose samples have "
            f"{bundle.images_per_sample}."
        )


def _collect_calibrating_images(images: RunImages) -> list[NDArray[np.uint8]]:
    rows = images.choose(["train"], CALIBRATING)
    chunks = [pixels for _, pixels in images.decode(rows)] if rows else []
    if not chunks:
        raise DataError(
            f"--int8 expects training images of {images.bundle.path}, to measure the ranges of activations. "
            "None of them is where its recipe.toml says."
        )
    return [pixel[None] for chunk in chunks for pixel in chunk]


def _add_programs(bundle: Bundle, kind: Format, folder: Path) -> None:
    shutil.copyfile(PROGRAMS / "predict.py", folder / "predict.py")
    shutil.copyfile(PROGRAMS / f"run_{kind.name}.py", folder / RUNTIME)
    if (bundle.path / MODEL_CARD).is_file():
        shutil.copyfile(bundle.path / MODEL_CARD, folder / MODEL_CARD)


def _list_model_files(folder: Path) -> list[Path]:
    others = (CONTENTS, MODEL_CARD, "predict.py", RUNTIME)
    return [path for path in folder.rglob("*") if path.is_file() and path.name not in others]


def _replay(runtime: Runtime, images: RunImages, *, any_size: bool) -> Replay:
    rows = images.choose(["validation", "test", "train"], REPLAYED)
    if not rows:
        TERMINAL.info("No image of the run is where it was: the export was replayed on the self-test alone.")
    exact = replay_exactly(runtime, images.bundle, images, [] if any_size else rows)
    return replay_unresized(runtime, images.bundle, images, rows) if any_size and rows else exact


# --- int8


def _measure_drop(runtime: Runtime, images: RunImages) -> tuple[float, int]:
    """Return by how many points the score on held-out images drops, and how many they are.

    Raises:
        ModelRefused: by more than `MOST_POINTS`.
        DataError: there is no held-out image.
    """
    bundle = images.bundle
    rows = images.choose(["validation", "test"], JUDGING)
    if not rows:
        raise DataError(f"--int8 expects validation images of {bundle.path} to judge it by. There are none.")
    answered = open_run_answers(bundle.path, bundle, rows[0].part)
    numbers, outputs = replay_quantized(runtime, images, rows)
    positions = {row.image: number for number, row in enumerate(answered.rows)}
    places = [positions[rows[number].image] for number in numbers]
    task = TASKS[bundle.task]
    truth = task.encode(answered.targets[places], len(bundle.outputs))
    before, after = (task.score(answers, truth) for answers in (answered.answers[places], outputs[ANSWERS]))
    drop = 100 * (before - after)
    if not drop <= MOST_POINTS:
        raise ModelRefused(
            f"int8 costs {drop:.1f} points of {task.score_name} on {len(numbers)} {rows[0].part} images, "
            f"where at most {MOST_POINTS} is allowed. No file is written. Export without --int8."
        )
    return drop, len(numbers)
