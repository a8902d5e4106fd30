"""Runs compared on the images that all of them were tested on, and that none has learnt from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import write_photos
from typer.testing import CliRunner

import regraft
from regraft.cli import app
from regraft.data.images.decode import digest
from regraft.errors import ModelRefused, UsageError
from regraft.inference.bundle import MANIFEST_FORMAT
from regraft.metrics.paired import compare_scores, mcnemar_test
from regraft.pipeline.compare import compare
from regraft.pipeline.predictions import PREDICTIONS, write_csv
from regraft.recipe import HeadSpec, Recipe

CLASSES = ("cat", "dog", "fox")


def make_answers(targets, skill, seed=0):
    rng = np.random.default_rng(seed)
    logits = skill * np.eye(3)[targets] + rng.normal(size=(len(targets), 3))
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


def write_run(folder, images, answers, *, task="multiclass", outputs=CLASSES, thresholds=None, recipe=None):
    """Write the files of a run that a comparison reads.

    `images` holds path, digest, part and target in words; `answers` those to the scored ones, in order.
    """
    folder.mkdir(parents=True)
    manifest = {
        "format": MANIFEST_FORMAT, "task": task, "outputs": list(outputs), "thresholds": thresholds or {},
        "pixels": {"size": 32}, "photos": 1, "files": {},
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "recipe.toml").write_text((recipe or Recipe()).to_toml())
    write_csv(
        folder / "split.csv",
        ["image", "target", "part", "digest"],
        [[path, target, part, content] for path, content, part, target in images],
    )
    scored = [image for image in images if image[2] != "train"]
    write_csv(
        folder / PREDICTIONS,
        ["image", "digest", "part", "target", *outputs],
        [
            [path, content, part, target, *row]
            for (path, content, part, target), row in zip(scored, answers.tolist(), strict=True)
        ],
    )
    return folder


def list_images(targets, parts, offset=0):
    return [
        (f"{number}.jpg", f"{number + offset:032x}", part, CLASSES[target])
        for number, (target, part) in enumerate(zip(targets, parts, strict=True))
    ]


@pytest.fixture
def targets():
    return np.arange(300) % 3


@pytest.fixture
def pair(tmp_path, targets):
    """Two runs on 200 test images, the second much better, with other images to train on."""
    parts = ["test"] * 200 + ["validation"] * 50 + ["train"] * 50
    tables = [make_answers(targets[:250], skill, seed) for seed, skill in enumerate((1.0, 3.0))]
    images = list_images(targets, parts)
    return [
        write_run(tmp_path / name, images, table) for name, table in zip("ab", tables, strict=True)
    ], tables


def test_runs_are_compared_on_their_test_images(pair, targets):
    runs, tables = pair
    comparison = compare(runs)
    assert (comparison.part, comparison.images, comparison.task) == ("test", 200, "multiclass")
    assert comparison.notes == (
        "200 images compared: in the test part of every run, and in no other part of any.",
    )
    other = comparison.comparisons[0]
    expected = compare_scores("multiclass", targets[:200], *(table[:200] for table in tables))
    assert other.differences["top1"].value == pytest.approx(expected["top1"].value)
    right = [table[:200].argmax(1) == targets[:200] for table in tables]
    assert other.mcnemar == mcnemar_test(*right)
    assert other.verdict == "better"
    gained = {f"{number}.jpg" for number in np.flatnonzero(right[1] & ~right[0])}
    assert {change.image for change in other.changes if change.gain > 0} == gained
    assert compare(runs) != compare(runs[::-1])
    again = compare(runs)
    assert (again.comparisons, again.scores) == (comparison.comparisons, comparison.scores)


def test_the_order_of_a_runs_images_does_not_matter(tmp_path, pair, targets):
    runs, tables = pair
    order = np.random.default_rng(0).permutation(200)
    images = [list_images(targets, ["test"] * 300)[number] for number in order]
    shuffled = write_run(tmp_path / "shuffled", images, tables[1][order])
    plain, mixed = compare(runs), compare([runs[0], shuffled])
    assert mixed.comparisons[0].differences == plain.comparisons[0].differences


def test_images_that_a_run_has_learnt_from_are_left_out(tmp_path, pair, targets):
    runs, _ = pair
    parts = (
        ["train"] * 30 + ["validation"] * 20 + ["test"] * 250
    )  # 50 of the others' test images, learnt from
    wide = write_run(tmp_path / "wide", list_images(targets, parts), make_answers(targets[30:], 2.0))
    comparison = compare([*runs, wide])
    assert comparison.images == 150
    assert [change.image for change in comparison.comparisons[1].changes if int(change.image[:-4]) < 50] == []
    assert comparison.notes[1:] == ("Left out: 150 in the test part of some runs only.",)
    copies = [
        *list_images(targets, ["test"] * 200 + ["train"] * 100),
        ("copy.jpg", f"{7:032x}", "train", "dog"),
    ]
    leaky = write_run(tmp_path / "leaky", copies, make_answers(targets[:200], 2.0))
    leaking = compare([runs[0], leaky])
    assert leaking.images == 199
    assert "Left out: 1 in another part of a run, whose model may have learnt from them." in leaking.notes


def test_images_whose_targets_differ_are_left_out(tmp_path, pair, targets):
    runs, tables = pair
    corrected = [
        (path, content, part, "fox" if path in ("0.jpg", "1.jpg") else target)
        for path, content, part, target in list_images(targets[:250], ["test"] * 250)
    ]
    other = write_run(tmp_path / "corrected", corrected, tables[1])
    comparison = compare([runs[0], other])
    assert comparison.images == 198
    assert "Left out: 2 with different targets in the runs." in comparison.notes


def test_without_test_parts_validation_images_are_compared_with_a_caution(tmp_path, targets):
    images = list_images(targets, ["validation"] * 120 + ["train"] * 180)
    runs = [
        write_run(tmp_path / name, images, make_answers(targets[:120], 1.0, seed))
        for seed, name in enumerate("ab")
    ]
    comparison = compare(runs)
    assert (comparison.part, comparison.images) == ("validation", 120)
    assert "also used to choose the models" in comparison.notes[-1]


def test_outputs_in_another_order_are_the_same_outputs(tmp_path, pair, targets):
    runs, tables = pair
    turned = write_run(
        tmp_path / "turned",
        list_images(targets[:250], ["test"] * 250),
        tables[1][:, ::-1],
        outputs=CLASSES[::-1],
    )
    assert compare([runs[0], turned]).comparisons[0].differences == compare(runs).comparisons[0].differences


@pytest.mark.parametrize("task", ["binary", "multilabel", "regression"])
def test_every_task_is_compared(tmp_path, task):
    rng = np.random.default_rng(0)
    flags = rng.random((150, 2)) < 0.5
    outputs = {"binary": ("no", "yes"), "multilabel": ("red", "wool"), "regression": ("weight", "size")}[task]
    words = {
        "binary": [outputs[int(flag)] for flag in flags[:, 0]],
        "multilabel": [
            ", ".join(name for name, flag in zip(outputs, row, strict=True) if flag) for row in flags
        ],
        "regression": [f"{row[0] * 1.0:g}, {row[1] * 2.5:g}" for row in flags],
    }[task]
    truth = flags * [1.0, 2.5] if task == "regression" else flags.astype(float)
    tables = []
    for error in (0.9, 0.3):
        close = np.clip(truth + error * rng.normal(size=(150, 2)), 0, 1 if task != "regression" else 9)
        tables.append(np.stack([1 - close[:, 0], close[:, 0]], 1) if task == "binary" else close)
    images = [(f"{n}.jpg", f"{n:032x}", "test", word) for n, word in enumerate(words)]
    runs = [
        write_run(tmp_path / name, images, table, task=task, outputs=outputs, thresholds={"wool": 0.4})
        for name, table in zip("ab", tables, strict=True)
    ]
    comparison = compare(runs)
    other = comparison.comparisons[0]
    headline = {"binary": "top1", "multilabel": "mAP", "regression": "mae"}[task]
    assert next(iter(other.differences)) == headline
    assert other.verdict == "better"
    assert (other.mcnemar is None) == (task != "binary")
    assert other.changes
    page = comparison.to_html()
    assert outputs[1] in page
    assert json.loads(comparison.to_json())["comparisons"][0]["differences"][headline]["value"] != 0


def test_the_json_object_holds_everything(pair):
    content = json.loads(compare(pair[0]).to_json())
    assert list(content) == [
        "form", "created", "task", "outputs", "part", "images", "notes", "reference", "comparisons",
    ]  # fmt: skip
    assert content["reference"]["scores"]["top1"].keys() == {"value", "low", "high"}
    assert content["comparisons"][0]["mcnemar"].keys() == {"gained", "lost", "p_value"}
    assert content["comparisons"][0]["changes"][0].keys() == {"image", "target", "before", "after", "gain"}


def test_the_page_shows_images_of_the_same_content_alone(tmp_path, targets):
    photos = write_photos(tmp_path / "photos", classes=1, each=3)
    files = sorted((photos / "blue").iterdir())
    images = [(f"blue/{file.name}", digest(file.read_bytes()), "test", "cat") for file in files]
    shutil.copy(files[1], files[2])  # changed since
    recipe = Recipe(data=str(photos))
    runs = [
        write_run(tmp_path / name, images, np.tile(row, (3, 1)), recipe=recipe)
        for name, row in (("a", np.array([0.1, 0.8, 0.1])), ("b", np.array([0.8, 0.1, 0.1])))
    ]
    page = compare(runs).to_html()
    assert page.count("data:image/jpeg;base64,") == 2
    assert page.count("no image") == 1
    assert "<script" not in page


def test_names_from_a_run_cannot_change_the_page(tmp_path):
    images = [("<b>&\u202e.jpg", f"{n:032x}", "test", "<i>") for n in range(1)]
    runs = [
        write_run(tmp_path / name, images, np.array([row]), outputs=("<i>", "b"))
        for name, row in (("a", [0.9, 0.1]), ("b", [0.1, 0.9]))
    ]
    page = compare(runs).to_html()
    assert "<i>" not in page
    assert "<b>&" not in page
    assert "\\u202e" in page


# --- mistakes


def test_one_run_is_not_enough(pair):
    (first, _), _ = pair
    for runs in ([first], first, []):
        with pytest.raises(UsageError, match="two run folders or more"):
            compare(runs)
    with pytest.raises(UsageError, match="different run folders"):
        compare([first, Path(f"{first}/../a")])


def test_runs_on_other_tasks_or_classes_are_refused(tmp_path, pair, targets):
    (first, _), tables = pair
    images = list_images(targets[:250], ["test"] * 250)
    labels = write_run(tmp_path / "labels", images, tables[0], task="multilabel")
    with pytest.raises(UsageError, match=r"one task. Received: .*a is multiclass, .*labels is multilabel"):
        compare([first, labels])
    renamed = [(path, content, part, target.replace("fox", "wolf")) for path, content, part, target in images]
    other = write_run(tmp_path / "other", renamed, tables[0], outputs=("cat", "dog", "wolf"))
    with pytest.raises(UsageError, match=r"same classes. Received: only .*a has fox; only .*other has wolf"):
        compare([first, other])


def test_runs_without_common_images_are_refused(tmp_path, pair, targets):
    (first, _), tables = pair
    far = write_run(tmp_path / "far", list_images(targets[:250], ["test"] * 250, offset=1000), tables[0])
    with pytest.raises(
        UsageError, match=r"Received none: .*a has 200, .*far has 250; left out: 450 in the test"
    ):
        compare([first, far])
    learnt = write_run(
        tmp_path / "learnt", list_images(targets[:250], ["train"] * 200 + ["test"] * 50), tables[0][:50]
    )
    with pytest.raises(UsageError, match="Received none"):
        compare([first, learnt])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run: (run / "manifest.json").unlink(), "not a finished run"),
        (lambda run: (run / "split.csv").unlink(), "damaged: no split.csv"),
        (lambda run: (run / PREDICTIONS).write_text("image"), "its columns are not those"),
        (
            lambda run: (run / PREDICTIONS).write_text(
                (run / PREDICTIONS).read_text().replace("dog", "wolf")
            ),
            "its columns are not those",
        ),
        (
            lambda run: (run / PREDICTIONS).write_text(
                (run / PREDICTIONS).read_text().replace(",dog,0", ",wolf,0")
            ),
            "expected targets among its 3 outputs. Received: 'wolf'",
        ),
    ],
)
def test_a_damaged_run_is_refused(pair, damage, message):
    runs, _ = pair
    damage(runs[1])
    with pytest.raises(ModelRefused, match=message):
        compare(runs)


def test_a_run_of_an_earlier_version_whose_images_are_gone_is_refused_with_the_cure(pair):
    runs, _ = pair
    (runs[1] / PREDICTIONS).unlink()
    with pytest.raises(
        UsageError, match=r"b has no predictions.csv.*Make the run again: regraft train --recipe"
    ):
        compare(runs)


# --- the command, on runs of a small network


@pytest.fixture(scope="module")
def finished(tmp_path_factory, network_file):
    """Two heads on the same images, with a test part."""
    folder = tmp_path_factory.mktemp("compared")
    for seed, part in enumerate(("train", "test")):
        write_photos(folder / "photos" / part, each=12, seed=seed)
    for solver in ("logistic", "ridge"):
        recipe = Recipe(backbone=str(network_file), phases=(), head=HeadSpec(solver=solver))
        regraft.train(folder / "photos", recipe, folder / solver, store=folder / "store")
    return folder


@pytest.mark.slow
def test_the_command_prints_the_verdict_and_writes_the_page(finished, tmp_path):
    page = tmp_path / "pages" / "page.html"
    arguments = ["compare", str(finished / "logistic"), str(finished / "ridge"), "-o", str(page)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.exception
    assert "36 images compared: in the test part of every run" in result.stdout
    assert "a top-1 accuracy of" in result.stdout
    assert "data:image/jpeg;base64," in page.read_text() or "No image changed" in page.read_text()
    assert isinstance(CliRunner().invoke(app, arguments).exception, UsageError)  # the page exists
    assert CliRunner().invoke(app, [*arguments, "--overwrite", "--json"]).exit_code == 0
    shown = json.loads(CliRunner().invoke(app, [*arguments[:3], "--json"]).stdout)
    assert shown["images"] == 36


@pytest.mark.slow
def test_a_run_without_answers_gives_them_again(finished, tmp_path):
    older = shutil.copytree(finished / "ridge", tmp_path / "older")
    (older / PREDICTIONS).unlink()
    plain, again = (
        compare([finished / "logistic", run]).comparisons[0] for run in (finished / "ridge", older)
    )
    assert again.changes == plain.changes
    for name, difference in plain.differences.items():
        assert again.differences[name].value == pytest.approx(difference.value, abs=1e-4)
