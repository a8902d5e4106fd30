"""A trained model shared by threads, loops and processes, pickled, and asked about images of every kind."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import write_photos
from PIL import Image
from sklearn.naive_bayes import GaussianNB

import regraft
from regraft.inference.inputs import list_samples
from regraft.system.console import SILENT

FORKS = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")


@pytest.fixture(autouse=True)
def quick_decoding(in_this_process: None) -> None:
    """No child processes: they have tests of their own, and take a while to start."""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("shared") / "photos", classes=2, each=10)


@pytest.fixture(scope="module")
def finished(photos: Path, network_file: Path) -> Path:
    recipe = regraft.Recipe(backbone=str(network_file), phases=())
    return regraft.train(photos, recipe, photos.parent / "run", store=photos.parent / "store").path


@pytest.fixture
def bundle(finished: Path) -> regraft.Bundle:
    return regraft.load(finished)


@pytest.fixture
def files(photos: Path) -> list[Path]:
    return sorted(photos.rglob("*.png"))


def values(bundle: regraft.Bundle, images: object) -> list[dict[str, float]]:
    answers = list(bundle.predict(images))
    assert all(isinstance(answer, regraft.Prediction) for answer in answers)
    return [answer.values for answer in answers]


def expect_near(received: list[dict[str, float]], expected: list[dict[str, float]]) -> None:
    """Compare answers of batches of one image with those of batches of several."""
    assert [list(row) for row in received] == [list(row) for row in expected]
    np.testing.assert_allclose(
        [list(row.values()) for row in received], [list(row.values()) for row in expected], atol=1e-6
    )


def ask_in_threads(ask: Callable[[int], object], count: int = 8) -> None:
    """Run a function in threads, by number, and raise the first error."""
    errors: list[BaseException] = []

    def run(number: int) -> None:
        try:
            ask(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


# --- threads, loops, processes and pickles


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 12])
def test_threads_share_a_model(bundle: regraft.Bundle, files: list[Path], count: int) -> None:
    alone = values(bundle, files)

    def ask(number: int) -> None:
        for start in range(number, number + 3):
            expect_near(values(bundle, files[start : start + count]), alone[start : start + count])

    ask_in_threads(ask)


@pytest.mark.slow
def test_threads_share_a_model_that_none_of_them_has_used_before(finished: Path, files: list[Path]) -> None:
    alone, bundle = values(regraft.load(finished), files[:1]), regraft.load(finished)
    ask_in_threads(lambda number: expect_near(values(bundle, files[:1]), alone))
    assert bundle.make_engine(1) is bundle.make_engine(1)


@pytest.mark.slow
def test_loops_may_alternate(bundle: regraft.Bundle, files: list[Path]) -> None:
    alone = values(bundle, files)
    loops = [bundle.predict(files), bundle.predict(files[::-1]), bundle.predict(files)]
    rows = list(zip(*loops, strict=True))
    expect_near([row[0].values for row in rows], alone)
    expect_near([row[1].values for row in rows], alone[::-1])
    expect_near([row[2].values for row in rows], alone)


@pytest.mark.slow
def test_a_loop_that_stops_early_disturbs_no_other(bundle: regraft.Bundle, files: list[Path]) -> None:
    alone = values(bundle, files)
    first = bundle.predict(files)
    next(first)
    expect_near(values(bundle, files), alone)
    first.close()
    expect_near(values(bundle, files), alone)


@pytest.mark.slow
@pytest.mark.parametrize("copied", [lambda bundle: pickle.loads(pickle.dumps(bundle)), copy.deepcopy])
def test_a_model_that_has_predicted_can_be_pickled(
    bundle: regraft.Bundle, files: list[Path], copied: Callable[[regraft.Bundle], regraft.Bundle]
) -> None:
    alone, _ = values(bundle, files), bundle.model
    assert len(pickle.dumps(bundle)) < 10_000  # neither a network nor an engine goes along
    expect_near(values(copied(bundle), files), alone)


@pytest.mark.slow
def test_a_head_of_scikit_learn_can_be_pickled_and_shared(
    photos: Path, network_file: Path, files: list[Path], tmp_path: Path
) -> None:
    recipe, store = regraft.Recipe(backbone=str(network_file), phases=()), photos.parent / "store"
    bundle = regraft.train(photos, recipe, tmp_path / "run", head=GaussianNB(), store=store).bundle
    assert bundle.estimator is not None
    alone = values(bundle, files)
    expect_near(values(pickle.loads(pickle.dumps(bundle)), files), alone)
    ask_in_threads(lambda number: expect_near(values(bundle, files), alone), 3)


def predict_labels(task: tuple[regraft.Bundle | Path, list[Path]]) -> list[str]:
    """Predict in another process."""
    bundle, files = task
    return [
        answer.label
        for answer in (bundle if isinstance(bundle, regraft.Bundle) else regraft.load(bundle)).predict(files)
    ]


FORKING = """
import os, sys, signal, regraft
from pathlib import Path
files = sorted(Path(sys.argv[2]).rglob("*.png"))
bundle = regraft.load(sys.argv[1])
alone = [answer.label for answer in bundle.predict(files)]
for count in (1, len(files)):
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        same = [answer.label for answer in bundle.predict(files[:count])] == alone[:count]
        sys.exit(0 if same else 1)  # an ordinary end, which releases every object
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(0 if [answer.label for answer in bundle.predict(files)] == alone else 1)
"""


@FORKS
@pytest.mark.slow
def test_a_forked_process_predicts_and_ends(finished: Path, photos: Path) -> None:
    command = [sys.executable, "-c", FORKING, str(finished), str(photos)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    assert done.stdout.split() == ["0", "0", "0"], done.stderr


@FORKS
@pytest.mark.slow
def test_a_pool_of_forked_processes_predicts_with_a_model_used_before(
    bundle: regraft.Bundle, files: list[Path]
) -> None:
    alone = [answer.label for answer in bundle.predict(files)]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map_async(predict_labels, [(bundle, files)] * 3).get(60) == [alone] * 3


@FORKS
@pytest.mark.slow
@pytest.mark.parametrize("read", ["model", "estimator"])
def test_where_keras_cannot_compute_after_a_fork_that_is_said(
    finished: Path, files: list[Path], tmp_path: Path, read: str
) -> None:
    """Without its graph, a forked process would wait for TensorFlow's threads for ever."""
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    (run / "openvino.xml").unlink()
    bundle = regraft.load(run)
    list(bundle.predict(files[:1]))
    subject: Callable[[], object] = {
        "model": lambda: list(bundle.predict(files[:1])),
        "estimator": lambda: regraft.ImageEmbedder("vgg16", weights="random", image_size=32).transform(
            files[:1]
        ),
    }[read]
    with multiprocessing.get_context("fork").Pool(1, globals().__setitem__, ("_subject", subject)) as pool:
        assert "spawn" in pool.apply_async(describe_error).get(60)


def describe_error() -> str:
    """Return the message of the error that the subject of a test raises in another process."""
    try:
        globals()["_subject"]()
    except regraft.EnvironmentFault as error:
        return str(error)
    return "no error"


# --- one path, and images in memory


@pytest.mark.slow
def test_every_kind_of_image_is_answered_like_its_file(bundle: regraft.Bundle, files: list[Path]) -> None:
    file = files[0]
    expected = values(bundle, [file])
    with Image.open(file) as opened:
        pixels = np.asarray(opened.convert("RGB"))
        for image in (
            str(file),
            file,
            file.read_bytes(),
            opened,
            pixels,
            [pixels],
            pixels[None],
            bytearray(file.read_bytes()),
        ):
            expect_near(values(bundle, image), expected)
    expect_near(values(bundle, np.moveaxis(pixels, 2, 0)[None]), expected)
    answers = bundle.predict(pixels / 255, scale=255)
    expect_near([answer.values for answer in answers], expected)


@pytest.mark.slow
def test_images_in_memory_have_numbers_and_bad_ones_a_reason(
    bundle: regraft.Bundle, files: list[Path]
) -> None:
    answers = list(
        bundle.predict([files[0], np.zeros((9, 9), np.uint8), b"<html>", files[0].read_bytes()[:200]])
    )
    assert [answer.image for answer in answers] == [str(files[0]), "image 1", "image 2", "image 3"]
    assert [getattr(answer, "code", "") for answer in answers] == ["", "", "not_an_image", "truncated"]


@pytest.mark.slow
def test_pixels_in_0_to_1_are_refused_with_the_cure(bundle: regraft.Bundle) -> None:
    with pytest.raises(regraft.DataError, match="scale=255"):
        list(bundle.predict([np.full((8, 8, 3), 0.5)]))
    assert len(list(bundle.predict(np.ones((8, 8, 3), np.uint8)))) == 1  # dark, but whole numbers


def test_samples_of_one_image_are_paths_folders_or_images(photos: Path, files: list[Path]) -> None:
    assert [image.source for (image,) in list_samples(str(photos), 1, SILENT)] == files
    assert (
        len(list_samples([photos, files[0], files[0].read_bytes(), (files[0],)], 1, SILENT)) == len(files) + 3
    )
    for wrong in (7, [7], [None], [{"image": "a.png"}], {"image": "a.png"}, [files[:2]], "nowhere.png"):
        with pytest.raises(regraft.UsageError, match=r"Expected .*(Received|nothing at)"):
            list_samples(wrong, 1, SILENT)


def test_samples_of_several_images_are_lists_of_them(files: list[Path]) -> None:
    pixels = np.zeros((5, 2, 8, 8, 3), np.uint8)
    assert [len(sample) for sample in list_samples([files[:2], (files[0], pixels[0, 0])], 2, SILENT)] == [
        2,
        2,
    ]
    assert [len(sample) for sample in list_samples(pixels, 2, SILENT)] == [2] * 5
    assert list_samples([list(pixels[0]), list(pixels[1])], 2, SILENT)[1][0].name == "image 2"
    for wrong in (files[0], [files[0]], [files[:3]], [pixels[0, 0]], [b""], files):
        with pytest.raises(regraft.UsageError, match="2 images per sample"):
            list_samples(wrong, 2, SILENT)


# --- paths are resolved once


@pytest.mark.slow
def test_a_change_of_folder_after_loading_changes_nothing(
    finished: Path, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = values(regraft.load(finished), files)
    monkeypatch.chdir(finished.parent)
    bundle = regraft.load(finished.name)
    loop = bundle.predict([file.relative_to(finished.parent) for file in files])
    monkeypatch.chdir(tmp_path)
    assert bundle.path == finished
    answers = list(loop)
    expect_near([answer.values for answer in answers], expected)
    assert answers[0].image == str(files[0].relative_to(finished.parent))  # as it was passed in
    assert bundle.model.count_params() > 0


@pytest.mark.slow
def test_a_catalog_and_a_run_outlive_a_change_of_folder(
    photos: Path, network_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos.parent)
    catalog = regraft.Catalog.from_folder(photos.name)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    recipe = regraft.Recipe(backbone=str(network_file), phases=())
    run = regraft.train(catalog, recipe, "run", store="store")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert run.path == tmp_path / "run"
    assert run.bundle.evaluate(catalog)[0].n == 20
    assert not any((tmp_path / "elsewhere").iterdir())


def test_a_store_keeps_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = regraft.Store("store")
    store.remember("question", "answer")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert store.recall("question") == "answer"
    assert store.root == tmp_path / "store"


# --- sets


def test_sets_hold_the_class_and_grow_with_the_coverage(bundle: regraft.Bundle, files: list[Path]) -> None:
    narrow, wide = (list(bundle.predict(files, coverage=coverage)) for coverage in (0.5, 0.99))
    for one, other in zip(narrow, wide, strict=True):
        assert one.set[0] == one.label
        assert set(one.set) <= set(other.set)
        assert one.undecided == (len(one.set) > 1)
        assert other.set == tuple(sorted(other.values, key=other.values.get, reverse=True))  # too few images
    with pytest.raises(regraft.UsageError, match="above 0 and below 1"):
        bundle.predict(files, coverage=1.5)


def test_a_run_of_an_earlier_version_predicts_without_sets(
    finished: Path, files: list[Path], tmp_path: Path
) -> None:
    import json

    run = shutil.copytree(finished, tmp_path / "run")
    manifest = json.loads((run / "manifest.json").read_text())
    del manifest["files"]["uncertainty.npz"]
    (run / "manifest.json").write_text(json.dumps(manifest))
    (run / "uncertainty.npz").unlink()
    for old, new in zip(regraft.load(run).predict(files), regraft.load(finished).predict(files), strict=True):
        assert (old.set, old.interval, old.undecided) == ((), {}, False)
        assert old.values == new.values
    assert regraft.load(run).evaluate(files[0].parents[1])[0].coverage == ()


def test_a_damaged_file_of_uncertainty_is_refused(finished: Path, files: list[Path], tmp_path: Path) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    with (run / "uncertainty.npz").open("ab") as file:
        file.write(b"more")
    with pytest.raises(regraft.ModelRefused, match=r"uncertainty\.npz is not the file"):
        list(regraft.load(run).predict(files))


def test_evaluating_counts_how_often_sets_hold_the_class(bundle: regraft.Bundle, photos: Path) -> None:
    (evaluation,) = bundle.evaluate(photos)
    assert [one.level for one in evaluation.coverage] == [0.8, 0.9, 0.95]
    answers = {path: next(iter(bundle.predict([path], coverage=0.8))) for path in photos.rglob("*.png")}
    hits = [path.parent.name in answer.set for path, answer in answers.items()]
    assert evaluation.coverage[0].coverage == np.mean(hits)
    assert evaluation.coverage[0].mean_size == np.mean([len(answer.set) for answer in answers.values()])
