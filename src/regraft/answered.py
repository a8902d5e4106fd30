"""The answers of a finished model to the images that it is scored on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from regraft.data.catalog import Catalog
from regraft.data.refusal import Refusal
from regraft.data.workers import DecodeAhead, jobs_for
from regraft.errors import DataError
from regraft.outcome import Converted

if TYPE_CHECKING:
    import keras

    from regraft.features.extract import Features
    from regraft.training.heads import FoundHead
    from regraft.training.material import Material

__all__ = ["Answers", "final_answers", "from_features"]

Answers = dict[str, NDArray[Any]]


def _scored(catalog: Catalog) -> list[str]:
    return [part for part in ("test", "validation") if catalog.part(part)]


def from_features(found: FoundHead, material: Material) -> Answers:
    """The answers of the head on the untouched backbone, for each scored part, (n, units)."""
    catalog = material.catalog
    return {part: found.answers(material, catalog.part(part)) for part in _scored(catalog)}


def final_answers(
    found: FoundHead, features: Features, material: Material, *, fine_tuned: bool
) -> tuple[Answers, Converted | None]:
    """The answers of the model as it is in the end, for each scored part; and the graph that gave them, or
    their features."""
    if fine_tuned:
        return _from_pixels(found.model, material)
    answers = from_features(found, material)  # a phase may have trained the head alone
    several = any(sample.more for sample in material.catalog.samples)
    if features.graph is None or found.kept is not None or several:
        return answers, None
    return answers, Converted(features.graph, material.names, found.linear(material) or found.head)


def _from_pixels(model: keras.Model, material: Material) -> tuple[Answers, Converted | None]:
    """The answers of a model to files, decoded as `predict` does it, for each scored part, (n, units); and
    what gave them."""
    from regraft.deploy.answers import answering, run_engine
    from regraft.features.speed import Speed

    catalog = material.catalog
    samples = [sample for part in _scored(catalog) for sample in catalog.part(part)]
    contents = list(dict.fromkeys(sample.digest for sample in samples))
    network = answering(model)
    speed = Speed(network, material.store)
    with DecodeAhead(jobs_for(catalog, contents), material.backbone.image_size) as decoding:
        found = dict(zip(contents, run_engine(speed.engine, decoding), strict=True))
    changed = [content for content, answer in found.items() if isinstance(answer, Refusal)]
    if changed:
        names = [sample.path for sample in samples if sample.digest in changed]
        raise DataError(
            f"{len(names)} images changed while the run was reading them, the first: {names[0]}. "
            "Run again once nothing writes to the folder."
        )
    answers = {
        part: np.array([found[sample.digest] for sample in catalog.part(part)]) for part in _scored(catalog)
    }
    return answers, None if speed.graph is None else Converted(speed.graph)
