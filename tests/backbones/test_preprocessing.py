"""The pixel contracts agree with Keras, survive saving, and open without regraft."""

import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers.backends import make_light_environment

from regraft.backbones.preprocessing import CONTRACTS, apply_contract, find_contract
from regraft.backbones.zoo import ZOO
from regraft.errors import UsageError

FAMILIES = sorted({(entry.module, entry.pixels) for entry in ZOO.values()})

REPLAY = """
import sys
import numpy as np
import keras

model = keras.models.load_model(sys.argv[1], safe_mode=True)
np.save(sys.argv[3], model.predict(np.load(sys.argv[2]), verbose=0))
assert "regraft" not in sys.modules
"""


@pytest.fixture(scope="module")
def pixels():
    """Every value from 0 to 255 in every channel, in different orders: (4, 8, 8, 3)."""
    rng = np.random.default_rng(0)
    values = np.stack([rng.permutation(256) for _ in range(3)], axis=-1)
    return values.reshape(4, 8, 8, 3).astype("float32")


def contract_model(contract):
    image = keras.Input((None, None, 3))
    return keras.Model(image, apply_contract(contract, image))


@pytest.mark.parametrize(("module", "contract"), FAMILIES)
def test_contract_equals_preprocess_input(module, contract, pixels):
    expected = getattr(keras.applications, module).preprocess_input(pixels.copy())
    received = contract_model(contract).predict(pixels, verbose=0)
    np.testing.assert_allclose(received, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("contract", CONTRACTS)
def test_contract_does_not_switch_later_layers_to_training(contract):
    """Keras hands `training=True` of a preprocessing layer on to every later layer."""
    image = keras.Input((8, 8, 3))
    norm = keras.layers.BatchNormalization()
    model = keras.Model(image, norm(apply_contract(contract, image)))
    model(np.full((2, 8, 8, 3), 200.0, "float32"))
    np.testing.assert_array_equal(norm.moving_mean, np.zeros(3))


@pytest.mark.parametrize("contract", CONTRACTS)
def test_contract_layers_are_recognised(contract):
    model = contract_model(contract)
    own = [layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]
    assert [find_contract(layer) for layer in own] == [contract] * len(own)
    assert find_contract(keras.layers.Rescaling(2.0, name="tf")) is None


@pytest.mark.slow
def test_contracts_open_without_regraft(tmp_path: Path, pixels):
    """All four in one file and one process: starting Keras takes longer than the test."""
    image = keras.Input((8, 8, 3))
    seen = keras.layers.Concatenate()([apply_contract(name, image) for name in CONTRACTS])
    model = keras.Model(image, seen)
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "pixels.npy", pixels)
    files = [tmp_path / "model.keras", tmp_path / "pixels.npy", tmp_path / "seen.npy"]
    command = [sys.executable, "-c", REPLAY, *map(str, files)]
    subprocess.run(command, check=True, timeout=120, env=make_light_environment())
    np.testing.assert_allclose(np.load(files[2]), model.predict(pixels, verbose=0), atol=1e-5, rtol=0)


def test_unknown_contract_names_the_known_ones():
    with pytest.raises(UsageError, match=r'tf, torch, caffe, raw.*Did you mean "torch"'):
        apply_contract("trch", keras.Input((8, 8, 3)))
