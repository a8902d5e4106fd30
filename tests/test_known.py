"""The head of a backbone that was there before: no backend, and yet the run that Keras would have made."""

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

import regraft
from regraft.deploy.graph import GRAPH
from regraft.features.network import converts
from regraft.recipe import HeadSpec, Recipe, Solver

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not converts(), reason="without OpenVINO every run goes through Keras"),
]

PLAIN = Recipe(backbone="mobilenet", weights="random", image_size=32, phases=())
NOT_USED = ("tensorflow", "keras", "jax", "torch", "pandas", "matplotlib")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_photos(tmp_path_factory.mktemp("known") / "photos", each=12)
    rows = [
        f"photos/{file.relative_to(folder)},{number % 7},{number * 0.5 + 3}"
        for number, file in enumerate(sorted(folder.rglob("*.png")))
    ]
    (folder.parent / "table.csv").write_text("\n".join(["image,a,b", *rows]) + "\n")
    return folder


@pytest.fixture(scope="module")
def store(photos: Path) -> Path:
    """With a template of the photographs' classes."""
    folder = photos.parent / "store"
    regraft.train(photos, PLAIN, photos.parent / "first", store=folder)
    return folder


@pytest.fixture
def own(store: Path, tmp_path: Path) -> Path:
    """A copy of that store, to be damaged or added to."""
    return Path(shutil.copytree(store, tmp_path / "own"))


@pytest.fixture
def no_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever builds a backbone is caught."""
    monkeypatch.setattr("regraft.run.open_backbone", None)
    monkeypatch.setattr("regraft.known.open_backbone", None)


def scored(run: regraft.Run) -> dict:
    return {name: value for name, value in run.metrics.items() if name not in ("seconds", "features")}


def assert_same(run: regraft.Run, reference: regraft.Run) -> None:
    """Every weight, every answer, every score; and the graph answers as the model."""
    assert scored(run) == scored(reference)
    one, other = run.bundle.model, reference.bundle.model
    assert one.get_config() == other.get_config()
    for got, expected in zip(one.weights, other.weights, strict=True):
        np.testing.assert_array_equal(got, expected)
    manifests = [json.loads((each.path / "manifest.json").read_text("utf-8")) for each in (run, reference)]
    for manifest in manifests:
        manifest.pop("created")
        digests = [manifest["files"].pop(name) for name in ("model.keras", "selftest.npz")]
        assert manifest.pop("graph_of") == digests[0]
    assert manifests[0] == manifests[1]  # the digests of the graph among them


def test_a_second_run_imports_no_backend(photos: Path, store: Path, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom regraft.cli.program import main\n"
        f"try:\n    main()\nfinally:\n    print([name for name in {NOT_USED} if name in sys.modules])"
    )
    asked = f"train {photos} -o {tmp_path / 'run'} --backbone mobilenet --weights random --image-size 32"
    command = [*asked.split(), "--unfreeze", "none", "--store", str(store)]
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("solver", ["logistic", "ridge", "lda"])
def test_the_run_is_the_one_that_keras_makes(
    photos: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, solver: Solver
) -> None:
    monkeypatch.setattr("regraft.run.open_backbone", None)
    recipe = Recipe(**{**vars(PLAIN), "head": HeadSpec(solver=solver)})
    run = regraft.train(photos, recipe, tmp_path / "run", store=store)
    assert run.metrics["features"] == {"computed": 0, "reused": 36}
    monkeypatch.undo()
    monkeypatch.setattr("regraft.known.find_template", lambda *_: None)
    assert_same(run, regraft.train(photos, recipe, tmp_path / "reference", store=store))


def test_several_numbers_come_back_in_their_units(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe(**{**vars(PLAIN), "image": ("image",), "target": ("a", "b")})
    table, store = photos.parent / "table.csv", tmp_path / "store"
    reference = regraft.train(table, recipe, tmp_path / "reference", store=store)
    monkeypatch.setattr("regraft.run.open_backbone", None)
    assert_same(regraft.train(table, recipe, tmp_path / "run", store=store), reference)


def test_images_that_are_new_are_computed_without_keras(
    photos: Path, own: Path, tmp_path: Path, no_backbone: None
) -> None:
    more = Path(shutil.copytree(photos, tmp_path / "more"))
    for number, file in enumerate(sorted(write_photos(tmp_path / "new", each=2, seed=1).rglob("*.png"))):
        shutil.copyfile(file, sorted(more.iterdir())[number // 2] / f"new{number}.png")
    run = regraft.train(more, PLAIN, tmp_path / "run", store=own)
    assert run.metrics["features"] == {"computed": 6, "reused": 36}
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype("float32")
    assert run.model.predict(pixels, verbose=0).shape == (4, 3)


def test_where_openvino_fails_on_new_images_keras_runs_them(
    photos: Path, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
    shutil.rmtree(own / "features-4")

    def refuses(*_: object, **__: object) -> None:
        raise RuntimeError("no such instruction")

    monkeypatch.setattr("regraft.features.engine.OpenVinoEngine", refuses)
    run = regraft.train(photos, PLAIN, tmp_path / "run", store=own)
    assert "Keras runs it, more slowly" in capfd.readouterr().err
    assert run.metrics["features"] == {"computed": 36, "reused": 0}


@pytest.mark.parametrize("what", ["model.keras", "features.npy", "template.json", "graph.bin"])
def test_what_is_damaged_is_made_again(photos: Path, own: Path, tmp_path: Path, what: str) -> None:
    file = next(own.glob(f"engines/*/*/{what}" if what == "graph.bin" else f"templates/*/{what}"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    run = regraft.train(photos, PLAIN, tmp_path / "run", store=own)
    first = json.loads((photos.parent / "first" / "metrics.json").read_text("utf-8"))
    assert scored(run) == {name: first[name] for name in scored(run)}
    assert not file.exists() or bytes(content) != file.read_bytes()


def test_another_number_of_classes_is_another_model(photos: Path, own: Path, tmp_path: Path) -> None:
    fewer = tmp_path / "fewer"
    for folder in sorted(photos.iterdir())[:2]:
        shutil.copytree(folder, fewer / folder.name)
    run = regraft.train(fewer, PLAIN, tmp_path / "run", store=own)
    assert run.model.output_shape == (None, 1)
    assert len(list((own / "templates").iterdir())) == 1  # in the place of the one before


def test_a_graph_that_answers_otherwise_is_not_delivered(
    photos: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
    from regraft.deploy import template

    right = template.join_linear

    def wrong(first: Path, names: tuple[str, ...], head: object, target: Path, *, output: str) -> None:
        turned = type(head)(head.kernel, head.bias + np.arange(len(head.bias), dtype="float32"), "softmax")
        right(first, names, turned, target, output=output)

    monkeypatch.setattr(template, "join_linear", wrong)
    run = regraft.train(photos, PLAIN, tmp_path / "run", store=store)
    assert "no graph for OpenVINO (its answers are" in capfd.readouterr().err
    assert not [name for name in GRAPH if (run.path / name).exists()]
    assert isinstance(run.model, keras.Model)


def test_a_store_that_cannot_be_written_keeps_no_template(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("regraft.deploy.template.shutil.copyfile", full)
    run = regraft.train(photos, PLAIN, tmp_path / "run", store=tmp_path / "store")
    assert run.path.is_dir()
    assert not list((tmp_path / "store" / "templates").iterdir())
