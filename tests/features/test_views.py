"""Views as features: each computed once, from kept pixels, and what they cost is said before."""

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
    whole = small_network(SIZE)
    return keras.Model(whole.inputs, {"pooled": keras.layers.GlobalAveragePooling2D()(whole.output)})


@pytest.fixture
def catalog(tmp_path):
    listed = Catalog.from_folder(write_photos(tmp_path / "photos", each=3))
    return replace(listed, samples=tuple(replace(sample, part="train") for sample in listed.samples))


def computed(features):
    return [each.computed for each in features]


@pytest.mark.slow
def test_views_are_computed_once_and_their_cost_is_said(network, catalog, tmp_path, capsys):
    store = Store(tmp_path / "store")
    first = extract_features(network, catalog, store=store)
    capsys.readouterr()
    found = extract_views(
        network, catalog, first=first, store=store, recipe=RECIPE, count=3, reporter=TERMINAL
    )
    said = capsys.readouterr().err
    assert said.startswith("3 views: about ")
    assert "once; in training they are only read." in said
    assert "Plan of view 2: 9 of 9 images" in said
    assert found[0] is first
    assert computed(found) == [9, 9, 9]
    rows = [features.matrix(catalog.samples, "pooled") for features in found]
    assert all(np.abs(a - b).max() > 1e-3 for a, b in itertools.pairwise(rows))
    again = extract_views(
        network, catalog, first=first, store=store, recipe=RECIPE, count=3, reporter=TERMINAL
    )
    assert computed(again[1:]) == [0, 0]
    assert "views: about" not in capsys.readouterr().err
    for before, after in zip(rows, again, strict=True):
        np.testing.assert_array_equal(after.matrix(catalog.samples, "pooled"), before)


@pytest.mark.slow
def test_a_further_view_costs_only_itself(network, catalog, tmp_path):
    store = Store(tmp_path / "store")
    first = extract_features(network, catalog, store=store)
    extract_views(network, catalog, first=first, store=store, recipe=RECIPE, count=2, reporter=TERMINAL)
    assert computed(
        extract_views(network, catalog, first=first, store=store, recipe=RECIPE, count=3, reporter=TERMINAL)[
            1:
        ]
    ) == [0, 9]
