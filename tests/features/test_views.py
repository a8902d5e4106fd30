"""Views as features: each is computed once, from stored pixels, and its cost is reported before."""

import itertools
from dataclasses import replace

import keras
import numpy as np
import pytest
from conftest import small_network, write_photos

from regraft.data.catalog import Catalog
from regraft.features.extract import extract_features
from regraft.features.store import Store
from regraft.recipe import Recipe
from regraft.system.console import TERMINAL
from regraft.training.training_data import extract_views

SIZE = 32
RECIPE = Recipe(augment=("flip", "crop"))


@pytest.fixture(scope="module")
def network():
    model = small_network(SIZE)
    return keras.Model(model.inputs, {"pooled": keras.layers.GlobalAveragePooling2D()(model.output)})


@pytest.fixture
def catalog(tmp_path):
    catalog = Catalog.from_folder(write_photos(tmp_path / "photos", each=3))
    return replace(catalog, samples=tuple(replace(sample, part="train") for sample in catalog.samples))


def count_computed(views):
    return [features.computed for features in views]


@pytest.mark.slow
def test_views_are_computed_once_and_their_cost_is_reported(network, catalog, tmp_path, capsys):
    store = Store(tmp_path / "store")
    first = extract_features(network, catalog, store=store)
    capsys.readouterr()
    views = extract_views(
        network, catalog, first=first, store=store, recipe=RECIPE, count=3, reporter=TERMINAL
    )
    output = capsys.readouterr().err
    assert output.startswith("3 views: about ")
    assert "once; in training they are only read." in output
    assert "Plan of view 2: 9 of 9 images" in output
    assert views[0] is first
    assert count_computed(views) == [9, 9, 9]
    rows = [features.matrix(catalog.samples, "pooled") for features in views]
    assert all(np.abs(a - b).max() > 1e-3 for a, b in itertools.pairwise(rows))
    again = extract_views(
        network, catalog, first=first, store=store, recipe=RECIPE, count=3, reporter=TERMINAL
    )
    assert count_computed(again[1:]) == [0, 0]
    assert "views: about" not in capsys.readouterr().err
    for before, after in zip(rows, again, strict=True):
        np.testing.assert_array_equal(after.matrix(catalog.samples, "pooled"), before)


@pytest.mark.slow
def test_a_further_view_costs_only_itself(network, catalog, tmp_path):
    store = Store(tmp_path / "store")
    first = extract_features(network, catalog, store=store)
    extract_views(network, catalog, first=first, store=store, recipe=RECIPE, count=2, reporter=TERMINAL)
    assert count_computed(
        extract_views(network, catalog, first=first, store=store, recipe=RECIPE, count=3, reporter=TERMINAL)[
            1:
        ]
    ) == [0, 9]
