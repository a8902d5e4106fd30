"""The answers of a finished model to the images that it is scored on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from regraft.context import Context
from regraft.data.catalog import Catalog
from regraft.data.refusal import Refusal
from regraft.data.workers import DecodeAhead, jobs_for
from regraft.errors import DataError

if TYPE_CHECKING:
    from regraft.training.heads import FoundHead
    from regraft.training.material import Material

__all__ = ["Answers", "answer_from_features", "evaluate"]

Answers = dict[str, NDArray[Any]]


def _scored(catalog: Catalog) -> list[str]:
    return [part for part in ("test", "validation") if catalog.part(part)]


def answer_from_features(found: FoundHead, material: Material) -> Answers:
    """Return the answers of the head on the untouched backbone, for each scored part, (n, units)."""
    catalog = material.catalog
    return {part: found.answers(material, catalog.part(part)) for part in _scored(catalog)}


def evaluate(
    context: Context, found: FoundHead, material: Material, *, fine_tuned: bool
) -> tuple[Answers, Path | None]:
    """Return the answers of the final model for each scored part, (n, units), and the graph that gave them.

    Where the backbone stayed frozen, they come from stored features, and there is no graph.

    Raises:
        DataError: an image changed meanwhile.
    """
    if not fine_tuned:
        return answer_from_features(found, material), None  # a phase may have trained the head alone
    from regraft.deploy.answers import name_output, run_engine
    from regraft.features.speed import Speed

    catalog = material.catalog
    samples = [sample for part in _scored(catalog) for sample in catalog.part(part)]
    contents = list(dict.fromkeys(sample.digest for sample in samples))
    speed = Speed(name_output(found.model), context.store)
    with DecodeAhead(jobs_for(catalog, contents), material.backbone.image_size) as decoding:
        answers = dict(
            zip(contents, run_engine(speed.engine, decoding, reporter=context.reporter), strict=True)
        )
    changed = [content for content, answer in answers.items() if isinstance(answer, Refusal)]
    if changed:
        names = [sample.path for sample in samples if sample.digest in changed]
        raise DataError(
            f"{len(names)} images changed while the run was reading them, the first: {names[0]}. "
            "Run again once nothing writes to the folder."
        )
    rows = {part: [answers[sample.digest] for sample in catalog.part(part)] for part in _scored(catalog)}
    return {part: np.array(each) for part, each in rows.items()}, speed.graph
