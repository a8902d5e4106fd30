"""Backbone + recipe -> the model with a fresh head, and the cut between what is stored and what is not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from regraft.console import say
from regraft.data.catalog import Catalog
from regraft.errors import UsageError
from regraft.recipe import Recipe
from regraft.units import units_of

if TYPE_CHECKING:
    import keras

    from regraft.backbone.cut import Cut
    from regraft.backbone.load import Backbone
    from regraft.backbone.taps import Tap
    from regraft.training.heads import FoundHead
    from regraft.training.material import Material

__all__ = ["choose_taps", "grafted", "of_samples", "taps_for"]


def taps_for(backbone: Backbone, recipe: Recipe, head: Any) -> tuple[Tap, ...]:
    """Where the features that the head may see are pooled; nothing where that is the output, as mostly."""
    if recipe.head.taps == "last":
        return ()
    from regraft.backbone.taps import find_taps

    if head is not None or backbone.new_layers:
        what = "a head of your own" if head is not None else "layers that surgery put in"
        raise UsageError(f"head.taps: expected last for {what}. Received: {recipe.head.taps}.")
    return find_taps(backbone, recipe.head.taps)


def choose_taps(taps: tuple[Tap, ...], material: Material) -> tuple[Tap, ...]:
    """The taps that the head will see: all of "late", of "auto" those that cross-validation chooses."""
    from regraft.training.solving import tap_numbers

    if material.recipe.head.taps == "auto":
        taps = tuple(taps[number] for number in tap_numbers(material))
    say(f"Taps: {', '.join(tap.layer for tap in taps)}.")
    return taps


def grafted(
    backbone: Backbone, catalog: Catalog, recipe: Recipe, head: Any, taps: tuple[Tap, ...]
) -> tuple[keras.Model, Cut]:
    """The model with a fresh head, and the same cut where what is not the untouched backbone begins."""
    from regraft.backbone.cut import cut
    from regraft.backbone.freeze import freeze
    from regraft.backbone.head import graft, is_head
    from regraft.backbone.taps import cut_at_taps

    freeze(backbone, "none")  # until something else is asked for
    own = hasattr(head, "compute_output_shape")  # a Keras layer or model; not a scikit-learn estimator
    model = graft(
        backbone,
        head if own else recipe.head,
        task=catalog.task,
        outputs=len(catalog.outputs),
        units=units_of(catalog),
        taps=[tap.tensor for tap in taps],
        seed=recipe.seed,
    )
    if taps:
        return model, cut_at_taps(model, taps)
    new = set(backbone.new_layers)
    return model, cut(model, lambda layer: is_head(layer) or layer.name in new)


def of_samples(found: FoundHead, whole: Cut, catalog: Catalog) -> keras.Model:
    """The model as it is shipped: where samples have several images, it takes all of them."""
    from regraft.backbone.photos import over_photos

    photos = len(catalog.samples[0].photos)
    return found.model if photos == 1 else over_photos(whole.prefix, found.head, photos)
