"""A complete run: what it writes, what it reuses, what it refuses."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import pytest
from conftest import full_disk, run_eagerly, write_photos
from helpers.backends import make_environment
from PIL import Image

import regraft
from regraft.data.images.decode import decode
from regraft.recipe import Phase, Recipe

FILES = {
    "README.md", "bom.cdx.json",
    "history.csv", "manifest.json", "metrics.json", "model.keras", "openvino.bin", "openvino.xml",
    "predictions.csv", "recipe.toml", "refused.jsonl", "report.html", "selftest.npz", "split.csv",
    "uncertainty.npz",
}  # fmt: skip


class Finished(NamedTuple):
    """A run that several tests read; those that change its folder or its images copy them."""

    run: regraft.Run
    photos: Path
    store: Path


@pytest.fixture(scope="module")
def probe(network_file: Path) -> Recipe:
    return Recipe(backbone=str(network_file), phases=())


@pytest.fixture(scope="module")
def tuned(network_file: Path) -> Recipe:
    phase = Phase("all", epochs=2, batch_size=8, learning_rate=1e-2)
    return Recipe(backbone=str(network_file), phases=(phase,), augment=("flip",))


@pytest.fixture(scope="module")
def finished_probe(probe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return finish(probe, tmp_path_factory.mktemp("probe"))


@pytest.fixture(scope="module")
def finished_tuned(tuned: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return finish(replace(tuned, refit="never"), tmp_path_factory.mktemp("tuned"))


def finish(recipe: Recipe, folder: Path) -> Finished:
    photos = write_photos(folder / "photos")
    with run_eagerly():
        run = regraft.train(photos, recipe, folder / "run", store=folder / "store")
    return Finished(run, photos, folder / "store")


@pytest.mark.slow
def test_run_folder_holds_everything(photos: Path, probe: Recipe, tmp_path: Path) -> None:
    run = regraft.train(photos, probe, tmp_path / "run", store=tmp_path / "store")
    assert {path.name for path in run.path.iterdir()} == FILES
    metrics = json.loads((run.path / "metrics.json").read_text())
    assert metrics["task"] == "multiclass"
    for name in ("top1", "balanced_accuracy", "macro_f1", "log_loss"):
        score = metrics["validation"][name]
        assert score["low"] <= score["value"] <= score["high"]
    assert metrics["images"] == {"used": 30, "refused": 0}
    assert metrics["features"] == {"computed": 30, "reused": 0}
    assert metrics["decision"]["kept"] == "head"
    manifest = json.loads((run.path / "manifest.json").read_text())
    assert manifest["outputs"] == ["blue", "green", "red"]
    assert manifest["pixels"]["size"] == 32
    rows = list(csv.DictReader((run.path / "split.csv").open()))
    assert len(rows) == 30
    assert {row["part"] for row in rows} == {"train", "validation"}
    assert "blue" in (run.path / "report.html").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", "run", "store"]


@pytest.mark.slow
def test_a_second_run_computes_nothing_and_scores_the_same(
    finished_probe: Finished, probe: Recipe, tmp_path: Path
) -> None:
    first, photos, store = finished_probe
    second = regraft.train(photos, probe, tmp_path / "b", store=store)
    assert second.metrics["features"] == {"computed": 0, "reused": 30}
    assert second.metrics["validation"] == first.metrics["validation"]


@pytest.mark.slow
def test_ten_new_images_compute_ten_and_leave_the_split_as_it_was(
    finished_probe: Finished, probe: Recipe, tmp_path: Path
) -> None:
    first = finished_probe.run
    photos = shutil.copytree(finished_probe.photos, tmp_path / "photos")
    store = shutil.copytree(finished_probe.store, tmp_path / "store")
    for path in write_photos(tmp_path / "more", classes=1, each=10, seed=9).rglob("*.png"):
        shutil.copy(path, photos / "blue" / f"new_{path.name}")
    second = regraft.train(photos, probe, tmp_path / "b", store=store)
    assert second.metrics["features"] == {"computed": 10, "reused": 30}
    parts = [
        {row["image"]: row["part"] for row in csv.DictReader((run.path / "split.csv").open())}
        for run in (first, second)
    ]
    assert parts[0].items() <= parts[1].items()


@pytest.mark.slow
@pytest.mark.usefixtures("eager")
def test_two_empty_stores_give_the_same_scores(
    finished_tuned: Finished, photos: Path, tuned: Recipe, tmp_path: Path
) -> None:
    recipe = replace(tuned, refit="never")
    runs = [finished_tuned.run, regraft.train(photos, recipe, tmp_path / "b", store=tmp_path / "store")]
    assert runs[0].metrics["validation"] == runs[1].metrics["validation"]
    assert (runs[0].path / "split.csv").read_text() == (runs[1].path / "split.csv").read_text()


@pytest.mark.slow
def test_bad_files_are_named_and_the_rest_is_used(photos: Path, probe: Recipe, tmp_path: Path) -> None:
    (photos / "red" / "empty.jpg").write_bytes(b"")
    (photos / "red" / "page.jpg").write_bytes(b"<!DOCTYPE html><html>")
    image = (photos / "blue" / "000.png").read_bytes()
    (photos / "blue" / "half.png").write_bytes(image[: len(image) // 2])
    run = regraft.train(photos, probe, tmp_path / "run", store=tmp_path / "store")
    refused = [json.loads(line) for line in (run.path / "refused.jsonl").read_text().splitlines()]
    assert {(item["image"], item["code"]) for item in refused} == {
        ("blue/half.png", "truncated"), ("red/empty.jpg", "empty"), ("red/page.jpg", "not_an_image"),
    }  # fmt: skip
    assert run.metrics["images"] == {"used": 30, "refused": 3}
    assert "half.png" in (run.path / "report.html").read_text()


@pytest.mark.slow
def test_fine_tuned_model_scores_what_its_file_predicts(finished_tuned: Finished) -> None:
    run, photos, _ = finished_tuned
    rows = [row for row in csv.DictReader((run.path / "split.csv").open()) if row["part"] == "validation"]
    pixels = np.stack(
        [decode((photos / row["image"]).read_bytes(), 32).pixels for row in rows]
    ).astype("float32")  # fmt: skip
    model = keras.models.load_model(run.path / "model.keras")
    answer = model.predict(pixels, verbose=0)
    classes = json.loads((run.path / "manifest.json").read_text())["outputs"]
    labels = np.array([classes.index(row["target"]) for row in rows])
    loss = -np.log(np.maximum(answer[np.arange(len(labels)), labels], 1e-15)).mean()
    assert run.metrics["validation"]["log_loss"]["value"] == pytest.approx(loss, abs=1e-4)
    history = list(csv.DictReader((run.path / "history.csv").open()))
    assert [int(row["epoch"]) for row in history] == [0, 1, 2]


@pytest.mark.slow
def test_saved_model_opens_in_plain_keras_without_regraft(finished_probe: Finished, tmp_path: Path) -> None:
    run, photos, _ = finished_probe
    files = sorted(photos.rglob("*.png"))[:4]
    pixels = np.stack([decode(file.read_bytes(), 32).pixels for file in files]).astype("float32")
    np.save(tmp_path / "pixels.npy", pixels)
    code = (
        "import sys, keras, numpy as np\n"
        f"model = keras.models.load_model({str(run.path / 'model.keras')!r}, safe_mode=True)\n"
        f"np.save({str(tmp_path / 'out.npy')!r}, model.predict(np.load({str(tmp_path / 'pixels.npy')!r})))\n"
        "assert not [name for name in sys.modules if name.startswith('regraft')]\n"
    )
    environment = make_environment("tensorflow")  # it computes in f32 on every processor
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, env=environment)
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), run.model.predict(pixels, verbose=0), atol=1e-5)


@pytest.mark.slow
def test_the_model_of_a_run_can_be_trained_further_with_keras(finished_probe: Finished) -> None:
    model = regraft.load(finished_probe.run.path).model
    before = model.get_weights()
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(np.zeros((4, 32, 32, 3)), np.zeros(4), verbose=0)
    assert any((now != then).any() for now, then in zip(model.get_weights(), before, strict=True))


@pytest.mark.slow
@pytest.mark.usefixtures("eager")
def test_recipe_of_a_run_makes_the_run_again(finished_tuned: Finished, tmp_path: Path) -> None:
    first, _, store = finished_tuned
    recipe = Recipe.from_toml(first.path / "recipe.toml")
    second = regraft.train(recipe.data, recipe, tmp_path / "b", store=store)
    assert second.metrics["validation"] == first.metrics["validation"]


@pytest.mark.slow
@pytest.mark.usefixtures("eager")
def test_recipe_is_right_after_an_early_stop_and_from_another_folder(
    photos: Path, network_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(network_file.parent)
    phase = Phase("all", epochs=6, patience=1, batch_size=8, learning_rate=1.0)
    recipe = Recipe(backbone=network_file.name, phases=(phase,))
    first = regraft.train(photos, recipe, tmp_path / "a", store=tmp_path / "store")
    assert first.metrics["decision"]["phases"][0]["epochs"] < 6
    monkeypatch.chdir(tmp_path)
    again = Recipe.from_toml(first.path / "recipe.toml")
    assert again.phases[0].epochs == 6
    second = regraft.train(again.data, again, tmp_path / "b", store=tmp_path / "store")
    lines = [len((run.path / "history.csv").read_text().splitlines()) for run in (first, second)]
    assert lines[0] == lines[1]
    assert second.metrics["validation"] == first.metrics["validation"]


@pytest.mark.slow
@pytest.mark.usefixtures("eager")
def test_auto_states_what_it_decided(photos: Path, network_file: Path, tmp_path: Path) -> None:
    recipe = Recipe(backbone=str(network_file), budget=60, phases=(Phase(epochs=1, batch_size=8),))
    run = regraft.train(photos, recipe, tmp_path / "run", store=tmp_path / "store")
    decision = run.metrics["decision"]
    assert decision["kept"] in ("head", "fine-tuned")
    assert decision["reason"]
    assert (decision["kept"] == "fine-tuned") == any(phase["best_epoch"] for phase in decision["phases"])


@pytest.mark.slow
def test_auto_without_time_keeps_the_probe(photos: Path, network_file: Path, tmp_path: Path) -> None:
    recipe = Recipe(backbone=str(network_file), budget=1e-6)
    run = regraft.train(photos, recipe, tmp_path / "run", store=tmp_path / "store")
    assert run.metrics["decision"]["kept"] == "head"
    assert "budget" in run.metrics["decision"]["reason"]


@pytest.mark.slow
def test_parts_of_the_users_own_are_kept(make_photos, probe: Recipe, tmp_path: Path) -> None:
    make_photos("set/train", each=8)
    make_photos("set/val", each=3, seed=1)
    make_photos("set/test", each=4, seed=2)
    run = regraft.train(tmp_path / "set", probe, tmp_path / "run", store=tmp_path / "store")
    assert run.metrics["validation"]["n"] == 9
    assert run.metrics["test"]["n"] == 12


@pytest.mark.slow
def test_existing_folder_is_replaced_only_when_asked_and_only_if_it_is_a_run(
    finished_probe: Finished, probe: Recipe, tmp_path: Path
) -> None:
    run, photos, store = finished_probe
    out = shutil.copytree(run.path, tmp_path / "run")
    with pytest.raises(regraft.UsageError, match="--overwrite"):
        regraft.train(photos, probe, out, store=store)
    (out / "metrics.json").unlink()
    regraft.train(photos, probe, out, overwrite=True, store=store)
    assert (out / "metrics.json").exists()
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    with pytest.raises(regraft.UsageError, match="not a run folder"):
        regraft.train(photos, probe, mine, overwrite=True, store=store)
    assert (mine / "thesis.txt").read_text() == "years of work"


@pytest.mark.slow
def test_failure_leaves_nothing_half_written_and_the_old_run_as_it_was(
    finished_probe: Finished, probe: Recipe, tmp_path: Path
) -> None:
    run, photos, store = finished_probe
    out = shutil.copytree(run.path, tmp_path / "run")
    before = (out / "metrics.json").read_bytes()
    with full_disk(), pytest.raises(regraft.EnvironmentFault, match="No space left"):
        regraft.train(photos, probe, out, overwrite=True, store=store)
    assert (out / "metrics.json").read_bytes() == before
    assert not list(tmp_path.glob(".run*"))


@pytest.mark.slow
def test_images_that_may_only_be_read_are_as_good_as_any(
    photos: Path, probe: Recipe, tmp_path: Path, read_only, in_this_process
) -> None:
    run = regraft.train(read_only(photos), probe, tmp_path / "run", store=tmp_path / "store")
    assert run.metrics["images"] == {"used": 30, "refused": 0}
    assert len(list(run.bundle.predict([photos]))) == 30


def test_a_read_only_folder_is_refused_before_any_work(tmp_path: Path, read_only) -> None:
    folder, nowhere = tmp_path / "folder", tmp_path / "nowhere"
    folder.mkdir()
    read_only(folder)
    for make in (regraft.train, regraft.search):
        with pytest.raises(regraft.EnvironmentFault, match=r"Nothing can be written to|cannot be written"):
            make(nowhere, Recipe(), folder / "run")
    with pytest.raises(regraft.EnvironmentFault, match=r"features.csv cannot be written"):
        regraft.embed(nowhere, Recipe(), folder / "features.csv")
    with pytest.raises(
        regraft.UsageError, match="nowhere"
    ):  # with a writable folder, the data are read first
        regraft.train(nowhere, Recipe(), tmp_path / "run")


@pytest.mark.slow
def test_predict_and_evaluate_agree_with_the_model(finished_probe: Finished, photos: Path) -> None:
    run = finished_probe.run
    (photos / "red" / "bad.png").write_bytes(b"not an image at all")
    bundle = regraft.load(run.path)
    answers = list(bundle.predict([photos / "red"]))
    assert [Path(answer.image).name for answer in answers][-1] == "bad.png"
    assert answers[-1].code == "not_an_image"
    pixels = np.stack([decode(Path(a.image).read_bytes(), 32).pixels for a in answers[:-1]])
    expected = run.model.predict(pixels.astype("float32"), verbose=0)
    got = np.array([[a.values[name] for name in bundle.outputs] for a in answers[:-1]])
    np.testing.assert_allclose(got, expected, atol=1e-4)
    assert all(a.label == bundle.outputs[row.argmax()] for a, row in zip(answers[:-1], expected, strict=True))
    (scores,) = bundle.evaluate(photos)
    assert scores.n == 30
    assert scores.scores["top1"].value > 0.8


@pytest.mark.slow
def test_evaluate_refuses_classes_the_model_never_saw(finished_probe: Finished, photos: Path) -> None:
    (photos / "blue").rename(photos / "violet")
    with pytest.raises(regraft.DataError, match="violet"):
        finished_probe.run.bundle.evaluate(photos)


@pytest.mark.slow
def test_damaged_model_or_manifest_is_refused(finished_probe: Finished, tmp_path: Path) -> None:
    run = shutil.copytree(finished_probe.run.path, tmp_path / "run")
    data = bytearray((run / "model.keras").read_bytes())
    data[len(data) // 2] ^= 1
    (run / "model.keras").write_bytes(data)
    with pytest.raises(regraft.ModelRefused, match="manifest"):
        _ = regraft.load(run).model
    (run / "manifest.json").write_text("{}")
    with pytest.raises(regraft.ModelRefused):
        regraft.load(run)
    with pytest.raises(regraft.UsageError):
        regraft.load(tmp_path / "nowhere")


@pytest.mark.slow
def test_probe_runs_on_jax(photos: Path, network_file: Path, tmp_path: Path) -> None:
    pytest.importorskip("jax")
    command = [
        sys.executable, "-m", "regraft", "train", str(photos), "-o", str(tmp_path / "run"),
        "--backbone", str(network_file), "--unfreeze", "none", "--store", str(tmp_path / "store"),
    ]  # fmt: skip
    blocked = (
        "import sys\n"
        "class NoTensorFlow:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name.split('.')[0] == 'tensorflow': raise ImportError(name)\n"
        "sys.meta_path.insert(0, NoTensorFlow())\n"
        "from regraft.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", blocked, *command[3:]],
        env=make_environment("jax"), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["versions"]["backend"] == "jax"
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["validation"]["top1"]["value"] > 0.8


@pytest.mark.slow
@pytest.mark.parametrize(
    ("each", "accuracy"), [(18, 0.72), pytest.param(None, 0.855, marks=pytest.mark.soak)], ids=["some", "all"]
)
def test_probe_on_real_photographs(
    clothing: Path, mobilenet_weights: Path, tmp_path: Path, each: int | None, accuracy: float
) -> None:
    recipe = Recipe(weights=str(mobilenet_weights), phases=())
    images = clothing if each is None else copy_some(clothing, tmp_path / "some", each)
    tested, count = (len(list((images / part).rglob("*.jpg"))) for part in ("test", "."))
    run = regraft.train(images, recipe, tmp_path / "run", store=tmp_path / "store")
    assert run.metrics["test"]["n"] == tested
    assert run.metrics["test"]["top1"]["value"] >= accuracy
    again = regraft.train(images, recipe, tmp_path / "again", store=tmp_path / "store")
    assert again.metrics["features"] == {"computed": 0, "reused": count}
    assert again.metrics["test"] == run.metrics["test"]
    photo = next((clothing / "test" / "hat").iterdir())
    (answer,) = run.bundle.predict([photo])
    pixels = decode(photo.read_bytes(), 224).pixels.astype("float32")[None]
    with Image.open(photo):
        expected = run.model.predict(pixels, verbose=0)[0]
    assert answer.probability == pytest.approx(float(expected.max()), abs=1e-4)


def copy_some(folder: Path, copy: Path, each: int) -> Path:
    """Copy the first images of each class and part."""
    for images in folder.glob("*/*"):
        (copy / images.relative_to(folder)).mkdir(parents=True)
        for image in sorted(images.iterdir())[:each]:
            shutil.copy(image, copy / image.relative_to(folder))
    return copy
