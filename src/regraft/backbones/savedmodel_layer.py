"""A SavedModel as a Keras layer. It has to be trusted before its graph is read, see `backbone.trust`."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import keras
import numpy as np

from regraft.backbones.savedmodel import Facts, Module, digest_of, facts_of, read_module, tensorflow
from regraft.errors import ModelRefused, UsageError
from regraft.model_scan.trust import expect_trust

__all__ = ["SavedModelLayer", "open_savedmodel"]

_INSIDE = "savedmodel"  # the folder within a `.keras` file's assets


@keras.saving.register_keras_serializable("regraft")
class SavedModelLayer(keras.layers.Layer):  # type: ignore[misc] # Keras is untyped
    """Images to features by a SavedModel whose variables are this layer's weights. Made by `open_savedmodel`.

    The module is always called with `training=False`. Its batch normalisation uses the statistics it was
    published with, and they never move, whatever mode the model around it runs in; nor does its dropout drop.
    Its trainable variables, the scales and offsets of its batch normalisation among them, do train where the
    layer does, and its regularisation losses are then added to the model's.

    A `.keras` file holds the SavedModel whole, and its weights as they are now.
    """

    def __init__(
        self, facts: Facts, *, name: str | None = None, trainable: bool = True, dtype: Any = "float32"
    ) -> None:
        self.facts = facts
        # The module takes its own precision, whatever policy is set.
        super().__init__(
            name=name, trainable=trainable and not facts.frozen_because, dtype=dtype, autocast=False
        )
        self._module: Module | None = None
        self.module_variables = [
            keras.Variable(np.zeros(shape), dtype=kind, trainable=trains, name=label)
            for label, shape, kind, trains in facts.variables
        ]

    @property
    def trainable(self) -> bool:
        """Whether its variables train; setting it where they cannot raises UsageError."""
        return bool(self._trainable)

    @trainable.setter
    def trainable(self, value: bool) -> None:
        if value and self.facts.frozen_because:
            raise UsageError(
                f"{self.name} can only be used frozen: {self.facts.frozen_because}. "
                'Leave it so: unfreeze "none".'
            )
        keras.layers.Layer.trainable.fset(self, value)

    def attach(self, module: Module) -> None:
        """Compute with a SavedModel. Its variables take this layer's place for the weights' values, not the
        values themselves: those are the layer's."""
        self._module = module
        for own, its in zip(self.module_variables, module.variables, strict=True):
            own._value = its  # one storage: what an optimizer writes, the module reads

    def build(self, input_shape: Any) -> None:
        self.built = True

    def call(self, pixels: Any) -> Any:
        if self._module is None:
            raise UsageError(f"{self.name} was copied without its SavedModel. Load it again by its name.")
        features = self._module.run(keras.ops.cast(pixels, self._module.dtype))
        if self.trainable:
            for loss in self._module.losses:
                self.add_loss(loss())
        return keras.ops.cast(keras.ops.reshape(features, (-1, *self.facts.features)), self.compute_dtype)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        return (input_shape[0], *self.facts.features)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "facts": asdict(self.facts)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> SavedModelLayer:
        facts = dict(config["facts"])
        facts["features"] = tuple(facts["features"])
        facts["variables"] = tuple(
            (name, tuple(shape), kind, trains) for name, shape, kind, trains in facts["variables"]
        )
        tensorflow()
        expect_trust("The file", facts["digest"], said=False)
        return cls(**{**config, "facts": Facts(**facts)})

    def save_assets(self, dir_path: str) -> None:
        """What Keras calls to save: the SavedModel goes into the `.keras` file."""
        if self._module is not None:
            shutil.copytree(self._module.folder, Path(dir_path) / _INSIDE)

    def load_assets(self, dir_path: str) -> None:
        """What Keras calls to load, after the weights."""
        keeper = tempfile.TemporaryDirectory(prefix="regraft-savedmodel-", ignore_cleanup_errors=True)
        folder = Path(keeper.name) / _INSIDE
        shutil.copytree(Path(dir_path) / _INSIDE, folder)
        if digest_of(folder) != self.facts.digest:
            raise ModelRefused(f"{self.name}: the SavedModel in the file is not the one that was saved.")
        module = read_module(folder, keeper)
        for own, its in zip(self.module_variables, module.variables, strict=True):
            its.assign(own.value)
        self.attach(module)


def open_savedmodel(
    folder: Path, *, image_size: int | None, name: str, trust: bool = False
) -> SavedModelLayer:
    """A SavedModel of images as a layer. Its graph is run.

    Args:
        folder: holds `saved_model.pb`.
        image_size: pixels a side; None for the module's own, or 224 where it leaves that open.
        name: of the layer.
        trust: the user knows where it comes from; need not be said again of the same content.

    Returns:
        A layer from float RGB `(batch, size, size, 3)`, on the scale the module wants (as a rule 0..1), to a
        vector `(batch, channels)`, tokens, or a map. Its `facts` say which size and whether it can train.

    Raises:
        UsageError: the module takes another image size.
        ModelRefused: it is not trusted, damaged, or does not map RGB images to one vector, tokens or map.
        EnvironmentFault: Keras does not run on TensorFlow.
    """
    digest = digest_of(folder)
    expect_trust(str(folder), digest, said=trust)
    module = read_module(folder)
    layer = SavedModelLayer(facts_of(module, digest, image_size), name=name)
    layer.attach(module)
    return layer
