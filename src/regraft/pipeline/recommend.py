"""`regraft recommend`: rank backbones on the user's images before anything is trained.

Every backbone processes a sample of the images once; its features stay in the store, where `train` reuses
them. `pipeline.backbone_ranking` has the scores.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from os import PathLike

from regraft.data.catalog import Catalog
from regraft.data.sources import is_in_memory, name_data
from regraft.pipeline.backbone_ranking import (
    BACKBONES,
    SAMPLE_SIZE,
    RankedBackbone,
    SkippedBackbone,
    choose_best,
    draw_sample,
    make_network_recipes,
    rank_backbones,
)
from regraft.pipeline.context import Context
from regraft.pipeline.prepare import list_data, report_refused
from regraft.recipe import HeadSpec, Recipe
from regraft.tasks import TASKS

__all__ = ["BACKBONES", "RankedBackbone", "Recommendation", "SkippedBackbone", "recommend"]


@dataclass(frozen=True)
class Recommendation:
    """A ranking of backbones. Returned by `recommend`.

    Attributes:
        ranked: the backbones alone, best first.
        pairs: the best of them in pairs, best first.
        left_out: the backbones that could not be loaded.
        score_name: what `RankedBackbone.score` is: "top-1", "mAP" or "R2".
        images: the number of images in the sample.
        advice: a sentence or two on the best backbone and on a faster one that comes close.
        command: the command to run next; for a catalog that was not read from disk, the call.
    """

    ranked: tuple[RankedBackbone, ...]
    pairs: tuple[RankedBackbone, ...]
    left_out: tuple[SkippedBackbone, ...]
    score_name: str
    images: int
    advice: str
    command: str

    @property
    def best(self) -> RankedBackbone:
        """The first of `ranked`, or of `pairs` if that is better by a point and more than chance."""
        return choose_best(self.ranked, self.pairs, self.images)


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
        recipe: the columns of a table, task, pixels, classifier, image size, precision, `head.pooling`, seed,
            and with the backbone "auto" `max_latency`, to rank what is as fast; everything else is ignored.
        backbones: names as for `load_backbone`. Only one backbone is in memory at a time.
        weights: one for all, or one for each backbone.
        sample: the number of images, the same share of every class; if there are fewer, all are used.
        trust: you know where SavedModels among the backbones come from; see `load_backbone`.
        store: the folder of computed features; None for the user's cache.

    Raises:
        UsageError: an unknown name, the number of weights does not match that of backbones, or nothing is as
            fast as `max_latency` asks.
        DataError: no model can be trained on the images; see `train`.
        EnvironmentFault: the store cannot be written.
        RegraftError: no backbone could be loaded; the error of the first one.

    Example:
        recommendation = recommend("photos", backbones=["mobilenet_v2", "resnet50"])
        train("photos", Recipe(backbone=recommendation.best.backbone))
    """
    recipe = recipe or Recipe()
    candidates = make_network_recipes(recipe, backbones, weights)
    context = Context.open(store, trust=trust)
    listed, _ = list_data(context, data, recipe)
    report_refused(context.reporter, listed)
    catalog = draw_sample(listed, sample, recipe.seed)
    ranking = rank_backbones(context, catalog, candidates, with_pairs=True, max_latency=recipe.max_latency)
    score_name = TASKS[catalog.task].score_name
    return Recommendation(
        ranking.alone,
        ranking.pairs,
        ranking.left_out,
        score_name,
        ranking.images,
        ranking.describe(score_name),
        _make_train_command(name_data(data, recipe), ranking.best),
    )


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
