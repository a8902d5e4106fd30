"""A run that lives as long as an object: its folder, its predictions, and pickling."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier

from regraft import DataError, Phase, Recipe, Store, train
from regraft.data.image_writer import ImageWriter
from regraft.estimators.inputs import make_catalog
from regraft.estimators.temporary_run import BATCH, TemporaryRun
from regraft.pipeline.context import Context

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def quick_decoding(in_this_process: None) -> None:
    """Decode without child processes, which have tests of their own and are slow to start."""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def frozen(network_file: Path) -> Recipe:
    return Recipe(backbone=str(network_file), phases=())


def train_temporary(photos: Path, recipe: Recipe, store: Store, head: object = None) -> TemporaryRun:
    run = TemporaryRun()
    train(photos, recipe, run.path, head=head, store=store.root)
    return run


def make_images(n: int, store: Store) -> tuple[np.ndarray, object]:
    pixels = np.random.default_rng(7).integers(0, 256, (n, 32, 32, 3)).astype("uint8")
    return pixels.astype("float32"), make_catalog(pixels, ImageWriter(store.root / "spool"))


def test_a_frozen_run_predicts_as_its_model_in_batches_of_any_size(
    photos: Path, frozen: Recipe, store: Store
) -> None:
    run = train_temporary(photos, frozen, store)
    pixels, catalog = make_images(BATCH + 3, store)
    answers = run.predict(Context(store), catalog)
    np.testing.assert_allclose(answers, run.bundle.model.predict(pixels, verbose=0), atol=1e-4)
    alone = replace(catalog, samples=catalog.samples[-1:])
    np.testing.assert_array_equal(run.predict(Context(store), alone), answers[-1:])


@pytest.mark.usefixtures("eager")
def test_a_fine_tuned_run_predicts_as_its_model(photos: Path, frozen: Recipe, store: Store) -> None:
    phase = Phase("all", epochs=1, batch_size=8, learning_rate=1e-2)
    run = train_temporary(photos, replace(frozen, phases=(phase,)), store)
    pixels, catalog = make_images(5, store)
    np.testing.assert_allclose(
        run.predict(Context(store), catalog), run.bundle.model.predict(pixels, verbose=0), atol=1e-4
    )
    broken = photos / "red" / "half.png"
    broken.write_bytes((photos / "red" / "000.png").read_bytes()[:300])
    with pytest.raises(DataError, match="truncated"):
        run.predict(Context(store), make_catalog([broken], ImageWriter(store.root / "spool")))


def test_the_folder_goes_with_its_object(photos: Path, frozen: Recipe, store: Store) -> None:
    run = train_temporary(photos, frozen, store)
    path = run.path
    assert (path / "report.html").is_file()
    del run
    assert not path.exists()


@pytest.mark.usefixtures("eager")
def test_pickle_holds_the_files_and_gives_the_same_answers(
    photos: Path, frozen: Recipe, store: Store
) -> None:
    forest = RandomForestClassifier(n_estimators=3, random_state=0)
    _, catalog = make_images(4, store)
    for head in (None, forest):
        run = train_temporary(photos, frozen, store, head)
        expected = run.predict(Context(store), catalog)  # with model and engine in memory
        data = pickle.dumps(run)
        assert len(data) < sum(file.stat().st_size for file in run.path.iterdir()) + 2000
        again = pickle.loads(data)
        assert again.path != run.path
        np.testing.assert_array_equal(again.predict(Context(store), catalog), expected)
