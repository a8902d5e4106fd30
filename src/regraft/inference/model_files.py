"""The files of a run's model: `model.keras`, an estimator if the head is one, and a graph for OpenVINO.

The graph is converted from the same model. With it a process predicts within a second, because it imports
neither Keras nor a backend. It is written only if it gives the model's answers to real images, and the digest
of its `model.keras` is recorded with it. It is optional: without it Keras runs the model.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from regraft.data.images.decoder_pool import DecodingPool
from regraft.data.images.rejections import Rejection
from regraft.errors import ModelRefused, shorten_error
from regraft.features.convert import convert
from regraft.features.openvino import OpenVinoEngine, expect_any_batch
from regraft.inference.predict import (
    SELFTEST,
    compute_answers,
    group_images,
    make_test_images,
    name_outputs,
    predict_pixels,
)
from regraft.models.inner_outputs import ANSWERS, FEATURES
from regraft.system.backend import get_backend_name
from regraft.system.console import Reporter
from regraft.system.files import hash_file
from regraft.training.outcome import TrainedModel

if TYPE_CHECKING:
    import keras

__all__ = [
    "ESTIMATOR",
    "GRAPH",
    "read_graph",
    "write_graph",
    "write_graph_and_selftest",
    "write_trained_model",
]

ESTIMATOR = "head.skops"
GRAPH = ("openvino.xml", "openvino.bin")  # the operations, and the weights


def write_graph_and_selftest(
    trained: TrainedModel,
    folder: Path,
    open_images: Callable[[], DecodingPool] | None,
    reporter: Reporter,
) -> dict[str, str]:
    """Write the graph for OpenVINO and the self-test to a run folder.

    Args:
        trained: the model.
        folder: the folder to write to.
        open_images: starts to decode a few of the run's images, on which the graph is compared with the
            model; None for a run without a graph and without a self-test.
        reporter: is told if there is no graph.

    Returns:
        The SHA-256 of each file, by name.

    Raises:
        ModelRefused: a weight of the model is not a finite number.
    """
    _expect_finite(trained.model)
    if open_images is None:
        return {}
    with open_images() as decoding:
        decoded = group_images(iter(decoding), trained.images_per_sample)
        images = [image for image in decoded if not isinstance(image, Rejection)]
    test_images = make_test_images(int(trained.model.inputs[0].shape[-2]), trained.images_per_sample)
    pixels = np.stack([*images, *test_images])
    answers, graph = write_graph(trained, folder, pixels, reporter)
    np.savez(folder / SELFTEST, pictures=test_images, answers=answers[len(images) :])
    return _hash_files(folder, [*graph, SELFTEST])


def write_trained_model(trained: TrainedModel, folder: Path) -> dict[str, str]:
    """Write `model.keras`, and an estimator if the head is one; return the SHA-256 of each file, by name."""
    trained.model.save(folder / "model.keras")
    if trained.estimator is None:
        return _hash_files(folder, ["model.keras"])
    # Imported here, because predicting imports this module and does without scikit-learn.
    from regraft.solvers.estimator_io import write_estimator

    write_estimator(trained.estimator, folder / ESTIMATOR)
    return _hash_files(folder, ["model.keras", ESTIMATOR])


def write_graph(
    trained: TrainedModel, folder: Path, pixels: NDArray[np.uint8], reporter: Reporter
) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """Write a model's graph to a folder if OpenVINO is installed and gives the model's answers.

    A graph that cannot be written or gives other answers is removed, and the reason is reported. If Keras
    itself runs on OpenVINO, the graph's answers are not compared.

    Args:
        trained: a model from RGB pixels 0..255 to answers.
        folder: the folder to write to.
        pixels: a few samples, uint8 of shape (n, size, size, 3), or (n, images, size, size, 3).
        reporter: is told if there is no graph.

    Returns:
        The answers of Keras, (n, units), and the names of the files written: those of GRAPH, or none.
    """
    from regraft.features.engine import expect_near
    from regraft.features.keras_engine import can_convert_to_openvino

    model = trained.model
    if not can_convert_to_openvino():
        return compute_answers(model, pixels), ()
    expected = None if get_backend_name() == "openvino" else compute_answers(model, pixels)
    try:
        received = _answer_by_graph(trained, folder / GRAPH[0], pixels)
        if expected is not None:
            expect_near(received, expected, "its answers are")
    except Exception as error:
        for name in GRAPH:
            (folder / name).unlink(missing_ok=True)
        reporter.info(
            f"The run has no graph for OpenVINO ({shorten_error(error, most=160)}): "
            "it will be predicted with Keras."
        )
        return compute_answers(model, pixels) if expected is None else expected, ()
    return received if expected is None else expected, GRAPH


def _answer_by_graph(trained: TrainedModel, target: Path, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Convert the model, or copy its graph, to `target`, and return the answers of the graph.

    The graph must accept batches of any size.
    """
    if trained.graph is None:
        convert(name_outputs(trained.model, trained.inner), target)
    else:
        for name in GRAPH:
            shutil.copyfile(trained.graph.with_suffix(Path(name).suffix), target.with_name(name))
    expect_any_batch(target)
    return predict_pixels(OpenVinoEngine(target), pixels)


def read_graph(
    folder: Path, batch: int, reporter: Reporter, *, outputs: Sequence[str] = (ANSWERS, FEATURES)
) -> OpenVinoEngine | None:
    """Compile the graph in a folder for a batch size and some of its outputs.

    Return None if OpenVINO is not installed, or if it cannot run the graph, which is reported. The caller
    must have compared the files with the digests in the manifest.
    """
    try:
        return OpenVinoEngine(folder / GRAPH[0], batch=batch, outputs=outputs)
    except ImportError:
        return None
    except RuntimeError as error:
        reporter.info(
            f"OpenVINO cannot run {folder / GRAPH[0]} ({shorten_error(error, most=160)}): "
            "Keras runs the model."
        )
        return None


def _hash_files(folder: Path, names: list[str]) -> dict[str, str]:
    return {name: hash_file(folder / name) for name in names}


def _expect_finite(model: keras.Model) -> None:
    for weight in model.weights:
        value = np.asarray(weight)
        if value.dtype.kind not in "biu" and not np.isfinite(value.astype(np.float32)).all():
            raise ModelRefused(
                f"The model is not written: its weight {weight.path} holds numbers that are not finite. Are "
                "those of the backbone's file? If not, train at a lower --learning-rate."
            )
