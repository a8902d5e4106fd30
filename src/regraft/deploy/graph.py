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
from regraft.errors import brief
from regraft.features.convert import convert
from regraft.features.openvino import BATCH, OpenVinoEngine

if TYPE_CHECKING:
    import keras

__all__ = ["GRAPH", "read_graph", "write_graph"]

GRAPH = ("openvino.xml", "openvino.bin")  # what is computed, and the weights


def write_graph(
    model: keras.Model,
    folder: Path,
    pixels: NDArray[np.uint8],
    answers: NDArray[np.float32],
    *,
    graph: Path | None = None,
    reporter: Reporter,
) -> tuple[str, ...]:
    """Write a model's graph to a folder, if OpenVINO is here and gives the model's answers.

    One that cannot be written, or answers otherwise, is removed, and the reporter says why.

    Args:
        model: RGB pixels 0..255 to answers.
        folder: where to write.
        pixels: a few samples, uint8 of shape (n, size, size, 3), or (n, images, size, size, 3).
        answers: what Keras gives for them, (n, units).
        graph: the model as OpenVINO's file, where the store has it already.

    Returns:
        The names of the files: those of GRAPH, or none.
    """
    from regraft.features.engine import expect_near
    from regraft.features.network import converts

    if not converts():
        return ()
    target = folder / GRAPH[0]
    try:
        if graph is None:
            convert(name_output(model), target)
        else:
            for name in GRAPH:
                shutil.copyfile(graph.with_suffix(Path(name).suffix), folder / name)
        for batch in (1, BATCH):
            engine = OpenVinoEngine(target, batch=batch)
            batches = (pixels[at : at + batch] for at in range(0, len(pixels), batch))
            received = np.concatenate([outputs[OUTPUT] for outputs in engine.run(batches)])
            expect_near(received, answers, "its answers are")
    except Exception as error:
        for name in GRAPH:
            (folder / name).unlink(missing_ok=True)
        reporter.info(
            f"The run has no graph for OpenVINO ({brief(error, most=160)}): it will be predicted with Keras."
        )
        return ()
    return GRAPH


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
