"""A trained model on disk: `model.keras` and the manifest that says what it is; loading and predicting."""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from regraft.data.catalog import Catalog, Refused, list_images
from regraft.data.images.decoder_pool import DecodeAhead, Job
from regraft.data.images.rejections import Refusal
from regraft.data.samples import look
from regraft.errors import DataError, ModelRefused, UsageError
from regraft.evaluation.scores import scores
from regraft.features.openvino import BATCH
from regraft.inference.model_files import ESTIMATOR, GRAPH, read_graph, sha256
from regraft.inference.predict import SELFTEST, check_answers, make_default_engine, run_engine
from regraft.metrics.intervals import Interval
from regraft.model_scan.archive import expect_here, kind_of, kind_of_folder
from regraft.recipe import Recipe, TaskChoice
from regraft.system.console import TERMINAL, Reporter
from regraft.tasks import TASKS

if TYPE_CHECKING:
    import keras

    from regraft.features.engine import Engine
    from regraft.solvers.estimator_io import Kept

__all__ = [
    "MANIFEST_FORMAT",
    "Bundle",
    "Evaluation",
    "Prediction",
    "load",
]

MANIFEST = "manifest.json"
MANIFEST_FORMAT = 2
RUN = "a run folder written by `regraft train`, and nothing else"


@dataclass(frozen=True)
class Prediction:
    """What the model says of one sample.

    Attributes:
        image: its path; of several images, all of them.
        task: as in `regraft.tasks`.
        labels: the class; for multilabel every label above its threshold; for regression nothing.
        values: by name, the probability of each class or label, or each target's value in its own unit.
    """

    image: str
    task: str
    labels: tuple[str, ...]
    values: dict[str, float]

    @property
    def label(self) -> str:
        """The class; the labels, separated by commas; the empty string for regression."""
        return ", ".join(self.labels)

    @property
    def probability(self) -> float:
        """That of the class, or the lowest among the labels; NaN without labels."""
        return min((self.values[label] for label in self.labels), default=math.nan)


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
        task: "multiclass", "binary", "multilabel" or "regression".
        outputs: names of classes, labels or targets, in the order of the model's outputs; of two classes told
            apart by one output, the second is the one whose probability it gives.
        image_size: side in pixels of the squares the model takes.
        photos: how many images a sample has.
    """

    def __init__(
        self,
        path: Path,
        manifest: dict[str, Any],
        trusted: Sequence[str] = (),
        *,
        trust: bool = False,
        reporter: Reporter = TERMINAL,
    ) -> None:
        self.path, self._reporter = path, reporter
        self._trusted = tuple(trusted)
        self._trust = trust
        self.manifest = manifest
        self.task: str = manifest["task"]
        self.outputs: list[str] = list(manifest["outputs"])
        self.thresholds: dict[str, float] = dict(manifest["thresholds"])
        self.image_size: int = int(manifest["pixels"]["size"])
        self.photos: int = int(manifest["photos"])
        self._engines: dict[int, Engine] = {}

    @cached_property
    def model(self) -> keras.Model:
        """The trained network, an ordinary `keras.Model`: RGB 0..255 in, answers as in `regraft.tasks`."""
        from regraft.backbones.user_model import read_model

        self._check("model.keras")
        return read_model(self.path / "model.keras", trust=self._trust)

    @cached_property
    def kept(self) -> Kept | None:
        """Scikit-learn estimators that answer from what the model gives; None where the model answers."""
        if ESTIMATOR not in self.manifest["files"]:
            return None
        from regraft.solvers.estimator_io import read_estimator

        self._check(ESTIMATOR)
        return read_estimator(self.path / ESTIMATOR, trusted=self._trusted)

    def engine(self, samples: int) -> Engine:
        """What runs the network over so many samples.

        That is the graph beside `model.keras`, where there is one and OpenVINO is here: no backend is
        imported. A model that was taken out of `model` may have been changed: then that very one is run.

        Raises:
            ModelRefused: a file is not the one that the manifest describes, or what runs it here gives other
                answers than when it was trained.
        """
        if "model" in self.__dict__:
            return make_default_engine(self.model)
        if not self._has_graph:
            return self._tested(make_default_engine(self.model))
        batch = 1 if samples < BATCH else BATCH
        if batch not in self._engines:
            graph = read_graph(self.path, batch, self._reporter)
            self._engines[batch] = self._tested(graph or make_default_engine(self.model))
        return self._engines[batch]

    def _tested(self, engine: Engine) -> Engine:
        """The engine, which gives the answers that were kept with the run."""
        if SELFTEST in self.manifest["files"]:
            self._check(SELFTEST)
            check_answers(self.path / SELFTEST, self.manifest["files"], engine, self._reporter)
        return engine

    @cached_property
    def _has_graph(self) -> bool:
        """Whether there is a graph, which then is the one that was made from this very `model.keras`."""
        made_from = self.manifest.get("graph_of")
        if made_from is None or not all((self.path / name).is_file() for name in GRAPH):
            return False
        if made_from != self.manifest["files"]["model.keras"]:
            raise ModelRefused(f"{self.path / GRAPH[0]} was made from another model.keras than this one.")
        for name in ("model.keras", *GRAPH):
            self._check(name)
        return True

    def predict(
        self, images: Sequence[str | os.PathLike[str] | Sequence[str | os.PathLike[str]]]
    ) -> Iterator[Prediction | Refused]:
        """Predict samples, in order.

        Args:
            images: image files; folders give every image below them. Where a sample has several images, a
                sequence of so many files for each.

        Raises:
            UsageError: a path does not exist, or a sample has not as many images as the model takes.
        """
        samples = [sample for given in images for sample in self._samples(given)]
        verdicts = [[look(file) for file in sample] for sample in samples]
        refusals = [next((v for v in looked if isinstance(v, Refusal)), None) for looked in verdicts]
        jobs = [
            Job(file, digest)
            for sample, looked, refusal in zip(samples, verdicts, refusals, strict=True)
            if refusal is None
            for file, digest in zip(sample, looked, strict=True)
            if isinstance(digest, str)
        ]
        answers = self._answers(jobs)
        for sample, refusal in zip(samples, refusals, strict=True):
            answer = refusal or next(answers)
            name = ", ".join(os.fspath(file) for file in sample)
            yield (
                Refused(name, answer.code, answer.detail)
                if isinstance(answer, Refusal)
                else self._say(name, answer)
            )

    def evaluate(self, data: Catalog | str | os.PathLike[str]) -> list[Evaluation]:
        """Scores on samples with targets: one entry for each part the catalog has, or one called "all".

        Args:
            data: as for `train`; a table has the columns of the table that the model was trained on.

        Raises:
            DataError: a class or target the model does not know, or no usable image.
        """
        catalog = data if isinstance(data, Catalog) else self._catalog(Path(data))
        targets = self._targets(catalog)
        jobs = [Job(catalog.root / photo.path, photo.digest) for s in catalog.samples for photo in s.photos]
        answers = list(self._answers(jobs))
        pairs = list(zip(catalog.samples, answers, strict=True))
        refused = [Refused(s.path, got.code, got.detail) for s, got in pairs if isinstance(got, Refusal)]
        everything = catalog.without(refused).refused
        limits = [self.thresholds.get(name, 0.5) for name in self.outputs]
        found = []
        for part in sorted({sample.part for sample in catalog.samples}):
            answered = {
                row: answer
                for row, (sample, answer) in enumerate(pairs)
                if sample.part == part and not isinstance(answer, Refusal)
            }
            if answered:
                rows = np.stack(list(answered.values()))
                measured = scores(self.task, targets[list(answered)], rows, thresholds=np.array(limits))
                found.append(Evaluation(part or "all", len(rows), measured, everything))
        return found

    def _answers(self, jobs: Sequence[Job]) -> Iterator[NDArray[np.float32] | Refusal]:
        """Answers, (units,), to samples in order, or why one was refused. Decoding begins at once, in child
        processes, while the model loads."""
        if not jobs:
            return
        with DecodeAhead(jobs, self.image_size) as decoding:
            engine = self.engine(len(jobs) // self.photos)
            for found in run_engine(engine, decoding, self.photos, reporter=self._reporter):
                yield found if isinstance(found, Refusal) else self._final(found)

    def _final(self, found: NDArray[np.float32]) -> NDArray[np.float32]:
        """The answer to one sample, from what the network gives; as many numbers as the manifest says."""
        answer = found if self.kept is None else self.kept.predict(found[None])[0].astype(np.float32)
        units = TASKS[self.task].units(len(self.outputs))
        if len(answer) != units:
            raise ModelRefused(
                f"{self.path} is damaged: its manifest says {units} answers, the model gives {len(answer)}."
            )
        return answer

    def _catalog(self, path: Path) -> Catalog:
        """A folder, or a table with the columns of the one trained on."""
        columns = self.manifest["columns"]
        recipe = Recipe(
            image=tuple(columns["image"]),
            target=tuple(columns["target"]),
            separator=columns["separator"],
            task=cast("TaskChoice", self.task),
        )
        return Catalog.open(path, recipe)

    def _targets(self, catalog: Catalog) -> NDArray[Any]:
        """The catalog's targets, numbered as this model numbers its outputs."""
        strangers = sorted(set(catalog.outputs) - set(self.outputs))
        if strangers:
            raise DataError(
                f"Expected classes that the model knows: {', '.join(self.outputs)}. "
                f"Received also: {', '.join(strangers)}."
            )
        number = np.array([self.outputs.index(name) for name in catalog.outputs])
        targets = catalog.targets(catalog.samples)
        if targets.ndim == 1:
            return np.asarray(number[targets])
        found = np.zeros((len(targets), len(self.outputs)), np.float32)
        found[:, number] = targets
        return found

    def _samples(self, given: Any) -> Iterator[tuple[Path, ...]]:
        if self.photos == 1 and isinstance(given, str | os.PathLike):
            yield from ((file,) for file in _existing(Path(given)))
            return
        files = () if isinstance(given, str | os.PathLike) else tuple(Path(file) for file in given)
        if len(files) != self.photos:
            raise UsageError(f"Expected {self.photos} images a sample. Received: {given}.")
        yield tuple(file for each in files for file in _existing(each))

    def _say(self, image: str, answer: NDArray[np.float32]) -> Prediction:
        numbers = TASKS[self.task].complete(answer[None].astype(np.float64))[0]
        values = dict(zip(self.outputs, numbers.tolist(), strict=True))
        if self.task == "regression":
            return Prediction(image, self.task, (), values)
        if self.task == "multilabel":
            above = (name for name, value in values.items() if value >= self.thresholds.get(name, 0.5))
            return Prediction(image, self.task, tuple(above), values)
        return Prediction(image, self.task, (max(values, key=lambda name: values[name]),), values)

    def _check(self, name: str) -> None:
        if sha256(self.path / name) != self.manifest["files"].get(name):
            raise ModelRefused(f"{self.path / name} is not the file its manifest.json describes.")


def load(
    path: str | os.PathLike[str],
    *,
    trusted: Sequence[str] = (),
    trust: bool = False,
    reporter: Reporter = TERMINAL,
) -> Bundle:
    """Open a run folder that `train` wrote.

    Args:
        path: the folder.
        trusted: full names of types that a head made of estimators may have besides scikit-learn's own.
        trust: you know where a SavedModel that the model holds comes from; see `load_backbone`.
        reporter: is told how far a prediction is, and what is odd about the run.

    Raises:
        UsageError: there is no such folder.
        ModelRefused: it is a file or an address, not a finished run, or not one of this program's.

    Example:
        bundle = load("runs/clothes")
        for prediction in bundle.predict(["photo.jpg"]):
            print(prediction.label, prediction.probability)
    """
    expect_here(path, RUN)
    folder = Path(path)
    if not folder.exists():
        raise UsageError(f"Expected {RUN}. There is nothing at {folder}.")
    if not folder.is_dir():
        whole = "; give the folder it lies in" if (folder.parent / MANIFEST).is_file() else ""
        raise ModelRefused(f"Expected {RUN}. Received: {folder}, {_kind(folder)}{whole}.")
    if not (folder / MANIFEST).is_file() and (what := kind_of_folder(folder)):
        raise ModelRefused(f"Expected {RUN}. Received: {folder}, {what}.")
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        if manifest["format"] != MANIFEST_FORMAT:
            raise ModelRefused(
                f"{folder} has manifest format {manifest['format']}, expected {MANIFEST_FORMAT}."
            )
        return Bundle(folder, manifest, trusted, trust=trust, reporter=reporter)
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, ModelRefused):
            raise
        raise ModelRefused(
            f"{folder} is not a finished run: its manifest.json is missing or damaged."
        ) from error


def _kind(file: Path) -> str:
    """What a file is that is no run folder."""
    if not stat.S_ISREG(file.stat().st_mode):
        return "a pipe, socket or device"
    with file.open("rb") as stream:
        return kind_of(stream.read(8))


def _existing(path: Path) -> Iterator[Path]:
    if not path.exists():
        raise UsageError(f"Expected an image file or a folder. There is nothing at {path}.")
    return list_images(path)
