"""`regraft check`: planted problems are found, and the findings can be read by people and programs."""

import base64
import hashlib
import json
import os
import re
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from helpers.planted_problems import plant_bad_files, plant_copies, swap_labels
from PIL import Image

from regraft.cli import main
from regraft.pipeline.check import check
from regraft.pipeline.train import train
from regraft.recipe import Recipe


def paths(problem, count=None):
    """Return a set of images for each of a problem's cases."""
    return [frozenset(image.image for image in case.images) for case in problem.cases[:count]]


def find_copies(checkup):
    return {
        case
        for code in ("copies", "near_copies")
        if (problem := checkup.find_problem(code))
        for case in paths(problem)
    }


@pytest.fixture(scope="session")
def scenes(tmp_path_factory):
    """Write three classes of forty images: blobs anywhere and of any shade, in the colour of the class."""
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


def test_planted_problems_are_found(planted, network_file, in_this_process):
    swapped, copies, bad = swap_labels(planted), plant_copies(planted), plant_bad_files(planted)
    checkup = check(planted, Recipe(backbone=str(network_file)))
    assert {item.image for item in checkup.findings.refused} == bad
    assert find_copies(checkup) == copies
    suspects = set().union(*paths(checkup.find_problem("suspicious_labels"), 30))
    assert len(suspects & swapped) >= 5


@pytest.mark.soak
def test_problems_planted_among_photographs_are_found(clothing, mobilenet_weights, tmp_path):
    root = tmp_path / "clothing"
    for part in ("train", "test"):
        shutil.copytree(clothing / part, root, dirs_exist_ok=True)
    for path in [root, *root.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    published_copy = frozenset(
        {
            "shorts/6075b4a5-5b1a-4ce0-aea0-9dbfbca7c35c.jpg",
            "skirt/637a56e4-7fa6-4f75-8859-0f8902461554.jpg",
        }
    )  # in the data as they were published
    swapped, copies, bad = swap_labels(root), plant_copies(root), plant_bad_files(root)
    checkup = check(root, Recipe(weights=str(mobilenet_weights)))
    assert {item.image for item in checkup.findings.refused} == bad
    assert find_copies(checkup) == copies | {published_copy}
    assert published_copy in paths(checkup.find_problem("contradictory_copies"))
    suspects = set().union(*paths(checkup.find_problem("suspicious_labels"), 30))
    assert len(suspects & swapped) >= 5


@pytest.fixture
def cut(scenes, tmp_path):
    """Write the same images with a test part that contains a smaller copy of a training image."""
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
    checkup = check(cut, labels=False)
    leak = checkup.find_problem("leaked_copies")
    assert paths(leak) == [PAIR]
    assert leak.weight == "error"
    assert checkup.findings.unchecked
    assert checkup.find_problem("suspicious_labels") is None


@pytest.mark.slow
def test_train_reports_leaks(cut, network_file, in_this_process, capsys, tmp_path):
    recipe = Recipe(backbone=str(network_file), phases=())
    run = train(cut, recipe, tmp_path / "run")
    assert run.metrics["leaks"] == {"test": 1, "validation": 0}
    (warning,) = [text for text in run.metrics["warnings"] if "again.jpg" in text]
    assert "1 of 25 test images are duplicates of train or validation images" in warning
    note = "Copies: 1 image is a copy of another; 1 of validation and test is also in training."
    assert note in capsys.readouterr().err
    page = (run.path / "report.html").read_text("utf-8")
    assert note in page
    assert "again.jpg" in page


@pytest.mark.slow
def test_train_keeps_copies_in_one_part(planted, network_file, in_this_process, tmp_path):
    copies = plant_copies(planted)
    run = train(planted, Recipe(backbone=str(network_file), phases=(), validation=0.4), tmp_path / "run")
    lines = (run.path / "split.csv").read_text("utf-8").splitlines()[1:]
    part = {line.split(",")[0]: line.split(",")[2] for line in lines}
    assert set(part.values()) == {"train", "validation"}
    assert all(len({part[name] for name in pair}) == 1 for pair in copies)
    assert run.metrics["leaks"] == {"validation": 0}


@pytest.mark.slow
def test_train_reuses_what_a_check_computed(planted, network_file, in_this_process, tmp_path):
    recipe = Recipe(backbone=str(network_file), phases=(), views=1)
    plant_bad_files(planted)
    checkup = check(planted, recipe)
    run = train(planted, recipe, tmp_path / "run")
    assert run.metrics["features"] == {"computed": 0, "reused": 120}
    refused = [json.loads(line) for line in (run.path / "refused.jsonl").read_text("utf-8").splitlines()]
    assert {(item["image"], item["code"]) for item in refused} == {
        (item.image, item.code) for item in checkup.findings.refused
    }


def test_without_weights_everything_except_labels_is_checked(planted, monkeypatch, capsys):
    monkeypatch.setenv("KERAS_HOME", str(planted.parent / "keras"))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # nobody listens there
    copies = plant_copies(planted)
    checkup = check(planted)
    assert find_copies(checkup) == copies
    assert "Connection refused" in checkup.findings.unchecked
    capsys.readouterr()
    again = check(planted)
    assert "Decoded: 0 images" in capsys.readouterr().err
    assert again.findings.problems == checkup.findings.problems


def test_uniform_small_and_rare_images_are_named(planted):
    Image.new("RGB", (50, 50), (10, 20, 30)).save(planted / "red" / "plain.png")
    Image.open(planted / "red" / "01.jpg").resize((20, 20)).save(planted / "red" / "tiny.png")
    (planted / "rare").mkdir()
    (planted / "red" / "02.jpg").rename(planted / "rare" / "1.jpg")
    checkup = check(planted, labels=False)
    assert paths(checkup.find_problem("uniform_images")) == [{"red/plain.png"}]
    assert paths(checkup.find_problem("tiny_image")) == [{"red/tiny.png"}]
    assert [case.detail for case in checkup.find_problem("small_classes").cases] == ["rare: 1"]
    assert "41 images, rare 1" in checkup.find_problem("imbalance").summary


def test_one_image_in_two_classes_is_an_error(planted):
    image = Image.open(planted / "red" / "01.jpg")
    image.save(planted / "blue" / "again.jpg", quality=50)
    checkup = check(planted, labels=False)
    pair = frozenset({"red/01.jpg", "blue/again.jpg"})
    assert paths(checkup.find_problem("contradictory_copies")) == [pair]
    assert paths(checkup.find_problem("near_copies")) == [pair]


def test_the_page_is_self_contained_and_escapes_names(planted, tmp_path):
    name = "<script>alert(1)<\u202e&.jpg"
    shutil.copy(planted / "red" / "01.jpg", planted / "red" / name)
    (planted / "red" / "<b>.jpg").write_bytes(b"no picture")
    (planted / "red" / os.fsdecode(b"undecodable\xff.jpg")).write_bytes(b"")
    checkup = check(planted, labels=False)
    page = checkup.to_html().encode("utf-8").decode()  # without lone surrogates
    assert r"undecodable\udcff.jpg" in page
    assert "<script" not in page
    assert "<b>" not in page
    assert "\u202e" not in page
    assert "&lt;script&gt;" in page
    assert page.count("data:image/jpeg;base64,") == 2
    assert "http:" not in page
    assert "https:" not in page
    assert json.loads(checkup.to_json())["problems"][0]["cases"][0]["images"][1]["image"] == f"red/{name}"


@pytest.mark.slow
def test_the_page_reviews_labels_by_its_own_script_alone(planted, network_file, in_this_process):
    swapped = swap_labels(planted)
    checkup = check(planted, Recipe(backbone=str(network_file)))
    page, labels = checkup.to_html(), checkup.find_problem("suspicious_labels")
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page
    assert not re.findall(r" on\w+=", page)
    assert page.count('class="doubt"') == len(labels.cases)
    first = labels.cases[0]
    assert f'data-image="{first.images[0].image}" data-label="{first.images[0].label}"' in page
    assert first.suggestion in checkup.findings.outputs
    assert len(first.neighbours) == 3
    assert 0.5 < first.error_probability <= 1
    assert len(swapped) / 2 <= checkup.findings.wrong_labels <= 2 * len(swapped)
    assert checkup.findings.checked_labels == checkup.findings.used


FORM = {
    "form", "data", "created", "task", "outputs", "counts", "used", "refused", "problems", "notes",
    "unchecked", "checked_labels", "wrong_labels",
}  # fmt: skip


def run_command(*arguments, monkeypatch, capsys):
    """Run the command in this process; return exit code, standard output and standard error."""
    monkeypatch.setenv("REGRAFT_NATIVE_LOGS", "1")  # descriptor 2 stays pytest's
    with pytest.raises(SystemExit) as ended:
        main(list(map(str, arguments)))
    captured = capsys.readouterr()
    return ended.value.code, captured.out, captured.err


def test_the_command_writes_page_and_json_and_ends_as_train_would(planted, tmp_path, monkeypatch, capsys):
    run = partial(run_command, "check", planted, "--no-labels", monkeypatch=monkeypatch, capsys=capsys)
    plant_copies(planted)
    out, file = tmp_path / "out", tmp_path / "found.json"
    code, shown, _ = run("-o", out, "--json", file)
    assert code == 0
    assert "near_copies" in shown
    findings = json.loads(file.read_text())
    assert set(findings) == FORM
    assert findings["form"] == 1
    assert json.loads((out / "check.json").read_text())["problems"] == findings["problems"]
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
