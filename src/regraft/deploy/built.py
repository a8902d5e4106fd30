"""A network that Keras holds, as the files of a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from regraft.data.workers import DecodeAhead
from regraft.deploy.bundle import ESTIMATOR, sha256, write_model
from regraft.deploy.graph import write_graph
from regraft.deploy.selftest import SELFTEST, write_answers
from regraft.errors import ModelRefused
from regraft.outcome import Converted
from regraft.training.kept import Kept, write_estimator

if TYPE_CHECKING:
    import keras

__all__ = ["Built"]


@dataclass(frozen=True)
class Built:
    """See `outcome.Trained`.

    Attributes:
        model: RGB pixels 0..255 to answers, or to what `kept` answers from.
        photos: how many images make a sample.
        kept: scikit-learn estimators that answer from what the model gives, if the head is made of them.
        converted: what of the model the store has converted; None where nothing.
        keep: takes the model and its file once that is written; None where nothing more comes of it.
    """

    model: keras.Model
    photos: int = 1
    kept: Kept | None = None
    converted: Converted | None = None
    keep: Callable[[keras.Model, Path], None] | None = None

    @property
    def parameters(self) -> int:
        """How many numbers the model holds."""
        return int(self.model.count_params())

    def write(self, folder: Path, some: Callable[[], DecodeAhead] | None) -> dict[str, str]:
        """See `outcome.Trained.write`."""
        _expect_finite(self.model)
        if some is None:
            return self._write_model(folder)
        with some() as photographs:
            files = self._write_model(folder)
            graph = write_graph(self.model, folder, photographs, self.photos, self.converted)
        write_answers(self.model, folder / SELFTEST, self.photos)
        if self.keep is not None and graph:
            self.keep(self.model, folder / "model.keras")
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
