"""Explain the answers of a run: its model is run once over the images, and each answer gets heat maps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from regraft.data.images.decoder_pool import DecodingPool, Job
from regraft.data.images.rejections import Rejection
from regraft.data.samples import ImageFile, RejectedFile
from regraft.errors import UsageError
from regraft.explanation.evidence import Question, list_questions
from regraft.explanation.heads import Head, invert_activation, make_keras_head, read_head
from regraft.explanation.heat import HeatMaker
from regraft.explanation.occlusion import GRID, occlude_and_compare
from regraft.explanation.pictures import read_picture
from regraft.inference.bundle import Bundle
from regraft.inference.inputs import list_samples, name_sample, open_samples
from regraft.inference.predict import ModelOutput, list_rows, make_default_engine
from regraft.inference.predictions import Prediction, PredictionMaker, apply_estimator
from regraft.models.inner_outputs import ANSWERS, FEATURES, HEAT, MAP, InnerLayer, name_tensors
from regraft.system.console import TERMINAL, Reporter
from regraft.tasks import TASKS
from regraft.uncertainty.prediction_sets import check_coverage

if TYPE_CHECKING:
    import keras

    from regraft.features.engine import Engine

__all__ = ["MOST_IMAGES", "Explainer", "Explanation", "Method"]

Method = Literal["map", "removal", "occlusion"]
MOST_IMAGES = 200  # of one call: a page with more of them is too large to open
PICTURE_SIDE = 420  # pixels on the longer side

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Explanation:
    """An answer, and where in the image the evidence for it lies.

    Attributes:
        prediction: the answer.
        questions: what each heat map shows.
        heat: shape (questions, rows, columns), of the whole image; positive where it speaks for the subject.
        features: the image's features, (d,), if the model has some.
        picture: the image, RGB, (height, width, 3).
    """

    prediction: Prediction
    questions: tuple[Question, ...]
    heat: Floats
    features: Floats | None
    picture: NDArray[np.uint8]


class _Answered(NamedTuple):
    """An image file, its pixels as the network sees them, and what an engine computed of them."""

    path: Path | None  # None for an image that is on no disk
    pixels: NDArray[np.uint8]
    output: ModelOutput
    engine: Engine


class Explainer:
    """Makes heat maps for the answers of a run, in the most exact way that its model allows.

    Args:
        bundle: the run.
        reporter: is told of the progress, and why a slower way is taken.

    Attributes:
        method: "map" if heat comes from the feature map that a pooling and linear head sees; "removal" if the
            head is run on changed maps; "occlusion" if the network is run on changed images. It is final once
            an image was explained.

    Raises:
        UsageError: a sample of the run has several images.
        ModelRefused: see `Bundle.make_engine`.
    """

    def __init__(self, bundle: Bundle, reporter: Reporter = TERMINAL) -> None:
        if bundle.images_per_sample > 1:
            raise UsageError(
                "Expected a run with one image per sample, for heat shows where in one image the evidence "
                f"lies. Received: {bundle.path}, with {bundle.images_per_sample} images per sample."
            )
        self._bundle, self._reporter = bundle, reporter
        self._activation = TASKS[bundle.task].activation
        self._inner: InnerLayer | None = None  # of an earlier run, whose manifest does not name it
        head = None if bundle.estimator else self._open_head()
        self._heat_maker = HeatMaker(head) if head else None
        self._map = head.source if head else MAP

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the network's outputs that explaining takes."""
        return (ANSWERS, FEATURES, self._map) if self._heat_maker else (ANSWERS, FEATURES)

    @property
    def method(self) -> Method:
        """How the heat is made."""
        if self._heat_maker is None:
            return "occlusion"
        return "map" if self._heat_maker.is_linear else "removal"

    def explain(self, images: Any, *, coverage: float = 0.9) -> Iterator[Explanation | RejectedFile]:
        """Explain the answers to images in order.

        Args:
            images, coverage: as for `Bundle.predict`.

        Raises:
            UsageError, DataError: see `Bundle.predict`; or there are more than `MOST_IMAGES`.
        """
        check_coverage(coverage)
        samples, bundle = list_samples(images, 1, self._reporter), self._bundle
        maker = PredictionMaker(bundle.task, bundle.outputs, bundle.thresholds, bundle.uncertainty, coverage)
        if len(samples) > MOST_IMAGES:
            raise UsageError(
                f"Expected at most {MOST_IMAGES} images to explain. Received: {len(samples):,}. "
                "Choose those whose answers look wrong."
            )
        with open_samples(samples, scale=1.0) as verdicts:
            files = [verdict[0] for verdict in verdicts if not isinstance(verdict, Rejection)]
            outputs = self._run(files)
            for sample, verdict in zip(samples, verdicts, strict=True):
                name = name_sample(sample)
                item = verdict if isinstance(verdict, Rejection) else next(outputs)
                if isinstance(item, Rejection):
                    yield RejectedFile(name, item.code, item.detail)
                else:
                    yield self._explain(name, item, maker)

    def explain_output(
        self,
        name: str,
        pixels: NDArray[np.uint8],
        output: ModelOutput,
        *,
        engine: Engine,
        coverage: float = 0.9,
    ) -> Explanation:
        """Explain what the network computed of an image that is already decoded.

        Args:
            name: the image's name.
            pixels: the image as the network sees it, (size, size, 3); also the picture of the result.
            output: what an engine with the outputs `self.outputs` computed of it.
            engine: runs the network where an image has to be run again, for occlusion.
            coverage: as for `Bundle.predict`.
        """
        bundle = self._bundle
        maker = PredictionMaker(bundle.task, bundle.outputs, bundle.thresholds, bundle.uncertainty, coverage)
        return self._explain(name, _Answered(None, pixels, output, engine), maker)

    # --- the parts of the model

    def _open_head(self) -> Head | None:
        """Return the model's head alone; None if it cannot be cut from the rest at a feature map."""
        graph = self._bundle.graph
        try:
            if graph is not None and self._bundle.inner is not None:
                return read_head(graph, self._activation)
        except ImportError:
            pass
        except (ValueError, RuntimeError):
            return None
        if graph is not None and self._bundle.inner is None:
            self._reporter.info(
                "The run was made before heat maps existed: Keras runs its model, more slowly."
            )
        return self._open_keras_head(self._bundle.model)

    def _open_keras_head(self, model: keras.Model) -> Head | None:
        self._inner = self._bundle.inner or _find_inner_layer(model)
        tensors = name_tensors(model, self._inner)
        if HEAT in tensors:
            return Head.from_heat()
        try:
            return make_keras_head(model, tensors[MAP], self._activation)
        except (KeyError, ValueError):  # there is no map, or the head sees more than that
            return None

    def _make_engine(self, images: int) -> Engine:
        if self._inner is not None and self._bundle.inner is None:
            return make_default_engine(self._bundle.model, self._inner)
        return self._bundle.make_engine(images if self._heat_maker else GRID**2 * images, self.outputs)

    # --- an image

    def _run(self, files: Sequence[ImageFile]) -> Iterator[_Answered | Rejection]:
        """Yield each file with its pixels and what the model computes of them, or why it is refused."""
        if not files:
            return
        jobs = [Job(Path(file.path), file.digest) for file in files]
        with (
            DecodingPool(jobs, self._bundle.image_size, depth=self._bundle.depth) as decoding,
            self._reporter.track("Explaining", len(jobs)) as advance,
        ):
            engine, decoded = self._make_engine(len(jobs)), zip(jobs, decoding, strict=True)
            while items := list(islice(decoded, 8 * engine.batch)):
                pixels = [image.pixels for _, image in items if not isinstance(image, Rejection)]
                rows = chain.from_iterable(map(list_rows, engine.run(_split(pixels, engine.batch))))
                for job, image in items:
                    if isinstance(image, Rejection):
                        yield image
                    else:
                        yield _Answered(job.path, image.pixels, next(rows), engine)
                    advance(1)

    def _explain(self, name: str, item: _Answered, maker: PredictionMaker) -> Explanation:
        bundle = self._bundle
        prediction = maker.make(name, apply_estimator(bundle.estimator, item.output))
        values = np.array([prediction.values[output] for output in bundle.outputs])
        questions = list_questions(bundle.task, bundle.outputs, values, bundle.thresholds)
        directions = np.stack([question.direction for question in questions])
        if self._heat_maker is not None and item.output.map is not None:
            heat = self._heat_maker.compute(item.output.map, directions)
        else:
            heat = occlude_and_compare(
                item.pixels, lambda pixels: self._decide(item.engine, pixels), directions
            )
        centres = [
            part.mean() if question.is_centred else 0 for question, part in zip(questions, heat, strict=True)
        ]
        heat -= np.array(centres, np.float32)[:, None, None]
        picture = self._read_picture(item)
        return Explanation(prediction, tuple(questions), heat, item.output.features, picture)

    def _read_picture(self, item: _Answered) -> NDArray[np.uint8]:
        """Return an image to show; as the network sees it where there is no file, or it has just changed."""
        if item.path is not None:
            with suppress(OSError, Rejection):
                return read_picture(item.path, PICTURE_SIDE, depth=self._bundle.depth)
        return item.pixels

    def _decide(self, engine: Engine, pixels: NDArray[np.uint8]) -> Floats:
        """Return decision values of many images, (n, units)."""
        answers = np.concatenate([outputs[ANSWERS] for outputs in engine.run(_split(pixels, engine.batch))])
        if self._bundle.estimator is not None:
            answers = self._bundle.estimator.predict(answers)
        return invert_activation(answers, self._activation)


def _split(
    pixels: Sequence[NDArray[np.uint8]] | NDArray[np.uint8], batch: int
) -> Iterator[NDArray[np.uint8]]:
    return (np.stack(list(pixels[start : start + batch])) for start in range(0, len(pixels), batch))


def _find_inner_layer(model: keras.Model) -> InnerLayer | None:
    """Return the layer before the head of a run that does not name it; None if it cannot be told."""
    from regraft.backbones.classifier import is_head
    from regraft.models.cut import cut

    try:
        return InnerLayer.from_cut(cut(model, is_head), "avg")
    except ValueError:  # the head has no weights: there is nothing to cut
        return None
