"""A trained model as the files of a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from regraft.console import Reporter
from regraft.data.refusal import Refusal
from regraft.data.workers import DecodeAhead
from regraft.deploy.answers import group_images
from regraft.deploy.bundle import ESTIMATOR, sha256
from regraft.deploy.graph import write_graph
from regraft.deploy.selftest import SELFTEST, make_pictures, write_answers
from regraft.errors import ModelRefused
from regraft.outcome import TrainedModel
from regraft.training.kept import write_estimator

if TYPE_CHECKING:
    import keras

__all__ = ["write_trained_model"]


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
    write_answers(folder / SELFTEST, shown, answers[len(images) :])
    return _digests(folder, [*names, *graph, SELFTEST])


def _write_model(trained: TrainedModel, folder: Path) -> list[str]:
    trained.model.save(folder / "model.keras")
    if trained.kept is None:
        return ["model.keras"]
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
