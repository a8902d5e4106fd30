"""The trained network as OpenVINO reads it, beside `model.keras`: with it a process predicts in a second, for
it imports neither Keras nor a backend.

`model.keras` is what the run is. Its graph is mostly there already: that of its frozen part gave the
features, so the head's is joined to it, and that of a fine-tuned model gave its scores. It is written only
once it has answered real photographs as that model does; it belongs to that one file, whose digest is
recorded with it, and is never needed: without it Keras runs the model.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from regraft.console import say
from regraft.data.refusal import Refusal
from regraft.data.workers import DecodeAhead
from regraft.deploy.answers import OUTPUT, answering, grouped
from regraft.errors import brief
from regraft.features.openvino import BATCH, OpenVinoEngine, join, join_linear, rewrite
from regraft.training.linear import LinearHead

if TYPE_CHECKING:
    import keras

    from regraft.outcome import Converted

__all__ = ["GRAPH", "deliver", "read_graph", "write_graph"]

GRAPH = ("openvino.xml", "openvino.bin")  # what is computed, and the weights


def write_graph(
    model: keras.Model,
    folder: Path,
    photographs: DecodeAhead,
    photos: int = 1,
    converted: Converted | None = None,
) -> tuple[str, ...]:
    """Write a model's graph to a folder, if OpenVINO is here and gives the model's answers.

    Args:
        model: RGB pixels 0..255 to answers.
        folder: where to write.
        photographs: a few real ones, being decoded.
        photos: how many make a sample.
        converted: what of the model is converted already and need not be once more.

    Returns:
        The names of the files written: those of GRAPH, or none, and then it is said why.
    """
    from regraft.features.engine import expect_agreement
    from regraft.features.network import converts

    if not converts():
        return ()
    network = answering(model)

    def write(target: Path) -> None:
        pixels = [found for found in grouped(iter(photographs), photos) if not isinstance(found, Refusal)]
        if not pixels:
            raise ValueError("none of its images can be read again to compare answers")
        _write(network, converted, target)
        engines = [OpenVinoEngine(target, batch=batch) for batch in (1, BATCH)]
        expect_agreement(network, np.stack(pixels), *engines)

    return deliver(folder, write)


def deliver(folder: Path, write: Callable[[Path], None]) -> tuple[str, ...]:
    """Have a graph written to a folder and compared; one that fails at either is removed, and that is said.

    Args:
        folder: where to write.
        write: takes the .xml to write; raises whatever speaks against the graph.

    Returns:
        The names of the files: those of GRAPH, or none.
    """
    try:
        write(folder / GRAPH[0])
    except Exception as error:
        for name in GRAPH:
            (folder / name).unlink(missing_ok=True)
        say(f"The run has no graph for OpenVINO ({brief(error, most=160)}): it will be predicted with Keras.")
        return ()
    return GRAPH


def _write(network: keras.Model, converted: Converted | None, target: Path) -> None:
    from regraft.features.engine import frozen_graph

    if converted is not None and converted.rest is None:
        for name in GRAPH:
            shutil.copyfile(converted.graph.with_suffix(Path(name).suffix), target.with_name(name))
        return
    if converted is not None and isinstance(converted.rest, LinearHead):
        join_linear(converted.graph, converted.names, converted.rest, target, output=OUTPUT)
        return
    missing = network if converted is None else answering(converted.rest)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        traced = Path(folder) / "traced.pb"
        traced.write_bytes(frozen_graph(missing))
        if converted is None:
            rewrite(traced, target)
        else:
            join(converted.graph, converted.names, traced, target)


def read_graph(folder: Path, batch: int) -> OpenVinoEngine | None:
    """The graph in a folder, compiled for so many samples at a time; None where OpenVINO is not installed or
    cannot run it, which is said.

    Whoever calls this has compared its files with the digests in the manifest.
    """
    try:
        return OpenVinoEngine(folder / GRAPH[0], batch=batch)
    except ImportError:
        return None
    except RuntimeError as error:
        say(f"OpenVINO cannot run {folder / GRAPH[0]} ({brief(error, most=160)}): Keras runs the model.")
        return None
