"""What the final model computes: answers to images it has not learnt from, features, inner outputs."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import write_photos

from regraft.data.images.decode import decode
from regraft.features.openvino import OpenVinoEngine
from regraft.inference.bundle import load
from regraft.inference.model_files import GRAPH
from regraft.pipeline.context import Context
from regraft.pipeline.train import run_stages, train
from regraft.recipe import HeadSpec, Phase, Recipe
from regraft.report.build import score_parts
from regraft.system.console import SilentReporter
from regraft.training.outcome import Outcome

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("in_this_process")]


@pytest.fixture
def photos(tmp_path):
    return write_photos(tmp_path / "photos")


@pytest.fixture
def stage(tmp_path, photos, network_file):
    """Return a function that runs every stage on 30 images, with changes to the recipe."""

    def run(**changes) -> Outcome:
        recipe = replace(Recipe(backbone=str(network_file), phases=(), precision="f32"), **changes)
        return run_stages(Context.open(tmp_path / "store", reporter=SilentReporter()), photos, recipe)

    return run


def test_a_solved_head_answers_training_images_out_of_fold(stage):
    outcome = stage()
    held_out, catalog = outcome.held_out, outcome.catalog
    assert held_out.source == "cross-validation"
    assert set(held_out.samples) <= {*catalog.part("train"), *catalog.part("validation")}
    assert set(held_out.samples) & set(catalog.part("validation"))
    assert held_out.answers.shape == (len(held_out.samples), 3)
    assert held_out.targets.tolist() == outcome.catalog.targets(held_out.samples).tolist()
    np.testing.assert_allclose(held_out.answers.sum(1), 1)


def test_a_head_trained_by_gradient_is_judged_on_validation(stage):
    outcome = stage(head=HeadSpec(hidden=(8,)), phases=(Phase("none", epochs=1),))
    assert outcome.held_out.source == "validation"
    assert outcome.held_out.samples == outcome.catalog.part("validation")
    np.testing.assert_array_equal(outcome.held_out.answers, outcome.answers["validation"][0])


def test_copies_share_a_fold_and_a_group(stage, photos):
    for number in range(5):
        (photos / "blue" / f"copy-{number}.png").write_bytes((photos / "blue" / "000.png").read_bytes())
    outcome = stage()
    groups = dict(zip((s.path for s in outcome.reference.samples), outcome.reference.groups, strict=True))
    copies = [group for name, group in groups.items() if name == "blue/000.png" or "copy" in name]
    assert len(copies) in (0, 6)  # they share a part
    assert len(set(copies)) <= 1
    assert len(set(groups.values())) == len(groups) - max(0, len(copies) - 1)


@pytest.mark.parametrize("pooling", ["avg", "max", "both"])
def test_predicting_computes_the_features_that_the_run_stored(tmp_path, photos, network_file, pooling):
    recipe = Recipe(backbone=str(network_file), phases=(), head=HeadSpec(pooling=pooling), precision="f32")
    store = tmp_path / "store"
    outcome = run_stages(Context.open(store, reporter=SilentReporter()), photos, recipe)
    run = train(photos, recipe, tmp_path / "run", store=store)
    engine = load(run.path).make_engine(8)
    paths = [photos / sample.path for sample in outcome.reference.samples]
    batch = np.stack([decode(path.read_bytes(), 32).pixels for path in paths[:8]])
    (outputs,) = engine.run([batch])
    assert set(outputs) == {"answers", "features"}
    expected = outcome.reference.features[:8]
    np.testing.assert_allclose(outputs["features"], expected, rtol=2e-3, atol=1e-3 * np.abs(expected).max())


@pytest.mark.slow
def test_a_fine_tuned_model_has_features_of_its_own(stage):
    outcome = stage(phases=(Phase("all", epochs=2, learning_rate=1e-2),))
    frozen = stage(refit="never").reference
    assert outcome.held_out.source == "validation"
    assert outcome.decision.fine_tuned
    assert outcome.reference.features.shape == frozen.features.shape
    assert not np.allclose(outcome.reference.features, frozen.features, rtol=1e-2)


def test_the_graph_of_a_run_has_a_feature_map(tmp_path, photos, network_file):
    recipe = Recipe(backbone=str(network_file), phases=())
    run = train(photos, recipe, tmp_path / "run", store=tmp_path / "store")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    (every,) = OpenVinoEngine(run.path / GRAPH[0]).run([pixels])
    assert set(every) == {"answers", "features", "map"}
    np.testing.assert_allclose(every["map"].mean((1, 2)), every["features"], rtol=1e-4, atol=1e-6)
    (one,) = OpenVinoEngine(run.path / GRAPH[0], outputs=["map"]).run([pixels])
    assert set(one) == {"map"}
    np.testing.assert_array_equal(one["map"], every["map"])


def test_coverage_is_measured_on_parts_that_did_not_set_the_limits(stage):
    (solved,) = score_parts(stage())
    assert [one.level for one in solved.coverage.levels] == [0.8, 0.9, 0.95]
    trained = stage(head=HeadSpec(hidden=(8,)), phases=(Phase("none", epochs=1),))
    assert trained.uncertainty.conformal is not None  # its limits come from the validation part
    assert [part.coverage for part in score_parts(trained)] == [None]


def test_metrics_hold_the_coverage_of_each_part(tmp_path, photos, network_file):
    run = train(photos, Recipe(backbone=str(network_file), phases=()), tmp_path / "run", store=tmp_path / "s")
    levels = run.metrics["validation"]["coverage"]
    assert [sorted(row) for row in levels] == [
        ["coverage", "high", "level", "low", "mean_size", "within_limits"]
    ] * 3
    assert all(1 <= row["mean_size"] <= 3 and 0 <= row["coverage"] <= 1 for row in levels)
    assert "How often is the answer in the set?" in (run.path / "report.html").read_text("utf-8")
