"""Backbones ranked on the user's images: each sees a sample of them once; they are scored alone and in pairs.

The score is that of a ridge head, solved in closed form and cross-validated with the same folds for all
backbones. LogME and H-score are computed without held-out images; where the order is clear, they agree.

The best networks are scored in pairs as well, with their features side by side under one head, which costs no
further pass over the images. A pair takes the time of both and cannot be fine-tuned, so it is chosen only
where it is better than the best network alone by a point, and by more than a standard error.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations, compress
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from regraft.backbones.zoo import ZOO, find_entry, find_weights_on_disk, is_zoo_name
from regraft.data.catalog import Catalog
from regraft.data.samples import Sample
from regraft.errors import DataError, RegraftError, UsageError
from regraft.pipeline.context import Context, InMemory
from regraft.pipeline.embed import check_pooling
from regraft.pipeline.prepare import extract_and_remember, open_backbone, report_backbone, report_refused
from regraft.recipe import HeadSpec, Phase, Recipe
from regraft.settings.network_list import AUTO, join_items
from regraft.solvers.cross_validation import assign_strata, draw_stratified_sample
from regraft.solvers.feature_scoring import h_score, logme
from regraft.solvers.solve import solve
from regraft.tasks import TASKS

if TYPE_CHECKING:
    from regraft.backbones.load import Backbone
    from regraft.features.extract import Features

__all__ = [
    "BACKBONES",
    "SAMPLE_SIZE",
    "RankedBackbone",
    "Ranking",
    "SkippedBackbone",
    "choose_backbone",
    "choose_best",
    "draw_sample",
    "make_network_recipes",
    "rank_backbones",
]

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
CLOSE = 0.01  # how far the score of a faster backbone, or of one alone, may be behind that of the best
PAIRED = 4  # how many of the best networks are tried in pairs


@dataclass(frozen=True)
class RankedBackbone:
    """A backbone, or a pair of networks, and its scores.

    Attributes:
        backbone, weights: as for `train`; of a pair, those of both with a comma between.
        score: the score of a ridge head on held-out images; `Recommendation.score_name` is its name.
        logme, h_score: see `solvers.feature_scoring`.
        images_per_second: the speed of the frozen network on this machine, without decoding; of a pair, that
            of one after the other.
        parameters: the number of the backbone's parameters.
        megabytes: the size of its weights.
        image_size: the side of its input in pixels.
        features: the length of its pooled vector, or of both.
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

    @property
    def milliseconds(self) -> float:
        """The time for an image on this machine, at this speed."""
        return 1000 / self.images_per_second


@dataclass(frozen=True)
class SkippedBackbone:
    """A backbone that could not be loaded, and the reason."""

    backbone: str
    reason: str


class Ranking(NamedTuple):
    """Backbones alone and in pairs, each best first; those that could not be loaded; the number of images."""

    alone: tuple[RankedBackbone, ...]
    pairs: tuple[RankedBackbone, ...]
    left_out: tuple[SkippedBackbone, ...]
    images: int

    @property
    def best(self) -> RankedBackbone:
        """The best of all, see `choose_best`."""
        return choose_best(self.alone, self.pairs, self.images)

    def describe(self, score_name: str) -> str:
        """Return a sentence or two on the best backbone and on a faster one that comes close."""
        best = self.best
        advice = f"{best.backbone} is first, with a {score_name} of {best.score:.3f} on held-out images."
        close = [
            backbone
            for backbone in (*self.alone, *self.pairs)
            if best.score - backbone.score <= CLOSE
            and backbone.images_per_second > 1.5 * best.images_per_second
        ]
        if close:
            fastest = max(close, key=lambda backbone: backbone.images_per_second)
            ratio = fastest.images_per_second / best.images_per_second
            advice += (
                f" {fastest.backbone} comes close with {fastest.score:.3f} and is {ratio:.1f} times as fast."
            )
        return advice


def rank_backbones(
    context: Context,
    catalog: Catalog,
    candidates: Sequence[Recipe],
    *,
    with_pairs: bool,
    max_latency: float | None,
) -> Ranking:
    """Score backbones on the samples of a catalog.

    Args:
        context: of the command.
        catalog: a sample, see `draw_sample`.
        candidates: a recipe for each, see `make_network_recipes`.
        with_pairs: whether the best of them are tried in pairs.
        max_latency: milliseconds an image that a backbone or a pair may take; None for any time.

    Raises:
        UsageError: nothing is as fast as `max_latency` asks.
        DataError: no class has two images.
        RegraftError: no backbone could be loaded; the error of the first one.
    """
    context.reporter.info(
        f"{len(candidates)} backbones on {len(catalog):,} images.{_describe_downloads(candidates)}"
    )
    trials = _Trials(context, catalog, several=len(candidates) > 1)
    results = [(candidate.backbone, trials.score(candidate)) for candidate in candidates]
    ranked = [result for _, result in results if isinstance(result, RankedBackbone)]
    faults = [(name, result) for name, result in results if isinstance(result, RegraftError)]
    if not ranked:
        raise faults[0][1]
    ranked.sort(key=_get_order)
    alone = [entry for entry in ranked if max_latency is None or entry.milliseconds <= max_latency]
    if not alone:
        fastest = min(ranked, key=lambda entry: entry.milliseconds)
        raise UsageError(
            f"max_latency: no network takes at most {max_latency:g} ms for an image on this machine. "
            f"The fastest is {fastest.backbone} with {fastest.milliseconds:.1f} ms."
        )
    pairs = trials.score_pairs(alone[:PAIRED], max_latency, candidates[0].seed) if with_pairs else []
    left_out = tuple(SkippedBackbone(name, str(fault).splitlines()[0]) for name, fault in faults)
    return Ranking(tuple(alone), tuple(sorted(pairs, key=_get_order)), left_out, len(trials.catalog))


def _get_order(entry: RankedBackbone) -> tuple[float, float]:
    return -entry.score, -entry.logme


def choose_best(
    alone: Sequence[RankedBackbone], pairs: Sequence[RankedBackbone], images: int
) -> RankedBackbone:
    """Return the first backbone, or the first pair if that is better by a point and more than chance.

    Args:
        alone, pairs: each best first; there may be no pair.
        images: how many they were scored on, which gives a share its standard error.
    """
    if not pairs:
        return alone[0]
    share = min(max(alone[0].score, 0.0), 1.0)
    error = math.sqrt(share * (1 - share) / images)
    return pairs[0] if pairs[0].score > alone[0].score + max(CLOSE, error) else alone[0]


def make_network_recipes(
    recipe: Recipe, backbones: Sequence[str], weights: str | Sequence[str]
) -> list[Recipe]:
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
            max_latency=None,
        )
        for backbone, source in zip(backbones, sources, strict=True)
    ]


def _describe_downloads(recipes: Sequence[Recipe]) -> str:
    """Return a sentence on the weights that must be downloaded, with their sizes; "" if there are none."""
    published = [
        recipe for recipe in recipes if is_zoo_name(recipe.backbone) and recipe.weights == "imagenet"
    ]
    entries = [(find_entry(recipe.backbone), recipe.image_size) for recipe in published]
    absent = [entry for entry, size in entries if find_weights_on_disk(entry, size) is None]
    names = ", ".join(f"{entry.name} ({entry.size_mb or 4 * entry.parameters_m:.0f} MB)" for entry in absent)
    return f" To download, at most: {names}." if absent else ""


def draw_sample(catalog: Catalog, count: int, seed: int) -> Catalog:
    """Return about `count` samples, the same share of each stratum and at least two, none of the test part.

    A larger sample of the same images contains the smaller one, so that only new images are computed.
    """
    samples = [sample for sample in catalog.samples if sample.part != "test"]
    chosen = draw_stratified_sample(assign_strata(catalog.targets(samples), catalog.task), count, seed)
    return replace(catalog, samples=tuple(compress(samples, chosen))).require_learnable()


class _Output(NamedTuple):
    """Features of a network, and the name among them of its pooled output."""

    features: Features
    name: str


class _Trials:
    """Backbones scored one after the other on the same sample; images that cannot be decoded are dropped."""

    def __init__(self, context: Context, catalog: Catalog, *, several: bool) -> None:
        self._context, self.catalog, self._several = context, catalog, several
        self._outputs: dict[tuple[str, str], _Output] = {}

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
        output = self._extract(backbone, recipe)
        self._outputs[recipe.backbone, recipe.weights] = output
        parameters, size = backbone.model.count_params(), backbone.image_size
        return self._measure(recipe, [output], parameters=parameters, image_size=size)

    def score_pairs(
        self, entries: Sequence[RankedBackbone], max_latency: float | None, seed: int
    ) -> list[RankedBackbone]:
        """Score each pair of backbones that were scored alone, if both together are fast enough."""
        pairs = []
        for one, other in combinations(entries, 2):
            if max_latency is not None and one.milliseconds + other.milliseconds > max_latency:
                continue
            # The image has the size of the first network: the larger, so that neither sees fewer pixels.
            first, second = sorted((one, other), key=lambda entry: -entry.image_size)
            recipe = Recipe(
                backbone=f"{first.backbone},{second.backbone}",
                weights=join_items([first.weights, second.weights]),
                seed=seed,
            )
            pairs.append(
                self._measure(
                    recipe,
                    [self._outputs[entry.backbone, entry.weights] for entry in (first, second)],
                    parameters=first.parameters + second.parameters,
                    image_size=first.image_size,
                )
            )
        return pairs

    def _measure(
        self, recipe: Recipe, outputs: Sequence[_Output], *, parameters: int, image_size: int
    ) -> RankedBackbone:
        """Score the pooled output of one network, or of several side by side."""
        samples = self.catalog.samples
        blocks = [output.features.matrix(samples, output.name) for output in outputs]
        targets = self.catalog.targets(samples)
        task, groups = TASKS[self.catalog.task], _name_groups(samples)
        inputs = blocks if len(blocks) > 1 else blocks[0]
        probe = solve("ridge", inputs, targets, task=task.name, seed=recipe.seed, groups=groups)
        if np.isnan(probe.score):
            raise DataError("Expected at least one class with two images. Received: one image per class.")
        encoded = task.encode(targets, len(self.catalog.outputs)).astype(np.float64)
        if task.name == "regression":
            encoded = (encoded - encoded.mean(0)) / encoded.std(0)
        vectors = _join_blocks(blocks)
        return RankedBackbone(
            backbone=recipe.backbone,
            weights=recipe.weights,
            score=probe.score,
            logme=logme(vectors, encoded),
            h_score=h_score(vectors, encoded),
            images_per_second=1 / sum(output.features.seconds_per_image for output in outputs),
            parameters=parameters,
            megabytes=4 * parameters / 1e6,
            image_size=image_size,
            features=vectors.shape[1],
        )

    def _extract(self, backbone: Backbone, recipe: Recipe) -> _Output:
        from regraft.models.joint_taps import make_pooled_network

        # With phases, pixels are stored too: the next backbone need not decode the images.
        recipe = replace(recipe, phases=(Phase(),) if self._several else ())
        network = make_pooled_network(backbone, recipe.head)  # so `train` computes nothing again
        features = extract_and_remember(self._context, network, self.catalog, recipe)
        if features.refused:
            self.catalog = self.catalog.exclude(features.refused).require_learnable()
            report_refused(self._context.reporter, self.catalog)
        return _Output(features, list(network.output)[-1])


def _name_groups(samples: Sequence[Sample]) -> NDArray[np.str_]:
    """Return the group that each sample is never separated from: the user's, or the copies of its image."""
    return np.array([f"group {sample.group}" if sample.group else sample.digest for sample in samples])


def _join_blocks(blocks: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return features side by side. Those of several networks count alike, whatever their scale and width.

    They keep their means, which LogME needs in place of an intercept.
    """
    if len(blocks) == 1:
        return blocks[0]
    return np.concatenate([block / np.linalg.norm(block) for block in blocks], 1)


def choose_backbone(context: Context, catalog: Catalog, recipe: Recipe) -> Recipe:
    """Return a recipe for the backbone "auto" with the networks that rank first on the user's images.

    Tried are the published networks whose weights are on this machine; if there are none, those of
    `recommend`, which are downloaded. A pair is tried if it can do what the recipe asks for. A resumed run
    keeps its choice.

    Args:
        context: of the run.
        catalog: its images; those of the test part are not used.
        recipe: of the run; one that names its networks is returned as it is.

    Raises:
        UsageError: nothing is as fast as `max_latency` asks.
        RegraftError: no network could be loaded; the error of the first one.
    """
    if recipe.backbone != AUTO or context.in_memory.backbone is not None:
        return recipe
    with_pairs = recipe.can_join_networks and context.in_memory == InMemory()
    decision = context.journal.decide("backbone", lambda: _decide(context, catalog, recipe, with_pairs))
    return replace(recipe, **decision, max_latency=None)


def _decide(context: Context, catalog: Catalog, recipe: Recipe, with_pairs: bool) -> dict[str, str]:
    names = [name for name, entry in ZOO.items() if find_weights_on_disk(entry, recipe.image_size)]
    candidates = make_network_recipes(replace(recipe, phases=()), names or BACKBONES, "imagenet")
    sample = draw_sample(catalog, SAMPLE_SIZE, recipe.seed)
    limit = recipe.max_latency
    ranking = rank_backbones(context, sample, candidates, with_pairs=with_pairs, max_latency=limit)
    context.reporter.info(ranking.describe(TASKS[catalog.task].score_name))
    return {"backbone": ranking.best.backbone, "weights": ranking.best.weights}
