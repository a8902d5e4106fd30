"""regraft: transfer learning for images on Keras 3. What is frozen is computed once.

    import regraft
    run = regraft.train("photos", regraft.Recipe(backbone="mobilenet_v2"), "runs/photos")
    run.model                                    # an ordinary keras.Model
    for prediction in regraft.load("runs/photos").predict(["photo.jpg"]): ...

The names in `__all__`, and those of `regraft.surgery`, are the public API; everything else is private.
Importing this package imports no deep-learning backend: each name is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from regraft import surgery
    from regraft.backbones.load import Backbone, load_backbone
    from regraft.data.catalog import Catalog
    from regraft.data.samples import RejectedFile
    from regraft.errors import DataError, EnvironmentFault, ModelRefused, RegraftError, UsageError
    from regraft.estimators import ImageClassifier, ImageEmbedder, ImageRegressor
    from regraft.exports.export import Export, export
    from regraft.features.extract import Features, extract_features
    from regraft.features.store import Store
    from regraft.inference.bundle import Bundle, Evaluation, Prediction, load
    from regraft.models.freeze import freeze
    from regraft.models.head import graft
    from regraft.pipeline.apply_review import AppliedReview, apply_review
    from regraft.pipeline.check import Checkup, check
    from regraft.pipeline.compare import Comparison, compare
    from regraft.pipeline.embed import embed
    from regraft.pipeline.explain import ExplainedImages, explain
    from regraft.pipeline.inspect import Inspection, inspect
    from regraft.pipeline.recommend import Recommendation, recommend
    from regraft.pipeline.train import Run, search, train
    from regraft.recipe import HeadSpec, Phase, Recipe, SearchSpace, Space
    from regraft.server.client import Client

__all__ = [
    "AppliedReview",
    "Backbone",
    "Bundle",
    "Catalog",
    "Checkup",
    "Client",
    "Comparison",
    "DataError",
    "EnvironmentFault",
    "Evaluation",
    "ExplainedImages",
    "Export",
    "Features",
    "HeadSpec",
    "ImageClassifier",
    "ImageEmbedder",
    "ImageRegressor",
    "Inspection",
    "ModelRefused",
    "Phase",
    "Prediction",
    "Recipe",
    "Recommendation",
    "RegraftError",
    "RejectedFile",
    "Run",
    "SearchSpace",
    "Space",
    "Store",
    "UsageError",
    "apply_review",
    "check",
    "compare",
    "embed",
    "explain",
    "export",
    "extract_features",
    "freeze",
    "graft",
    "inspect",
    "load",
    "load_backbone",
    "recommend",
    "search",
    "surgery",
    "train",
]

__version__ = "0.1.0"

_HOMES = {
    "regraft.backbones.load": ["Backbone", "load_backbone"],
    "regraft.data.catalog": ["Catalog"],
    "regraft.data.samples": ["RejectedFile"],
    "regraft.errors": ["DataError", "EnvironmentFault", "ModelRefused", "RegraftError", "UsageError"],
    "regraft.estimators": ["ImageClassifier", "ImageEmbedder", "ImageRegressor"],
    "regraft.exports.export": ["Export", "export"],
    "regraft.features.extract": ["Features", "extract_features"],
    "regraft.features.store": ["Store"],
    "regraft.inference.bundle": ["Bundle", "Evaluation", "Prediction", "load"],
    "regraft.models.freeze": ["freeze"],
    "regraft.models.head": ["graft"],
    "regraft.pipeline.apply_review": ["AppliedReview", "apply_review"],
    "regraft.pipeline.check": ["Checkup", "check"],
    "regraft.pipeline.compare": ["Comparison", "compare"],
    "regraft.pipeline.embed": ["embed"],
    "regraft.pipeline.explain": ["ExplainedImages", "explain"],
    "regraft.pipeline.inspect": ["Inspection", "inspect"],
    "regraft.pipeline.recommend": ["Recommendation", "recommend"],
    "regraft.pipeline.train": ["Run", "search", "train"],
    "regraft.recipe": ["HeadSpec", "Phase", "Recipe", "SearchSpace", "Space"],
    "regraft.server.client": ["Client"],
    "regraft": ["surgery"],  # a module
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'regraft' has no attribute {name!r}")
    if _HOME[name] == __name__:
        return importlib.import_module(f"{__name__}.{name}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
