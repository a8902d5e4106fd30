"""The depth of fine-tuning: as deep as the budget holds."""

import keras
import numpy as np
import pytest
from conftest import small_network

from regraft.backbone.load import load_backbone
from regraft.training.search import FEWEST_EPOCHS, choose_depth, multiplications


@pytest.fixture(scope="module")
def backbone():
    return load_backbone("mobilenet_v2", weights="random", image_size=64)


def test_everything_is_trained_when_there_is_time(backbone) -> None:
    depth = choose_depth(backbone, images=1000, seconds_per_image=0.01, budget=1000)
    assert depth.unfreeze == "all"
    assert depth.seconds == pytest.approx(1000 * 0.01 * 6 * depth.epochs)


def test_less_time_means_a_later_stage(backbone) -> None:
    stages = list(backbone.stages)
    chosen = [
        choose_depth(backbone, images=1000, seconds_per_image=0.01, budget=budget).unfreeze
        for budget in (230, 180, 130, 100)
    ]
    places = [0 if plan == "all" else stages.index(plan.removeprefix("stage:")) for plan in chosen]
    assert places == sorted(places)
    assert places[-1] > places[0]


def test_no_time_at_all_means_the_probe_and_says_why(backbone) -> None:
    depth = choose_depth(backbone, images=1000, seconds_per_image=0.01, budget=1)
    assert depth.unfreeze == "none"
    assert "budget" in depth.why


def test_a_given_plan_is_kept_whatever_it_costs(backbone) -> None:
    depth = choose_depth(backbone, images=1000, seconds_per_image=1.0, budget=10, unfreeze="last:20")
    assert depth.unfreeze == "last:20"
    assert depth.epochs == 1


def test_chosen_plan_holds_enough_epochs(backbone) -> None:
    for budget in (120, 200, 300):
        depth = choose_depth(backbone, images=1000, seconds_per_image=0.01, budget=budget)
        assert depth.unfreeze == "none" or depth.epochs >= FEWEST_EPOCHS


def test_multiplications_are_counted_as_by_hand() -> None:
    network = small_network(32)
    conv = network.get_layer("stem_conv")  # 3 x 3 x 3 kernel, 8 filters, 16 x 16 places
    assert multiplications(conv) == 16 * 16 * 3 * 3 * 3 * 8
    assert multiplications(network.get_layer("stem_relu")) == 0
    dense = keras.layers.Dense(5)
    dense(keras.Input((7,)))
    assert multiplications(dense) == 35
    assert np.isfinite(multiplications(network.get_layer("stem_bn")))
