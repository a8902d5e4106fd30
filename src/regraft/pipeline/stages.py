"""The stages that build, fit and answer: a model with a head, its cut, its taps, the head, its answers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from regraft.data.catalog import Catalog, units_of
from regraft.data.images.rejections import Refusal
from regraft.errors import DataError, UsageError
from regraft.pipeline.context import Context
from regraft.recipe import Recipe
from regraft.training.outcome import TrainedModel
from regraft.training.training_data import Material

if TYPE_CHECKING:
    import keras

    from regraft.backbones.load import Backbone
    from regraft.models.cut import Cut
    from regraft.models.taps import Tap
    from regraft.training.fine_tuning import AsAsked
    from regraft.training.fit import FoundHead
    from regraft.training.tuning import Search

__all__ = [
    "BuiltModel",
    "answer_from_features",
    "build_model",
    "choose_taps",
    "evaluate",
    "find_taps_for",
    "fit_head",
    "ship_model",
]

Answers = dict[str, NDArray[Any]]


class BuiltModel(NamedTuple):
    """A model with a fresh head, and the same cut where what is not the untouched backbone begins."""

    model: keras.Model
    cut: Cut


def find_taps_for(backbone: Backbone, recipe: Recipe, head: Any) -> tuple[Tap, ...]:
    """Return where the features that the head may see are pooled; nothing for the output alone, as mostly.

    Raises:
        UsageError: taps are asked for with a head of the user's own, or with layers that surgery put in.
    """
    if recipe.head.taps == "last":
        return ()
    from regraft.models.taps import find_taps

    if head is not None or backbone.new_layers:
        what = "a head of your own" if head is not None else "layers that surgery put in"
        raise UsageError(f"head.taps: expected last for {what}. Received: {recipe.head.taps}.")
    return find_taps(backbone, recipe.head.taps)


def build_model(
    context: Context, backbone: Backbone, catalog: Catalog, recipe: Recipe, taps: tuple[Tap, ...]
) -> BuiltModel:
    """Put a fresh head on a backbone that is frozen from now on, and cut the model in two."""
    from regraft.models.cut import cut
    from regraft.models.freeze import freeze
    from regraft.models.head import graft, is_head
    from regraft.models.taps import cut_at_taps

    freeze(backbone, "none")  # until something else is asked for
    head = context.in_memory.head
    is_layer = hasattr(head, "compute_output_shape")  # or a model; not a scikit-learn estimator
    model = graft(
        backbone,
        head if is_layer else recipe.head,
        task=catalog.task,
        outputs=len(catalog.outputs),
        units=units_of(catalog),
        taps=[tap.tensor for tap in taps],
        seed=recipe.seed,
    )
    if taps:
        return BuiltModel(model, cut_at_taps(model, taps))
    new = set(backbone.new_layers)
    return BuiltModel(model, cut(model, lambda layer: is_head(layer) or layer.name in new))


def choose_taps(
    context: Context, built: BuiltModel, taps: tuple[Tap, ...], material: Material
) -> tuple[BuiltModel, Material]:
    """Build the model anew with the taps that its head will see, where there are several to choose from.

    The head sees all of "late", and of "auto" those that cross-validation chooses.
    """
    if len(taps) < 2:
        return built, material
    from regraft.training.solve_head import tap_numbers

    if material.recipe.head.taps == "auto":
        taps = tuple(taps[number] for number in tap_numbers(material))
    context.reporter.info(f"Taps: {', '.join(tap.layer for tap in taps)}.")
    built = build_model(context, material.backbone, material.catalog, material.recipe, taps)
    return built, replace(material, names=built.cut.names)


def fit_head(context: Context, built: BuiltModel, material: Material) -> tuple[AsAsked | Search, FoundHead]:
    """Solve or train the head; return it with what fine-tunes it, as the recipe says or by a search."""
    from regraft.training.fine_tuning import AsAsked
    from regraft.training.tuning import Search

    weights = _digest((str(weight.dtype), tuple(weight.shape)) for weight in built.model.weights)
    rows = ([photo.digest for photo in s.photos] + [s.target, s.part] for s in material.catalog.samples)
    samples = f"{len(material.catalog):,}, digest {_digest(rows)}"  # their order is that of training
    context.journal.expect(samples=samples, features=material.views[0].key, weights=weights)
    space, head = context.in_memory.space, context.in_memory.head
    trainer: AsAsked | Search
    if space is None:
        trainer = AsAsked(head, context.journal, reporter=context.reporter)
    else:
        trainer = Search(space, reporter=context.reporter)
    return trainer, trainer.find_head(built.model, built.cut, material)


def _digest(rows: Iterable[Any]) -> str:
    return hashlib.blake2b("\n".join(map(repr, rows)).encode(), digest_size=8).hexdigest()


def _scored(catalog: Catalog) -> list[str]:
    return [part for part in ("test", "validation") if catalog.part(part)]


def answer_from_features(found: FoundHead, material: Material) -> Answers:
    """Return the answers of the head on the untouched backbone, for each scored part, (n, units)."""
    catalog = material.catalog
    return {part: found.answers(material, catalog.part(part)) for part in _scored(catalog)}


def evaluate(
    context: Context, found: FoundHead, material: Material, *, fine_tuned: bool
) -> tuple[Answers, Path | None]:
    """Return the answers of the final model for each scored part, (n, units), and the graph that gave them.

    Where the backbone stayed frozen, they come from stored features, and there is no graph.

    Raises:
        DataError: an image changed meanwhile.
    """
    if not fine_tuned:
        return answer_from_features(found, material), None  # a phase may have trained the head alone
    from regraft.features.engine import Speed
    from regraft.inference.predict import answer_contents, name_output

    catalog = material.catalog
    samples = [sample for part in _scored(catalog) for sample in catalog.part(part)]
    speed, size = Speed(name_output(found.model), context.store), material.backbone.image_size
    answers = answer_contents(lambda images: speed.engine, catalog, samples, size, reporter=context.reporter)
    changed = [content for content, answer in answers.items() if isinstance(answer, Refusal)]
    if changed:
        names = [sample.path for sample in samples if sample.digest in changed]
        raise DataError(
            f"{len(names)} images changed while the run was reading them, the first: {names[0]}. "
            "Run again once nothing writes to the folder."
        )
    rows = {part: [answers[sample.digest] for sample in catalog.part(part)] for part in _scored(catalog)}
    return {part: np.array(each) for part, each in rows.items()}, speed.graph


def ship_model(found: FoundHead, cut: Cut, catalog: Catalog, graph: Path | None) -> TrainedModel:
    """Return the model as it is shipped: where samples have several images, it takes all of them."""
    from regraft.models.head import over_photos

    photos = len(catalog.samples[0].photos)
    model = found.model if photos == 1 else over_photos(cut.prefix, found.head, photos)
    return TrainedModel(model, photos, found.kept, graph)
