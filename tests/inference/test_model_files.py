"""The OpenVINO graph of a run: when it is used, what it answers, and what happens if it does not fit."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import write_photos
from sklearn.naive_bayes import GaussianNB

import regraft
from regraft.data.images.decode import decode
from regraft.features.openvino import OpenVinoEngine
from regraft.inference.model_files import GRAPH
from regraft.inference.predict import SELFTEST
from regraft.models.head import HEAD_OUTPUT
from regraft.recipe import HeadSpec, Phase, Taps

NOT_USED = (
    "tensorflow", "keras", "jax", "torch", "sklearn", "scipy", "pandas", "pyarrow", "matplotlib", "h5py",
    "jinja2", "openvino_telemetry", "openvino.tools.ovc",
)  # fmt: skip


@pytest.fixture(autouse=True)
def quick_decoding(in_this_process: None) -> None:
    """No child processes: they have tests of their own, and take a while to start."""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("graph") / "photos", each=6)


@pytest.fixture(scope="module")
def finished(photos: Path, network_file: Path) -> Path:
    recipe = regraft.Recipe(backbone=str(network_file), phases=())
    return regraft.train(photos, recipe, photos.parent / "run", store=photos.parent / "store").path


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of a run, to be damaged."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture
def no_keras(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make falling back on Keras an error."""
    monkeypatch.setattr("regraft.inference.bundle.make_default_engine", None)


def values(bundle: regraft.Bundle, photos: Path) -> np.ndarray:
    return np.array([list(answer.values.values()) for answer in bundle.predict([photos])])


def expected(model: keras.Model, photos: Path) -> np.ndarray:
    files = sorted(photos.rglob("*.png"))
    pixels = np.stack([decode(file.read_bytes(), 32).pixels for file in files])
    return model.predict(pixels.astype("float32"), verbose=0)


@pytest.mark.slow
def test_predict_and_evaluate_import_nothing_that_they_do_not_use(finished: Path, photos: Path) -> None:
    code = (
        "import sys\nfrom regraft.cli import app\n"
        "for command in ('predict', 'evaluate'):\n"
        "    app([command, *sys.argv[1:]], standalone_mode=False)\n"
        f"    print(command, [name for name in {NOT_USED} if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(finished), str(photos)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert len([line for line in lines if ".png\t" in line]) == 18
    assert "all, 18 images:" in lines
    assert "predict []" in lines
    assert lines[-1] == "evaluate ['scipy']"  # whose sparse arrays count for the intervals


@pytest.mark.slow
@pytest.mark.parametrize("few", [True, False])
def test_the_graph_answers_as_the_model(finished: Path, photos: Path, no_keras: None, few: bool) -> None:
    images = photos / "red" if few else photos  # 6 images are run one by one, 18 in batches
    got = values(regraft.load(finished), images)
    np.testing.assert_allclose(got, expected(regraft.load(finished).model, images), atol=1e-5)


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int | None, ...]]:
    """Collect the input shapes of each network that is converted."""
    from regraft.features import convert as module

    convert, shapes = module.convert, []

    def record(network: keras.Model, target: Path) -> None:
        shapes.extend(tuple(tensor.shape[1:]) for tensor in network.inputs)
        convert(network, target)

    monkeypatch.setattr("regraft.features.engine.convert", record)
    monkeypatch.setattr("regraft.inference.model_files.convert", record)
    return shapes


PIXELS = (32, 32, 3)


@pytest.mark.slow
@pytest.mark.parametrize("taps", ["last", "late"])  # one tensor, or several, between backbone and head
def test_a_frozen_network_is_converted_once_and_every_model_of_it_as_a_whole(  # noqa: PLR0917
    photos: Path, network_file: Path, no_keras: None, tmp_path: Path, traced: list[tuple[int | None, ...]],
    taps: Taps,
) -> None:  # fmt: skip
    recipe = regraft.Recipe(backbone=str(network_file), phases=(), head=HeadSpec(taps=taps))
    run = regraft.train(photos, recipe, tmp_path / "run", store=tmp_path / "store")
    assert traced == [PIXELS, PIXELS]  # the backbone, and the model
    np.testing.assert_allclose(values(run.bundle, photos), expected(run.model, photos), atol=1e-5)
    regraft.train(photos, recipe, tmp_path / "again", store=tmp_path / "store")
    assert traced == [PIXELS, PIXELS, PIXELS]  # the store has the backbone's graph


@pytest.mark.slow
def test_the_graph_of_a_head_of_layers_answers_as_the_model(
    photos: Path, network_file: Path, no_keras: None, tmp_path: Path
) -> None:
    recipe = regraft.Recipe(backbone=str(network_file), phases=(), head=HeadSpec(hidden=(4,)))
    run = regraft.train(photos, recipe, tmp_path / "run", store=tmp_path / "store")
    np.testing.assert_allclose(values(run.bundle, photos), expected(run.model, photos), atol=1e-5)


@pytest.mark.slow
def test_the_graph_that_evaluated_a_fine_tuned_model_is_that_of_its_run(
    photos: Path, network_file: Path, no_keras: None, tmp_path: Path, traced: list[tuple[int | None, ...]]
) -> None:
    phase = Phase("all", epochs=3)
    recipe = regraft.Recipe(backbone=str(network_file), phases=(phase,), head=HeadSpec(dropout=0))
    run = regraft.train(photos, recipe, tmp_path / "run", store=tmp_path / "store")
    assert run.metrics["decision"]["kept"] == "fine-tuned"
    assert traced == [PIXELS, PIXELS]  # the frozen backbone before, the model after
    np.testing.assert_allclose(values(run.bundle, photos), expected(run.model, photos), atol=1e-5)


def test_a_graph_is_compiled_once(run: Path, photos: Path, no_keras: None) -> None:
    bundle = regraft.load(run)
    before = values(bundle, photos)
    (run / GRAPH[0]).unlink()  # reading it again would fail
    np.testing.assert_array_equal(values(bundle, photos), before)


@pytest.mark.slow
def test_samples_of_several_images(photos: Path, network_file: Path, no_keras: None, tmp_path: Path) -> None:
    table = photos.parent / "pairs.csv"
    rows = [f"{file},{file.with_name('000.png')},{file.parent.name}" for file in photos.rglob("*.png")]
    table.write_text("\n".join(["one,two,kind", *rows]))
    recipe = regraft.Recipe(backbone=str(network_file), phases=(), image=("one", "two"), target=("kind",))
    run = regraft.train(table, recipe, tmp_path / "run", store=tmp_path / "store")
    pair = [photos / "red" / "001.png", photos / "blue" / "002.png"]
    (answer,) = regraft.load(run.path).predict([pair])
    pixels = np.stack([decode(file.read_bytes(), 32).pixels for file in pair]).astype("float32")[None]
    np.testing.assert_allclose(
        list(answer.values.values()), run.model.predict(pixels, verbose=0)[0], atol=1e-5
    )


@pytest.mark.slow
def test_a_head_of_estimators_answers_from_the_graph(
    photos: Path, network_file: Path, no_keras: None, tmp_path: Path
) -> None:
    recipe = regraft.Recipe(backbone=str(network_file), phases=())
    run = regraft.train(photos, recipe, tmp_path / "run", head=GaussianNB(), store=tmp_path / "store")
    bundle = regraft.load(run.path)
    assert bundle.estimator is not None
    exact = bundle.estimator.predict(expected(run.model, photos))
    np.testing.assert_allclose(values(bundle, photos), exact, atol=1e-3)


@pytest.mark.parametrize("name", ["model.keras", *GRAPH])
def test_a_changed_file_is_refused(run: Path, photos: Path, name: str) -> None:
    data = bytearray((run / name).read_bytes())
    data[len(data) // 2] ^= 1
    (run / name).write_bytes(data)
    with pytest.raises(regraft.ModelRefused, match=f"{name} is not the file"):
        next(regraft.load(run).predict([photos]))


def test_a_graph_of_another_model_is_refused(run: Path, photos: Path) -> None:
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["graph_of"] = "0" * 64
    (run / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(regraft.ModelRefused, match="another model"):
        next(regraft.load(run).predict([photos]))


@pytest.mark.parametrize("name", GRAPH)
def test_without_its_graph_a_run_is_predicted_with_keras(run: Path, photos: Path, name: str) -> None:
    before = values(regraft.load(run), photos)
    (run / name).unlink()
    np.testing.assert_allclose(values(regraft.load(run), photos), before, atol=1e-5)


def test_a_graph_that_openvino_refuses_is_named_and_keras_runs(
    run: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    before = values(regraft.load(run), photos)

    def refuse(*graph: object, **how: object) -> None:
        raise RuntimeError("no such layer")

    monkeypatch.setattr("regraft.inference.model_files.OpenVinoEngine", refuse)
    np.testing.assert_allclose(values(regraft.load(run), photos), before, atol=1e-5)
    assert "no such layer" in capfd.readouterr().err


@pytest.mark.slow
def test_a_model_that_was_changed_in_memory_is_the_one_that_answers(finished: Path, photos: Path) -> None:
    bundle = regraft.load(finished)
    before = values(bundle, photos)
    output = bundle.model.get_layer(HEAD_OUTPUT)
    output.set_weights([0 * weight for weight in output.get_weights()])
    after = values(bundle, photos)
    np.testing.assert_allclose(after, expected(bundle.model, photos), atol=1e-5)
    assert np.abs(after - before).max() > 0.1


@pytest.mark.slow
def test_a_graph_with_other_answers_is_not_written_and_that_is_reported(
    photos: Path, network_file: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    from regraft.features.convert import convert

    def wrong(network: keras.Model, target: Path) -> None:
        negative = {name: 1 - value for name, value in network.output.items()}
        convert(keras.Model(network.inputs[0], negative), target)

    recipe = regraft.Recipe(backbone=str(network_file), phases=())
    monkeypatch.setattr("regraft.inference.model_files.convert", wrong)
    run = regraft.train(photos, recipe, tmp_path / "run", store=tmp_path / "store")
    assert not [file for file in run.path.iterdir() if "openvino" in file.name or file.suffix == ".pb"]
    assert "no graph for OpenVINO (its answers are" in capfd.readouterr().err
    np.testing.assert_allclose(values(run.bundle, photos), expected(run.model, photos), atol=1e-5)


# --- the self-test of a run


@pytest.mark.slow
def test_the_self_test_holds_the_models_answers(finished: Path) -> None:
    with np.load(finished / SELFTEST) as file:
        images, answers = file["pictures"], file["answers"]
    assert images.dtype == np.uint8
    model = regraft.load(finished).model
    np.testing.assert_allclose(answers, model.predict(images.astype("float32"), verbose=0), atol=1e-5)


@pytest.mark.parametrize(("off", "verdict"), [(0.0, ""), (1e-3, "warned of"), (0.1, "refused")])
def test_an_engine_with_other_answers_is_refused_or_warned_of_once(
    run: Path, photos: Path, *, off: float, verdict: str, no_keras: None,
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path,
) -> None:  # fmt: skip
    class Other(OpenVinoEngine):
        def run(self, batches):
            for outputs in super().run(batches):
                yield {name: value + off for name, value in outputs.items()}

    monkeypatch.setenv("REGRAFT_HOME", str(tmp_path / "another machine"))
    monkeypatch.setattr("regraft.inference.model_files.OpenVinoEngine", Other)
    if verdict == "refused":
        with pytest.raises(regraft.ModelRefused, match=r"gives other answers.*0\.1"):
            next(regraft.load(run).predict([photos]))
        return
    for first in (True, False):
        next(regraft.load(run).predict([photos]))
        assert ("gives slightly other answers" in capfd.readouterr().err) == (bool(verdict) and first)


def test_a_self_test_that_was_changed_is_refused(
    run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGRAFT_HOME", str(tmp_path / "another machine"))
    (run / SELFTEST).write_bytes(b"PK")
    with pytest.raises(regraft.ModelRefused, match=f"{SELFTEST} is not the file"):
        next(regraft.load(run).predict([photos]))


def test_a_manifest_with_other_outputs_than_the_model_is_refused(run: Path, photos: Path) -> None:
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["outputs"].append("purple")
    (run / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(regraft.ModelRefused, match="says 4 answers, the model gives 3"):
        next(regraft.load(run).predict([photos]))


def test_a_folder_is_predicted_by_the_rule_of_training(
    finished: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "new"
    folder.mkdir()
    files = sorted(photos.rglob("*.png"))[:3]
    for file, name in zip(files, ("1f3a9c", "photo.jpg?size=large", "a.jpg_large"), strict=True):
        shutil.copy(file, folder / name)
    (folder / "page.jpg").write_text("<html>")
    (folder / "notes.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    answers = list(regraft.load(finished).predict([folder, tmp_path / "empty"]))
    names = [Path(answer.image).name for answer in answers]
    assert names == ["1f3a9c", "a.jpg_large", "page.jpg", "photo.jpg?size=large"]
    assert [type(answer).__name__ for answer in answers].count("RejectedFile") == 1
    printed = capsys.readouterr().err
    assert "Ignored files, not images that regraft reads: 1 .txt." in printed
    assert f"No images in {tmp_path / 'empty'}." in printed
