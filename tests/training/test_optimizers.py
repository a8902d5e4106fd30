"""Learning rates rise and fall, epochs fit the budget, and deeper layers learn more slowly."""

import pytest
from conftest import small_network

from regraft.backbones.load import load_backbone
from regraft.models.freeze import freeze
from regraft.recipe import Phase
from regraft.training.fit import EPOCHS
from regraft.training.optimizers import Schedule, compute_rate_shares


def test_rate_warms_up_then_falls_to_zero() -> None:
    schedule = Schedule(600, 10, Phase(epochs=4, warmup=0.25), EPOCHS)
    rates = []
    for _ in range(40):
        rates.append(schedule.rate(1.0))
        schedule.add_step(0.1)
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == pytest.approx(1.0)
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 0.01


def test_epochs_are_as_many_as_the_budget_holds() -> None:
    schedule = Schedule(100.0, 10, Phase(), EPOCHS)
    for _ in range(7):
        schedule.add_step(2.0)  # 10 steps of 2 s: 23 s an epoch with validation
    assert schedule.epochs == 4
    generous = Schedule(1000.0, 10, Phase(), EPOCHS)
    for _ in range(7):
        generous.add_step(0.01)
    assert generous.epochs == EPOCHS


@pytest.mark.slow
def test_every_stage_further_from_the_head_learns_more_slowly():
    backbone = load_backbone("mobilenet_v2", weights="random", image_size=32)
    freeze(backbone, "all")
    shares = compute_rate_shares(backbone, Phase(backbone_rate=0.5, depth_decay=0.5))
    share_of = {
        layer.name: shares[id(layer.trainable_variables[0])]
        for layer in backbone.layers
        if layer.trainable_variables
    }
    assert share_of["Conv_1"] == 0.5
    assert share_of["block_16_expand"] == 0.25
    assert share_of["block_15_expand"] == 0.125
    assert share_of["Conv1"] == min(share_of.values())


def test_without_decay_all_pretrained_layers_share_one_rate():
    backbone = load_backbone(small_network())
    freeze(backbone, "all")
    assert set(compute_rate_shares(backbone, Phase(backbone_rate=0.3)).values()) == {0.3}
