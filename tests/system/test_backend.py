"""Which backend a command runs on: OpenVINO where nothing trains by gradient, the user's choice always."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import write_photos
from helpers.backends import make_environment

from regraft.features.keras_engine import can_convert_to_openvino

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not can_convert_to_openvino(), reason="without OpenVINO there is nothing to choose"),
]

HEAVY = ("tensorflow", "jax", "torch", "pandas")
CODE = """
import sys
{before}
from regraft.cli.program import main
try:
    main()
finally:
    import keras
    print("ran on", keras.backend.backend(), [name for name in {heavy} if name in sys.modules])
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("backend") / "photos", each=8)


@pytest.fixture(scope="module")
def solved(network_file: Path) -> tuple[object, ...]:
    """Options that train nothing by gradient."""
    return ("--backbone", network_file, "--unfreeze", "none")


@pytest.fixture(scope="module")
def made_on_openvino(
    photos: Path, solved: tuple[object, ...], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The run of a command to which nobody named a backend."""
    out = tmp_path_factory.mktemp("openvino") / "run"
    done = train(photos, out, *solved)
    assert done.stdout.splitlines()[-1] == "ran on openvino []", done.stderr
    return out


def start(*command: object, before: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    code = CODE.format(before=before, heavy=HEAVY)
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, command)],
        capture_output=True, text=True, check=False, env={**os.environ, **environment},
    )  # fmt: skip


def train(photos: Path, out: Path, *options: object, **how: str) -> subprocess.CompletedProcess[str]:
    return start("train", photos, "-o", out, "--store", out.parent / "store", *options, **how)


def answers(model: keras.Model) -> np.ndarray:
    pixels = np.random.default_rng(0).integers(0, 256, (5, *model.inputs[0].shape[1:]))
    return model.predict(pixels.astype("float32"), verbose=0)


def test_a_head_that_is_solved_needs_openvino_alone(made_on_openvino: Path) -> None:
    assert_made_on_openvino(made_on_openvino, "logistic regression")


@pytest.mark.parametrize(
    ("solver", "name"),
    [("svm-rbf", "support vectors"), pytest.param("neighbours", "nearest", marks=pytest.mark.soak)],
)
def test_a_head_of_scikit_learn_needs_openvino_alone(
    photos: Path, solved: tuple[object, ...], tmp_path: Path, solver: str, name: str
) -> None:
    done = train(photos, tmp_path / "run", *solved, "--solver", solver)
    assert done.stdout.splitlines()[-1] == "ran on openvino []", done.stderr
    assert_made_on_openvino(tmp_path / "run", name)


def assert_made_on_openvino(run: Path, name: str) -> None:
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["versions"]["backend"] == "openvino"
    assert manifest["graph_of"]
    assert name in json.loads((run / "metrics.json").read_text())["decision"]["head"]


@pytest.mark.parametrize(
    "command",
    [("embed", "-o", "features.csv"), ("check",), ("recommend", "--backbones", "small.keras")],
    ids=lambda command: command[0],
)
def test_other_commands_that_train_nothing_need_openvino_alone(
    photos: Path,
    network_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(network_file, "small.keras")
    backbone = () if command[0] == "recommend" else ("--backbone", "small.keras")
    done = start(command[0], photos, *command[1:], *backbone, "--store", tmp_path / "store")
    assert done.stdout.splitlines()[-1] == "ran on openvino []", done.stderr


@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_a_model_made_on_openvino_answers_the_same_on_every_backend(
    made_on_openvino: Path, backend: str
) -> None:
    pytest.importorskip(backend)
    code = (
        "import sys, keras, numpy as np\n"
        "model = keras.saving.load_model(sys.argv[1], safe_mode=True)\n"
        "with np.load(sys.argv[2]) as file:\n"
        "    pixels, expected = file['pictures'].astype('float32'), file['answers']\n"
        "answers = keras.ops.convert_to_numpy(model(pixels, training=False))\n"
        "print(float(np.abs(answers - expected).max()), 'regraft' in sys.modules)"
    )
    files = [str(made_on_openvino / name) for name in ("model.keras", "selftest.npz")]
    opened = subprocess.run(
        [sys.executable, "-c", code, *files], capture_output=True, text=True, check=True,
        env=make_environment(backend),
    )  # fmt: skip
    apart, imported = opened.stdout.split()
    assert float(apart) < 1e-5
    assert imported == "False"


def test_openvino_and_tensorflow_make_the_same_run(
    photos: Path, made_on_openvino: Path, solved: tuple[object, ...], tmp_path: Path
) -> None:
    done = train(photos, tmp_path / "run", *solved, KERAS_BACKEND="tensorflow")
    assert done.stdout.splitlines()[-1].startswith("ran on tensorflow"), done.stderr
    runs = (made_on_openvino, tmp_path / "run")
    one, other = (keras.saving.load_model(run / "model.keras") for run in runs)
    np.testing.assert_allclose(answers(one), answers(other), atol=1e-5)
    assert len({(run / "split.csv").read_text() for run in runs}) == 1


def test_a_keras_json_that_names_another_backend_is_a_choice(
    photos: Path, network_file: Path, tmp_path: Path
) -> None:
    command = ("embed", photos, "--backbone", network_file, "--store", tmp_path / "store")
    for named, chosen in (("jax", "jax"), ("tensorflow", "openvino")):  # Keras itself writes tensorflow there
        (tmp_path / "keras.json").write_text(json.dumps({"backend": named}))
        done = start(*command, "-o", tmp_path / f"{named}.csv", KERAS_HOME=str(tmp_path))
        assert done.stdout.splitlines()[-1].startswith(f"ran on {chosen}"), done.stderr


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"KERAS_BACKEND": "nonsense"}, ("KERAS_BACKEND: expected tensorflow", "Received: nonsense")),
        ({"KERAS_BACKEND": "openvino"}, ("Keras runs on openvino here, which cannot train by gradient",)),
        ({"KERAS_HOME": ""}, ("keras.json names the backend torch, which is not installed",)),
    ],
)
def test_a_backend_that_cannot_be_is_one_message(
    photos: Path,
    network_file: Path,
    tmp_path: Path,
    environment: dict[str, str],
    words: tuple[str, ...],
) -> None:
    if "torch" in words[0] and importlib.util.find_spec("torch"):
        pytest.skip("torch is installed here")
    (tmp_path / "keras.json").write_text(json.dumps({"backend": "torch"}))
    environment = {name: value or str(tmp_path) for name, value in environment.items()}
    done = subprocess.run(
        [sys.executable, "-m", "regraft", "train", photos, "-o", tmp_path / "run",
         "--backbone", network_file],
        capture_output=True, text=True, check=False, env={**os.environ, **environment},
    )  # fmt: skip
    assert done.returncode == 4, done.stderr
    assert "Traceback" not in done.stderr
    assert all(word in done.stderr for word in words), done.stderr
    assert not (tmp_path / "run").exists()


def test_keras_that_was_imported_before_keeps_its_backend(
    photos: Path, solved: tuple[object, ...], tmp_path: Path
) -> None:
    pytest.importorskip("jax")
    before = "import os\nos.environ['KERAS_BACKEND'] = 'jax'\nimport keras\ndel os.environ['KERAS_BACKEND']"
    done = train(photos, tmp_path / "run", *solved, before=before)
    assert done.stdout.splitlines()[-1].startswith("ran on jax"), done.stderr


def test_without_openvino_the_default_backend_runs_all_of_it(
    photos: Path, solved: tuple[object, ...], tmp_path: Path
) -> None:
    before = (
        "import importlib.metadata, importlib.util, sys\n"
        "sys.modules['openvino'] = None\n"
        "find, version = importlib.util.find_spec, importlib.metadata.version\n"
        "def no_spec(name, *rest):\n    return None if name == 'openvino' else find(name, *rest)\n"
        "def no_version(name):\n"
        "    if name == 'openvino':\n        raise importlib.metadata.PackageNotFoundError(name)\n"
        "    return version(name)\n"
        "importlib.util.find_spec, importlib.metadata.version = no_spec, no_version"
    )
    done = train(photos, tmp_path / "run", *solved, before=before)
    assert done.returncode == 0, done.stderr
    assert "ran on tensorflow" in done.stdout
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["graph_of"] is None


@pytest.fixture(scope="module")
def edges(photos: Path) -> Path:
    """A network with an operation that Keras' OpenVINO backend lacks."""
    file, image = photos.parent / "edges.keras", keras.Input((32, 32, 3))
    flat = keras.layers.Reshape((32, 32, 6))(keras.ops.image.sobel_edges(image))
    keras.Model(image, keras.layers.Conv2D(4, 3)(flat)).save(file)
    return file


def test_what_openvino_lacks_is_one_message_where_the_user_chose_it(
    photos: Path, edges: Path, tmp_path: Path
) -> None:
    options = ["--backbone", edges, "--unfreeze", "none", "--store", tmp_path / "store"]
    done = subprocess.run(
        [sys.executable, "-m", "regraft", "train", photos, "-o", tmp_path / "run", *options],
        capture_output=True, text=True, check=False, env={**os.environ, "KERAS_BACKEND": "openvino"},
    )  # fmt: skip
    assert done.returncode == 4
    assert "Choose another backend: KERAS_BACKEND=tensorflow" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_layer_that_openvino_lacks_sends_the_command_to_tensorflow_once(
    photos: Path, edges: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    options = ["--backbone", edges, "--unfreeze", "none", "--store", tmp_path / "store"]
    done = subprocess.run(
        [sys.executable, "-m", "regraft", "train", photos, "-o", out, *options],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("starts again with TensorFlow") == 1
    assert json.loads((out / "manifest.json").read_text())["versions"]["backend"] == "tensorflow"
    assert not list(tmp_path.glob(".run*"))
    shutil.rmtree(out)


@pytest.mark.skipif(sys.platform != "linux", reason="LD_PRELOAD is Linux'")
@pytest.mark.parametrize(
    "name",
    [
        "libtcmalloc_minimal.so.4",
        *(pytest.param(name, marks=pytest.mark.soak) for name in ("libjemalloc.so.2", "libmimalloc.so.2")),
    ],
)
def test_with_another_allocator_keras_runs_the_network_and_predicts(
    photos: Path, solved: tuple[object, ...], tmp_path: Path, name: str
) -> None:
    library = next(Path("/usr/lib").rglob(name), None)
    if library is None:
        pytest.skip(f"{name} is not installed")
    out, environment = tmp_path / "run", {**os.environ, "LD_PRELOAD": str(library)}
    options = [*solved, "--store", tmp_path / "store"]
    for command in (["train", photos, "-o", out, *options], ["predict", out, photos / "red"]):
        done = subprocess.run(
            [sys.executable, "-m", "regraft", *command],
            capture_output=True, text=True, check=False, env=environment,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        if command[0] == "train":
            assert done.stderr.count(f"OpenVINO cannot run with {library}") == 1
    assert len([line for line in done.stdout.splitlines() if ".png\t" in line]) == 8
