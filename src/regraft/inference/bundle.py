"""Load a run folder, predict with its model, and evaluate it."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regraft.data.catalog import Catalog, RejectedFile
from regraft.data.images.decoder_pool import DecodingPool, Job
from regraft.data.images.rejections import Rejection
from regraft.data.images.sample_range import FULL_DEPTH
from regraft.errors import ModelRefused, UsageError
from regraft.features.openvino import BATCH
from regraft.inference.evaluations import Evaluation, PartScorer
from regraft.inference.familiarity import add_familiarity
from regraft.inference.inputs import (
    InputImage,
    list_samples,
    name_sample,
    number_targets,
    open_labelled,
    open_samples,
)
from regraft.inference.model_files import ESTIMATOR, GRAPH, read_graph
from regraft.inference.predict import SELFTEST, ModelOutput, check_answers, make_default_engine, run_engine
from regraft.inference.predictions import Prediction, PredictionMaker, apply_estimator
from regraft.model_scan.archive import describe_file_kind, describe_folder_kind, expect_local_path
from regraft.models.inner_outputs import ANSWERS, FEATURES, InnerLayer
from regraft.system.console import TERMINAL, Reporter
from regraft.system.files import hash_file
from regraft.system.process_cache import ProcessCache
from regraft.tasks import TASKS
from regraft.uncertainty.file import UNCERTAINTY, Uncertainty, read_uncertainty
from regraft.uncertainty.prediction_sets import DEFAULT_COVERAGE, check_coverage

if TYPE_CHECKING:
    import keras

    from regraft.features.engine import Engine
    from regraft.solvers.estimator_io import EstimatorHead

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


class Bundle:
    """The model of a run with everything that is needed to use it. Returned by `load`.

    Threads may share it, and it may be pickled. A process that gets it by a pickle or a fork opens the files
    of the run folder again, so a change to `model` stays in the process that made it.

    Attributes:
        path: the run folder, an absolute path.
        manifest: the content of manifest.json.
        task: "multiclass", "binary", "multilabel" or "regression".
        outputs: names of classes, labels or targets, in the order of the model's outputs. A model of two
            classes has one output, which is the probability of the second.
        thresholds: the threshold of each label; empty unless multi-label.
        image_size: the side of the model's square input in pixels.
        images_per_sample: how many images a sample has.
        depth: how many bits of 16-bit samples are used.
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
        self.path, self._reporter = path.absolute(), reporter
        self._trusted = tuple(trusted)
        self._trust = trust
        self.manifest = manifest
        self.task: str = manifest["task"]
        self.outputs: list[str] = list(manifest["outputs"])
        self.thresholds: dict[str, float] = dict(manifest["thresholds"])
        self.image_size: int = int(manifest["pixels"]["size"])
        self.images_per_sample: int = int(manifest["photos"])
        self.depth = int(manifest["pixels"].get("depth", FULL_DEPTH))  # earlier runs do not state it
        self._cache = ProcessCache()

    @property
    def model(self) -> keras.Model:
        """The trained network, an ordinary `keras.Model` from RGB 0..255 to answers; see `regraft.tasks`."""
        return self._cache.get("model", self._read_model)

    def _read_model(self) -> keras.Model:
        from regraft.backbones.user_model import read_model

        self._check_file("model.keras")
        return read_model(self.path / "model.keras", trust=self._trust)

    @property
    def uncertainty(self) -> Uncertainty | None:
        """What the run knows about the reliability of its answers; None in runs of earlier versions."""
        if UNCERTAINTY not in self.manifest["files"]:
            return None
        return self._cache.get("uncertainty", self._read_uncertainty)

    def _read_uncertainty(self) -> Uncertainty:
        self._check_file(UNCERTAINTY)
        return read_uncertainty(self.path / UNCERTAINTY)

    @property
    def inner(self) -> InnerLayer | None:
        """The layer whose output the head sees; None in runs of earlier versions."""
        inner = self.manifest.get("features")
        return None if inner is None else InnerLayer(inner["layer"], inner["pooling"])

    @property
    def estimator(self) -> EstimatorHead | None:
        """The scikit-learn head behind the model's output; None if the model has a Keras head."""
        if ESTIMATOR not in self.manifest["files"]:
            return None
        return self._cache.get("estimator", self._read_estimator)

    def _read_estimator(self) -> EstimatorHead:
        from regraft.solvers.estimator_io import read_estimator

        self._check_file(ESTIMATOR)
        return read_estimator(self.path / ESTIMATOR, trusted=self._trusted)

    def make_engine(self, samples: int, outputs: Sequence[str] = (ANSWERS, FEATURES)) -> Engine:
        """Return the engine that runs the network over a number of samples.

        Its outputs are at least those that are named in `outputs` and that the network has. If the run has a
        graph and OpenVINO is installed, that is the graph, and no backend is imported. Once the attribute
        `model` was read, that model is run, because the caller may have changed it.

        Raises:
            ModelRefused: a file differs from the manifest, or the engine does not give the answers that the
                model gave when it was trained.
            EnvironmentFault: this process was forked from one that computes with Keras, which is needed here.
        """
        if "model" in self._cache:
            return make_default_engine(self.model, self.inner)
        if not self._has_graph:
            return self._test_engine(make_default_engine(self.model, self.inner))
        batch = 1 if samples < BATCH else BATCH
        return self._cache.get(("engine", batch, *outputs), lambda: self._make_graph_engine(batch, outputs))

    def _make_graph_engine(self, batch: int, outputs: Sequence[str]) -> Engine:
        graph = read_graph(self.path, batch, self._reporter, outputs=outputs)
        return self._test_engine(graph or make_default_engine(self.model, self.inner))

    def _test_engine(self, engine: Engine) -> Engine:
        """Return the engine if it passes the self-test of the run."""
        if SELFTEST in self.manifest["files"]:
            self._check_file(SELFTEST)
            check_answers(self.path / SELFTEST, self.manifest["files"], engine, self._reporter)
        return engine

    @property
    def graph(self) -> Path | None:
        """The network's OpenVINO file; None if there is none, or once the attribute `model` was read."""
        return self.path / GRAPH[0] if "model" not in self._cache and self._has_graph else None

    @cached_property
    def _has_graph(self) -> bool:
        """Whether there is a graph. If so, it was converted from this `model.keras`."""
        source = self.manifest.get("graph_of")
        if source is None or not all((self.path / name).is_file() for name in GRAPH):
            return False
        if source != self.manifest["files"]["model.keras"]:
            raise ModelRefused(f"{self.path / GRAPH[0]} was made from another model.keras than this one.")
        for name in ("model.keras", *GRAPH):
            self._check_file(name)
        return True

    def predict(
        self, images: Any, *, scale: float = 1.0, coverage: float = DEFAULT_COVERAGE
    ) -> Iterator[Prediction | RejectedFile]:
        """Predict samples in order.

        Args:
            images: one image, or several: paths of image files, or of folders, which stand for every image in
                them; arrays (height, width, 3), (height, width, 1) or (height, width) in 0..255, or one array
                of many; Pillow images; the bytes of image files. If a sample has several images, a list of
                them for each sample.
            scale: the factor that brings the pixels of arrays to 0..255, such as 255 for pixels in 0..1.
            coverage: the share of images whose set or interval should hold the truth, above 0 and below 1.

        Returns:
            The answer to each sample. An image from memory is called by its number, "image 0".

        Raises:
            UsageError: a path does not exist, an item is no image, a sample has the wrong number of them, or
                `coverage` is not between 0 and 1.
            DataError: the pixels of an array are not in 0..255.
        """
        check_coverage(coverage)
        samples = list_samples(images, self.images_per_sample, self._reporter)
        return self._predict_samples(samples, scale, coverage)

    def _predict_samples(
        self, samples: Sequence[tuple[InputImage, ...]], scale: float, coverage: float
    ) -> Iterator[Prediction | RejectedFile]:
        maker = PredictionMaker(self.task, self.outputs, self.thresholds, self.uncertainty, coverage)
        with open_samples(samples, scale=scale) as verdicts:
            usable = [file for files in verdicts if not isinstance(files, Rejection) for file in files]
            outputs = self._predict_jobs([Job(Path(file.path), file.digest) for file in usable])
            for sample, verdict in zip(samples, verdicts, strict=True):
                output = verdict if isinstance(verdict, Rejection) else next(outputs)
                name = name_sample(sample)
                yield (
                    RejectedFile(name, output.code, output.detail)
                    if isinstance(output, Rejection)
                    else maker.make(name, output)
                )

    def evaluate(
        self,
        data: Catalog | str | os.PathLike[str],
        *,
        image: str | Sequence[str] = (),
        target: str | Sequence[str] = (),
        separator: str = "",
        root: str | os.PathLike[str] | None = None,
    ) -> list[Evaluation]:
        """Score the model on samples with targets, by part; without parts there is one, "all".

        Args:
            data: as for `train`. Its classes, labels or targets may be some of the model's.
            image, target, separator: see `Catalog.from_table`; those of the run where they are not given.
            root: folder that the paths of a table are relative to; None for the folder of the table.

        Raises:
            UsageError: there is no such table, folder or column, or its targets are of another task.
            DataError: a class or target is unknown to the model, or no image can be used.
        """
        columns = (image, target, separator)
        catalog = open_labelled(data, self.manifest, columns, root=root)
        targets = number_targets(catalog, self.outputs)
        jobs = [Job(catalog.root / image.path, image.digest) for s in catalog.samples for image in s.images]
        pairs = list(zip(catalog.samples, self._predict_jobs(jobs), strict=True))
        refused = [
            RejectedFile(sample.path, output.code, output.detail)
            for sample, output in pairs
            if isinstance(output, Rejection)
        ]
        all_refused = catalog.exclude(refused).refused
        scorer = PartScorer(self.task, self.outputs, self.thresholds, self.uncertainty)
        evaluations = []
        for part in sorted({sample.part for sample in catalog.samples}):
            outputs = {
                row: output
                for row, (sample, output) in enumerate(pairs)
                if sample.part == part and not isinstance(output, Rejection)
            }
            if outputs:
                rows = list(outputs)
                evaluations.append(scorer.score(part, targets[rows], list(outputs.values()), all_refused))
        return evaluations

    def _predict_jobs(self, jobs: Sequence[Job]) -> Iterator[ModelOutput | Rejection]:
        """Yield the answer to each sample with its features, or why it is refused.

        Child processes start to decode while the model is being loaded.
        """
        if not jobs:
            return
        with DecodingPool(jobs, self.image_size, depth=self.depth) as decoding:
            engine = self.make_engine(len(jobs) // self.images_per_sample)
            outputs = run_engine(engine, decoding, self.images_per_sample, reporter=self._reporter)
            answers = (item if isinstance(item, Rejection) else self._finish_answer(item) for item in outputs)
            familiarity = self.uncertainty.familiarity if self.uncertainty else None
            total = len(jobs) // self.images_per_sample
            yield from add_familiarity(answers, familiarity, total, self._reporter)

    def _finish_answer(self, output: ModelOutput) -> ModelOutput:
        """Let the estimator, if there is one, answer from the network's output; check the answer's length."""
        output = apply_estimator(self.estimator, output)
        units, count = TASKS[self.task].count_units(len(self.outputs)), len(output.answer)
        if count != units:
            raise ModelRefused(
                f"{self.path} is damaged: its manifest says {units} answers, the model gives {count}."
            )
        return output

    def _check_file(self, name: str) -> None:
        """Raise ModelRefused if a file differs from the manifest."""
        if hash_file(self.path / name) != self.manifest["files"].get(name):
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
        path: the run folder.
        trusted: full names of types outside scikit-learn that a head made of estimators may contain.
        trust: you know where a SavedModel inside the model comes from; see `load_backbone`.
        reporter: receives progress and warnings.

    Raises:
        UsageError: there is no such folder.
        ModelRefused: the path is a file or a URL, or the folder is not a finished run.

    Example:
        bundle = load("runs/clothes")
        for prediction in bundle.predict("photos"):
            print(prediction.label, prediction.probability)
    """
    expect_local_path(path, RUN)
    folder = Path(path)
    if not folder.exists():
        raise UsageError(f"Expected {RUN}. There is nothing at {folder}.")
    if not folder.is_dir():
        hint = "; give the folder it lies in" if (folder.parent / MANIFEST).is_file() else ""
        raise ModelRefused(f"Expected {RUN}. Received: {folder}, {_describe_file(folder)}{hint}.")
    if not (folder / MANIFEST).is_file() and (kind := describe_folder_kind(folder)):
        raise ModelRefused(f"Expected {RUN}. Received: {folder}, {kind}.")
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


def _describe_file(file: Path) -> str:
    if not stat.S_ISREG(file.stat().st_mode):
        return "a pipe, socket or device"
    with file.open("rb") as stream:
        return describe_file_kind(stream.read(8))
