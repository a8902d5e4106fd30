"""A SavedModel as a Keras layer, trusted before its graph is read (see `regraft.model_scan.trust`)."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import keras
import numpy as np

from regraft.backbones.graph import share_storage
from regraft.backbones.savedmodel import (
    Module,
    SavedModelFacts,
    describe_module,
    digest_folder,
    import_tensorflow,
    read_module,
)
from regraft.errors import ModelRefused, UsageError
from regraft.model_scan.trust import expect_trust

__all__ = ["SavedModelLayer", "open_savedmodel"]

_ASSET = "savedmodel"  # the folder within a `.keras` file's assets


@keras.saving.register_keras_serializable("regraft")
class SavedModelLayer(keras.layers.Layer):  # type: ignore[misc] # Keras is untyped
    """A layer that computes features by a SavedModel, whose variables are its weights; see `open_savedmodel`.

    The module is always called with `training=False`: whatever mode the model around it runs in, its batch
    normalisation keeps its published statistics and its dropout is off. Its trainable variables, including
    the scales and offsets of batch normalisation, train where the layer does, and its regularisation losses
    are then added to those of the model.

    A `.keras` file holds the complete SavedModel, and the weights as they are when it is saved.
    """

    def __init__(
        self,
        facts: SavedModelFacts,
        *,
        name: str | None = None,
        trainable: bool = True,
        dtype: Any = "float32",
    ) -> None:
        self.facts = facts
        # The module has its own precision, whatever policy is set.
        super().__init__(
            name=name, trainable=trainable and not facts.frozen_because, dtype=dtype, autocast=False
        )
        self._module: Module | None = None
        self.module_variables = [
            keras.Variable(np.zeros(shape), dtype=kind, trainable=trainable, name=label)
            for label, shape, kind, trainable in facts.variables
        ]

    @property
    def trainable(self) -> bool:
        """Return whether the variables train; setting this where they cannot raises UsageError."""
        return bool(keras.layers.Layer.trainable.fget(self))

    @trainable.setter
    def trainable(self, value: bool) -> None:
        if value and self.facts.frozen_because:
            raise UsageError(
                f"{self.name} can only be used frozen: {self.facts.frozen_because}. "
                'Leave it so: unfreeze "none".'
            )
        keras.layers.Layer.trainable.fset(self, value)

    def attach(self, module: Module) -> None:
        """Compute with a SavedModel from now on; its variables and this layer's weights become the same."""
        self._module = module
        for weight, variable in zip(self.module_variables, module.variables, strict=True):
            share_storage(weight, variable)  # the module reads what an optimizer writes

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
            (name, tuple(shape), kind, trainable) for name, shape, kind, trainable in facts["variables"]
        )
        import_tensorflow()
        expect_trust("The file", facts["digest"], user_trusts=False)
        return cls(**{**config, "facts": SavedModelFacts(**facts)})

    def save_assets(self, dir_path: str) -> None:
        """Copy the SavedModel into the `.keras` file; Keras calls this to save."""
        if self._module is not None:
            shutil.copytree(self._module.folder, Path(dir_path) / _ASSET)

    def load_assets(self, dir_path: str) -> None:
        """Read the SavedModel from the `.keras` file; Keras calls this after loading the weights."""
        copy = tempfile.TemporaryDirectory(prefix="regraft-savedmodel-", ignore_cleanup_errors=True)
        folder = Path(copy.name) / _ASSET
        shutil.copytree(Path(dir_path) / _ASSET, folder)
        if digest_folder(folder) != self.facts.digest:
            raise ModelRefused(f"{self.name}: the SavedModel in the file is not the one that was saved.")
        module = read_module(folder, copy)
        for weight, variable in zip(self.module_variables, module.variables, strict=True):
            variable.assign(weight.value)
        self.attach(module)


def open_savedmodel(
    folder: Path, *, image_size: int | None, name: str, trust: bool = False
) -> SavedModelLayer:
    """Open a SavedModel for images as a layer. This runs its graph.

    Args:
        folder: the folder that holds `saved_model.pb`.
        image_size: pixels a side; None for the module's own, or 224 where it has none.
        name: the name of the layer.
        trust: whether the user vouches for the SavedModel; this is remembered by content.

    Returns:
        A layer from float RGB `(batch, size, size, 3)`, on the scale that the module expects (mostly 0..1),
        to a vector `(batch, channels)`, tokens or a map. Its `facts` give the size and whether it can train.

    Raises:
        UsageError: the module takes another image size.
        ModelRefused: the module is not trusted, is damaged, or does not map RGB images to one vector, tokens
            or map.
        EnvironmentFault: Keras does not run on TensorFlow.
    """
    digest = digest_folder(folder)
    expect_trust(str(folder), digest, user_trusts=trust)
    module = read_module(folder)
    layer = SavedModelLayer(describe_module(module, digest, image_size), name=name)
    layer.attach(module)
    return layer
