"""A run without a folder of the user's: its files live as long as the object, and travel with it when it is
pickled, as the bytes they are. No Keras object is ever pickled."""

from __future__ import annotations

import tempfile
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from regraft.data.catalog import Catalog
from regraft.data.images.rejections import Refusal
from regraft.data.samples import Refused
from regraft.estimators.inputs import expect_all
from regraft.inference.bundle import Bundle, load
from regraft.inference.model_files import ESTIMATOR
from regraft.inference.predict import answer_contents, name_output
from regraft.pipeline.context import Context
from regraft.pipeline.run_folder import claim_folder, write_run
from regraft.recipe import Recipe
from regraft.system.console import SILENT, Reporter
from regraft.training.outcome import Outcome

if TYPE_CHECKING:
    import keras

    from regraft.models.cut import Cut

__all__ = ["HeldRun"]

ROWS = 32  # that a head answers at once

Answers = NDArray[np.float32]


class HeldRun:
    """A run folder that vanishes with this object.

    Args:
        files: name -> content of a run folder's files; None where `write` or `train` is still to write them.

    Attributes:
        path: the folder, with report.html, metrics.json and whatever else `train` writes.
    """

    def __init__(self, files: dict[str, bytes] | None = None) -> None:
        self._home = tempfile.TemporaryDirectory(prefix="regraft-", ignore_cleanup_errors=True)
        self.path = Path(self._home.name) / "run"
        if files is not None:
            self.path.mkdir()
            for name, content in files.items():
                (self.path / Path(name).name).write_bytes(content)

    def __getstate__(self) -> dict[str, bytes]:
        return {file.name: file.read_bytes() for file in self.path.iterdir()}

    def __setstate__(self, files: dict[str, bytes]) -> None:
        self.__init__(files)  # type: ignore[misc] # the same object, from the same files

    def write(self, outcome: Outcome, reporter: Reporter) -> None:
        """Fill the folder. There is no graph for OpenVINO in it: the store has what frozen networks give."""
        with claim_folder(self.path, overwrite=False) as folder:
            write_run(outcome, folder, self.path, None, reporter)

    @cached_property
    def bundle(self) -> Bundle:
        """The run, opened; its model is read from its file, in safe mode.

        A head that is an estimator may be of any type: it came from whoever called `fit`, in this process or
        in the one that pickled this object.
        """
        return load(self.path, trusted=_types_in(self.path / ESTIMATOR), reporter=SILENT)

    def answers(self, context: Context, catalog: Catalog) -> Answers:
        """What the model gives for a catalog's samples of one image: (n, units), in their order.

        Where the backbone stayed frozen, its features are looked up in the store, and kept there if they are
        new: images that it was fitted on, or another fold was, do not pass through it again.

        Raises:
            DataError: an image cannot be decoded.
        """
        tuned = Recipe.from_toml(self.path / "recipe.toml").trains_backbone
        found = self._from_pixels(context, catalog) if tuned else self._from_features(context, catalog)
        return found if self.bundle.kept is None else self.bundle.kept.predict(found).astype(np.float32)

    def _from_features(self, context: Context, catalog: Catalog) -> Answers:
        from regraft.features.extract import extract_features

        precision = Recipe.from_toml(self.path / "recipe.toml").precision
        features = extract_features(
            self._parts.prefix,
            catalog,
            store=context.store,
            precision=precision,
            reporter=context.reporter,
        )
        expect_all(features.refused)
        inputs = [features.matrix(catalog.samples, name) for name in self._parts.names]
        return _row_by_row(self._parts.suffix, inputs)

    def _from_pixels(self, context: Context, catalog: Catalog) -> Answers:
        bundle, where = self.bundle, {sample.digest: sample.path for sample in catalog.samples}
        found = answer_contents(
            bundle.engine, catalog, catalog.samples, bundle.image_size, reporter=context.reporter
        )
        bad = ((where[digest], verdict) for digest, verdict in found.items() if isinstance(verdict, Refusal))
        expect_all(Refused(path, verdict.code, verdict.detail) for path, verdict in bad)
        return np.array([found[sample.digest] for sample in catalog.samples], np.float32)

    @cached_property
    def _parts(self) -> Cut:
        """The model, cut between backbone and head as in training."""
        from regraft.models.cut import Cut, cut
        from regraft.models.head import is_head

        model = self.bundle.model
        if any(is_head(layer) and layer.weights for layer in model.layers):
            return cut(model, is_head)
        return Cut(name_output(model, "cut_0"), _identity(model), ("cut_0",))


def _types_in(file: Path) -> list[str]:
    """The types in a skops file that are read only where they are named."""
    if not file.exists():
        return []
    from skops.io import get_untrusted_types

    return list(get_untrusted_types(file=file))


def _row_by_row(network: keras.Model, inputs: list[NDArray[Any]]) -> Answers:
    """Answers to rows, always so many at once: the last digits of an answer do not hang on its neighbours."""
    import keras

    found = []
    for at in range(0, len(inputs[0]), ROWS):
        rows = [tensor[at : at + ROWS] for tensor in inputs]
        short = ROWS - len(rows[0])
        full = [np.concatenate([part, np.zeros((short, *part.shape[1:]), part.dtype)]) for part in rows]
        answers = network(full if len(full) > 1 else full[0], training=False)
        found.append(keras.ops.convert_to_numpy(answers)[: len(rows[0])])
    return np.concatenate(found).astype(np.float32)


def _identity(model: keras.Model) -> keras.Model:
    import keras

    given = keras.Input(model.output_shape[1:])
    return keras.Model(given, keras.layers.Identity()(given))
