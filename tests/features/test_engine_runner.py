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
