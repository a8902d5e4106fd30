"""Extract the features that a run's head learns from: of one frozen network, or of each of several."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from regraft.data.catalog import Catalog
from regraft.data.images.decoder_pool import DecodingPool
from regraft.pipeline.context import Context
from regraft.pipeline.prepare import extract_and_remember, feature_key_hint, list_network_recipes, list_parts
from regraft.recipe import Recipe
from regraft.training.training_data import extract_views

if TYPE_CHECKING:
    import keras

    from regraft.backbones.load import Backbone
    from regraft.features.extract import Features

__all__ = ["extract_run_features", "extract_run_views"]


def extract_run_features(
    context: Context,
    prefix: keras.Model,
    backbone: Backbone,
    catalog: Catalog,
    *,
    recipe: Recipe,
    decoding: DecodingPool | None = None,
) -> Features:
    """Return the features of a catalog's images for the head of a run.

    Each of several networks has keys of its own in the store, those of a run of it alone: what an earlier run
    computed is not computed again. Images are decoded once, for all of them.

    Raises:
        EnvironmentFault: the store cannot be written, or no decoding process can be started.
    """
    from regraft.backbones.joint import JointBackbone
    from regraft.features.joint import JointFeatures

    networks = _list_networks(prefix, backbone, recipe)
    if not isinstance(backbone, JointBackbone):
        return extract_and_remember(context, networks[0], catalog, recipe, decoding)
    # A network that resizes images in its graph has other features than by itself: another hint.
    recipes = [
        replace(own, image_size=backbone.image_size) if is_resized else own
        for own, is_resized in zip(list_network_recipes(recipe), backbone.resized, strict=True)
    ]
    parts, usable = [], catalog
    for number, (network, part) in enumerate(zip(networks, list_parts(backbone), strict=True)):
        context.reporter.info(f"Network {number + 1} of {len(networks)}: {part.name}.")
        later = recipes[number + 1 :]
        features = extract_and_remember(
            context,
            network,
            usable,
            recipes[number],
            keep_pixels=any(_is_probably_missing(context, catalog, other) for other in later),
        )
        parts.append(features)
        usable = usable.exclude(features.refused)
    return JointFeatures(parts)


def _is_probably_missing(context: Context, catalog: Catalog, recipe: Recipe) -> bool:
    """Return whether a network will have to see images. A wrong hint costs time, never correctness."""
    key = context.store.recall(feature_key_hint(recipe))
    return key is None or bool(context.store.entries(key).find_missing(catalog.digests))


def extract_run_views(
    context: Context,
    prefix: keras.Model,
    backbone: Backbone,
    catalog: Catalog,
    *,
    recipe: Recipe,
    first: Features,
) -> tuple[Features, ...]:
    """Return `first` and the features of the training images in further views, see `extract_views`."""
    from regraft.features.joint import JointFeatures

    count = recipe.view_count
    if count == 1:
        return (first,)
    networks = _list_networks(prefix, backbone, recipe)
    firsts = first.parts if isinstance(first, JointFeatures) else (first,)
    views = [
        extract_views(
            network,
            catalog,
            recipe=recipe,
            count=count,
            first=features,
            store=context.store,
            reporter=context.reporter,
        )
        for network, features in zip(networks, firsts, strict=True)
    ]
    return views[0] if len(views) == 1 else tuple(map(JointFeatures, zip(*views, strict=True)))


def _list_networks(prefix: keras.Model, backbone: Backbone, recipe: Recipe) -> list[keras.Model]:
    from regraft.backbones.joint import JointBackbone

    if not isinstance(backbone, JointBackbone):
        return [prefix]
    from regraft.models.joint_taps import make_pooled_networks

    return make_pooled_networks(backbone, recipe.head)
