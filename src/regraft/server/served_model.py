"""A run that is being served: everything is read and tried before the first request, nothing later.

So a run folder may be replaced while its model is serving, and a damaged one is noticed at the start.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from regraft.errors import ModelRefused, RegraftError
from regraft.explanation.evidence import Question
from regraft.explanation.explainer import Explainer, Explanation
from regraft.inference.bundle import MANIFEST, Bundle, load
from regraft.inference.familiarity import add_familiarity
from regraft.inference.predict import ModelOutput, list_rows, make_test_images
from regraft.inference.predictions import PredictionMaker, apply_estimator, make_row
from regraft.models.inner_outputs import ANSWERS, FEATURES
from regraft.pipeline.explain import Neighbour, TrainingImages
from regraft.server.refusals import RequestRefused
from regraft.system.console import SILENT, Reporter
from regraft.tasks import TASKS

if TYPE_CHECKING:
    from regraft.features.engine import Engine

__all__ = ["ServedModel", "compute_version"]

MOST_MAKERS = 32  # levels of coverage that a model remembers
DIGITS = 16  # of a version: enough to tell runs apart, short enough to read


def compute_version(folder: Path) -> str:
    """Return the first digits of the SHA-256 of a run's manifest, which holds the digests of its files.

    Raises:
        ModelRefused: there is none.
    """
    try:
        return hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()[:DIGITS]
    except OSError as error:
        raise ModelRefused(f"{folder} is not a finished run: it has no {MANIFEST}.") from error


@dataclass(frozen=True, eq=False)
class ServedModel:
    """A model that is ready to answer. Several threads may use it.

    Attributes:
        name: by which clients call it.
        version: digest of the run; see `compute_version`.
        bundle: the run.
        lacks: what the run cannot tell, as sentences.
    """

    name: str
    version: str
    bundle: Bundle
    lacks: tuple[str, ...] = ()
    _engine: Engine = field(repr=False, kw_only=True)
    _explainer: Explainer | None = field(default=None, repr=False, kw_only=True)
    _training: TrainingImages | None = field(default=None, repr=False, kw_only=True)
    _makers: dict[float, PredictionMaker] = field(default_factory=dict, repr=False, kw_only=True)

    @classmethod
    def open(cls, name: str, folder: Path, *, trust: bool = False, reporter: Reporter) -> ServedModel:
        """Read a run, compile its network and let it answer once.

        Raises:
            UsageError, ModelRefused, EnvironmentFault: see `load` and `Bundle.make_engine`.
        """
        version = compute_version(folder) if (folder / MANIFEST).is_file() else ""
        bundle = load(folder, trust=trust, reporter=reporter)
        uncertainty, _ = bundle.uncertainty, bundle.estimator
        explainer, lacks = _open_explainer(bundle, reporter)
        engine = bundle.make_engine(1, explainer.outputs if explainer else (ANSWERS, FEATURES))
        if uncertainty is None:
            lacks = ("has no held-out answers: no sets, intervals, familiarity or nearest images", *lacks)
        training = TrainingImages.open(bundle)
        model = cls(name, version, bundle, lacks, _engine=engine, _explainer=explainer, _training=training)
        samples = list(make_test_images(bundle.image_size, bundle.images_per_sample)[:2])
        model.answer("warm-up", model.compute(samples)[0], coverage=0.9)
        if explainer is not None:
            model.explain("warm-up", samples[0], model.compute(samples[:1])[0], coverage=0.9)
        return model

    def compute(self, samples: Sequence[NDArray[np.uint8]]) -> list[ModelOutput]:
        """Return what the network computes of samples, each (size, size, 3), with their familiarity.

        Raises:
            ModelRefused: the number of answers is not what the manifest says.
        """
        uncertainty = self.bundle.uncertainty
        familiarity = uncertainty.familiarity if uncertainty else None
        outputs = iter(self._run(samples))
        measured = add_familiarity(outputs, familiarity, len(samples), SILENT)
        return [output for output in measured if isinstance(output, ModelOutput)]

    def _run(self, samples: Sequence[NDArray[np.uint8]]) -> Iterator[ModelOutput]:
        size, units = self._engine.batch, TASKS[self.bundle.task].count_units(len(self.bundle.outputs))
        batches = (np.stack(samples[start : start + size]) for start in range(0, len(samples), size))
        for outputs in self._engine.run(batches):
            for row in list_rows(outputs):
                output = apply_estimator(self.bundle.estimator, row)
                if len(output.answer) != units:
                    raise ModelRefused(
                        f"{self.bundle.path} is damaged: its manifest says {units} answers, the model gives "
                        f"{len(output.answer)}."
                    )
                yield output

    def answer(self, image: str, output: ModelOutput, *, coverage: float) -> dict[str, Any]:
        """Return the answer for an image as values for JSON: a row of `predict --json` and the model."""
        prediction = self._get_maker(coverage).make(image, output)
        return {**make_row(prediction), "model": self.name, "version": self.version}

    def _get_maker(self, coverage: float) -> PredictionMaker:
        """Return the maker for a level of coverage; finding its limits takes longer than an answer."""
        if (maker := self._makers.get(coverage)) is None:
            if len(self._makers) >= MOST_MAKERS:
                self._makers.clear()
            bundle = self.bundle
            maker = self._makers[coverage] = PredictionMaker(
                bundle.task, bundle.outputs, bundle.thresholds, bundle.uncertainty, coverage
            )
        return maker

    def explain(
        self, image: str, pixels: NDArray[np.uint8], output: ModelOutput, *, coverage: float
    ) -> dict[str, Any]:
        """Return the answer, and where in the image and in training the evidence for it lies.

        Raises:
            RequestRefused: the run has no heat maps.
        """
        if self._explainer is None:
            raise RequestRefused(501, "no_heat_maps", self.lacks[-1])
        explanation = self._explainer.explain_output(
            image, pixels, output, engine=self._engine, coverage=coverage
        )
        neighbours = self._training.find_nearest(explanation) if self._training else []
        return {
            **self.answer(image, output, coverage=coverage),
            "method": self._explainer.method,
            "maps": _list_maps(explanation),
            "nearest": [_describe_neighbour(neighbour) for neighbour in neighbours],
        }


def _open_explainer(bundle: Bundle, reporter: Reporter) -> tuple[Explainer | None, tuple[str, ...]]:
    if bundle.graph is not None and bundle.inner is None:  # Keras would have to run the network again
        return None, ("was made before heat maps existed: /explain answers 501; train it again to have them",)
    if bundle.images_per_sample > 1:
        return None, ("has several images per sample: /explain answers 501",)
    try:
        return Explainer(bundle, reporter), ()
    except RegraftError as error:
        return None, (f"has no heat maps, and /explain answers 501: {error}",)


def _list_maps(explanation: Explanation) -> list[dict[str, Any]]:
    def describe(question: Question, heat: NDArray[np.float32]) -> dict[str, Any]:
        return {
            "subject": question.subject,
            "rival": question.rival,
            "is_signed": question.is_signed,
            "heat": np.nan_to_num(heat).astype(np.float64).round(5).tolist(),
        }

    return [describe(*pair) for pair in zip(explanation.questions, explanation.heat, strict=True)]


def _describe_neighbour(neighbour: Neighbour) -> dict[str, Any]:
    return {
        "image": neighbour.image,
        "label": neighbour.label,
        "similarity": round(neighbour.similarity, 4),
        "thumbnail": base64.b64encode(neighbour.thumbnail).decode() or None,
    }
