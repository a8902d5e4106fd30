"""A run in a temporary folder that lives as long as its object.

When the object is pickled, the bytes of the files go with it. No Keras object is ever pickled.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from regraft.data.catalog import Catalog
from regraft.data.images.rejections import Rejection
from regraft.data.samples import RejectedFile
from regraft.estimators.inputs import require_all_usable
from regraft.inference.bundle import Bundle, load
from regraft.inference.model_files import ESTIMATOR
from regraft.inference.predict import predict_contents
from regraft.pipeline.context import Context
from regraft.pipeline.outputs import claim_folder
from regraft.pipeline.run_folder import write_run
from regraft.recipe import Recipe
from regraft.system.console import SILENT, Reporter
from regraft.system.process_cache import ProcessCache
from regraft.training.outcome import Outcome

if TYPE_CHECKING:
    import keras

    from regraft.models.cut import Cut

__all__ = ["TemporaryRun"]

BATCH = 32  # rows that a head predicts at once

Answers = NDArray[np.float32]


class TemporaryRun:
    """A run folder that is deleted with this object.

    Args:
        files: name -> content of the files of a run folder; None if `write` is still to write them.

    Attributes:
        path: the folder, with report.html, metrics.json and everything else that `train` writes.
    """

    def __init__(self, files: dict[str, bytes] | None = None) -> None:
        folder = Path(tempfile.mkdtemp(prefix="regraft-"))
        weakref.finalize(self, _remove, folder, os.getpid())
        self.path = folder / "run"
        self._cache = ProcessCache()
        if files is not None:
            self.path.mkdir()
            for name, content in files.items():
                (self.path / Path(name).name).write_bytes(content)

    def __getstate__(self) -> dict[str, bytes]:
        return {file.name: file.read_bytes() for file in self.path.iterdir()}

    def __setstate__(self, files: dict[str, bytes]) -> None:
        self.__init__(files)  # type: ignore[misc] # fills the unpickled object from its files

    def write(self, outcome: Outcome, reporter: Reporter) -> None:
        """Write the folder, without a graph for OpenVINO: features of frozen networks are in the store."""
        with claim_folder(self.path, overwrite=False) as folder:
            write_run(outcome, folder, self.path, None, reporter)

    @property
    def bundle(self) -> Bundle:
        """The run as opened by `load`, its model in safe mode.

        The types of an estimator in the head are trusted: whoever called `fit` passed it in, in this process
        or in the one that pickled this object.
        """
        return self._cache.get("bundle", self._open_bundle)

    def _open_bundle(self) -> Bundle:
        return load(self.path, trusted=_list_types(self.path / ESTIMATOR), reporter=SILENT)

    def predict(self, context: Context, catalog: Catalog) -> Answers:
        """Return the model's answers to a catalog's samples of one image, (n, units), in their order.

        If the backbone stayed frozen, its features are read from the store and new ones are added: images
        that were seen in `fit` or in another fold are not computed again.

        Raises:
            DataError: an image cannot be decoded.
        """
        is_fine_tuned = Recipe.from_toml(self.path / "recipe.toml").trains_backbone
        predict = self._predict_from_pixels if is_fine_tuned else self._predict_from_features
        answers, estimator = predict(context, catalog), self.bundle.estimator
        return answers if estimator is None else estimator.predict(answers).astype(np.float32)

    def _predict_from_features(self, context: Context, catalog: Catalog) -> Answers:
        from regraft.features.extract import extract_features

        precision = Recipe.from_toml(self.path / "recipe.toml").precision
        features = extract_features(
            self._cut.prefix,
            catalog,
            store=context.store,
            precision=precision,
            reporter=context.reporter,
        )
        require_all_usable(features.refused)
        inputs = [features.matrix(catalog.samples, name) for name in self._cut.names]
        return _predict_in_batches(self._cut.suffix, inputs)

    def _predict_from_pixels(self, context: Context, catalog: Catalog) -> Answers:
        bundle, paths = self.bundle, {sample.digest: sample.path for sample in catalog.samples}
        outputs = predict_contents(
            bundle.make_engine, catalog, catalog.samples, bundle.image_size, reporter=context.reporter
        )
        require_all_usable(
            RejectedFile(paths[digest], output.code, output.detail)
            for digest, output in outputs.items()
            if isinstance(output, Rejection)
        )
        rows = [outputs[sample.digest] for sample in catalog.samples]
        return np.array([row.answer for row in rows if not isinstance(row, Rejection)], np.float32)

    @property
    def _cut(self) -> Cut:
        """The model, cut between backbone and head as in training."""
        return self._cache.get("cut", self._cut_model)

    def _cut_model(self) -> Cut:
        import keras

        from regraft.models.cut import Cut, cut
        from regraft.models.head import is_head

        model = self.bundle.model
        if any(is_head(layer) and layer.weights for layer in model.layers):
            return cut(model, is_head)
        prefix = keras.Model(model.inputs[0], {"cut_0": model.outputs[0]})
        return Cut(prefix, _make_identity(model), ("cut_0",))


def _remove(folder: Path, process: int) -> None:
    """Remove the folder of an object that has gone; not where a forked process ends, whose parent has it."""
    if os.getpid() == process:
        shutil.rmtree(folder, ignore_errors=True)


def _list_types(file: Path) -> list[str]:
    """Return the types in a skops file that are read only if they are trusted."""
    if not file.exists():
        return []
    from skops.io import get_untrusted_types

    return list(get_untrusted_types(file=file))


def _predict_in_batches(network: keras.Model, inputs: list[NDArray[Any]]) -> Answers:
    """Predict in batches of one size, so that results do not depend on how rows are grouped."""
    import keras

    answers = []
    for start in range(0, len(inputs[0]), BATCH):
        rows = [tensor[start : start + BATCH] for tensor in inputs]
        missing = BATCH - len(rows[0])
        batch = [
            np.concatenate([tensor, np.zeros((missing, *tensor.shape[1:]), tensor.dtype)]) for tensor in rows
        ]
        output = network(batch if len(batch) > 1 else batch[0], training=False)
        answers.append(keras.ops.convert_to_numpy(output)[: len(rows[0])])
    return np.concatenate(answers).astype(np.float32)


def _make_identity(model: keras.Model) -> keras.Model:
    """Return a model that passes on the output of another."""
    import keras

    inputs = keras.Input(model.output_shape[1:])
    return keras.Model(inputs, keras.layers.Identity()(inputs))
