"""Explain answers on a page: heat maps of each image, and the training images that are nearest to it.

The page is self-contained, as the report is. Nearest images are those whose features are most alike; they are
shown where the run's data are still as they were.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from regraft.data.images.decode import has_digest
from regraft.data.samples import RejectedFile
from regraft.errors import DataError, ModelRefused, wrap_os_errors
from regraft.explanation.evidence import Question
from regraft.explanation.explainer import Explainer, Explanation
from regraft.explanation.pictures import encode_jpeg, paint
from regraft.inference.bundle import Bundle, Prediction, load
from regraft.pipeline.outputs import require_new_file
from regraft.pipeline.predictions import read_split
from regraft.pipeline.run_answers import find_image_root
from regraft.report.build import utc_now
from regraft.report.mistakes import make_thumbnail
from regraft.report.render import render_page
from regraft.system.files import make_temporary_file

__all__ = ["ExplainedImages", "Neighbour", "TrainingImages", "explain"]

RANKED = 3  # classes or labels listed of each image, at least
NEIGHBOURS = 6  # nearest training images shown of each image

METHODS = {
    "map": "Heat is what each part of the image adds to the decision: exact shares, from the model's last "
    "feature map (class activation maps).",
    "removal": "Heat is how far the decision falls when the features of a part of the image are removed.",
    "occlusion": "Heat is how far the decision falls when a part of the image is blurred: this model has no "
    "feature map that its head alone looks at.",
}


@dataclass(frozen=True)
class ExplainedImages:
    """What `explain` wrote.

    Attributes:
        path: the page.
        predictions: the answers to the images on it, in order.
        refused: the files that cannot be used.
    """

    path: Path
    predictions: tuple[Prediction, ...]
    refused: tuple[RejectedFile, ...]


def explain(
    run: Bundle | str | os.PathLike[str],
    images: Any,
    out: str | os.PathLike[str] = "explanations.html",
    *,
    coverage: float = 0.9,
    overwrite: bool = False,
    trust: bool = False,
) -> ExplainedImages:
    """Write a page that shows where in each image the evidence for its answer lies.

    Args:
        run: a run folder that `train` wrote, or the run as `load` returns it.
        images, coverage: as for `Bundle.predict`.
        out: the HTML file to write.
        overwrite: replace `out` if it exists.
        trust: you know where a SavedModel inside the model comes from; see `load_backbone`.

    Raises:
        UsageError: there is no such run, image or folder; `out` exists; or samples have several images.
        DataError: no image can be used.
        ModelRefused: see `load`.
        EnvironmentFault: the page cannot be written.

    Example:
        explain("runs/clothes", ["dress.jpg", "hat.jpg"], "why.html")
    """
    page = Path(out)
    require_new_file(page, overwrite=overwrite)
    bundle = run if isinstance(run, Bundle) else load(run, trust=trust)
    explainer = Explainer(bundle)
    results = list(explainer.explain(images, coverage=coverage))
    explanations = [result for result in results if isinstance(result, Explanation)]
    refused = tuple(result for result in results if isinstance(result, RejectedFile))
    if not explanations:
        named = f", the first: {refused[0].image} ({refused[0].detail})" if refused else ""
        raise DataError(f"Expected images that can be decoded. Received: {len(refused)} that cannot{named}.")
    content = render_page(
        "explain.html.j2",
        refused,
        title=bundle.path.name,
        created=utc_now(),
        cards=_make_cards(bundle, explanations),
        method=METHODS[explainer.method],
        grid=explanations[0].heat.shape[1:],
        task=bundle.task,
        coverage=coverage,
    )
    _write_page(content, page)
    return ExplainedImages(page, tuple(item.prediction for item in explanations), refused)


def _write_page(content: str, page: Path) -> None:
    with wrap_os_errors(f"Cannot write the page to {page}"):
        page.parent.mkdir(parents=True, exist_ok=True)
        with make_temporary_file(page.parent, f".{page.name}.writing-") as temporary:
            temporary.write_bytes(content.encode("utf-8"))
            temporary.replace(page)


# --- the content of the page


@dataclass(frozen=True)
class Neighbour:
    """A training image near an image; similarity is the cosine of their features, `thumbnail` may be b""."""

    image: str
    label: str
    similarity: float
    thumbnail: bytes


@dataclass(frozen=True)
class _Card:
    """An image on the page: its answer, its pictures, and its nearest training images.

    A map is a question, a JPEG file, and whether no part of the image has any heat.
    """

    prediction: Prediction
    picture: bytes
    maps: list[tuple[Question, bytes, bool]]
    ranking: list[tuple[str, float]]
    neighbours: list[Neighbour]


def _make_cards(bundle: Bundle, explanations: Sequence[Explanation]) -> list[_Card]:
    training = TrainingImages.open(bundle)
    return [
        _Card(
            item.prediction,
            encode_jpeg(item.picture),
            [_draw(item, question, heat) for question, heat in zip(item.questions, item.heat, strict=True)],
            _rank_values(item.prediction),
            training.find_nearest(item) if training else [],
        )
        for item in explanations
    ]


def _draw(item: Explanation, question: Question, heat: NDArray[np.float32]) -> tuple[Question, bytes, bool]:
    picture = paint(item.picture, heat, is_signed=question.is_signed)
    return question, encode_jpeg(picture), not (np.abs(heat) if question.is_signed else heat).max() > 0


def _rank_values(prediction: Prediction) -> list[tuple[str, float]]:
    """Return the likeliest classes or labels with their probabilities, or every target with its value."""
    values = list(prediction.values.items())
    if prediction.task == "regression":
        return values
    return sorted(values, key=lambda item: -item[1])[: max(RANKED, len(prediction.labels))]


class _References(Protocol):
    """The training images that a run's file of uncertainty holds; see `uncertainty.familiarity`."""

    names: Any
    labels: Any

    def find_nearest(self, features: Any, count: int) -> tuple[Any, Any]: ...


@dataclass(frozen=True)
class TrainingImages:
    """The training images that a run knows, and their files where they are still as they were.

    Attributes:
        references: their features, names and labels.
        root: the folder that names are relative to; None if it is not known or gone.
        digests: of the content of each image, by name.
        depth: how many bits of 16-bit samples are used.
    """

    references: _References
    root: Path | None
    digests: Mapping[str, str]
    depth: int

    @classmethod
    def open(cls, bundle: Bundle) -> TrainingImages | None:
        """Open those of a run; None if the run holds no features to compare with."""
        references = getattr(bundle.uncertainty, "familiarity", None)
        if references is None:
            return None
        try:
            digests = {row.image: row.digest for row in read_split(bundle.path)}
        except ModelRefused:  # the user may have moved or changed the table
            digests = {}
        return cls(references, find_image_root(bundle.path), digests, bundle.depth)

    def find_nearest(self, item: Explanation) -> list[Neighbour]:
        """Return the training images whose features are most like those of an explained image."""
        if item.features is None:
            return []
        rows, cosines = self.references.find_nearest(item.features[None], NEIGHBOURS)
        names, labels = (
            list(map(str, texts[rows[0]])) for texts in (self.references.names, self.references.labels)
        )
        return [
            Neighbour(name, label, float(cosine), self._show(name))
            for name, label, cosine in zip(names, labels, cosines[0], strict=True)
        ]

    def _show(self, name: str) -> bytes:
        """Return a thumbnail of a training image; b"" if its file is gone or has another content."""
        if self.root is None or not has_digest(self.root / name, self.digests.get(name, "")):
            return b""
        return make_thumbnail(self.root / name, depth=self.depth)
