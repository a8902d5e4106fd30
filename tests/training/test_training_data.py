"""Training data: stored boundaries train like pixels, and an epoch is every image in one view."""

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
from regraft.models.head import HEAD_OUTPUT, graft
from regraft.recipe import HeadSpec, Phase, Recipe
from regraft.system.console import SilentReporter
from regraft.training import training_data
from regraft.training.fit import Trainer
from regraft.training.training_data import StoredFeatures, TrainingData

PLAN = Phase("last:3", epochs=2, batch_size=4, learning_rate=1e-3, warmup=0.0)


class CutModel:
    """Images, a small model cut for a plan, and what its prefix gives in three views."""

    def __init__(self, root, store) -> None:
        self.catalog = split(Catalog.from_folder(root), fraction=0.3, seed=0)
        self.backbone = load_backbone(small_network())
        for layer in self.backbone.layers:  # without it every loss differs
            if "drop" in layer.name:
                layer.rate = 0.0
        self.model = graft(self.backbone, HeadSpec(dropout=0.0), outputs=3)
        self.halves = cut(self.model, resolve_plan(self.backbone, PLAN.unfreeze))
        feature_store = Store(store)
        self.views = tuple(
            extract_features(
                self.halves.prefix, self.catalog, store=feature_store, keep_pixels=True, view=View(n, names)
            )
            for n, names in enumerate([(), ("crop",), ("crop",)])
        )
        self.data = TrainingData(
            Recipe(augment=()), self.catalog, self.backbone, feature_store, self.views[:1], ()
        )

    def make_phase_data(self, views: int):
        return self.data.make_boundary_data(PLAN, StoredFeatures(self.views[:views], self.halves.names))


@pytest.fixture
def cut_model(tmp_path, in_this_process):
    return CutModel(write_photos(tmp_path / "photos", each=5), tmp_path / "store")


@pytest.mark.slow
@pytest.mark.usefixtures("eager")
def test_a_phase_on_what_is_stored_ends_where_one_on_pixels_does(cut_model) -> None:
    before, losses = cut_model.model.get_weights(), []
    for stored in (cut_model.halves, None):
        cut_model.model.set_weights(before)
        phase_data = cut_model.make_phase_data(1) if stored else cut_model.data.make_pixel_data(PLAN)
        trainer = Trainer(cut_model.model, cut_model.backbone, SilentReporter())
        result = trainer.train(PLAN, phase_data, budget=600, stored=stored)
        losses.append([(record.loss, record.val_loss) for record in result.history[1:]])
    np.testing.assert_allclose(*losses, rtol=1e-3)


def map_rows(cut_model):
    """Map each row of the first tensor, as bytes, to its sample and view."""
    name = cut_model.halves.names[0]
    samples = cut_model.catalog.samples
    return {
        features.matrix([sample], name)[0].tobytes(): (sample.path, view)
        for view, features in enumerate(cut_model.views)
        for sample in samples
    }


@pytest.mark.parametrize("memory", [2**30, 0])
def test_an_epoch_is_every_image_once_in_a_random_view(cut_model, monkeypatch, memory) -> None:
    monkeypatch.setattr(training_data, "IN_MEMORY", memory)
    phase_data, images = cut_model.make_phase_data(3), map_rows(cut_model)
    paths = [sample.path for sample in cut_model.catalog.part("train")]

    def identify(batches):
        return [images[row.tobytes()] for (rows, *_), *_ in batches for row in rows]

    def seen(epoch):
        return identify(phase_data.train.iter_shuffled(epoch))

    first, second = seen(1), seen(2)
    assert sorted(path for path, _ in first) == sorted(path for path, _ in second) == sorted(paths)
    assert {view for _, view in [*first, *second]} == {0, 1, 2}
    assert dict(first) != dict(second)
    assert seen(1) == first
    validation = identify(phase_data.validation.iter_in_order())
    assert validation == [(sample.path, 0) for sample in cut_model.catalog.part("validation")]


def test_targets_go_with_their_images(cut_model) -> None:
    phase_data, images = cut_model.make_phase_data(3), map_rows(cut_model)
    classes = {sample.path: sample.target for sample in cut_model.catalog.samples}
    for (rows, *_), targets, _ in phase_data.train.iter_shuffled(1):
        assert targets.argmax(1).tolist() == [classes[images[row.tobytes()][0]] for row in rows]


def test_a_changed_weight_of_the_prefix_changes_the_key(cut_model) -> None:
    layer = cut_model.model.get_layer("stem_conv")
    layer.kernel.assign(layer.kernel * 1.01)
    again = extract_features(cut_model.halves.prefix, cut_model.catalog, store=cut_model.data.store)
    assert again.key != cut_model.views[0].key
    assert again.computed == len(cut_model.catalog)


def test_the_head_learns_from_every_view(cut_model) -> None:
    data = replace(cut_model.data, views=cut_model.views, names=cut_model.halves.names)
    count = len(cut_model.catalog.part("train"))
    assert len(data.make_feature_data(PLAN).train.samples) == 3 * count
    assert cut_model.model.get_layer(HEAD_OUTPUT).kernel.shape[1] == 3
