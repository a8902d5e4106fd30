"""What phases learn from: stored boundaries train like pixels, an epoch is every image in one view."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from conftest import small_network, write_photos

from regraft.backbones.load import load_backbone
from regraft.data.augmentation import View
from regraft.data.catalog import Catalog
from regraft.data.split import split
from regraft.features.extract import extract_features
from regraft.features.store import Store
from regraft.models.cut import cut
from regraft.models.freeze import resolve_plan
from regraft.models.head import OUTPUT, graft
from regraft.recipe import HeadSpec, Phase, Recipe
from regraft.system.console import SilentReporter
from regraft.training import training_data as of_material
from regraft.training.fit import Trainer
from regraft.training.training_data import Material, Tensors

PLAN = Phase("last:3", epochs=2, batch_size=4, learning_rate=1e-3, warmup=0.0)


class Prepared:
    """Photographs, a small model cut for a plan, and what its prefix gives in three views."""

    def __init__(self, root, store) -> None:
        self.catalog = split(Catalog.from_folder(root), fraction=0.3, seed=0)
        self.backbone = load_backbone(small_network())
        for layer in self.backbone.layers:  # else every loss is another
            if "drop" in layer.name:
                layer.rate = 0.0
        self.model = graft(self.backbone, HeadSpec(dropout=0.0), outputs=3)
        self.halves = cut(self.model, resolve_plan(self.backbone, PLAN.unfreeze))
        kept = Store(store)
        self.views = tuple(
            extract_features(
                self.halves.prefix, self.catalog, store=kept, keep_pixels=True, view=View(n, names)
            )
            for n, names in enumerate([(), ("crop",), ("crop",)])
        )
        self.material = Material(Recipe(augment=()), self.catalog, self.backbone, kept, self.views[:1], ())

    def lesson(self, views: int):
        return self.material.boundary_lesson(PLAN, Tensors(self.views[:views], self.halves.names))


@pytest.fixture
def prepared(tmp_path, in_this_process):
    return Prepared(write_photos(tmp_path / "photos", each=5), tmp_path / "store")


@pytest.mark.slow
def test_a_phase_on_what_is_stored_ends_where_one_on_pixels_does(prepared) -> None:
    before, found = prepared.model.get_weights(), []
    for stored in (prepared.halves, None):
        prepared.model.set_weights(before)
        lesson = prepared.lesson(1) if stored else prepared.material.pixel_lesson(PLAN)
        trainer = Trainer(prepared.model, prepared.backbone, SilentReporter())
        fitted = trainer.train(PLAN, lesson, budget=600, stored=stored)
        found.append([(record.loss, record.val_loss) for record in fitted.history[1:]])
    np.testing.assert_allclose(*found, rtol=1e-3)


def row_of(prepared):
    """Which sample and view a row of the first tensor is."""
    name = prepared.halves.names[0]
    samples = prepared.catalog.samples
    return {
        features.matrix([sample], name)[0].tobytes(): (sample.path, view)
        for view, features in enumerate(prepared.views)
        for sample in samples
    }


@pytest.mark.parametrize("memory", [2**30, 0])
def test_an_epoch_is_every_image_once_in_a_random_view(prepared, monkeypatch, memory) -> None:
    monkeypatch.setattr(of_material, "IN_MEMORY", memory)
    lesson, known = prepared.lesson(3), row_of(prepared)
    paths = [sample.path for sample in prepared.catalog.part("train")]

    def seen(epoch):
        return [known[row.tobytes()] for (rows, *_), *_ in lesson.train.shuffled(epoch) for row in rows]

    first, second = seen(1), seen(2)
    assert sorted(path for path, _ in first) == sorted(path for path, _ in second) == sorted(paths)
    assert {view for _, view in [*first, *second]} == {0, 1, 2}
    assert dict(first) != dict(second)
    assert seen(1) == first
    held = [known[row.tobytes()] for (rows, *_), *_ in lesson.validation.in_order() for row in rows]
    assert held == [(sample.path, 0) for sample in prepared.catalog.part("validation")]


def test_targets_go_with_their_images(prepared) -> None:
    lesson, known = prepared.lesson(3), row_of(prepared)
    classes = {sample.path: sample.target for sample in prepared.catalog.samples}
    for (rows, *_), targets, _ in lesson.train.shuffled(1):
        assert targets.argmax(1).tolist() == [classes[known[row.tobytes()][0]] for row in rows]


def test_another_weight_in_front_is_another_key(prepared) -> None:
    layer = prepared.model.get_layer("stem_conv")
    layer.kernel.assign(layer.kernel * 1.01)
    again = extract_features(prepared.halves.prefix, prepared.catalog, store=prepared.material.store)
    assert again.key != prepared.views[0].key
    assert again.computed == len(prepared.catalog)


def test_the_head_learns_from_every_view(prepared) -> None:
    made = replace(prepared.material, views=prepared.views, names=prepared.halves.names)
    count = len(prepared.catalog.part("train"))
    assert len(made.feature_lesson(PLAN).train.samples) == 3 * count
    assert prepared.model.get_layer(OUTPUT).kernel.shape[1] == 3
