"""`regraft check`: what is planted is found, and what is said can be read by people and programs."""

import json
import os
import shutil
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from helpers.planted_problems import plant_bad_files, plant_copies, swap_labels
from PIL import Image

from regraft.cli import main
from regraft.errors import EnvironmentFault
from regraft.pipeline.check import check
from regraft.pipeline.train import train
from regraft.recipe import Recipe


def paths(problem, most=None):
    """The images of a problem's cases, a set a case."""
    return [frozenset(image.image for image in case.images) for case in problem.cases[:most]]


def copies_found(checkup):
    return {
        case
        for code in ("copies", "near_copies")
        if (problem := checkup.problem(code))
        for case in paths(problem)
    }


@pytest.fixture(scope="session")
def scenes(tmp_path_factory):
    """Three classes of forty pictures: blobs in any place and shade, on a ground in the class's colour."""
    root = tmp_path_factory.mktemp("scenes")
    rng = np.random.default_rng(0)
    for name, colour in (("blue", (40, 60, 190)), ("green", (40, 180, 60)), ("red", (200, 40, 30))):
        (root / name).mkdir()
        for number in range(40):
            coarse = rng.normal(0, 50, (5, 5, 3)) + np.array(colour)
            small = Image.fromarray(np.clip(coarse, 0, 255).astype(np.uint8))
            small.resize((80, 60), Image.Resampling.BICUBIC).save(
                root / name / f"{number:02}.jpg", quality=90
            )
    return root


@pytest.fixture
def planted(scenes, tmp_path):
    return Path(shutil.copytree(scenes, tmp_path / "photos"))


def test_what_is_planted_is_found(planted, network_file, in_this_process):
    swapped, copies, bad = swap_labels(planted), plant_copies(planted), plant_bad_files(planted)
    found = check(planted, Recipe(backbone=str(network_file)))
    assert {item.image for item in found.findings.refused} == bad
    assert copies_found(found) == copies
    suspects = set().union(*paths(found.problem("suspicious_labels"), 30))
    assert len(suspects & swapped) >= 5


@pytest.mark.soak
def test_what_is_planted_in_photographs_is_found(clothing, mobilenet_weights, tmp_path):
    root = tmp_path / "clothing"
    for part in ("train", "test"):
        shutil.copytree(clothing / part, root, dirs_exist_ok=True)
    for path in [root, *root.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    there = frozenset(
        {
            "shorts/6075b4a5-5b1a-4ce0-aea0-9dbfbca7c35c.jpg",
            "skirt/637a56e4-7fa6-4f75-8859-0f8902461554.jpg",
        }
    )  # in the data as they were published
    swapped, copies, bad = swap_labels(root), plant_copies(root), plant_bad_files(root)
    found = check(root, Recipe(weights=str(mobilenet_weights)))
    assert {item.image for item in found.findings.refused} == bad
    assert copies_found(found) == copies | {there}
    assert there in paths(found.problem("contradictory_copies"))
    suspects = set().union(*paths(found.problem("suspicious_labels"), 30))
    assert len(suspects & swapped) >= 5


@pytest.fixture
def cut(scenes, tmp_path):
    """The same with a test part, into which one picture of training was put again, smaller."""
    for part, numbers in (("train", range(32)), ("test", range(32, 40))):
        for name in ("blue", "green", "red"):
            (tmp_path / "cut" / part / name).mkdir(parents=True)
            for number in numbers:
                shutil.copy(scenes / name / f"{number:02}.jpg", tmp_path / "cut" / part / name)
    again = Image.open(tmp_path / "cut" / "train" / "red" / "07.jpg")
    again.resize((60, 45)).save(tmp_path / "cut" / "test" / "red" / "again.jpg")
    return tmp_path / "cut"


PAIR = frozenset({"train/red/07.jpg", "test/red/again.jpg"})


@pytest.mark.slow
def test_a_copy_of_training_in_test_is_a_leak(cut):
    found = check(cut, labels=False)
    leak = found.problem("leaked_copies")
    assert paths(leak) == [PAIR]
    assert leak.weight == "error"
    assert found.findings.unchecked
    assert found.problem("suspicious_labels") is None


@pytest.mark.slow
def test_train_says_what_leaks(cut, network_file, in_this_process, capsys, tmp_path):
    recipe = Recipe(backbone=str(network_file), phases=())
    run = train(cut, recipe, tmp_path / "run")
    assert run.metrics["leaks"] == {"test": 1, "validation": 0}
    (warning,) = [text for text in run.metrics["warnings"] if "again.jpg" in text]
    assert "1 of 25 test images show a picture that is in train or validation too" in warning
    said = "Copies: 1 image is a copy of another; 1 of validation and test shows what is trained on."
    assert said in capsys.readouterr().err
    page = (run.path / "report.html").read_text("utf-8")
    assert said in page
    assert "again.jpg" in page


@pytest.mark.slow
def test_train_keeps_copies_on_one_side(planted, network_file, in_this_process, tmp_path):
    copies = plant_copies(planted)
    run = train(planted, Recipe(backbone=str(network_file), phases=(), validation=0.4), tmp_path / "run")
    lines = (run.path / "split.csv").read_text("utf-8").splitlines()[1:]
    part = {line.split(",")[0]: line.split(",")[2] for line in lines}
    assert set(part.values()) == {"train", "validation"}
    assert all(len({part[name] for name in pair}) == 1 for pair in copies)
    assert run.metrics["leaks"] == {"validation": 0}


@pytest.mark.slow
def test_what_a_check_computed_train_finds(planted, network_file, in_this_process, tmp_path):
    recipe = Recipe(backbone=str(network_file), phases=(), views=1)
    plant_bad_files(planted)
    found = check(planted, recipe)
    run = train(planted, recipe, tmp_path / "run")
    assert run.metrics["features"] == {"computed": 0, "reused": 120}
    refused = [json.loads(line) for line in (run.path / "refused.jsonl").read_text("utf-8").splitlines()]
    assert {(item["image"], item["code"]) for item in refused} == {
        (item.image, item.code) for item in found.findings.refused
    }


def test_without_weights_all_but_labels_is_checked(planted, monkeypatch, capsys):
    def absent(*_, **__):
        raise EnvironmentFault("The weights cannot be downloaded.")

    copies = plant_copies(planted)
    monkeypatch.setattr("regraft.pipeline.check.open_backbone", absent)
    found = check(planted)
    assert copies_found(found) == copies
    assert found.findings.unchecked == "The weights cannot be downloaded."
    capsys.readouterr()
    again = check(planted)
    assert "Decoded: 0 images" in capsys.readouterr().err
    assert again.findings.problems == found.findings.problems


def test_uniform_small_and_rare_images_are_named(planted):
    Image.new("RGB", (50, 50), (10, 20, 30)).save(planted / "red" / "plain.png")
    Image.open(planted / "red" / "01.jpg").resize((20, 20)).save(planted / "red" / "tiny.png")
    (planted / "rare").mkdir()
    (planted / "red" / "02.jpg").rename(planted / "rare" / "1.jpg")
    found = check(planted, labels=False)
    assert paths(found.problem("uniform_images")) == [{"red/plain.png"}]
    assert paths(found.problem("tiny_image")) == [{"red/tiny.png"}]
    assert [case.detail for case in found.problem("small_classes").cases] == ["rare: 1"]
    assert "41 images, rare 1" in found.problem("imbalance").summary


def test_one_picture_in_two_classes_is_an_error(planted):
    image = Image.open(planted / "red" / "01.jpg")
    image.save(planted / "blue" / "again.jpg", quality=50)
    found = check(planted, labels=False)
    pair = frozenset({"red/01.jpg", "blue/again.jpg"})
    assert paths(found.problem("contradictory_copies")) == [pair]
    assert paths(found.problem("near_copies")) == [pair]


def test_the_page_needs_nothing_and_obeys_no_name(planted, tmp_path):
    name = "<script>alert(1)<\u202e&.jpg"
    shutil.copy(planted / "red" / "01.jpg", planted / "red" / name)
    (planted / "red" / "<b>.jpg").write_bytes(b"no picture")
    (planted / "red" / os.fsdecode(b"undecodable\xff.jpg")).write_bytes(b"")
    found = check(planted, labels=False)
    page = found.as_html().encode("utf-8").decode()  # without lone surrogates
    assert r"undecodable\udcff.jpg" in page
    assert "<script" not in page
    assert "<b>" not in page
    assert "\u202e" not in page
    assert "&lt;script&gt;" in page
    assert page.count("data:image/jpeg;base64,") == 2
    assert "http:" not in page
    assert "https:" not in page
    assert json.loads(found.as_json())["problems"][0]["cases"][0]["images"][1]["image"] == f"red/{name}"


FORM = {
    "form", "data", "created", "task", "outputs", "counts", "used", "refused", "problems", "notes",
    "unchecked",
}  # fmt: skip


def regraft(*arguments, monkeypatch, capsys):
    """The command in this process: exit code, standard output and error."""
    monkeypatch.setattr(sys, "argv", ["regraft", *map(str, arguments)])
    monkeypatch.setenv("REGRAFT_NATIVE_LOGS", "1")  # descriptor 2 stays pytest's
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    return ended.value.code, said.out, said.err


def test_the_command_writes_page_and_json_and_ends_as_train_would(planted, tmp_path, monkeypatch, capsys):
    run = partial(regraft, "check", planted, "--no-labels", monkeypatch=monkeypatch, capsys=capsys)
    plant_copies(planted)
    out, file = tmp_path / "out", tmp_path / "found.json"
    code, shown, _ = run("-o", out, "--json", file)
    assert code == 0
    assert "near_copies" in shown
    said = json.loads(file.read_text())
    assert set(said) == FORM
    assert said["form"] == 1
    assert json.loads((out / "check.json").read_text())["problems"] == said["problems"]
    assert "copy5.webp" in (out / "check.html").read_text("utf-8")
    code, _, error = run("-o", out)
    assert code == 2
    assert "--overwrite" in error
    for name in ("blue", "green"):
        shutil.rmtree(planted / name)
    code, shown, error = run("--json", "-")
    assert code == 3
    assert json.loads(shown)["problems"][0]["code"] == "not_learnable"
    assert "at least 2 classes" in error
