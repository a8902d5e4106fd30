"""The command line: one message and one exit code for each mistake; results on standard output."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image
from typer.main import get_command
from typer.testing import CliRunner

from regraft import __version__, load
from regraft.cli import app
from regraft.cli.options import make_recipe
from regraft.data.images.decode import decode
from regraft.errors import RegraftError, UsageError
from regraft.recipe import HeadSpec, Phase, Recipe

COMMANDS = [
    "train", "search", "recommend", "check", "compare", "explain", "export", "predict", "evaluate",
    "serve", "embed", "inspect", "sign", "verify", "cache", "backbones", "demo",
]  # fmt: skip


def regraft(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "regraft", *map(str, arguments)],
        capture_output=True, text=True, check=False, env={**os.environ, **environment},
    )  # fmt: skip


def regraft_here(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a command in this process, without the half a second to five that a process of its own takes."""
    result = CliRunner().invoke(app, list(map(str, arguments)))
    error = result.exception
    code = error.exit_code if isinstance(error, RegraftError) else result.exit_code
    return subprocess.CompletedProcess(arguments, code, result.stdout, f"{result.stderr}{error}")


def make_rotated_exif() -> Image.Exif:
    """Return the metadata of an image that was taken with the camera on its side."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def expect(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr, done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_and_stands_in_the_readme(command: str) -> None:
    done = regraft_here(command, "--help")
    assert done.returncode == 0
    assert len(done.stdout.splitlines()[2].strip()) > 20
    readme = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
    assert f"regraft {command}" in readme


def test_the_version_is_printed() -> None:
    done = regraft_here("--version")
    assert (done.returncode, done.stdout) == (0, f"regraft {__version__}\n")


def test_commands_are_those_tested() -> None:
    assert sorted(command.callback.__name__ for command in app.registered_commands) == sorted(COMMANDS)


@pytest.mark.slow
def test_not_a_folder(tmp_path: Path) -> None:
    expect(regraft("train", tmp_path / "nothing", "-o", tmp_path / "run"), 2, "Expected a folder", "nothing")
    (tmp_path / "file.jpg").write_text("x")
    expect(regraft("train", tmp_path / "file.jpg", "-o", tmp_path / "run"), 2, "a file")


@pytest.mark.slow
def test_empty_folder_shows_the_expected_layout(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    done = regraft("train", tmp_path / "photos", "-o", tmp_path / "run")
    expect(done, 3, "No class folders", "photos/cat/1.jpg")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_one_class(make_photos, tmp_path: Path) -> None:
    done = regraft_here("train", make_photos(classes=1), "-o", tmp_path / "run")
    expect(done, 3, "at least 2 classes", "blue")


@pytest.mark.slow
def test_unknown_backbone_offers_the_nearest(photos: Path, tmp_path: Path) -> None:
    done = regraft_here("train", photos, "-o", tmp_path / "run", "--backbone", "resnet5")
    expect(done, 2, "resnet50", "regraft backbones")


@pytest.mark.slow
def test_image_size_below_the_minimum(photos: Path, tmp_path: Path) -> None:
    options = ["--backbone", "inception_v3", "--image-size", "60", "--weights", "random"]
    expect(regraft_here("train", photos, "-o", tmp_path / "run", *options), 2, "75", "60")


@pytest.mark.slow
def test_weights_of_another_architecture(photos: Path, tmp_path: Path, mobilenet_weights: Path) -> None:
    options = ["--backbone", "vgg16", "--image-size", "32", "--weights", mobilenet_weights]
    done = regraft_here("train", photos, "-o", tmp_path / "run", *options)
    expect(done, 2, "another architecture")
    assert not list(tmp_path.glob("*run*"))


@pytest.mark.slow
def test_weights_that_cannot_be_had(photos: Path, tmp_path: Path) -> None:
    closed = {"https_proxy": "http://127.0.0.1:9", "KERAS_HOME": str(tmp_path / "keras")}
    done = regraft("train", photos, "-o", tmp_path / "run", "--image-size", "32", **closed)
    expect(done, 4, "mobilenet_v2", str(tmp_path / "keras"), "--weights random")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_unwritable_output(photos: Path) -> None:
    expect(regraft("train", photos, "-o", "/proc/run"), 4, "/proc")


@pytest.mark.slow
def test_impossible_plans(photos: Path, network_file: Path, tmp_path: Path) -> None:
    base = ["train", photos, "-o", tmp_path / "run", "--backbone", network_file, "--unfreeze"]
    expect(regraft_here(*base, "some"), 2, "last:N")
    expect(regraft_here(*base, "last:9999"), 2, "layers")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--budget", "soon"], "10min"),
        (["--augment", "rotate"], "flip"),
        (["--epochs", "0"], "epochs"),
        (["--feature-noise", "-1"], "feature_noise"),
        (["--frobnicate"], "No such option"),
        (["--recipe", "missing.toml"], "recipe"),
    ],
)
def test_bad_options(photos: Path, tmp_path: Path, options: list[str], word: str) -> None:
    expect(regraft_here("train", photos, "-o", tmp_path / "run", *options), 2, word)


def test_options_override_the_recipe_they_start_from(tmp_path: Path) -> None:
    start = tmp_path / "recipe.toml"
    head = HeadSpec(pooling="max", dropout=0.5)
    start.write_text(Recipe(data="photos", seed=3, views=2, head=head).to_toml(), "utf-8")
    settings = {
        "image": "file, mask", "augment": "none", "budget": "10min", "store_limit": "5GB", "seed": 0,
        "pooling": "both", "hidden": "64,32", "epochs": [7],
    }  # fmt: skip
    assert make_recipe(settings, start) == Recipe(
        data="photos", image=("file", "mask"), augment=(), budget=600, store_limit=5e9, seed=0, views=2,
        head=HeadSpec(pooling="both", hidden=(64, 32), dropout=0.5), phases=(Phase(epochs=7),),
    )  # fmt: skip


def test_plans_make_phases_and_other_options_set_one_or_all_of_them() -> None:
    settings = {"unfreeze": ["none", "last:5"], "learning_rate": [1e-4], "epochs": [2, 3]}
    expected = (Phase("none", 2, learning_rate=1e-4), Phase("last:5", 3, learning_rate=1e-4))
    assert make_recipe(settings).phases == expected
    assert make_recipe({"unfreeze": ["none"]}).phases == ()
    with pytest.raises(UsageError, match=r"--epochs: expected one, .*each of 1 phases\. Received: 2"):
        make_recipe({"epochs": [2, 3]})


def test_every_option_with_a_value_has_help_that_ends_with_its_default() -> None:
    for command in get_command(app).commands.values():
        for option in command.params:
            if option.param_type_name == "option" and not option.is_flag:
                assert option.required or option.default or re.search(r" \[default: .+\]$", option.help), (
                    option.name
                )


@pytest.mark.slow
def test_predict_without_a_run_and_without_the_image(tmp_path: Path) -> None:
    expect(regraft("predict", tmp_path / "none", "a.jpg"), 2, "run folder")
    (tmp_path / "half").mkdir()
    expect(regraft("predict", tmp_path / "half", "a.jpg"), 5, "not a finished run")


@pytest.mark.slow
def test_whole_way_on_the_command_line(make_photos, network_file: Path, tmp_path: Path) -> None:
    """Train with a class of one image, predict as JSON, evaluate; results on standard output only."""
    photos = make_photos()
    for path in sorted((photos / "red").iterdir())[1:]:
        path.unlink()
    (photos / "red" / "page.jpg").write_text("<html>")
    out, store = tmp_path / "run", tmp_path / "store"
    done = regraft(
        "train", photos, "-o", out, "--backbone", network_file, "--unfreeze", "none", "--store", store
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"Report: {out / 'report.html'}" in done.stdout
    assert "single image" in (out / "report.html").read_text("utf-8")
    assert "oneDNN" not in done.stderr
    assert "Refused red/page.jpg: not_an_image" in done.stderr
    assert "21 of 22 images used; refused: 1 not_an_image" in done.stderr
    expect(regraft("train", photos, "-o", out), 2, "--overwrite")

    bad = tmp_path / "bad.jpg"
    bad.write_text("<html>")
    done = regraft("predict", out, photos / "blue" / "000.png", bad, "--json")
    good, refused = (json.loads(line) for line in done.stdout.splitlines())
    assert set(good) == {
        "image", "task", "labels", "label", "values", "set", "interval", "familiarity", "known", "undecided",
    }  # fmt: skip
    assert sum(good["values"].values()) == pytest.approx(1, abs=1e-5)
    assert good["values"][good["label"]] == max(good["values"].values())
    assert refused == {"image": str(bad), "refused": "not_an_image"}
    done = regraft_here("predict", out, photos / "blue" / "000.png")
    assert done.stdout.split("\t") == [
        str(photos / "blue" / "000.png"), good["label"], f"{good['values'][good['label']]:.3f}\n",
    ]  # fmt: skip

    noise = np.random.default_rng(0).integers(0, 255, (50, 30, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "unsure.jpg", exif=make_rotated_exif())
    files = [tmp_path / "unsure.jpg", photos / "blue" / "000.png"]
    lines = regraft_here("predict", out, *files, "--json").stdout.splitlines()
    by_command = [list(json.loads(line)["values"].values()) for line in lines]
    by_library = [list(answer.values.values()) for answer in load(out).predict(files)]
    pixels = np.stack([decode(file.read_bytes(), 32).pixels for file in files])
    by_keras = keras.models.load_model(out / "model.keras").predict(pixels.astype("float32"), verbose=0)
    assert 0.001 < by_keras[0].max() < 0.999
    np.testing.assert_allclose(by_command, by_keras, atol=1e-5)
    np.testing.assert_allclose(by_library, by_keras, atol=1e-5)

    done = regraft_here("evaluate", out, photos, "--json")
    scores = json.loads(done.stdout)
    assert scores["all"]["n"] == 21
    assert set(scores["all"]["top1"]) == {"value", "low", "high"}


@pytest.mark.slow
def test_backbones_lists_all_and_what_is_on_disk(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    name = "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5"
    (tmp_path / "models" / name).write_bytes(b"x")
    rows = json.loads(regraft("backbones", "--json", KERAS_HOME=str(tmp_path)).stdout)
    assert len(rows) == 40
    assert [row["name"] for row in rows if row["on_disk"]] == ["resnet50"]
    table = regraft("backbones", KERAS_HOME=str(tmp_path)).stdout
    assert "efficientnet_v2_b0" in table


@pytest.mark.soak  # the gate runs `make demo`
def test_demo_runs_without_network_and_grafting_wins(tmp_path: Path) -> None:
    done = regraft("demo", "-o", tmp_path / "demo", https_proxy="http://127.0.0.1:9")
    assert done.returncode == 0, done.stderr
    grafted, scratch = (float(line.split()[-1]) for line in done.stdout.splitlines()[1:3])
    assert grafted > scratch > 0.5
    assert (tmp_path / "demo" / "grafted" / "report.html").is_file()
    expect(regraft("demo", "-o", tmp_path / "demo"), 2, "--overwrite")


@pytest.mark.slow
def test_a_name_that_is_too_long_is_one_message(tmp_path: Path) -> None:
    expect(regraft("predict", "a" * 5000, tmp_path), 2, "File name too long: aaa")
