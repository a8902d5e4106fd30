"""Predictions say how familiar an image is, and many strange images are worth a warning."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import Recorder, write_photos
from PIL import Image

import regraft
from regraft.cli.predict import predict as run_predict
from regraft.data.images.rejections import Rejection
from regraft.data.samples import Sample
from regraft.inference.familiarity import CHUNK, add_familiarity
from regraft.inference.predict import ModelOutput
from regraft.uncertainty.familiarity import LEVEL, fit_familiarity
from regraft.uncertainty.held_out import ReferenceImages

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def quick_decoding(in_this_process: None) -> None:
    """No child processes: they have tests of their own, and take a while to start."""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("shared") / "photos", classes=2, each=30)


@pytest.fixture(scope="module")
def finished(photos: Path, network_file: Path) -> Path:
    recipe = regraft.Recipe(backbone=str(network_file), phases=())
    return regraft.train(photos, recipe, photos.parent / "run", store=photos.parent / "store").path


@pytest.fixture(scope="module")
def strange(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 chessboards in colours that no photograph has."""
    folder = tmp_path_factory.mktemp("strange")
    board = np.kron(np.indices((8, 8)).sum(0) % 2, np.ones((5, 5))).astype(np.uint8)
    for number in range(60):
        pixels = np.stack([255 * board, 255 - 255 * board, np.full_like(board, 4 * number)], axis=-1)
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
    return folder


@pytest.fixture(scope="module")
def familiarity():
    features = np.abs(np.random.default_rng(0).normal(1, 0.1, (200, 8))).astype(np.float32)
    samples = tuple(Sample(f"{row}.jpg", 0, f"{row}") for row in range(200))
    reference = ReferenceImages(samples, np.arange(200) % 2, features, np.arange(200))
    return fit_familiarity(None, reference, task="binary", labels=[""] * 200, seed=0)


def make_output(features) -> ModelOutput:
    return ModelOutput(np.array([0.5], np.float32), np.asarray(features, np.float32))


def test_photographs_are_known_and_chessboards_are_not(finished: Path, photos: Path, strange: Path) -> None:
    bundle = regraft.load(finished)
    clean, boards = list(bundle.predict(photos)), list(bundle.predict(strange))
    assert all(0 < answer.familiarity <= 1 for answer in (*clean, *boards))
    assert all(answer.known == (answer.familiarity >= LEVEL) for answer in (*clean, *boards))
    assert np.mean([answer.known for answer in clean]) > 0.9
    assert not any(answer.known for answer in boards)


def test_one_image_is_as_familiar_as_among_others(finished: Path, photos: Path) -> None:
    files = sorted(photos.rglob("*.png"))[:5]
    bundle = regraft.load(finished)
    together = [answer.familiarity for answer in bundle.predict(files)]
    alone = [next(iter(bundle.predict(file))).familiarity for file in files]
    np.testing.assert_allclose(alone, together, rtol=1e-3)


def test_many_strange_images_are_worth_a_warning(finished: Path, photos: Path, strange: Path) -> None:
    reporter = Recorder()
    bundle = regraft.load(finished, reporter=reporter)
    list(bundle.predict(photos))
    assert not reporter.warnings
    list(bundle.predict(strange))
    assert reporter.warnings == [
        "60 of 60 images are not like the training images; about 1 should be. "
        "Look at them before you trust the answers."
    ]


def test_evaluating_warns_too(finished: Path, strange: Path) -> None:
    table = strange.with_suffix(".csv")
    table.write_text(
        "image,class\n" + "".join(f"{strange.name}/{file.name},blue\n" for file in sorted(strange.iterdir()))
    )
    reporter = Recorder()
    regraft.load(finished, reporter=reporter).evaluate(table, image="image", target="class")
    assert any("60 of 60 images are not like" in warning for warning in reporter.warnings)


def test_the_terminal_and_json_say_what_is_not_known(
    finished: Path, photos: Path, strange: Path, capsys
) -> None:
    files = [str(strange / "00.png"), str(photos / "blue" / "000.png")]
    run_predict(str(finished), files)
    board, photo = capsys.readouterr().out.splitlines()
    assert board.endswith("\tnot like the training images (familiarity below 0.1 %)")
    assert "familiarity" not in photo
    run_predict(str(finished), files, as_json=True)
    board, photo = map(json.loads, capsys.readouterr().out.splitlines())
    assert (board["known"], photo["known"]) == (False, True)
    assert board["familiarity"] < LEVEL <= photo["familiarity"]


def test_the_report_shows_the_least_familiar_images(finished: Path) -> None:
    page = (finished / "report.html").read_text("utf-8")
    metrics = json.loads((finished / "metrics.json").read_text("utf-8"))
    assert "Images unlike those of training" in page
    sizes = {part: metrics[part]["n"] for part in ("test", "validation") if part in metrics}
    assert page.count('alt="least familiar: ') == sum(min(8, size) for size in sizes.values())
    assert all(0 <= metrics[part]["unfamiliar"] <= size for part, size in sizes.items())


def test_rejected_samples_keep_their_place(familiarity) -> None:
    rng = np.random.default_rng(1)
    outputs = [
        Rejection("empty", "") if row % 7 == 3 else make_output(1 + rng.random(8)) for row in range(CHUNK + 9)
    ]
    results = list(add_familiarity(iter(outputs), familiarity, len(outputs), Recorder()))
    for output, result in zip(outputs, results, strict=True):
        if isinstance(output, Rejection):
            assert result is output
        else:
            assert result.features is output.features
            expected = familiarity.measure(output.features[None], output.answer[None])
            assert result.familiarity == pytest.approx(
                expected[0], rel=1e-2
            )  # the last digits depend on the batch


def test_the_warning_comes_with_the_last_answer_at_the_latest(familiarity) -> None:
    reporter, outputs = Recorder(), [make_output(np.eye(8)[row % 8]) for row in range(70)]
    results = add_familiarity(iter(outputs), familiarity, len(outputs), reporter)
    for _ in range(70):  # as `Bundle.predict` does, which never asks for a further one
        next(results)
    assert len(reporter.warnings) == 1


def test_a_model_without_features_cannot_tell(familiarity) -> None:
    output = ModelOutput(np.array([0.5], np.float32), None)
    assert list(add_familiarity(iter([output]), familiarity, 1, Recorder())) == [output]
    assert list(add_familiarity(iter([output]), None, 1, Recorder())) == [output]
