"""Scores, warnings and the report's content for outcomes of every task."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn import metrics as reference

from regraft.data.catalog import Catalog, Sample
from regraft.data.images.decode import ImageFacts
from regraft.recipe import Phase, Recipe
from regraft.report.build import choose_label_thresholds, find_cautions, make_report, score_parts
from regraft.report.render import render
from regraft.training.outcome import Decision, Outcome

OUTPUTS = {
    "multiclass": ("cat", "dog", "emu"),
    "binary": ("intact", "broken"),
    "multilabel": ("sky", "sea", "gull"),
    "regression": ("height", "weight"),
}
PARTS = {"train": 60, "validation": 40, "test": 50}


def truths(task: str, n: int, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    if task == "regression":
        return generator.normal(size=(n, 2)).astype(np.float32)
    if task == "multilabel":
        return (generator.random((n, 3)) < [0.6, 0.4, 0.2]).astype(np.float32)
    return generator.integers(len(OUTPUTS[task]), size=n)


def answered(task: str, truth: np.ndarray, skill: float, seed: int = 9) -> np.ndarray:
    generator = np.random.default_rng(seed)
    if task == "regression":
        return skill * truth / (1 + skill) + generator.normal(size=truth.shape) * 0.3
    if task == "multilabel":
        return 1 / (1 + np.exp(-generator.normal(skill * (2 * truth - 1))))
    logits = generator.normal(size=(len(truth), len(OUTPUTS[task])))
    logits[np.arange(len(truth)), truth] += skill
    table = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return table[:, 1:] if task == "binary" else table


def target(task: str, truth: np.ndarray) -> object:
    if task == "multilabel":
        return tuple(np.flatnonzero(truth).tolist())
    return tuple(truth.tolist()) if task == "regression" else int(truth)


def fitted(phase: Phase, parameters: int, *, best: int) -> SimpleNamespace:
    """Return the result of a phase of two epochs, without a backend."""
    history = [
        SimpleNamespace(epoch=number, loss=1.0, val_loss=0.9, val_score=0.5, learning_rate=1e-3, seconds=2.0)
        for number in range(3)
    ]
    return SimpleNamespace(
        phase=phase,
        unfreeze=phase.unfreeze,
        trained=SimpleNamespace(layers=3, parameters=parameters),
        history=history,
        best=best,
    )


def outcome(task: str, *, skill: float = 3.0, parts: tuple[str, ...] = ("test", "validation")) -> Outcome:
    """Return a run with two phases; the head on the untouched backbone has a third of the skill."""
    targets = {part: truths(task, n, seed) for seed, (part, n) in enumerate(PARTS.items())}
    samples = tuple(
        Sample(f"{part}/{number}.jpg", target(task, truth), f"{part} {number}", part)
        for part, rows in targets.items()
        for number, truth in enumerate(rows)
    )
    catalog = Catalog(Path("photos"), OUTPUTS[task], samples, task=task)
    phases = (
        fitted(Phase(unfreeze="none"), 0, best=1),
        fitted(Phase(unfreeze="last:3", learning_rate=5e-4), 1234, best=2),
    )
    return Outcome(
        Recipe(data="photos"),
        catalog,
        SimpleNamespace(
            name="small", short_weights="none", image_size=32, new_layers=("stem_7x7",), notes=()
        ),
        SimpleNamespace(parameters=4321),
        SimpleNamespace(
            computed=1,
            reused=2,
            facts=lambda samples: [ImageFacts(8, 8, "JPEG", ("tiny_image",))] * len(samples),
        ),
        "ridge regression, penalty 0.1",
        Decision("The last three layers were trained and kept.", phases),
        {
            part: (answered(task, targets[part], skill), answered(task, targets[part], skill / 3))
            for part in parts
        },
        {"list": 1.0},
    )


@pytest.mark.parametrize("task", OUTPUTS)
def test_the_page_of_every_task_can_be_made(task: str) -> None:
    made = outcome(task)
    parts = score_parts(made)
    report = make_report(made, parts, Path("runs/one"))
    page = render(report)
    assert [(part.name, part.n) for part in parts] == [("test", 50), ("validation", 40)]
    for text in (*OUTPUTS[task], "stem_7x7", "last:3", "1,234", "the head alone", "ridge regression"):
        assert text in page, text
    assert "150 images are smaller than 32 pixels" in page
    json.dumps({name: score.value for part in parts for name, score in part.scores.items()}, allow_nan=False)


@pytest.mark.parametrize("task", OUTPUTS)
def test_the_head_on_the_untouched_backbone_is_scored_too(task: str) -> None:
    for part in score_parts(outcome(task)):
        headline = next(iter(part.scores.values()))
        worse = (
            part.probe.value > headline.value if task == "regression" else part.probe.value < headline.value
        )
        assert worse


def test_headlines_agree_with_scikit_learn() -> None:
    made = {task: outcome(task) for task in OUTPUTS}
    truth = {task: run.catalog.targets(run.catalog.part("test")) for task, run in made.items()}
    answers = {task: run.answers["test"][0] for task, run in made.items()}
    expected = {
        "multiclass": reference.accuracy_score(truth["multiclass"], answers["multiclass"].argmax(1)),
        "binary": reference.accuracy_score(truth["binary"], answers["binary"][:, 0] > 0.5),
        "multilabel": reference.average_precision_score(truth["multilabel"], answers["multilabel"]),
        "regression": reference.mean_absolute_error(truth["regression"], answers["regression"]),
    }
    for task, value in expected.items():
        assert next(iter(score_parts(made[task])[0].scores.values())).value == pytest.approx(value), task


def test_thresholds_come_from_validation_alone() -> None:
    made = outcome("multilabel", skill=0.7)
    chosen = choose_label_thresholds(made)
    assert list(chosen) == list(OUTPUTS["multilabel"])
    truth = made.catalog.targets(made.catalog.part("validation"))
    answers = made.answers["validation"][0]
    for column, limit in enumerate(chosen.values()):
        label, values = truth[:, column], answers[:, column]
        scores = [reference.f1_score(label, values >= level) for level in values]
        assert reference.f1_score(label, values >= limit) == pytest.approx(max(scores))
    rows = score_parts(made)[0].findings.rows
    assert [row.threshold for row in rows] == list(chosen.values())
    made.answers["test"] = (1 - made.answers["test"][0], made.answers["test"][1])
    assert choose_label_thresholds(made) == chosen


def test_without_validation_thresholds_are_one_half() -> None:
    assert choose_label_thresholds(outcome("multilabel", parts=("test",))) == {
        "sky": 0.5,
        "sea": 0.5,
        "gull": 0.5,
    }
    assert choose_label_thresholds(outcome("multiclass")) == {}


@pytest.mark.parametrize("task", OUTPUTS)
def test_only_a_model_that_learnt_nothing_brings_a_warning(task: str) -> None:
    assert find_cautions(outcome(task)) == ()
    useless = outcome(task, skill=0.0)
    (warning,) = find_cautions(useless)
    assert warning.startswith(("No better than ", "Not shown to be better than "))
    assert "50 test images" in warning
    assert warning in render(make_report(useless, score_parts(useless), Path("runs/one")))


@pytest.mark.parametrize("task", OUTPUTS)
def test_without_a_scored_part_there_is_nothing_to_say(task: str) -> None:
    made = outcome(task, parts=())
    assert (score_parts(made), find_cautions(made)) == ([], ())
    assert "Not scored" in render(make_report(made, [], Path("runs/one")))


def test_histories_of_phases_are_joined_without_repeating_epoch_0() -> None:
    made = outcome("binary")
    report = make_report(made, score_parts(made), Path("runs/one"))
    assert [(epoch.phase, epoch.epoch) for epoch in report.history] == [
        ("head", 0),
        ("head", 1),
        ("head", 2),
        ("last:3", 1),
        ("last:3", 2),
    ]
    table = render(report).split('<table class="data phases">')[1].split("</table>")[0]
    rows = [" ".join(re.sub("<[^>]*>", " ", row).split()) for row in table.split("<tr>")[2:]]
    assert rows == [
        "the head alone 3 0 2 0.001 after epoch 1",
        "last:3 3 1,234 2 0.0005 after epoch 2",
    ]


def test_the_command_survives_a_shell() -> None:
    made = outcome("binary")
    assert "'runs/it'\"'\"'s mine'" in make_report(made, [], Path("runs/it's mine")).command
