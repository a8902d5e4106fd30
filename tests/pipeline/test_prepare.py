"""What a run does while Keras is being imported."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from helpers.reporters import Recorder

from regraft.data.catalog import Catalog
from regraft.data.images.decode import ImageFacts
from regraft.features.image_facts import facts_key, facts_to_tensors
from regraft.features.store import Store
from regraft.models.joint_taps import make_pooled_network
from regraft.pipeline.context import Context
from regraft.pipeline.prepare import (
    begin_decoding,
    extract_and_remember,
    feature_key_hint,
    list_data,
    open_backbone,
    split_catalog,
)
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


def test_classes_that_vanish_are_named_before_anything_is_computed(
    make_photos: Callable[..., Path], tmp_path: Path
) -> None:
    root, reporter = make_photos(), Recorder()
    for number in range(15):
        (root / f"scan{number:02}").mkdir()
        (root / f"scan{number:02}" / "1.txt").write_text("x")
    list_data(Context(Store(tmp_path / "store"), reporter=reporter), root, Recipe())
    names = ", ".join(f"scan{number:02}" for number in range(12))
    assert reporter.lines[0] == f"The classes {names} and 3 more have no usable image and were left out."


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("each", [1, 4])
def test_a_run_without_validation_images_says_so(
    make_photos: Callable[..., Path], tmp_path: Path, network_file: Path, each: int
) -> None:
    reporter = Recorder()
    context = Context(Store(tmp_path / "store"), reporter=reporter)
    recipe = Recipe(backbone=str(network_file), phases=())
    catalog, recipe = list_data(context, make_photos(each=each), recipe)
    network = make_pooled_network(open_backbone(recipe, reporter=reporter), recipe.head)
    features = extract_and_remember(context, network, catalog, recipe)
    result = split_catalog(context, catalog, features, recipe)
    warning = "There are 0 validation images: nothing validates this model."
    note = "The class red has a single image: nothing validates it."
    assert (warning in result.cautions, note in reporter.lines) == (each == 1, each == 1)
