"""A trained model as the files of a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from regraft.console import Reporter
from regraft.data.refusal import Refusal
from regraft.data.workers import DecodeAhead
from regraft.deploy.answers import group_images
from regraft.deploy.bundle import ESTIMATOR, sha256, write_model
from regraft.deploy.graph import write_graph
from regraft.deploy.selftest import SELFTEST, make_pictures, write_answers
from regraft.errors import ModelRefused
from regraft.training.kept import Kept, write_estimator

if TYPE_CHECKING:
    import keras

__all__ = ["TrainedModel"]


@dataclass(frozen=True)
class TrainedModel:
    """The network that a run trained.

    Attributes:
        model: RGB pixels 0..255 to answers, or to what `kept` answers from.
        photos: how many images make a sample.
        kept: scikit-learn estimators that answer from what the model gives, if the head is made of them.
        graph: the model as OpenVINO's file, where the store has it.
    """

    model: keras.Model
    photos: int = 1
    kept: Kept | None = None
    graph: Path | None = None

    @property
    def parameters(self) -> int:
        """How many numbers the model holds."""
        return int(self.model.count_params())

    def write(
        self, folder: Path, open_images: Callable[[], DecodeAhead] | None, reporter: Reporter
    ) -> dict[str, str]:
        """Fill a run folder with `model.keras` and what runs or completes it.

        Args:
            folder: where to write.
            open_images: begins to decode a few of the run's images, on which a graph for OpenVINO has to
                answer as the model does; None for a run without a graph and without answers to compare.

        Returns:
            The SHA-256 of each file, by name.

        Raises:
            ModelRefused: a weight of the model is not a finite number.
        """
        _expect_finite(self.model)
        if open_images is None:
            return self._write_model(folder)
        with open_images() as decoding:
            files = self._write_model(folder)
            decoded = group_images(iter(decoding), self.photos)
            images = [image for image in decoded if not isinstance(image, Refusal)]
        shown = make_pictures(int(self.model.inputs[0].shape[-2]), self.photos)
        pixels = np.stack([*images, *shown])
        answers, graph = write_graph(self.model, folder, pixels, graph=self.graph, reporter=reporter)
        write_answers(folder / SELFTEST, shown, answers[len(images) :])
        return files | {name: sha256(folder / name) for name in (*graph, SELFTEST)}

    def _write_model(self, folder: Path) -> dict[str, str]:
        files = {"model.keras": write_model(self.model, folder / "model.keras")}
        if self.kept is not None:
            write_estimator(self.kept, folder / ESTIMATOR)
            files[ESTIMATOR] = sha256(folder / ESTIMATOR)
        return files


def _expect_finite(model: keras.Model) -> None:
    for weight in model.weights:
        value = np.asarray(weight)
        if value.dtype.kind not in "biu" and not np.isfinite(value.astype(np.float32)).all():
            raise ModelRefused(
                f"The model is not written: its weight {weight.path} holds numbers that are not finite. Are "
                "those of the backbone's file? If not, train at a lower --learning-rate."
            )
