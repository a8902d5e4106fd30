"""regraft: transfer learning for images on Keras 3. What is frozen is computed once.

    import regraft
    run = regraft.train("photos", regraft.Recipe(backbone="mobilenet_v2"), "runs/photos")
    run.model                                    # an ordinary keras.Model
    for prediction in regraft.load("runs/photos").predict(["photo.jpg"]): ...

Importing this package imports no deep-learning backend; the names below are fetched when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from regraft.backbones.load import Backbone, load_backbone
    from regraft.data.catalog import Catalog
    from regraft.errors import DataError, EnvironmentFault, ModelRefused, RegraftError, UsageError
    from regraft.estimators import ImageClassifier, ImageEmbedder, ImageRegressor
    from regraft.features.extract import Features, extract_features
    from regraft.features.store import Store
    from regraft.inference.bundle import Bundle, load
    from regraft.models.freeze import freeze
    from regraft.models.head import graft
    from regraft.pipeline.embed import embed
    from regraft.pipeline.recommend import Recommendation, recommend
    from regraft.pipeline.train import Run, search, train
    from regraft.recipe import HeadSpec, Phase, Recipe, Space

__all__ = [
    "Backbone",
    "Bundle",
    "Catalog",
    "DataError",
    "EnvironmentFault",
    "Features",
    "HeadSpec",
    "ImageClassifier",
    "ImageEmbedder",
    "ImageRegressor",
    "ModelRefused",
    "Phase",
    "Recipe",
    "Recommendation",
    "RegraftError",
    "Run",
    "Space",
    "Store",
    "UsageError",
    "embed",
    "extract_features",
    "freeze",
    "graft",
    "load",
    "load_backbone",
    "recommend",
    "search",
    "train",
]

__version__ = "0.1.0"

_HOMES = {
    "regraft.models.freeze": ["freeze"],
    "regraft.models.head": ["graft"],
    "regraft.backbones.load": ["Backbone", "load_backbone"],
    "regraft.data.catalog": ["Catalog"],
    "regraft.inference.bundle": ["Bundle", "load"],
    "regraft.pipeline.embed": ["embed"],
    "regraft.errors": ["DataError", "EnvironmentFault", "ModelRefused", "RegraftError", "UsageError"],
    "regraft.estimators": ["ImageClassifier", "ImageEmbedder", "ImageRegressor"],
    "regraft.features.extract": ["Features", "extract_features"],
    "regraft.features.store": ["Store"],
    "regraft.recipe": ["HeadSpec", "Phase", "Recipe", "Space"],
    "regraft.pipeline.recommend": ["Recommendation", "recommend"],
    "regraft.pipeline.train": ["Run", "search", "train"],
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'regraft' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
