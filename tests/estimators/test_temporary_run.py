"""A run that lives as long as an object: its folder, its answers, its way through pickle."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier

from regraft import DataError, Phase, Recipe, Store, train
from regraft.data.image_writer import Spool
from regraft.estimators.inputs import list_pictures
from regraft.estimators.temporary_run import ROWS, HeldRun
from regraft.pipeline.context import Context

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def quick_decoding(in_this_process: None) -> None:
    """No child processes: they have tests of their own, and take a while to start."""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def frozen(network_file: Path) -> Recipe:
    return Recipe(backbone=str(network_file), phases=())


def held(photos: Path, recipe: Recipe, store: Store, head: object = None) -> HeldRun:
    run = HeldRun()
    train(photos, recipe, run.path, head=head, store=store.root)
    return run


def pictures(n: int, store: Store) -> tuple[np.ndarray, object]:
    pixels = np.random.default_rng(7).integers(0, 256, (n, 32, 32, 3)).astype("uint8")
    return pixels.astype("float32"), list_pictures(pixels, Spool(store.root / "spool"))


def test_a_frozen_run_answers_as_its_model_and_alike_in_any_company(
    photos: Path, frozen: Recipe, store: Store
) -> None:
    run = held(photos, frozen, store)
    pixels, catalog = pictures(ROWS + 3, store)
    found = run.answers(Context(store), catalog)
    np.testing.assert_allclose(found, run.bundle.model.predict(pixels, verbose=0), atol=1e-4)
    alone = replace(catalog, samples=catalog.samples[-1:])
    np.testing.assert_array_equal(run.answers(Context(store), alone), found[-1:])


def test_a_tuned_run_answers_as_its_model(photos: Path, frozen: Recipe, store: Store) -> None:
    phase = Phase("all", epochs=1, batch_size=8, learning_rate=1e-2)
    run = held(photos, replace(frozen, phases=(phase,)), store)
    pixels, catalog = pictures(5, store)
    np.testing.assert_allclose(
        run.answers(Context(store), catalog), run.bundle.model.predict(pixels, verbose=0), atol=1e-4
    )
    broken = photos / "red" / "half.png"
    broken.write_bytes((photos / "red" / "000.png").read_bytes()[:300])
    with pytest.raises(DataError, match="truncated"):
        run.answers(Context(store), list_pictures([broken], Spool(store.root / "spool")))


def test_the_folder_goes_with_its_object(photos: Path, frozen: Recipe, store: Store) -> None:
    run = held(photos, frozen, store)
    path = run.path
    assert (path / "report.html").is_file()
    del run
    assert not path.exists()


def test_pickle_holds_the_files_and_gives_the_same_answers(
    photos: Path, frozen: Recipe, store: Store
) -> None:
    forest = RandomForestClassifier(n_estimators=3, random_state=0)
    _, catalog = pictures(4, store)
    for head in (None, forest):
        run = held(photos, frozen, store, head)
        expected = run.answers(Context(store), catalog)  # with model and engine in memory
        data = pickle.dumps(run)
        assert len(data) < sum(file.stat().st_size for file in run.path.iterdir()) + 2000
        again = pickle.loads(data)
        assert again.path != run.path
        np.testing.assert_array_equal(again.answers(Context(store), catalog), expected)
