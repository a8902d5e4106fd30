"""Where a phase is cut: few bytes, or few layers that run again, within a limit."""

from __future__ import annotations

import shutil

import keras
import pytest

from regraft.backbones.load import load_backbone
from regraft.models.freeze import resolve_plan
from regraft.models.head import graft
from regraft.recipe import HeadSpec
from regraft.training.planning import ImageCounts, available_bytes, plan_cut

IMAGES = ImageCounts(train=1000, validation=200)
EVERYTHING = 1e12


def narrow_in_the_middle():
    """Costly layers of 64 channels, then 2, then 64 again, then what trains."""
    image = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(64, 5, padding="same", name="wide")(image)
    x = keras.layers.Conv2D(64, 5, padding="same", name="costly")(x)
    x = keras.layers.Conv2D(2, 1, name="narrow")(x)
    x = keras.layers.Conv2D(64, 1, name="cheap")(x)
    return keras.Model(image, keras.layers.Conv2D(8, 3, name="top")(x), name="narrow_in_the_middle")


def plan_small_cut(plan="last:1", network=None, images=IMAGES, epochs=6, limit=EVERYTHING):
    backbone = load_backbone(network or narrow_in_the_middle())
    model = graft(backbone, HeadSpec(), outputs=3)
    return plan_cut(model, resolve_plan(backbone, plan), images, epochs=epochs, limit=limit)


def test_a_cheap_layer_is_run_again_where_far_fewer_bytes_cross_ahead_of_it() -> None:
    cut = plan_small_cut()
    assert cut.boundary.name == "narrow"
    assert cut.image_bytes == 16 * 16 * 2 * 2


def test_a_costly_layer_is_not() -> None:
    image = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(2, 1, name="narrow")(image)
    x = keras.layers.Conv2D(64, 9, padding="same", name="costly")(x)
    x = keras.layers.Conv2D(64, 9, padding="same", name="costlier")(x)
    cut = plan_small_cut(network=keras.Model(image, keras.layers.Conv2D(8, 3, name="top")(x), name="costly"))
    assert cut.boundary.name == "costlier"


def test_bytes_are_those_of_every_view_of_training_and_one_of_validation() -> None:
    cut = plan_small_cut(images=ImageCounts(1000, 200, views=3))
    assert cut.views == 3
    assert cut.total_bytes == (3 * 1000 + 200) * cut.image_bytes
    assert str(cut) == "store 1 KB an image in 3 views, 3 MB in all, of narrow"


@pytest.mark.parametrize(("epochs", "views"), [(1, 1), (3, 3), (4, 4), (20, 4)])
def test_no_more_views_than_epochs_nor_than_four(epochs, views) -> None:
    assert plan_small_cut(epochs=epochs).views == views


def test_a_limit_means_fewer_views_and_then_pixels() -> None:
    image_bytes = 16 * 16 * 2 * 2
    assert plan_small_cut(limit=4200 * image_bytes).views == 4
    assert plan_small_cut(limit=2200 * image_bytes).views == 2
    assert plan_small_cut(limit=1200 * image_bytes).views == 1
    nothing = plan_small_cut(limit=1200 * image_bytes - 1)
    assert nothing.boundary is None
    assert nothing.total_bytes == 0


def test_within_a_limit_a_boundary_ahead_with_fewer_bytes_will_do() -> None:
    image = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(64, 9, padding="same", name="costly")(image)
    x = keras.layers.Conv2D(2, 1, name="narrow")(x)
    x = keras.layers.Conv2D(64, 9, padding="same", name="again")(x)
    x = keras.layers.Conv2D(64, 9, padding="same", name="and_again")(x)
    network = keras.Model(image, keras.layers.Conv2D(8, 3, name="top")(x), name="two_ends")
    images = ImageCounts(1000, 200, views=1)
    assert plan_small_cut(network=network, images=images).boundary.name == "and_again"
    tight = plan_small_cut(network=network, images=images, limit=1200 * 16 * 16 * 2 * 2)
    assert tight.boundary.name == "narrow"
    assert tight.epoch > plan_small_cut(network=network, images=images).epoch


@pytest.mark.parametrize("plan", ["all", "from:0"])
def test_a_phase_that_trains_everything_reads_pixels(plan) -> None:
    assert plan_small_cut(plan).boundary is None


def test_where_several_tensors_cross_all_of_them_count() -> None:
    image = keras.Input((16, 16, 3))
    one = keras.layers.Conv2D(2, 25, padding="same", name="one")(image)
    other = keras.layers.Conv2D(4, 25, padding="same", name="other")(one)
    trained = keras.layers.Conv2D(3, 1, name="trained")(other)
    both = keras.layers.Concatenate()([trained, one])
    cut = plan_small_cut("match:trained", network=keras.Model(image, both, name="both"))
    assert cut.boundary.name == "one and 1 more"
    assert cut.image_bytes == 16 * 16 * (2 + 4) * 2


def test_available_bytes_are_the_limit_or_half_of_the_free_disk(tmp_path) -> None:
    half = shutil.disk_usage(tmp_path).free / 2
    for folder in (tmp_path, tmp_path / "not" / "there"):
        assert available_bytes(folder, 20) == 20
        assert available_bytes(folder, 1e30) == pytest.approx(half, rel=0.2)  # other programs write too
