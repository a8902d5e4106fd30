"""The path under which `.keras` files saved before the packages moved name the layer of a SavedModel."""

from regraft.backbones.savedmodel_layer import SavedModelLayer

__all__ = ["SavedModelLayer"]
