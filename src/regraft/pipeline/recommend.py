"""`regraft recommend`: rank backbones on the user's images before anything is trained.

Every backbone processes a sample of the images once; its features stay in the store, where `train` reuses
them. The score is that of a ridge head, solved in closed form and cross-validated with the same folds for all
backbones. LogME and H-score are computed without held-out images; where the order is clear, they agree.
"""

from __future__ import annotations

import gc
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import compress
from os import PathLike
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from regraft.backbones.zoo import find_entry, find_weights_on_disk, is_zoo_name
from regraft.data.catalog import Catalog
from regraft.data.samples import Sample
from regraft.data.sources import is_in_memory, name_data
from regraft.errors import DataError, RegraftError, UsageError
from regraft.pipeline.context import Context
from regraft.pipeline.embed import check_pooling, make_pooled_network, read_vectors
from regraft.pipeline.prepare import (
    extract_and_remember,
    list_data,
    open_backbone,
    report_backbone,
    report_refused,
)
from regraft.recipe import HeadSpec, Phase, Recipe
from regraft.solvers.cross_validation import assign_strata, draw_stratified_sample
from regraft.solvers.feature_scoring import h_score, logme
from regraft.solvers.solve import solve
from regraft.tasks import TASKS

if TYPE_CHECKING:
    from regraft.backbones.load import Backbone
    from regraft.features.extract import Features

__all__ = ["BACKBONES", "RankedBackbone", "Recommendation", "SkippedBackbone", "recommend"]

# One of each family, from the fastest to those that reach some tens of images per second on two cores.
BACKBONES = (
    "mobilenet_v2",
    "mobilenet_v3_large",
    "efficientnet_v2_b0",
    "densenet121",
    "resnet50_v2",
    "xception",
    "convnext_tiny",
)
SAMPLE_SIZE = 1000  # images: two standard errors of a top-1 of 0.9 are two points
CLOSE = 0.01  # how far the score of a faster backbone may be behind for it to be mentioned


@dataclass(frozen=True)
class RankedBackbone:
    """A backbone and its scores.

    Attributes:
        backbone, weights: as for `train`.
        score: the score of a ridge head on held-out images; `Recommendation.score_name` is its name.
        logme, h_score: see `solvers.feature_scoring`.
        images_per_second: the speed of the frozen network on this machine, without decoding.
        parameters: the number of the backbone's parameters.
        megabytes: the size of its weights.
        image_size: the side of its input in pixels.
        features: the length of its pooled vector.
    """

    backbone: str
    weights: str
    score: float
    logme: float
    h_score: float
    images_per_second: float
    parameters: int
    megabytes: float
    image_size: int
    features: int


@dataclass(frozen=True)
class SkippedBackbone:
    """A backbone that could not be loaded, and the reason."""

    backbone: str
    reason: str


@dataclass(frozen=True)
class Recommendation:
    """A ranking of backbones. Returned by `recommend`.

    Attributes:
        ranked: the backbones, best first.
        left_out: the backbones that could not be loaded.
        score_name: what `RankedBackbone.score` is: "top-1", "mAP" or "R2".
        images: the number of images in the sample.
        advice: a sentence or two on the best backbone and on a faster one that comes close.
        command: the command to run next; for a catalog that was not read from disk, the call.
    """

    ranked: tuple[RankedBackbone, ...]
    left_out: tuple[SkippedBackbone, ...]
    score_name: str
    images: int
    advice: str
    command: str

    @property
    def best(self) -> RankedBackbone:
        """The first of `ranked`."""
        return self.ranked[0]


def recommend(
    data: Catalog | str | PathLike[str],
    recipe: Recipe | None = None,
    *,
    backbones: Sequence[str] = BACKBONES,
    weights: str | Sequence[str] = "imagenet",
    sample: int = SAMPLE_SIZE,
    trust: bool = False,
    store: str | PathLike[str] | None = None,
) -> Recommendation:
    """Rank backbones on your own images, as the command `regraft recommend` does.

    Args:
        data: as for `train`. Images of the test part are not used.
        recipe: the columns of a table, task, pixels, classifier, image size, precision, `head.pooling` and
            seed; everything else is ignored.
        backbones: names as for `load_backbone`. Only one backbone is in memory at a time.
        weights: one for all, or one for each backbone.
        sample: the number of images, the same share of every class; if there are fewer, all are used.
        trust: you know where SavedModels among the backbones come from; see `load_backbone`.
        store: the folder of computed features; None for the user's cache.

    Raises:
        UsageError: an unknown name, or the number of weights does not match that of backbones.
        DataError: no model can be trained on the images; see `train`.
        EnvironmentFault: the store cannot be written.
        RegraftError: no backbone could be loaded; the error of the first one.

    Example:
        recommendation = recommend("photos", backbones=["mobilenet_v2", "resnet50"])
        train("photos", Recipe(backbone=recommendation.best.backbone))
    """
    recipe = recipe or Recipe()
    candidates = _make_recipes(recipe, backbones, weights)
    context = Context.open(store, trust=trust)
    listed, _ = list_data(context, data, recipe)
    report_refused(context.reporter, listed)
    catalog = _draw_sample(listed, sample, recipe.seed)
    context.reporter.info(
        f"{len(candidates)} backbones on {len(catalog):,} images.{_describe_downloads(candidates)}"
    )
    trials = _Trials(context, catalog, several=len(candidates) > 1)
    results = [(candidate.backbone, trials.score(candidate)) for candidate in candidates]
    ranked = [result for _, result in results if isinstance(result, RankedBackbone)]
    faults = [(name, result) for name, result in results if isinstance(result, RegraftError)]
    if not ranked:
        raise faults[0][1]
    ranked.sort(key=lambda backbone: (-backbone.score, -backbone.logme))
    score_name = TASKS[catalog.task].score_name
    return Recommendation(
        tuple(ranked),
        tuple(SkippedBackbone(name, str(fault).splitlines()[0]) for name, fault in faults),
        score_name,
        len(trials.catalog),
        _write_advice(ranked, score_name),
        _make_train_command(name_data(data, recipe), ranked[0]),
    )


def _make_recipes(recipe: Recipe, backbones: Sequence[str], weights: str | Sequence[str]) -> list[Recipe]:
    """Return a recipe for each backbone; refuse a wrong setting of any before the first one runs."""
    check_pooling(recipe.head.pooling)
    sources = [weights] if isinstance(weights, str) else list(weights)
    if not backbones:
        raise UsageError("backbones: expected at least one. Received: none.")
    if len(sources) not in (1, len(backbones)):
        raise UsageError(
            f"weights: expected one, or one for each of {len(backbones)} backbones. Received: {len(sources)}."
        )
    sources = sources * len(backbones) if len(sources) == 1 else sources
    for backbone in filter(is_zoo_name, backbones):
        find_entry(backbone).choose_size(recipe.image_size)
    head = HeadSpec(pooling=recipe.head.pooling)
    return [
        replace(
            recipe,
            backbone=backbone,
            weights=source,
            # Named networks bring their contract and no classifier.
            pixels="" if is_zoo_name(backbone) else recipe.pixels,
            classifier="auto" if is_zoo_name(backbone) else recipe.classifier,
            head=head,
        )
        for backbone, source in zip(backbones, sources, strict=True)
    ]


def _describe_downloads(recipes: Sequence[Recipe]) -> str:
    """Return a sentence on the weights that must be downloaded, with their sizes; "" if there are none."""
    entries = [find_entry(r.backbone) for r in recipes if is_zoo_name(r.backbone) and r.weights == "imagenet"]
    absent = [entry for entry in entries if find_weights_on_disk(entry) is None]
    names = ", ".join(f"{entry.name} ({entry.size_mb or 4 * entry.parameters_m:.0f} MB)" for entry in absent)
    return f" To download, at most: {names}." if absent else ""


def _draw_sample(catalog: Catalog, count: int, seed: int) -> Catalog:
    """Return about `count` samples, the same share of each stratum and at least two, none of the test part.

    A larger sample of the same images contains the smaller one, so that only new images are computed.
    """
    samples = [sample for sample in catalog.samples if sample.part != "test"]
    chosen = draw_stratified_sample(assign_strata(catalog.targets(samples), catalog.task), count, seed)
    return replace(catalog, samples=tuple(compress(samples, chosen))).require_learnable()


class _Trials:
    """Backbones scored one after the other on the same sample; images that cannot be decoded are dropped."""

    def __init__(self, context: Context, catalog: Catalog, *, several: bool) -> None:
        self._context, self.catalog, self._several = context, catalog, several

    def score(self, recipe: Recipe) -> RankedBackbone | RegraftError:
        """Load a backbone, compute missing features, and score it; or return why it cannot be loaded."""
        gc.collect()  # frees the previous backbone, whose layers refer to each other
        reporter = self._context.reporter
        try:
            backbone = open_backbone(recipe, trust=self._context.trust, reporter=reporter)
        except RegraftError as fault:
            reporter.warn(f"Left out: {recipe.backbone}. {fault}")
            return fault
        report_backbone(reporter, backbone)
        features = self._extract(backbone, recipe)
        vectors, targets = read_vectors(features, self.catalog), self.catalog.targets(self.catalog.samples)
        task, groups = TASKS[self.catalog.task], _name_groups(self.catalog.samples)
        probe = solve("ridge", vectors, targets, task=task.name, seed=recipe.seed, groups=groups)
        if np.isnan(probe.score):
            raise DataError("Expected at least one class with two images. Received: one image per class.")
        encoded = task.encode(targets, len(self.catalog.outputs)).astype(np.float64)
        if task.name == "regression":
            encoded = (encoded - encoded.mean(0)) / encoded.std(0)
        parameters = backbone.model.count_params()
        return RankedBackbone(
            backbone=recipe.backbone,
            weights=recipe.weights,
            score=probe.score,
            logme=logme(vectors, encoded),
            h_score=h_score(vectors, encoded),
            images_per_second=1 / features.seconds_per_image,
            parameters=parameters,
            megabytes=4 * parameters / 1e6,
            image_size=backbone.image_size,
            features=vectors.shape[1],
        )

    def _extract(self, backbone: Backbone, recipe: Recipe) -> Features:
        # With phases, pixels are stored too: the next backbone need not decode the images.
        recipe = replace(recipe, phases=(Phase(),) if self._several else ())
        network = make_pooled_network(backbone, recipe.head)
        features = extract_and_remember(self._context, network, self.catalog, recipe)
        if features.refused:
            self.catalog = self.catalog.exclude(features.refused).require_learnable()
            report_refused(self._context.reporter, self.catalog)
        return features


def _name_groups(samples: Sequence[Sample]) -> NDArray[np.str_]:
    """Return the group that each sample is never separated from: the user's, or the copies of its image."""
    return np.array([f"group {sample.group}" if sample.group else sample.digest for sample in samples])


def _write_advice(ranked: Sequence[RankedBackbone], score_name: str) -> str:
    best = ranked[0]
    advice = f"{best.backbone} is first, with a {score_name} of {best.score:.3f} on held-out images."
    close = [
        backbone
        for backbone in ranked[1:]
        if best.score - backbone.score <= CLOSE and backbone.images_per_second > 1.5 * best.images_per_second
    ]
    if close:
        fastest = max(close, key=lambda backbone: backbone.images_per_second)
        ratio = fastest.images_per_second / best.images_per_second
        advice += (
            f" {fastest.backbone} comes close with {fastest.score:.3f} and is {ratio:.1f} times as fast."
        )
    return advice


def _join_columns(names: Sequence[str]) -> str:
    """Return column names as options take them: with commas between, and quotes around a name with one."""
    quoted = (name.replace('"', '""') for name in names)
    return ",".join(f'"{name}"' if "," in name or '"' in name else name for name in quoted)


def _make_train_command(recipe: Recipe, best: RankedBackbone) -> str:
    """Return the command that trains the best backbone on the recipe's data; the call for data in Python."""
    if is_in_memory(recipe.data):
        return _show_call(recipe, best)
    settings = {
        "image": _join_columns(recipe.image),
        "target": _join_columns(recipe.target),
        "group": recipe.group,
        "split": recipe.split,
        "weight": recipe.weight,
        "separator": recipe.separator,
        "root": recipe.root,
        "task": "" if recipe.task == "auto" else recipe.task,
        "backbone": best.backbone,
        "weights": "" if best.weights == "imagenet" else best.weights,
        "pixels": recipe.pixels,
        "classifier": "" if recipe.classifier == "auto" else recipe.classifier,
        "image-size": "" if recipe.image_size is None else str(recipe.image_size),
        "pooling": "" if recipe.head.pooling == HeadSpec().pooling else recipe.head.pooling,
    }
    options = [word for name, value in settings.items() if value for word in (f"--{name}", value)]
    return shlex.join(["regraft", "train", recipe.data, *options])


def _show_call(recipe: Recipe, best: RankedBackbone) -> str:
    """Return the call of `train` for data that are in Python only."""
    chosen, default = replace(recipe, backbone=best.backbone, weights=best.weights), Recipe()
    names = ("task", "backbone", "weights", "pixels", "classifier", "image_size")
    settings = [
        f"{name}={getattr(chosen, name)!r}"
        for name in names
        if name == "backbone" or getattr(chosen, name) != getattr(default, name)
    ]
    if recipe.head.pooling != default.head.pooling:
        settings.append(f"head=regraft.HeadSpec(pooling={recipe.head.pooling!r})")
    return f"regraft.train(data, regraft.Recipe({', '.join(settings)}))"
