"""The files of a run's model: `model.keras`, an estimator beside it, and the network as OpenVINO reads it.

`model.keras` is what the run is; the graph is converted from the same model, and with it a process predicts
in a second, for it imports neither Keras nor a backend. It is written only once it has answered real
photographs as that model does; it belongs to that one file, whose digest is recorded with it, and is never
needed: without it Keras runs the model.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from regraft.data.images.decoder_pool import DecodeAhead
from regraft.data.images.rejections import Refusal
from regraft.errors import ModelRefused, brief, name_os_errors
from regraft.features.convert import convert
from regraft.features.openvino import OpenVinoEngine, expect_any_batch
from regraft.inference.predict import (
    OUTPUT,
    SELFTEST,
    compute_answers,
    group_images,
    make_pictures,
    name_output,
)
from regraft.system.backend import backend_name
from regraft.system.console import Reporter
from regraft.training.outcome import TrainedModel

if TYPE_CHECKING:
    import keras

__all__ = ["ESTIMATOR", "GRAPH", "read_graph", "sha256", "write_graph", "write_trained_model"]

ESTIMATOR = "head.skops"
GRAPH = ("openvino.xml", "openvino.bin")  # what is computed, and the weights


def write_trained_model(
    trained: TrainedModel,
    folder: Path,
    open_images: Callable[[], DecodeAhead] | None,
    reporter: Reporter,
) -> dict[str, str]:
    """Fill a run folder with `model.keras` and what runs or completes it.

    Args:
        trained: the model.
        folder: where to write.
        open_images: begins to decode a few of the run's images, on which a graph for OpenVINO has to answer
            as the model does; None for a run without a graph and without answers to compare.
        reporter: is told where there is no graph.

    Returns:
        The SHA-256 of each file, by name.

    Raises:
        ModelRefused: a weight of the model is not a finite number.
    """
    _expect_finite(trained.model)
    if open_images is None:
        return _digests(folder, _write_model(trained, folder))
    with open_images() as decoding:
        names = _write_model(trained, folder)
        decoded = group_images(iter(decoding), trained.photos)
        images = [image for image in decoded if not isinstance(image, Refusal)]
    shown = make_pictures(int(trained.model.inputs[0].shape[-2]), trained.photos)
    pixels = np.stack([*images, *shown])
    answers, graph = write_graph(trained.model, folder, pixels, graph=trained.graph, reporter=reporter)
    np.savez_compressed(folder / SELFTEST, pictures=shown, answers=answers[len(images) :])
    return _digests(folder, [*names, *graph, SELFTEST])


def write_graph(
    model: keras.Model,
    folder: Path,
    pixels: NDArray[np.uint8],
    *,
    graph: Path | None = None,
    reporter: Reporter,
) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """Write a model's graph to a folder, if OpenVINO is here and gives the model's answers.

    One that cannot be written, or answers otherwise, is removed, and the reporter says why. Where Keras runs
    on OpenVINO itself, its answers are those of the graph.

    Args:
        model: RGB pixels 0..255 to answers.
        folder: where to write.
        pixels: a few samples, uint8 of shape (n, size, size, 3), or (n, images, size, size, 3).
        graph: the model as OpenVINO's file, where the store has it already.

    Returns:
        What Keras answers, (n, units); and the names of the files: those of GRAPH, or none.
    """
    from regraft.features.engine import expect_near
    from regraft.features.keras_engine import converts

    if not converts():
        return compute_answers(model, pixels), ()
    expected = None if backend_name() == "openvino" else compute_answers(model, pixels)
    try:
        received = _answer_by_graph(model, folder / GRAPH[0], pixels, graph)
        if expected is not None:
            expect_near(received, expected, "its answers are")
    except Exception as error:
        for name in GRAPH:
            (folder / name).unlink(missing_ok=True)
        reporter.info(
            f"The run has no graph for OpenVINO ({brief(error, most=160)}): it will be predicted with Keras."
        )
        return compute_answers(model, pixels) if expected is None else expected, ()
    return received if expected is None else expected, GRAPH


def _answer_by_graph(
    model: keras.Model, target: Path, pixels: NDArray[np.uint8], graph: Path | None
) -> NDArray[np.float32]:
    """Write the graph, from the model or as a copy, and return what it answers; any batch has to fit it."""
    if graph is None:
        convert(name_output(model), target)
    else:
        for name in GRAPH:
            shutil.copyfile(graph.with_suffix(Path(name).suffix), target.with_name(name))
    expect_any_batch(target)
    engine = OpenVinoEngine(target)
    batches = (pixels[start : start + engine.batch] for start in range(0, len(pixels), engine.batch))
    return np.concatenate([outputs[OUTPUT] for outputs in engine.run(batches)])


def read_graph(folder: Path, batch: int, reporter: Reporter) -> OpenVinoEngine | None:
    """Compile the graph in a folder for so many samples at a time.

    Return None where OpenVINO is not installed, or where it cannot run the graph, which is reported. The
    caller has compared the files with the digests in the manifest.
    """
    try:
        return OpenVinoEngine(folder / GRAPH[0], batch=batch)
    except ImportError:
        return None
    except RuntimeError as error:
        reporter.info(
            f"OpenVINO cannot run {folder / GRAPH[0]} ({brief(error, most=160)}): Keras runs the model."
        )
        return None


def sha256(path: Path) -> str:
    """The digest of a file, as the manifest names it.

    Raises:
        EnvironmentFault: it cannot be read.
    """
    with name_os_errors(f"{path} cannot be read"), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_model(trained: TrainedModel, folder: Path) -> list[str]:
    trained.model.save(folder / "model.keras")
    if trained.kept is None:
        return ["model.keras"]
    from regraft.solvers.estimator_io import (
        write_estimator,
    )  # predicting imports this module, not scikit-learn

    write_estimator(trained.kept, folder / ESTIMATOR)
    return ["model.keras", ESTIMATOR]


def _digests(folder: Path, names: list[str]) -> dict[str, str]:
    return {name: sha256(folder / name) for name in names}


def _expect_finite(model: keras.Model) -> None:
    for weight in model.weights:
        value = np.asarray(weight)
        if value.dtype.kind not in "biu" and not np.isfinite(value.astype(np.float32)).all():
            raise ModelRefused(
                f"The model is not written: its weight {weight.path} holds numbers that are not finite. Are "
                "those of the backbone's file? If not, train at a lower --learning-rate."
            )
