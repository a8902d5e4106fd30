"""The path of the layer of a SavedModel in `.keras` files saved before the packages moved."""

from regraft.backbones.savedmodel_layer import SavedModelLayer

__all__ = ["SavedModelLayer"]
