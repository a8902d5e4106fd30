"""Estimators for scikit-learn: `ImageClassifier`, `ImageRegressor`, `ImageEmbedder`."""

from regraft.estimators.image_estimators import ImageClassifier, ImageEmbedder, ImageRegressor

__all__ = ["ImageClassifier", "ImageEmbedder", "ImageRegressor"]
