"""The batch size is measured and chosen once; little work is not worth the measurement."""

import keras
import pytest
from conftest import small_network

from regraft.features.engine import EngineRunner
from regraft.features.keras_engine import engine_name
from regraft.features.openvino import BATCH
from regraft.features.store import Store

pytestmark = pytest.mark.skipif(not engine_name().startswith("openvino"), reason="batches are OpenVINO's")


@pytest.fixture(scope="module")
def network():
    small = small_network()
    return keras.Model(small.inputs, {"cut_0": small.outputs[0]})


@pytest.mark.parametrize("faster", [1, BATCH])
def test_the_faster_batch_size_is_used_and_remembered(network, tmp_path, faster):
    measured = []

    class TimedRunner(EngineRunner):
        def _measure_seconds(self, engine):
            measured.append(engine.batch)
            return 1.0 if engine.batch == faster else 2.0

    first = TimedRunner(network, Store(tmp_path))
    first.tune(1)
    assert set(measured) == {BATCH}
    first.tune(100)
    assert first.engine.batch == faster
    del measured[:]
    again = TimedRunner(network, Store(tmp_path))
    again.tune(100)
    assert (again.engine.batch, measured) == (faster, [])


@pytest.fixture
def runner(network, tmp_path, monkeypatch):
    """A runner whose first measurement says one second an image."""
    monkeypatch.setattr(EngineRunner, "_measure_seconds", lambda *_: 1.0)
    return EngineRunner(network, Store(tmp_path))


def recall_pace(runner):
    return EngineRunner(runner.network, runner._store).seconds_per_image


def test_pace_follows_extractions_and_is_remembered(runner):
    assert runner.seconds_per_image == 1.0
    runner.correct_pace(100, seconds=25.0, waited=1.0)
    assert runner.seconds_per_image == recall_pace(runner) == pytest.approx(0.5)  # half-way to 0.25, in logs
    for _ in range(8):
        runner.correct_pace(100, seconds=25.0, waited=1.0)
    assert recall_pace(runner) == pytest.approx(0.25, rel=0.01)
    runner.correct_pace(100, seconds=100.0, waited=1.0)
    assert recall_pace(runner) == pytest.approx(0.5, rel=0.01)


def test_pace_is_only_bounded_where_the_engine_waited_for_images(runner):
    runner.correct_pace(100, seconds=400.0, waited=350.0)
    assert recall_pace(runner) == 1.0  # decoding was slow, not the engine
    runner.correct_pace(100, seconds=40.0, waited=30.0)
    assert recall_pace(runner) == pytest.approx(0.4)  # it cannot be slower than the whole


@pytest.mark.parametrize(("images", "seconds"), [(8, 100.0), (1000, 0.1)])
def test_pace_of_little_work_does_not_count(runner, images, seconds):
    runner.correct_pace(images, seconds=seconds, waited=0.0)
    assert recall_pace(runner) == 1.0
