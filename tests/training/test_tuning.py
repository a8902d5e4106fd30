"""`regraft search`: attempts are judged on validation, and the best becomes an ordinary run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.stripe_images import network, trained, write_stripes
from typer.testing import CliRunner

from regraft import HeadSpec, Recipe, Run, Space, UsageError, load, load_backbone, search, train
from regraft.cli import app
from regraft.training import tuning
from regraft.training.fine_tuning import PhaseRunner
from regraft.training.tuning import choose_plans

pytestmark = pytest.mark.slow

SPACE = Space(
    plans=("last:1", "all"),
    learning_rates=(2e-3, 1e-9),
    backbone_rates=(1.0,),
    solvers=("ridge", "lda"),
    epochs=6,
)


@pytest.fixture(scope="module")
def striped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stripes(tmp_path_factory.mktemp("data") / "striped", each=60)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """Return a recipe whose network knows a little about stripes and has much to learn."""
    file = tmp_path_factory.mktemp("network") / "net.keras"
    trained(network(3), images=240, epochs=2).save(file)
    return Recipe(backbone=str(file), budget=600.0, augment=("flip",))


@pytest.fixture(scope="module", autouse=True)
def few_steps() -> Iterator[None]:
    """Let attempts be as short as a set of a hundred images makes them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuning, "FEWEST_STEPS", 1)
        yield


@pytest.fixture(scope="module")
def run(striped: Path, recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REGRAFT_HOME", str(folder / "store"))
        return search(striped, recipe, folder / "run", space=SPACE)


@pytest.fixture(autouse=True)
def quick_decoding(in_this_process: None) -> None:
    """No child processes: they have tests of their own."""


def test_every_plan_is_tried_with_every_rate_and_the_better_ones_for_longer(run: Run) -> None:
    tried = run.metrics["search"]
    assert [(attempt["head"], attempt["epochs"]) for attempt in tried[:2]] == [("ridge", 0), ("lda", 0)]
    assert {attempt["unfreeze"] for attempt in tried[:2]} == {"none"}
    short = [attempt for attempt in tried[2:] if attempt["epochs"] == 2]
    assert {(attempt["unfreeze"], attempt["learning_rate"]) for attempt in short} == {
        (plan, rate) for plan in SPACE.plans for rate in SPACE.learning_rates
    }
    long = [attempt for attempt in tried[2:] if attempt["epochs"] == 6]
    best = sorted(short, key=lambda attempt: attempt["val_loss"])[:2]
    assert [(attempt["unfreeze"], attempt["learning_rate"]) for attempt in long] == [
        (attempt["unfreeze"], attempt["learning_rate"]) for attempt in best
    ]


def test_the_run_is_the_best_attempt(run: Run) -> None:
    tried = run.metrics["search"]
    best = min(tried, key=lambda attempt: attempt["val_loss"])
    assert best["learning_rate"] == 2e-3  # the other rate changes next to nothing
    (phase,) = run.metrics["decision"]["phases"]
    assert (phase["unfreeze"], phase["epochs"]) == (best["unfreeze"], best["epochs"])
    assert run.metrics["validation"]["log_loss"]["value"] == pytest.approx(best["val_loss"], rel=1e-3)
    assert run.metrics["validation"]["top1"]["value"] == pytest.approx(best["val_score"])
    assert best["unfreeze"] in run.metrics["decision"]["reason"]
    assert [attempt for attempt in tried if attempt["kept"]] == [best]


def test_its_recipe_makes_the_same_model(run: Run, striped: Path, tmp_path: Path) -> None:
    recipe = Recipe.from_toml(run.path / "recipe.toml")
    assert recipe.head.solver in ("ridge", "lda")
    again = train(striped, recipe, tmp_path / "again", store=tmp_path / "store")
    assert again.metrics["search"] == []
    pixels = np.random.default_rng(0).uniform(0, 255, (8, 24, 24, 3)).astype("float32")
    np.testing.assert_allclose(again.model.predict(pixels), run.model.predict(pixels), atol=1e-5)
    trainable = [[layer.name for layer in r.model.layers if layer.trainable_weights] for r in (run, again)]
    assert trainable[0] == trainable[1]


def test_the_report_lists_what_was_tried(run: Run) -> None:
    page = (run.path / "report.html").read_text("utf-8")
    assert "What was tried" in page
    table = page[page.index('class="data attempts"') :]
    table = table[: table.index("</table>")]
    assert table.count("<tr>") == 1 + len(run.metrics["search"])
    assert f"{min(attempt['val_loss'] for attempt in run.metrics['search']):.4f}" in table.split("<tr>")[2]


def test_a_budget_too_short_for_anything_still_gives_the_probe(
    striped: Path, recipe: Recipe, tmp_path: Path
) -> None:
    run = search(striped, replace(recipe, budget=0.01), tmp_path / "run", space=SPACE)
    assert [attempt["unfreeze"] for attempt in run.metrics["search"]] == ["none"]
    assert run.metrics["decision"]["kept"] == "head"
    again = Recipe.from_toml(run.path / "recipe.toml")
    assert again.phases == ()
    assert again.view_count == 1  # as many as the head was solved on
    assert len(list(load(run.path).predict(sorted(striped.rglob("*.png"))[:3]))) == 3


def test_an_interrupt_keeps_the_best_so_far(
    striped: Path, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_phase, calls = PhaseRunner.run, []

    def interrupt_third(runner, phase):
        (result,), reason = run_phase(runner, phase)
        calls.append(result)
        if len(calls) == 3:  # two short attempts, and a longer one that would have been the best
            result.stopped = "interrupted"
        return [result], reason

    monkeypatch.setattr(PhaseRunner, "run", interrupt_third)
    run = search(striped, recipe, tmp_path / "run", space=replace(SPACE, plans=("all",)))
    assert run.interrupted
    assert len(calls) == 3
    (phase,) = run.metrics["decision"]["phases"]
    finished = [attempt for attempt in run.metrics["search"] if attempt["stopped"] != "interrupted"]
    assert phase["epochs"] == min(finished, key=lambda attempt: attempt["val_loss"])["epochs"] == 2


def test_mistakes_are_refused_before_anything_runs(
    striped: Path, recipe: Recipe, tmp_path: Path, seen: list[int]
) -> None:
    for space, words in [({"plans": ("stage:conv9",)}, "stage"), ({"plans": ("last:99",)}, "last:99")]:
        with pytest.raises(UsageError, match=words):
            search(striped, recipe, tmp_path / "run", space=Space(**space))
    with pytest.raises(UsageError, match="head alone is always tried"):
        Space(plans=("none",))
    with pytest.raises(UsageError, match="expected one at least"):
        Space(solvers=())
    assert not seen
    assert not (tmp_path / "run").exists()
    with pytest.raises(UsageError, match="validation images"):
        search(striped, replace(recipe, validation=0.0), tmp_path / "run", space=SPACE)


def test_a_head_with_layers_is_trained_once_and_recorded(
    striped: Path, recipe: Recipe, tmp_path: Path
) -> None:
    wide = replace(recipe, head=HeadSpec(hidden=(8,)))
    run = search(striped, wide, tmp_path / "run", space=replace(SPACE, plans=("last:1",), epochs=1))
    tried = run.metrics["search"]
    assert [(attempt["head"], attempt["unfreeze"]) for attempt in tried] == [
        ("gradient", "none"),
        *[("gradient", "last:1")] * 2,
    ]
    head, *rest = Recipe.from_toml(run.path / "recipe.toml").phases
    assert head.unfreeze == "none"
    (winner,) = [attempt for attempt in tried if attempt["kept"]]
    assert [phase.unfreeze for phase in rest] == ([] if winner is tried[0] else ["last:1"])


def test_plans_go_from_a_little_to_all() -> None:
    backbone = load_backbone(network(1))
    assert choose_plans(backbone)[-1] == "all"
    named = load_backbone("resnet50", weights="random", image_size=32)
    assert choose_plans(named)[-1] == "all"
    assert all(plan.startswith("stage:") for plan in choose_plans(named)[:-1])


@pytest.mark.usefixtures("eager")
def test_the_command_prints_what_it_tried(striped: Path, recipe: Recipe, tmp_path: Path) -> None:
    options = ["search", str(striped), "-o", str(tmp_path / "run"), "--backbone", recipe.backbone]
    options += ["--unfreeze", "all", "--learning-rate", "0.01", "--backbone-rate", "1", "--solver", "ridge"]
    options += ["--epochs", "1", "--budget", "5min", "--augment", "none"]
    shown = CliRunner().invoke(app, options, catch_exceptions=False).stdout
    assert "validation, " in shown
    assert "Report: " in shown
    tried = json.loads((tmp_path / "run" / "metrics.json").read_text())["search"]
    assert [(attempt["unfreeze"], attempt["epochs"]) for attempt in tried] == [("none", 0), ("all", 1)]
    assert any(line.split()[:2] == ["all", "ridge"] for line in shown.splitlines())
