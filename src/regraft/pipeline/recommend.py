"""`regraft recommend`: which backbone suits these images, before anything is trained.

Every backbone sees a sample of the images once; what it makes of them stays in the store, where `train` finds
it. A ridge head, solved in closed form, is scored on held-out images by cross-validation, the same folds for
all. LogME and H-score stand beside it: they hold nothing out, and agree where the order is clear.
"""

from __future__ import annotations

import gc
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import compress
from os import PathLike, fspath
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from regraft.backbones.zoo import find, is_zoo_name, weights_on_disk
from regraft.data.catalog import Catalog
from regraft.data.samples import Sample
from regraft.errors import DataError, RegraftError, UsageError
from regraft.pipeline.context import Context
from regraft.pipeline.embed import check_pooling, pooled_network, read_vectors
from regraft.pipeline.prepare import extract, open_backbone, report_backbone, report_refused
from regraft.recipe import HeadSpec, Phase, Recipe
from regraft.solvers.cross_validation import sample_of, strata
from regraft.solvers.feature_scoring import h_score, logme
from regraft.solvers.solve import solve
from regraft.tasks import TASKS

if TYPE_CHECKING:
    from regraft.backbones.load import Backbone
    from regraft.features.extract import Features

__all__ = ["BACKBONES", "LeftOut", "Ranked", "Recommendation", "recommend"]

# One of each kind, from the fastest to what two cores still run at some tens of images a second.
BACKBONES = (
    "mobilenet_v2",
    "mobilenet_v3_large",
    "efficientnet_v2_b0",
    "densenet121",
    "resnet50_v2",
    "xception",
    "convnext_tiny",
)
SAMPLE = 1000  # images: two standard errors of a top-1 of 0.9 are two points
CLOSE = 0.01  # of the score: what a faster backbone may be behind and still be named


@dataclass(frozen=True)
class Ranked:
    """A backbone and how it did.

    Attributes:
        backbone, weights: as `train` takes them.
        score: of a ridge head on held-out images; its name is `Recommendation.score_name`.
        logme, h_score: see `training.transfer`.
        images_per_second: through the frozen network on this machine, decoding not included.
        parameters: of the backbone.
        megabytes: of its weights.
        image_size: pixels a side.
        features: length of its pooled vector.
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
class LeftOut:
    """A backbone that could not be tried, and why."""

    backbone: str
    reason: str


@dataclass(frozen=True)
class Recommendation:
    """What `recommend` found.

    Attributes:
        ranked: best first.
        left_out: those that could not be tried.
        score_name: what `Ranked.score` is: "top-1", "mAP" or "R2".
        images: how many were looked at.
        advice: a sentence or two on the best, and on a faster one that comes close.
        command: what to type next.
    """

    ranked: tuple[Ranked, ...]
    left_out: tuple[LeftOut, ...]
    score_name: str
    images: int
    advice: str
    command: str

    @property
    def best(self) -> Ranked:
        """The first of `ranked`."""
        return self.ranked[0]


def recommend(
    data: Catalog | str | PathLike[str],
    recipe: Recipe | None = None,
    *,
    backbones: Sequence[str] = BACKBONES,
    weights: str | Sequence[str] = "imagenet",
    sample: int = SAMPLE,
    trust: bool = False,
    store: str | PathLike[str] | None = None,
) -> Recommendation:
    """Rank backbones on your own images. What `regraft recommend` calls.

    Args:
        data: as for `train`. Test images are not looked at.
        recipe: a table's columns, task, pixels, image size, `head.pooling` and seed; the rest of it does not
            matter here.
        backbones: what `load_backbone` takes, as texts. Each is loaded, runs once over the sample, and is
            let go before the next.
        weights: one for all, or one for each backbone.
        sample: how many images, the same share of every class; all of them if there are fewer.
        trust: you know where SavedModels among them come from; see `load_backbone`.
        store: folder of computed features; None for the user's cache.

    Raises:
        UsageError: an unknown name, or not one weights for each backbone.
        DataError: images that no model can be trained on; see `train`.
        EnvironmentFault: the store cannot be written.
        RegraftError: not one of the backbones could be loaded; what `load_backbone` said of the first.

    Example:
        found = recommend("photos", backbones=["mobilenet_v2", "resnet50"])
        train("photos", Recipe(backbone=found.best.backbone))
    """
    recipe = recipe or Recipe()
    asked = _asked(recipe, backbones, weights)
    context = Context.open(store, trust=trust)
    catalog = _sampled(Catalog.open(data, recipe).learnable(), sample, recipe.seed)
    context.reporter.info(f"{len(asked)} backbones on {len(catalog):,} images.{_downloads(asked)}")
    trial = _Trial(context, catalog, several=len(asked) > 1)
    tried = [trial.score(each) for each in asked]
    ranked = [each for each in tried if isinstance(each, Ranked)]
    faults = [each for each in tried if not isinstance(each, Ranked)]
    if not ranked:
        raise faults[0]
    ranked.sort(key=lambda each: (-each.score, -each.logme))
    place = fspath(data.root if isinstance(data, Catalog) else data)
    name = TASKS[catalog.task].score_name
    return Recommendation(
        tuple(ranked),
        tuple(
            LeftOut(recipe.backbone, str(fault).splitlines()[0])
            for recipe, fault in zip(asked, tried, strict=True)
            if not isinstance(fault, Ranked)
        ),
        name,
        len(trial.catalog),
        _advice(ranked, name),
        _command(place, recipe, ranked[0]),
    )


def _asked(recipe: Recipe, backbones: Sequence[str], weights: str | Sequence[str]) -> list[Recipe]:
    """A recipe for each backbone; a mistake in any of them is found before the first one runs."""
    check_pooling(recipe.head.pooling)
    each = [weights] if isinstance(weights, str) else list(weights)
    if not backbones:
        raise UsageError("backbones: expected one at least. Received: none.")
    if len(each) not in (1, len(backbones)):
        raise UsageError(
            f"weights: expected one, or one for each of {len(backbones)} backbones. Received: {len(each)}."
        )
    each = each * len(backbones) if len(each) == 1 else each
    for backbone in filter(is_zoo_name, backbones):
        find(backbone).size_at(recipe.image_size)
    head = HeadSpec(pooling=recipe.head.pooling)
    return [
        replace(
            recipe,
            backbone=backbone,
            weights=chosen,
            pixels="" if is_zoo_name(backbone) else recipe.pixels,  # of the table's the contract is known
            head=head,
        )
        for backbone, chosen in zip(backbones, each, strict=True)
    ]


def _downloads(asked: Sequence[Recipe]) -> str:
    """What has to be fetched, with the size of the published file."""
    names = [find(r.backbone) for r in asked if is_zoo_name(r.backbone) and r.weights == "imagenet"]
    absent = [entry for entry in names if weights_on_disk(entry) is None]
    listed = ", ".join(f"{entry.name} ({entry.size_mb or 4 * entry.parameters_m:.0f} MB)" for entry in absent)
    return f" To download, at most: {listed}." if absent else ""


def _sampled(catalog: Catalog, count: int, seed: int) -> Catalog:
    """About `count` samples, the same share of each stratum and two at least; none of test.

    A larger sample of the same images holds the smaller one, so it computes only what is new.
    """
    samples = [sample for sample in catalog.samples if sample.part != "test"]
    chosen = sample_of(strata(catalog.targets(samples), catalog.task), count, seed)
    return replace(catalog, samples=tuple(compress(samples, chosen))).learnable()


class _Trial:
    """Backbones on the same sample, one after the other. What the first one cannot decode none sees."""

    def __init__(self, context: Context, catalog: Catalog, *, several: bool) -> None:
        self._context, self.catalog, self._several = context, catalog, several

    def score(self, recipe: Recipe) -> Ranked | RegraftError:
        """Load a backbone, run it over what the store lacks, score it; or return why it cannot be loaded."""
        gc.collect()  # the one before: layers of a model refer to each other
        reporter = self._context.reporter
        try:
            backbone = open_backbone(recipe, trust=self._context.trust, reporter=reporter)
        except RegraftError as fault:
            reporter.warn(f"Left out: {recipe.backbone}. {fault}")
            return fault
        report_backbone(reporter, backbone)
        features = self._features(backbone, recipe)
        vectors, targets = read_vectors(features, self.catalog), self.catalog.targets(self.catalog.samples)
        task, groups = TASKS[self.catalog.task], _groups(self.catalog.samples)
        probe = solve("ridge", vectors, targets, task=task.name, seed=recipe.seed, groups=groups)
        if np.isnan(probe.score):
            raise DataError("Expected two images of some class, to hold one out. Received: one of each.")
        encoded = task.encode(targets, len(self.catalog.outputs)).astype(np.float64)
        if task.name == "regression":
            encoded = (encoded - encoded.mean(0)) / encoded.std(0)
        parameters = backbone.model.count_params()
        return Ranked(
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

    def _features(self, backbone: Backbone, recipe: Recipe) -> Features:
        recipe = replace(recipe, phases=(Phase(),) if self._several else ())  # pixels for the next backbone
        features = extract(self._context, pooled_network(backbone, recipe.head), self.catalog, recipe)
        if features.refused:
            self.catalog = self.catalog.without(features.refused).learnable()
            report_refused(self._context.reporter, self.catalog)
        return features


def _groups(samples: Sequence[Sample]) -> NDArray[np.str_]:
    """What may not be torn apart: the user's groups, and copies of one picture."""
    return np.array([f"group {sample.group}" if sample.group else sample.digest for sample in samples])


def _advice(ranked: Sequence[Ranked], score_name: str) -> str:
    best = ranked[0]
    said = f"{best.backbone} is first, with a {score_name} of {best.score:.3f} on held-out images."
    close = [
        each
        for each in ranked[1:]
        if best.score - each.score <= CLOSE and each.images_per_second > 1.5 * best.images_per_second
    ]
    if close:
        fast = max(close, key=lambda each: each.images_per_second)
        times = fast.images_per_second / best.images_per_second
        said += f" {fast.backbone} comes close with {fast.score:.3f} and is {times:.1f} times as fast."
    return said


def _command(data: str, recipe: Recipe, best: Ranked) -> str:
    """`regraft train` on the same data with the best backbone."""
    given = {
        "image": ",".join(recipe.image),
        "target": ",".join(recipe.target),
        "group": recipe.group,
        "split": recipe.split,
        "separator": recipe.separator,
        "task": "" if recipe.task == "auto" else recipe.task,
        "backbone": best.backbone,
        "weights": "" if best.weights == "imagenet" else best.weights,
        "pixels": recipe.pixels,
        "image-size": "" if recipe.image_size is None else str(recipe.image_size),
        "pooling": "" if recipe.head.pooling == HeadSpec().pooling else recipe.head.pooling,
    }
    options = [word for name, value in given.items() if value for word in (f"--{name}", value)]
    return shlex.join(["regraft", "train", data, *options])
