"""A trained model on disk: `model.keras` and the manifest that says what it is; loading and predicting."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from regraft.console import track
from regraft.data.catalog import Catalog, Refused, list_images, look
from regraft.data.refusal import Refusal
from regraft.data.workers import DecodeAhead, Job
from regraft.errors import DataError, EnvironmentFault, ModelRefused, UsageError
from regraft.evaluation.classification import classification_scores
from regraft.evaluation.intervals import Interval
from regraft.features.store import Store

if TYPE_CHECKING:
    import keras

__all__ = ["Bundle", "Evaluation", "Prediction", "load", "predict_jobs", "write_model"]

MANIFEST_FORMAT = 1
OUTPUT = "probabilities"


@dataclass(frozen=True)
class Prediction:
    """What the model says of one image: `probabilities` by class name, in the manifest's order."""

    image: str
    label: str
    probability: float
    probabilities: dict[str, float]


@dataclass(frozen=True)
class Evaluation:
    """Scores of one part of some labelled images, n of them, and the files that were refused."""

    part: str
    n: int
    scores: dict[str, Interval]
    refused: tuple[Refused, ...]


class Bundle:
    """A run's model with what belongs to it. Made by `load`.

    Attributes:
        path: the run folder.
        manifest: the content of manifest.json.
        classes: class names, in the order of the model's outputs.
        image_size: side in pixels of the squares the model takes.
    """

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self.manifest = manifest
        self.classes: list[str] = list(manifest["classes"])
        self.image_size: int = int(manifest["pixels"]["size"])

    @cached_property
    def model(self) -> keras.Model:
        """The trained network, an ordinary `keras.Model`: RGB 0..255 in, class probabilities out."""
        import keras

        data = _read(self.path / "model.keras")
        if hashlib.sha256(data).hexdigest() != self.manifest["model"]["sha256"]:
            raise ModelRefused(f"{self.path / 'model.keras'} is not the file its manifest.json describes.")
        try:
            return keras.models.load_model(self.path / "model.keras", compile=False, safe_mode=True)
        except Exception as error:
            raise ModelRefused(f"{self.path / 'model.keras'} cannot be opened: {error}") from error

    def predict(self, images: Sequence[str | os.PathLike[str]]) -> Iterator[Prediction | Refused]:
        """Predict image files, in order; folders give every image below them.

        Raises:
            UsageError: a path does not exist.
        """
        files = list(chain.from_iterable(_existing(Path(image)) for image in images))
        verdicts = [look(file) for file in files]
        pairs = zip(files, verdicts, strict=True)
        answers = predict_jobs(self, [Job(file, found) for file, found in pairs if isinstance(found, str)])
        for file, verdict in zip(files, verdicts, strict=True):
            answer = verdict if isinstance(verdict, Refusal) else next(answers)
            if isinstance(answer, Refusal):
                yield Refused(os.fspath(file), answer.code, answer.detail)
            else:
                yield self._prediction(os.fspath(file), answer)

    def evaluate(self, data: Catalog | str | os.PathLike[str]) -> list[Evaluation]:
        """Scores on labelled images: one entry for each part the catalog has, or one called "all".

        Raises:
            DataError: a class the model does not know, or no usable image.
        """
        catalog = data if isinstance(data, Catalog) else Catalog.from_folder(data)
        strangers = sorted(set(catalog.outputs) - set(self.classes))
        if strangers:
            raise DataError(
                f"Expected classes that the model knows: {', '.join(self.classes)}. "
                f"Received also: {', '.join(strangers)}."
            )
        label = [self.classes.index(name) for name in catalog.outputs]
        jobs = [Job(catalog.root / sample.path, sample.digest) for sample in catalog.samples]
        answers = list(predict_jobs(self, jobs))
        refused = [
            Refused(sample.path, answer.code, answer.detail)
            for sample, answer in zip(catalog.samples, answers, strict=True)
            if isinstance(answer, Refusal)
        ]
        everything = catalog.without(refused).refused
        found = []
        for part in sorted({sample.part for sample in catalog.samples}):
            pairs = [
                (label[sample.target], answer)
                for sample, answer in zip(catalog.samples, answers, strict=True)
                if sample.part == part and not isinstance(answer, Refusal)
            ]
            if pairs:
                labels, rows = zip(*pairs, strict=True)
                scores = classification_scores(np.array(labels), np.stack(rows))
                found.append(Evaluation(part or "all", len(pairs), scores, everything))
        return found

    def _prediction(self, image: str, answer: NDArray[np.float32]) -> Prediction:
        best = int(answer.argmax())
        named = {name: float(value) for name, value in zip(self.classes, answer, strict=True)}
        return Prediction(image, self.classes[best], float(answer[best]), named)


def load(path: str | os.PathLike[str]) -> Bundle:
    """Open a run folder that `train` wrote.

    Raises:
        UsageError: there is no such folder.
        ModelRefused: it is not a finished run, or not one of this program's.

    Example:
        bundle = load("runs/clothes")
        for prediction in bundle.predict(["photo.jpg"]):
            print(prediction.label, prediction.probability)
    """
    folder = Path(path)
    if not folder.is_dir():
        raise UsageError(f"Expected a run folder written by `regraft train`. Received: {folder}.")
    try:
        manifest = json.loads(_read(folder / "manifest.json"))
        if manifest["format"] != MANIFEST_FORMAT:
            raise ModelRefused(
                f"{folder} has manifest format {manifest['format']}, expected {MANIFEST_FORMAT}."
            )
        return Bundle(folder, manifest)
    except (EnvironmentFault, ValueError, KeyError, TypeError) as error:
        if isinstance(error, ModelRefused):
            raise
        raise ModelRefused(
            f"{folder} is not a finished run: its manifest.json is missing or damaged."
        ) from error


def write_model(model: keras.Model, path: Path) -> str:
    """Save a model as one `.keras` file, beside and moved into place; returns its SHA-256."""
    beside = path.with_name(f".writing-{path.name}")
    model.save(beside)
    found = hashlib.sha256(beside.read_bytes()).hexdigest()
    beside.replace(path)
    return found


def predict_jobs(bundle: Bundle, jobs: Sequence[Job]) -> Iterator[NDArray[np.float32] | Refusal]:
    """Class probabilities, shape (classes,), of files in order, or why one was refused. Decoding begins at
    once, in child processes, while the model loads."""
    if not jobs:
        return
    with DecodeAhead(jobs, bundle.image_size) as decoding:
        yield from run_model(bundle.model, decoding)


def run_model(model: keras.Model, decoding: DecodeAhead) -> Iterator[NDArray[np.float32] | Refusal]:
    """The same for a model in memory and files that are being decoded."""
    import keras

    from regraft.features.engine import BATCH, fingerprint, make_engine

    network = keras.Model(model.inputs[0], {OUTPUT: model.outputs[0]})
    engine = make_engine(network, Store().folder("engines", fingerprint(network)))
    pending: list[NDArray[np.uint8] | Refusal] = []

    def flush() -> Iterator[NDArray[np.float32] | Refusal]:
        pixels = [item for item in pending if not isinstance(item, Refusal)]
        batches = (np.stack(pixels[at : at + BATCH]) for at in range(0, len(pixels), BATCH))
        rows = chain.from_iterable(output[OUTPUT] for output in engine.run(batches))
        yield from (item if isinstance(item, Refusal) else next(rows) for item in pending)
        pending.clear()

    with track("Predicting", len(decoding)) as advance:
        for result in decoding:
            pending.append(result if isinstance(result, Refusal) else result.pixels)
            if len(pending) == 8 * BATCH:
                advance(len(pending))
                yield from flush()
        advance(len(pending))
        yield from flush()


def _existing(path: Path) -> Iterator[Path]:
    if not path.exists():
        raise UsageError(f"Expected an image file or a folder. There is nothing at {path}.")
    return list_images(path)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise EnvironmentFault(f"{path} cannot be read: {error.strerror or error}.") from error
