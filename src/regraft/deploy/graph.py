"""The trained network as OpenVINO reads it, beside `model.keras`: with it a process predicts in a second, for
it imports neither Keras nor a backend.

`model.keras` is what the run is; the graph is converted from the same model. It is written only once it has
answered real photographs as that model does; it belongs to that one file, whose digest is recorded with it,
and is never needed: without it Keras runs the model.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from regraft.console import Reporter
from regraft.deploy.answers import OUTPUT, name_output
from regraft.deploy.selftest import compute_answers
from regraft.errors import brief
from regraft.features.convert import convert
from regraft.features.openvino import OpenVinoEngine, expect_any_batch

if TYPE_CHECKING:
    import keras

__all__ = ["GRAPH", "read_graph", "write_graph"]

GRAPH = ("openvino.xml", "openvino.bin")  # what is computed, and the weights


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
    from regraft.features.engine import expect_near, keras_backend
    from regraft.features.network import converts

    if not converts():
        return compute_answers(model, pixels), ()
    expected = None if keras_backend() == "openvino" else compute_answers(model, pixels)
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
    """The graph in a folder, compiled for so many samples at a time; None where OpenVINO is not installed or
    cannot run it, which is said.

    Whoever calls this has compared its files with the digests in the manifest.
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
