"""Several networks at once: each is computed once under its own keys, and one plain Keras model has them all."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
from helpers.stripe_images import SIDE, network, trained, write_stripes
from PIL import Image

import regraft
from regraft import HeadSpec, Phase, Recipe, UsageError
from regraft.features.store import Store
from regraft.pipeline.backbone_ranking import choose_best

pytestmark = pytest.mark.slow

EACH = 24


@pytest.fixture(scope="module")
def striped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stripes(tmp_path_factory.mktemp("data") / "striped", each=EACH)


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Return two networks with layers of the same names; the second takes larger images."""
    folder = tmp_path_factory.mktemp("networks")
    trained(network(1), images=120, epochs=6).save(folder / "small.keras")
    pixels = keras.Input((SIDE + 8, SIDE + 8, 3))
    x = keras.layers.Conv2D(6, 5, activation="relu", name="first")(pixels)
    x = keras.layers.Conv2D(9, 3, activation="relu", name="second")(x)
    keras.Model(pixels, x, name="large").save(folder / "large.keras")
    return str(folder / "small.keras"), str(folder / "large.keras")


@pytest.fixture(scope="module")
def run(
    striped: Path, networks: tuple[str, str], shared_store: Path, tmp_path_factory: pytest.TempPathFactory
) -> regraft.Run:
    """Return a run of both, after a run of the first alone."""
    folder = tmp_path_factory.mktemp("runs")
    alone = Recipe(backbone=networks[0], phases=())
    regraft.train(striped, alone, folder / "alone", store=shared_store)
    both = Recipe(backbone=",".join(networks), head=HeadSpec(taps="last"))
    return regraft.train(striped, both, folder / "both", store=shared_store)


def test_the_model_on_disk_answers_as_the_features_did(run: regraft.Run, striped: Path) -> None:
    model = keras.models.load_model(run.path / "model.keras", compile=False)
    rows = np.genfromtxt(run.path / "predictions.csv", delimiter=",", names=True, dtype=None, encoding="utf-8")
    files = [striped / row["image"] for row in rows]
    pixels = np.stack([np.asarray(Image.open(file), np.float32) for file in files])
    expected = np.stack([rows[name] for name in rows.dtype.names if name.startswith("p_")], 1)
    assert model.input_shape == (None, SIDE, SIDE, 3)
    np.testing.assert_allclose(model.predict(pixels, verbose=0), expected, atol=2e-3)
