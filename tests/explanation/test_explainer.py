"""Runs of every kind explain their answers, in the most exact way that their model allows."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from conftest import write_photos
from helpers.networks import tiny
from helpers.reporters import Recorder
from PIL import Image
from sklearn.naive_bayes import GaussianNB

import regraft
from regraft.data.images.decode import decode
from regraft.explanation.explainer import Explainer, Explanation
from regraft.features.convert import convert
from regraft.inference.model_files import GRAPH
from regraft.inference.predict import name_outputs
from regraft.recipe import HeadSpec
from regraft.system.files import hash_file

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def quick_decoding(in_this_process: None) -> None:
    """No child processes: they have tests of their own."""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("data") / "photos", classes=3, each=8)


@pytest.fixture(scope="module")
def train(photos: Path, network_file: Path, shared_store: Path):
    """Return a function that trains a head on the small network, once for each name."""
    finished: dict[str, Path] = {}

    def run(name: str, data: Path = photos, own_head: Any = None, **settings: Any) -> Path:
        if name not in finished:
            fixed = {"backbone": str(network_file), "phases": (), "precision": "f32"}
            recipe, out = regraft.Recipe(**{**fixed, **settings}), photos.parent / name
            finished[name] = regraft.train(data, recipe, out, head=own_head, store=shared_store).path
        return finished[name]

    return run


def write_table(photos: Path, name: str) -> Path:
    """A table of the photos with labels, and with a number, of the redness of each."""
    table = photos.parent / f"{name}.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "labels", "redness", "blueness"])
        for path in sorted(photos.rglob("*.png")):
            red, _, blue = np.asarray(Image.open(path), float).mean((0, 1))
            labels = [word for word, fits in (("warm", red > 120), ("cold", blue > 60)) if fits]
            writer.writerow([path.relative_to(photos.parent), "|".join(labels), red, blue])
    return table


def explain(run: Path | regraft.Bundle, images: Any) -> tuple[Explainer, list[Explanation]]:
    explainer = Explainer(regraft.load(run) if isinstance(run, Path) else run)
    results = list(explainer.explain(images))
    assert all(isinstance(result, Explanation) for result in results)
    return explainer, results  # type: ignore[return-value]


def list_files(photos: Path, count: int = 3) -> list[Path]:
    return sorted(photos.rglob("*.png"))[::7][:count]


def copy_run(run: Path, out: Path, change: Any) -> Path:
    """Copy a run folder and change its manifest."""
    shutil.copytree(run, out)
    manifest = json.loads((out / "manifest.json").read_text())
    change(manifest)
    (out / "manifest.json").write_text(json.dumps(manifest))
    return out


def remove_graph(manifest: dict[str, Any]) -> None:
    manifest["graph_of"] = None


# --- from the feature map


def test_answers_are_those_of_predicting(train: Any, photos: Path) -> None:
    run, files = train("classes"), list_files(photos)
    explainer, explanations = explain(run, files)
    expected = list(regraft.load(run).predict(files))
    for explanation, prediction in zip(explanations, expected, strict=True):
        received = explanation.prediction
        assert (received.image, received.label) == (prediction.image, prediction.label)
        np.testing.assert_allclose(
            list(received.values.values()), list(prediction.values.values()), atol=1e-6
        )
    assert explainer.method == "map"


def test_heat_is_that_of_the_kernel_of_the_head(train: Any, photos: Path) -> None:
    run, files = train("classes"), list_files(photos)
    model = keras.models.load_model(run / "model.keras")
    kernel, _ = model.get_layer("head_output").get_weights()
    inner = keras.Model(model.inputs[0], model.get_layer("top_conv").output)
    for explanation in explain(run, files)[1]:
        pixels = decode(Path(explanation.prediction.image).read_bytes(), 32).pixels
        features = np.asarray(inner(pixels[None].astype("float32"), training=False))[0]
        for question, heat in zip(explanation.questions, explanation.heat, strict=True):
            expected = (features @ (kernel @ question.direction)) / features[..., 0].size
            np.testing.assert_allclose(heat, expected, atol=1e-3 * np.abs(expected).max())


def test_samples_of_one_call_do_not_affect_one_another(train: Any, photos: Path) -> None:
    run, files = train("classes"), sorted(photos.rglob("*.png"))[:11]
    together = explain(run, files)[1]
    for file, expected in list(zip(files, together, strict=True))[::5]:
        np.testing.assert_allclose(explain(run, file)[1][0].heat, expected.heat, atol=1e-4)


def test_images_in_memory_are_explained_too(train: Any, photos: Path) -> None:
    run, file = train("classes"), list_files(photos)[0]
    (from_file,), (from_array,) = explain(run, file)[1], explain(run, np.asarray(Image.open(file)))[1]
    np.testing.assert_allclose(from_array.heat, from_file.heat, atol=1e-5)
    np.testing.assert_array_equal(from_array.picture, from_file.picture)


def test_pictures_keep_their_shape(train: Any, photos: Path, tmp_path: Path) -> None:
    Image.open(list_files(photos)[0]).resize((900, 450)).save(tmp_path / "wide.png")
    (explanation,) = explain(train("classes"), tmp_path / "wide.png")[1]
    assert explanation.picture.shape == (210, 420, 3)


def test_two_classes_have_one_map(train: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    photos = write_photos(tmp_path_factory.mktemp("two") / "photos", classes=2, each=8)
    for explanation in explain(train("two", photos), list_files(photos, 2))[1]:
        (question,), prediction = explanation.questions, explanation.prediction
        assert (question.subject, question.is_signed) == (prediction.label, True)
        assert {question.subject, question.rival} == {"blue", "green"}


def test_each_label_has_a_map(train: Any, photos: Path) -> None:
    table = write_table(photos, "labels")
    run = train("labels", table, image=("image",), target=("labels",), separator="|", task="multilabel")
    explainer, explanations = explain(run, list_files(photos))
    for explanation in explanations:
        subjects = [question.subject for question in explanation.questions]
        assert set(explanation.prediction.labels) <= set(subjects)
        assert len(explanation.heat) == len(subjects)
    assert explainer.method == "map"


def test_each_number_has_a_map_of_what_raises_and_lowers_it(train: Any, photos: Path) -> None:
    table = write_table(photos, "numbers")
    run = train("numbers", table, image=("image",), target=("redness", "blueness"), task="regression")
    explainer, explanations = explain(run, list_files(photos))
    for explanation in explanations:
        assert [question.subject for question in explanation.questions] == ["redness", "blueness"]
        np.testing.assert_allclose(explanation.heat.mean((1, 2)), 0, atol=1e-3)
        assert (explanation.heat.max((1, 2)) > 0).all()
    assert explainer.method == "map"


def test_explaining_imports_no_backend(train: Any, photos: Path) -> None:
    code = (
        "import sys; from regraft.explanation.explainer import Explainer; from regraft import load\n"
        f"list(Explainer(load({str(train('classes'))!r})).explain({str(list_files(photos)[0])!r}))\n"
        "print([name for name in ('keras', 'tensorflow', 'jax', 'sklearn', 'pandas') if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.splitlines()[-1] == "[]"


# --- other ways


def test_a_run_without_a_graph_is_explained_by_keras(train: Any, photos: Path, tmp_path: Path) -> None:
    run, files = train("classes"), list_files(photos)
    explainer, received = explain(copy_run(run, tmp_path / "run", remove_graph), files)
    for one, other in zip(received, explain(run, files)[1], strict=True):
        np.testing.assert_allclose(one.heat, other.heat, atol=1e-4 * np.abs(other.heat).max())
    assert explainer.method == "removal"


def test_a_run_made_before_heat_maps_existed_is_explained_and_says_so(
    train: Any, photos: Path, tmp_path: Path
) -> None:
    run, files = train("classes"), list_files(photos)
    convert(name_outputs(keras.models.load_model(run / "model.keras"), None), tmp_path / "graph.xml")

    def make_old(manifest: dict[str, Any]) -> None:
        del manifest["features"]
        for name in GRAPH:
            shutil.copyfile((tmp_path / "graph.xml").with_suffix(Path(name).suffix), tmp_path / "run" / name)
            manifest["files"][name] = hash_file(tmp_path / "run" / name)

    old = copy_run(run, tmp_path / "run", make_old)
    reporter = Recorder()
    received = list(Explainer(regraft.load(old), reporter).explain(files))
    for one, other in zip(received, explain(run, files)[1], strict=True):
        assert isinstance(one, Explanation)
        np.testing.assert_allclose(one.heat, other.heat, atol=1e-4 * np.abs(other.heat).max())
    assert "before heat maps" in " ".join(reporter.lines)


@pytest.mark.parametrize("solver", ["ridge", "svm-rbf", "neighbours"])
def test_solved_heads_are_explained_from_the_map(train: Any, photos: Path, solver: Any) -> None:
    explainer, explanations = explain(train(solver, head=HeadSpec(solver=solver)), list_files(photos))
    assert explainer.method == ("map" if solver == "ridge" else "removal")
    assert all(np.isfinite(explanation.heat).all() for explanation in explanations)
    has_heat = any(np.abs(explanation.heat).max() > 0 for explanation in explanations)
    assert has_heat == (solver != "neighbours")  # of a single neighbour: no part of these images changes it


@pytest.mark.parametrize("pooling", ["max", "both"])
def test_maxima_are_explained_from_the_map(train: Any, photos: Path, pooling: Any) -> None:
    explainer, _ = explain(train(pooling, head=HeadSpec(pooling=pooling)), list_files(photos))
    assert explainer.method == "map"


@pytest.mark.slow
def test_a_head_with_hidden_layers_is_asked_without_each_position(train: Any, photos: Path) -> None:
    run = train("hidden", head=HeadSpec(hidden=(8,)), phases=(regraft.Phase("none", epochs=2),))
    explainer, explanations = explain(run, list_files(photos))
    assert explainer.method == "removal"
    assert any(np.abs(explanation.heat).max() > 0 for explanation in explanations)


@pytest.mark.slow
def test_a_fine_tuned_model_is_explained_from_the_map_of_its_own_backbone(train: Any, photos: Path) -> None:
    run = train("tuned", phases=(regraft.Phase("all", epochs=2, learning_rate=0.01),))
    assert json.loads((run / "metrics.json").read_text())["decision"]["phases"]
    model, files = keras.models.load_model(run / "model.keras"), list_files(photos)
    kernel, _ = model.get_layer("head_output").get_weights()
    inner = keras.Model(model.inputs[0], model.get_layer("top_conv").output)
    explainer, explanations = explain(run, files)
    for explanation in explanations:
        pixels = decode(Path(explanation.prediction.image).read_bytes(), 32).pixels
        features = np.asarray(inner(pixels[None].astype("float32"), training=False))[0]
        expected = (features @ (kernel @ explanation.questions[0].direction)) / features[..., 0].size
        np.testing.assert_allclose(explanation.heat[0], expected, atol=1e-3 * np.abs(expected).max())
    assert explainer.method == "map"


@pytest.mark.parametrize("kind", ["maxima of taps", "vector", "estimator"])
def test_a_model_without_a_map_of_its_own_is_explained_by_blurring(
    train: Any, photos: Path, tmp_path: Path, kind: str
) -> None:
    if kind == "maxima of taps":
        run = train(kind, head=HeadSpec("max", taps="late"))
    elif kind == "vector":
        tiny(32, output="vector").save(tmp_path / "vector.keras")
        run = train(kind, backbone=str(tmp_path / "vector.keras"))
    else:
        pytest.importorskip("skops")
        run = train(kind, own_head=GaussianNB(var_smoothing=100.0))
    explainer, explanations = explain(run, list_files(photos))
    assert explainer.method == "occlusion"
    assert all(explanation.heat.shape[1:] == (7, 7) for explanation in explanations)
    assert any(np.abs(explanation.heat).max() > 0 for explanation in explanations)


def test_samples_of_several_images_are_refused(train: Any, photos: Path) -> None:
    table = photos.parent / "pairs.csv"
    files = [path.relative_to(photos.parent) for path in sorted(photos.rglob("*.png"))]
    rows = [f"{one},{other},{one.parts[1]}" for one, other in zip(files[::2], files[1::2], strict=True)]
    table.write_text("\n".join(["left,right,colour", *rows]))
    run = train("pairs", table, image=("left", "right"), target=("colour",))
    with pytest.raises(regraft.UsageError, match="one image per sample"):
        Explainer(regraft.load(run))


def test_files_that_are_no_images_are_named_among_the_others(
    train: Any, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "text.png").write_text("no image")
    cut = list_files(photos)[0].read_bytes()[:200]
    (tmp_path / "cut.png").write_bytes(cut)
    good = list_files(photos)[1]
    images = [tmp_path / "text.png", good, tmp_path / "cut.png"]
    first, second, third = Explainer(regraft.load(train("classes"))).explain(images)
    assert isinstance(first, regraft.RejectedFile)
    assert first.code == "not_an_image"
    assert isinstance(second, Explanation)
    assert second.prediction.image == str(good)
    assert isinstance(third, regraft.RejectedFile)
    assert third.image.endswith("cut.png")
