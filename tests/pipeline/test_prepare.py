"""What a run does while Keras is being imported."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from regraft.data.catalog import Catalog
from regraft.data.images.decode import ImageFacts
from regraft.features.image_facts import facts_key, facts_to_tensors
from regraft.features.store import Store
from regraft.pipeline.context import Context
from regraft.pipeline.prepare import begin_decoding, feature_key_hint
from regraft.recipe import Recipe


@pytest.mark.usefixtures("in_this_process")
def test_images_without_features_or_facts_are_decoded_first(
    make_photos: Callable[..., Path], tmp_path: Path
) -> None:
    catalog, store = Catalog.from_folder(make_photos()), Store(tmp_path / "store")
    recipe = Recipe(backbone="mobilenet_v2", weights="random", image_size=32, phases=())
    contents, key = catalog.digests, "prefix of an earlier run"
    store.remember(feature_key_hint(recipe), key)
    store.entries(key).put(contents[:4], {"cut_0": np.zeros((4, 2))})
    store.entries(facts_key(32)).put(contents[2:6], facts_to_tensors([ImageFacts(8, 8, "PNG")] * 4))
    with ExitStack() as stack:
        decoding = begin_decoding(Context(store), catalog, recipe, stack)
    assert decoding is not None
    missing = [*contents[:2], *contents[4:]]
    assert [job.digest for job in decoding.jobs] == sorted(missing)  # the order of the precision's sample
