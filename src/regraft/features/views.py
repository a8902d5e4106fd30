"""Augmented views through the frozen network: each once, stored like any feature.

A head on frozen features cannot have every epoch augmented anew without running the backbone every epoch. It
can have a few views of each image, computed once; what they cost is said beforehand.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras

from regraft.console import Reporter, duration
from regraft.data.augment import View
from regraft.data.catalog import Catalog
from regraft.features.extract import Features, extract_features
from regraft.features.store import Store

__all__ = ["extract_views"]


def extract_views(
    network: keras.Model,
    catalog: Catalog,
    *,
    first: Features,
    store: Store,
    views: Sequence[View],
    reporter: Reporter,
) -> tuple[Features, ...]:
    """Compute the features of further views of some images.

    Args:
        network: as in `extract_features`.
        catalog: the images to be seen in more than one view: those trained on.
        first: of the same network, for the images as they are.
        store: where pixels are read from, if they were kept, and results are kept.
        views: numbers 1 and on.
        reporter: who is told what they cost.

    Returns:
        `first` and the features of each view, in order.

    Raises:
        EnvironmentFault: the store cannot be written, or no decoding process can be started.
    """
    keys = [first.key.removesuffix(View().key) + view.key for view in views]
    missing = sum(len(store.entries(key).missing(catalog.contents)) for key in keys)
    if missing:
        seconds = duration(missing * first.seconds_per_image)
        reporter.info(f"{len(views) + 1} views: about {seconds} once; in training they are only read.")
    more = [
        extract_features(
            network,
            catalog,
            store=store,
            keep_pixels=True,
            view=view,
            precision=first.precision,
            reporter=reporter,
        )
        for view in views
    ]
    return (first, *more)
