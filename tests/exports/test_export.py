"""An export answers as its run does, in its own runtime, and says what it cannot do."""

from __future__ import annotations

import base64
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import write_photos
from PIL import Image
from sklearn.naive_bayes import GaussianNB

import regraft
from regraft.errors import DataError, EnvironmentFault, ModelRefused, UsageError
from regraft.exports import export as exporting
from regraft.exports.formats import FORMATS
from regraft.exports.replay import load_runtime
from regraft.exports.run_images import RunImages
from regraft.features.store import Store
from regraft.uncertainty.familiarity import Familiarity

SLOW = pytest.mark.slow
pytestmark = pytest.mark.usefixtures("in_this_process")  # decoding in child processes has its own tests
RUNTIMES = {
    "openvino": ("openvino",),
    "onnx": ("onnxruntime",),
    "litert": ("ai_edge_litert",),
    "savedmodel": ("tensorflow",),
    "keras": ("keras", "tensorflow"),
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("export") / "photos", each=20, size=70)


@pytest.fixture(scope="module")
def finished(photos: Path, network_file: Path) -> Path:
    recipe = regraft.Recipe(data=str(photos), backbone=str(network_file), phases=())
    return regraft.train(photos, recipe, photos.parent / "run", store=photos.parent / "store").path


@pytest.fixture(scope="module")
def exports(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One export of each format whose packages are installed, made when it is first asked for."""
    folder = tmp_path_factory.mktemp("exports")

    class Exports(dict[str, Path]):
        def __missing__(self, name: str) -> Path:
            require_runtime(name.split("-", maxsplit=1)[0])
            fmt, *options = name.split("-")
            flags = {option.replace("any", "any_size"): True for option in options}
            self[name] = regraft.export(finished, fmt, folder / name, **flags).path
            return self[name]

    return Exports()


def require_runtime(name: str) -> None:
    for module in FORMATS[name].modules:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")


def describe_answers(run: Path, files: list[Path]) -> np.ndarray:
    return np.array([list(answer.values.values()) for answer in regraft.load(run).predict(files)])


@pytest.mark.parametrize("name", ["openvino", *(pytest.param(one, marks=SLOW) for one in list(FORMATS)[1:])])
def test_each_format_answers_files_as_the_run_does(
    name: str, exports: dict[str, Path], finished: Path, photos: Path
) -> None:
    files = sorted(photos.rglob("*.png"))[::7]
    sizes = regraft.load(finished).image_size
    from regraft.data.images.decode import decode

    pixels = np.stack([decode(file.read_bytes(), sizes).pixels for file in files])
    run = load_runtime(exports[name], FORMATS[name])
    for batch in (pixels, pixels[:1], pixels[:5]):
        answers = run(batch)["answers"]
        np.testing.assert_allclose(answers, describe_answers(finished, files)[: len(batch)], atol=1e-4)


@pytest.mark.parametrize("name", ["openvino", *(pytest.param(one, marks=SLOW) for one in list(FORMATS)[1:])])
def test_the_programs_run_with_the_runtime_numpy_and_pillow_alone(
    name: str, exports: dict[str, Path], finished: Path, photos: Path
) -> None:
    files = sorted(photos.rglob("*.png"))[::30]
    forbidden = {"regraft", "keras", "tensorflow", "scipy", "sklearn", "pandas", "onnxruntime", "openvino"}
    hidden = sorted(forbidden - set(RUNTIMES[name])) if name not in ("savedmodel", "keras") else ["regraft"]
    code = (
        "import sys, runpy\n"
        f"for name in {hidden!r}: sys.modules[name] = None\n"
        f"sys.path.insert(0, {str(exports[name])!r})\n"
        f"sys.argv = ['predict.py', *{[str(file) for file in files]!r}]\n"
        f"runpy.run_path({str(exports[name] / 'predict.py')!r}, run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line.split("\t") for line in done.stdout.splitlines() if "\t" in line]
    assert [line[0] for line in lines] == [str(file) for file in files]
    for (_, answer), values in zip(lines, describe_answers(finished, files), strict=True):
        label, probability = answer.rsplit(" ", 1)
        assert label == regraft.load(finished).outputs[int(values.argmax())]
        assert float(probability) == pytest.approx(values.max(), abs=2e-3)


@pytest.mark.parametrize("name", ["openvino-any", pytest.param("onnx-any", marks=SLOW)])
def test_a_network_that_resizes_takes_images_of_any_shape(
    name: str, exports: dict[str, Path], finished: Path, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    files = []
    for number, (height, width) in enumerate([(32, 32), (20, 90), (150, 61), (33, 31), (7, 500)]):
        files.append(tmp_path / f"{number}.png")
        smooth = Image.fromarray(rng.integers(0, 256, (9, 9, 3), np.uint8)).resize((width, height))
        smooth.save(files[-1])
    run = load_runtime(exports[name], FORMATS[name.split("-", maxsplit=1)[0]])
    answers = [run(np.asarray(Image.open(file))[None])["answers"][0] for file in files]
    np.testing.assert_allclose(answers, describe_answers(finished, files), atol=5e-3)


def test_the_contents_hold_what_answers_mean(exports: dict[str, Path], finished: Path, photos: Path) -> None:
    contents, bundle = json.loads((exports["openvino"] / "model.json").read_text()), regraft.load(finished)
    assert (contents["task"], contents["outputs"]) == (bundle.task, bundle.outputs)
    assert contents["pixels"]["size"] == bundle.image_size
    limits = bundle.uncertainty.conformal.find_limits(0.9)
    assert contents["coverage"]["least_probability"]["0.9"] == limits.tolist()

    arrays = {
        name: np.frombuffer(base64.b64decode(one["base64"]), one["type"]).reshape(one["shape"])
        for name, one in contents["familiarity"]["arrays"].items()
    }
    assert not {"names", "labels"} & set(arrays)  # they name the user's files
    none = np.array([], str)
    restored = Familiarity.from_arrays(
        {**arrays, "names": none, "labels": none, "task": np.array(bundle.task)}
    )
    file = next(photos.rglob("*.png"))
    outputs = load_runtime(exports["openvino"], FORMATS["openvino"])(
        np.asarray(Image.open(file).resize((1, 1)).resize((32, 32)))[None]
    )
    expected = bundle.uncertainty.familiarity.measure(outputs["features"], outputs["answers"])
    assert restored.measure(outputs["features"], outputs["answers"]) == pytest.approx(expected)


@SLOW
@pytest.mark.parametrize("name", ["openvino", "onnx", "litert"])
def test_int8_is_smaller_and_keeps_the_score(name: str, finished: Path, tmp_path: Path) -> None:
    require_runtime(name)
    if name == "openvino":
        pytest.importorskip("nncf")
    result = regraft.export(finished, name, tmp_path / "small", int8=True)
    assert result.drop is not None
    assert result.drop <= 0.5
    assert json.loads((result.path / "model.json").read_text())["precision"] == "int8"


@SLOW
def test_int8_that_costs_too_much_is_not_written(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("nncf")

    def shuffle(runtime, images, rows):
        numbers, outputs = exporting_replay(runtime, images, rows)
        return numbers, {"answers": outputs["answers"][:, ::-1]}

    exporting_replay = exporting.replay_quantized
    monkeypatch.setattr(exporting, "replay_quantized", shuffle)
    with pytest.raises(ModelRefused, match=r"int8 costs .* points of top-1 on \d+ validation images"):
        regraft.export(finished, "openvino", tmp_path / "small", int8=True)
    assert not list(tmp_path.iterdir())


def test_an_export_that_answers_otherwise_is_not_written(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_wrong(folder, kind):
        run = load_runtime(folder, kind)
        return lambda pixels: {name: value * 1.001 for name, value in run(pixels).items()}

    monkeypatch.setattr(exporting, "load_runtime", load_wrong)
    with pytest.raises(ModelRefused, match=r"gives other answers than the run, by 0\.001"):
        regraft.export(finished, "openvino", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_without_the_images_the_self_test_alone_is_replayed(
    finished: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    recipe = (run / "recipe.toml").read_text().replace("photos", "gone")
    (run / "recipe.toml").write_text(recipe)
    result = regraft.export(run, "openvino", tmp_path / "out")
    assert result.images == 0
    assert "replayed on the self-test alone" in capfd.readouterr().err
    with pytest.raises(DataError, match="--int8 expects training images"):
        regraft.export(run, "openvino", tmp_path / "small", int8=True)


def test_a_damaged_run_is_refused(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    data = bytearray((run / "openvino.bin").read_bytes())
    data[100] ^= 1
    (run / "openvino.bin").write_bytes(data)
    with pytest.raises(ModelRefused, match=r"openvino\.bin is not the file"):
        regraft.export(run, "openvino", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("coreml", {}, "Expected a format: openvino, onnx, litert, savedmodel or keras. Received: coreml."),
        ("keras", {"int8": True}, "--int8: expected a format that has it, openvino or onnx or litert."),
        ("litert", {"any_size": True}, "--any-size: expected a format that has it, openvino or onnx."),
    ],
)
def test_a_format_that_cannot_do_it_is_named(
    name: str, options: dict[str, bool], message: str, finished: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as caught:
        regraft.export(finished, name, tmp_path / "out", **options)
    assert message in str(caught.value)


def test_a_missing_package_is_named_with_its_command(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in ("nncf", "tf2onnx") else find(name)
    )
    with pytest.raises(EnvironmentFault) as caught:
        regraft.export(finished, "onnx", tmp_path / "out")
    assert 'An export to onnx needs tf2onnx: pip install "regraft[onnx]".' in str(caught.value)
    with pytest.raises(EnvironmentFault, match=r"in int8 needs nncf: pip install \"regraft\[int8\]\"\."):
        regraft.export(finished, "openvino", tmp_path / "out", int8=True)


def test_an_export_replaces_only_an_export(exports: dict[str, Path], finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("years")
    with pytest.raises(UsageError, match="exists already"):
        regraft.export(finished, "openvino", out)
    with pytest.raises(UsageError, match="not a folder of `regraft export`"):
        regraft.export(finished, "openvino", out, overwrite=True)
    shutil.copytree(exports["openvino"], tmp_path / "old")
    assert regraft.export(finished, "openvino", tmp_path / "old", overwrite=True).images > 0


def test_a_head_of_scikit_learn_is_refused(photos: Path, network_file: Path, tmp_path: Path) -> None:
    recipe = regraft.Recipe(backbone=str(network_file), phases=())
    run = regraft.train(
        photos, recipe, tmp_path / "run", head=GaussianNB(), store=Store(photos.parent / "store").root
    )
    with pytest.raises(ModelRefused, match="estimator of scikit-learn, which no openvino model can hold"):
        regraft.export(run.path, "openvino", tmp_path / "out")


@pytest.mark.soak
@pytest.mark.parametrize(
    "backbone", ["mobilenet_v3_small", "efficientnet_v2_b0", "densenet121", "resnet50_v2"]
)
@pytest.mark.parametrize("name", list(FORMATS))
def test_families_export_to_every_format(backbone: str, name: str, photos: Path, tmp_path: Path) -> None:
    require_runtime(name)
    recipe = regraft.Recipe(backbone=backbone, weights="random", image_size=96, phases=())
    run = regraft.train(photos, recipe, tmp_path / "run", store=photos.parent / "store")
    assert regraft.export(run.path, name, tmp_path / "out").difference <= 1e-4


@pytest.mark.soak
@pytest.mark.parametrize("name", ["openvino", "onnx", "litert"])
def test_every_clothing_photograph_has_its_label(
    name: str, clothing: Path, mobilenet_weights: Path, tmp_path: Path
) -> None:
    require_runtime(name)
    recipe = regraft.Recipe(data=str(clothing), weights=str(mobilenet_weights), phases=())
    bundle = regraft.train(clothing, recipe, tmp_path / "run", store=tmp_path / "store").bundle
    run = load_runtime(regraft.export(bundle, name, tmp_path / "out").path, FORMATS[name])
    images, engine, count = RunImages.find(bundle), bundle.make_engine(64), 0
    for numbers, pixels in images.decode(images.rows):
        starts = range(0, len(pixels), 8)
        expected = [one["answers"] for one in engine.run(pixels[start : start + 8] for start in starts)]
        answers = run(pixels)["answers"]
        np.testing.assert_allclose(answers, np.concatenate(expected), atol=1e-4)
        assert (answers.argmax(1) == np.concatenate(expected).argmax(1)).all()
        count += len(numbers)
    assert count == 1372
