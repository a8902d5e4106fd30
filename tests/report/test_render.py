"""The page is complete, self-contained and harmless, whatever the data holds."""

from __future__ import annotations

import dataclasses
import io
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from regraft.data.catalog import RejectedFile
from regraft.errors import EnvironmentFault
from regraft.evaluation.scores import compute_scores
from regraft.metrics.classification import confusion_matrix, score_classes
from regraft.metrics.coverage import Coverage
from regraft.metrics.intervals import Interval
from regraft.metrics.multilabel import score_labels
from regraft.metrics.ranking import compute_curves
from regraft.metrics.regression import score_targets
from regraft.models.freeze import TrainableCount
from regraft.recipe import Phase
from regraft.report import render as report
from regraft.report.content import (
    ClassFindings,
    CoverageFindings,
    Epoch,
    LabelFindings,
    NumberFindings,
    PartScores,
    Report,
    WrongImage,
    WrongLabels,
    WrongNumbers,
)
from regraft.report.mistakes import rank_errors, rank_wrong_answers, rank_wrong_labels
from regraft.report.render import render, write_report
from regraft.training.loop import EpochRecord, PhaseResult
from regraft.uncertainty.conformal import ClassCoverage

SECTIONS = {
    "multiclass": ["confusions", "wrong", "classes"],
    "binary": ["confusions", "wrong", "classes"],
    "multilabel": ["labels", "wrong"],
    "regression": ["targets", "wrong"],
}
OUTPUTS = {
    "multiclass": ["cat", "dog", "emu"],
    "binary": ["intact", "broken"],
    "multilabel": ["sky", "sea", "sand", "gull"],
    "regression": ["height", "weight"],
}
TASKS = list(SECTIONS)
VOID = {"meta", "link", "img", "br", "line", "circle", "path", "rect"}
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


class Page(HTMLParser):
    """Tags, attributes and texts of a page; complains about tags that do not nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.texts))

    def values(self, name: str) -> list[str]:
        return [value for _, attribute, value in self.attributes if attribute == name]


def jpeg() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 40, 90)).save(file, "JPEG")
    return file.getvalue()


def classified(name: str, outputs: list[str], *, n: int = 80, skill: float = 1.5) -> PartScores:
    generator = np.random.default_rng(len(name))
    labels = generator.integers(len(outputs), size=n)
    logits = generator.normal(size=(n, len(outputs)))
    logits[np.arange(n), labels] += skill
    table = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    predicted = table.argmax(axis=1)
    wrong = [
        WrongImage(
            f"{name}/{i}.jpg",
            outputs[labels[i]],
            outputs[predicted[i]],
            table[i, predicted[i]],
            table[i, labels[i]],
            jpeg(),
        )
        for i in rank_wrong_answers(labels, table, count=5)
    ]
    binary = len(outputs) == 2
    values = (
        compute_scores("binary", labels, table[:, 1:])
        if binary
        else compute_scores("multiclass", labels, table)
    )
    findings = ClassFindings(
        confusion_matrix(labels, predicted, len(outputs)),
        score_classes(labels, predicted, outputs),
        wrong,
        compute_curves(labels, table[:, 1]) if binary else None,
    )
    return PartScores(name, n, values, 0.35, "", None, findings)


def labelled(name: str, outputs: list[str], *, n: int = 80, skill: float = 1.5) -> PartScores:
    generator = np.random.default_rng(len(name))
    truth = generator.random((n, len(outputs))) < np.linspace(0.6, 0.05, len(outputs))
    answers = 1 / (1 + np.exp(-generator.normal(truth * 2 * skill - skill)))
    limits = np.linspace(0.3, 0.6, len(outputs))
    predicted = answers >= limits

    def with_answers(i: int, labels: np.ndarray) -> list[tuple[str, float]]:
        return [(outputs[label], float(answers[i, label])) for label in np.flatnonzero(labels)]

    wrong = [
        WrongLabels(
            f"{name}/{i}.jpg",
            with_answers(i, truth[i] & ~predicted[i]),
            with_answers(i, predicted[i] & ~truth[i]),
            [label for label, _ in with_answers(i, predicted[i] & truth[i])],
            jpeg(),
        )
        for i in rank_wrong_labels(truth, answers, limits, count=5)
    ]
    values = compute_scores("multilabel", truth, answers, thresholds=limits)
    findings = LabelFindings(score_labels(truth, answers, outputs, thresholds=limits), wrong)
    return PartScores(name, n, values, float(truth.mean()), "", None, findings)


def measured(name: str, outputs: list[str], *, n: int = 80, skill: float = 1.5) -> PartScores:
    generator = np.random.default_rng(len(name))
    truth = generator.normal(size=(n, len(outputs))) * 20 + 100
    answers = truth + generator.normal(size=truth.shape) * 20 / skill
    wrong = [
        WrongNumbers(
            f"{name}/{i}.jpg", list(zip(outputs, truth[i].tolist(), answers[i].tolist(), strict=True)), jpeg()
        )
        for i in rank_errors(truth, answers, count=5)
    ]
    rows = score_targets(truth, answers, outputs, means=[100.0] * len(outputs))
    findings = NumberFindings(rows, truth, answers, wrong)
    return PartScores(name, n, compute_scores("regression", truth, answers), 16.2, "", None, findings)


PART = {"multiclass": classified, "binary": classified, "multilabel": labelled, "regression": measured}


def part(name: str, outputs: list[str], **changes: float) -> PartScores:
    return classified(name, outputs, **changes)


def epoch(number: int, **changes: object) -> Epoch:
    made = Epoch("fine-tune" if number else "head", number, 0.5 / (number + 1), 0.6, 0.8, 1e-4, 2.5)
    return dataclasses.replace(made, **changes)


def fitted(plan: str, layers: int, parameters: int, *, epochs: int, best: int, rate: float) -> PhaseResult:
    history = [EpochRecord(number, 0.5, 0.6, 0.8, rate, 2.5) for number in range(epochs + 1)]
    return PhaseResult(
        Phase(plan, learning_rate=rate), TrainableCount(layers, parameters), history=history, best=best
    )


def make(outputs: list[str] | None = None, *, task: str = "multiclass", **changes: object) -> Report:
    outputs = outputs or OUTPUTS[task]
    names = ("train", "validation", "test")
    made = Report(
        title="Pets",
        created="2030-01-01",
        command="regraft train pets --out run",
        task=task,
        summary=[("Backbone", "a small one"), ("Image size", "64 x 64")],
        decision="The fine-tuned model was kept.",
        outputs=outputs,
        counts={} if task == "regression" else {name: [10] * len(outputs) for name in names},
        parts=changes.pop("parts", None) or [PART[task](name, outputs) for name in ("test", "validation")],
        history=[epoch(number) for number in range(4)],
        score_name="top-1",
        images_used=240,
        refused=[
            RejectedFile("a.jpg", "truncated", "ends early"),
            RejectedFile("b.jpg", "truncated", "ends early"),
        ],
        notes=["One image occurs twice."],
        seconds={"scan": 0.5, "fit": 75.0, "extract": 3700.0},
        usage_python='bundle = regraft.load("run")\nprint(bundle)',
        usage_shell="regraft predict run < photo.jpg",
        phases=[
            fitted("last:3", 3, 7_079_424, epochs=4, best=2, rate=1e-3),
            fitted("all", 16, 14_714_688, epochs=2, best=0, rate=1e-4),
        ],
        new_layers=["stem_7x7"],
    )
    return dataclasses.replace(made, **changes)


@pytest.mark.parametrize("task", TASKS)
def test_every_section_is_there_with_its_content(task: str) -> None:
    page = Page(render(make(task=task)))
    expected = ["result", "facts", "scores", *SECTIONS[task], "curves", "data", "time", "use"]
    assert [value for tag, name, value in page.attributes if (tag, name) == ("section", "id")] == expected
    linked = [value[1:] for value in page.values("href") if value.startswith("#")]
    assert set(linked) == set(expected) - {"facts"}
    for text in [
        "Pets",
        "The fine-tuned model was kept.",
        "a small one",
        "Test, 80 images",
        "Validation, 80 images",
        "Without looking at the images",
        *OUTPUTS[task],
        "last:3",
        "7,079,424",
        "after epoch 2",
        "nothing of it",
        "stem_7x7",
        "truncated",
        "2 images",
        "ends early",
        "One image occurs twice.",
        "0.5 s",
        "1 min 15 s",
        "1 h 1 min",
        'bundle = regraft.load("run")',
        "regraft predict run < photo.jpg",
        "regraft train pets --out run",
    ]:
        assert text in page.text, text


@pytest.mark.parametrize("task", TASKS)
def test_every_score_is_shown_with_its_interval(task: str) -> None:
    shown = make(task=task)
    text = Page(render(shown)).text.replace("\xa0", " ")
    for name, score in shown.parts[0].scores.items():
        assert report.MEASURES[name].label in text
        if report.MEASURES[name].is_share:
            assert f"{100 * score.value:.1f} % {100 * score.low:.1f} to {100 * score.high:.1f} %" in text
        elif name in ("log_loss", "r2"):
            assert f"{score.value:.3f} {score.low:.3f} to {score.high:.3f}" in text
        else:
            assert f"{score.value:#.3g} {score.low:#.3g} to {score.high:#.3g}" in text


def test_the_headline_is_the_first_parts_accuracy_with_its_interval() -> None:
    scored = make()
    top1 = scored.parts[0].scores["top1"]
    text = Page(render(scored)).text.replace("\xa0", " ")
    assert f"{100 * top1.value:.1f} % of the 80 test images were classified correctly" in text
    assert f"between {100 * top1.low:.1f} % and {100 * top1.high:.1f} %" in text


def test_the_headline_of_numbers_is_compared_with_the_mean() -> None:
    shown = make(["angle"], task="regression")
    score = shown.parts[0].scores["mae"]
    text = Page(render(shown)).text.replace("\xa0", " ")
    assert f"{score.value:#.3g} is the mean absolute error of angle on the 80 test images" in text
    assert "predicting the mean gives 16.2" in text


def test_the_headline_of_labels_is_compared_with_their_shares() -> None:
    shown = make(task="multilabel")
    text = Page(render(shown)).text.replace("\xa0", " ")
    assert (
        f"{100 * shown.parts[0].scores['mAP'].value:.1f} % is the mean average precision of 4 labels" in text
    )
    assert f"random answers have {100 * shown.parts[0].baseline:.1f} %" in text


@pytest.mark.parametrize("task", TASKS)
def test_a_caution_about_a_useless_model_appears_once(task: str) -> None:
    caution = "No better than predicting the mean: 23.9 against 23.8."
    shown = make(task=task)
    assert "No better" not in render(shown)
    parts = [dataclasses.replace(shown.parts[0], caution=caution), shown.parts[1]]
    shown = dataclasses.replace(shown, parts=parts, warnings=[caution, "Another warning."])
    assert Page(render(shown)).text.count(caution) == 1
    assert "Another warning." in render(shown)


def test_a_missing_test_part_is_pointed_out() -> None:
    scored = make()
    assert "There is no test part" not in render(scored)
    assert "There is no test part" in render(dataclasses.replace(scored, parts=scored.parts[1:]))


def test_almost_all_right_is_not_rounded_to_all() -> None:
    scored = make()
    nearly = {**scored.parts[0].scores, "top1": Interval(0.9999, 0.999, 1.0)}
    shown = dataclasses.replace(scored, parts=[dataclasses.replace(scored.parts[0], scores=nearly)])
    assert "99.9<small>" in render(shown)


@pytest.mark.parametrize("task", TASKS)
def test_nothing_is_requested_and_nothing_runs(task: str) -> None:
    html = render(make(task=task))
    page = Page(html)
    assert POLICY in page.values("content")
    assert html.index(POLICY) < html.index("<style>")
    assert not {"script", "iframe", "object", "embed", "form", "base"} & set(page.tags)
    assert all(value.startswith(("#", "data:")) for value in page.values("href") + page.values("src"))
    assert not [
        name for _, name, _ in page.attributes if name.startswith("on") or name in ("srcset", "action")
    ]
    assert not re.search(r"https?:|//|url\(|@import", re.sub(r"base64,[^\"]*", "", html))


CHARTS = {"multiclass": 0, "binary": 2, "multilabel": 0, "regression": 4}


@pytest.mark.parametrize("task", TASKS)
def test_the_page_is_accessible(task: str) -> None:
    page = Page(render(make(task=task)))
    alternatives = [value for tag, name, value in page.attributes if (tag, name) == ("img", "alt") and value]
    assert len(alternatives) == page.tags.count("img") > 0
    headers = [name for tag, name, _ in page.attributes if tag == "th" and name == "scope"]
    assert len(headers) == page.tags.count("th")
    assert page.tags.count("svg") == 2 + 2 * CHARTS[task]
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    assert {ref for value in page.values("aria-labelledby") for ref in value.split()} <= set(ids)
    assert page.tags.count("h1") == 1


HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(2)>',
    "\u05d0\u202egpj.exe",
    "two\nlines\x00\udc80",
    "{{ 7 * 7 }}",
]


@pytest.mark.parametrize("task", ["multiclass", "multilabel", "regression"])
def test_hostile_names_are_only_text(task: str, tmp_path: Path) -> None:
    refused = [RejectedFile(name, name, name) for name in HOSTILE]
    history = [epoch(number, phase=HOSTILE[number]) for number in range(4)]
    shown = make(
        HOSTILE,
        task=task,
        title=HOSTILE[0],
        decision=HOSTILE[1],
        refused=refused,
        history=history,
        notes=HOSTILE,
        command=HOSTILE[3],
        summary=[(HOSTILE[0], HOSTILE[1])],
        score_name=HOSTILE[1],
        warnings=HOSTILE,
        new_layers=HOSTILE,
        phases=[fitted(f"match:{HOSTILE[0]}", 1, 1, epochs=1, best=1, rate=0.1)],
        seconds=dict.fromkeys(HOSTILE, 1.0),
        usage_python=HOSTILE[0],
    )
    write_report(shown, tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text("utf-8")
    page = Page(html)
    assert "script" not in page.tags
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert "<script>alert(1)</script>" in page.text
    assert "\u202e" not in html
    assert "\x00" not in html
    assert r"\u202egpj.exe" in page.text
    assert r"two\nlines\u0000\udc80" in page.text
    assert "{{ 7 * 7 }}" in page.text


def cover(task: str, outputs: list[str], *, within: float = 0.9) -> CoverageFindings:
    targets = outputs if task == "regression" else [""]
    levels = [
        Coverage(0.9, 0.912, 0.861, 0.934, math.inf if target == "weight" else 1.25, within, target)
        for target in targets
    ]
    classes = [
        ClassCoverage(name, 12 * number, 0.75 if number else math.nan, math.nan, math.nan, 1.5)
        for number, name in enumerate(outputs)
    ]
    return CoverageFindings(levels, classes if task in ("multiclass", "binary") else [], "One limit for all.")


def with_coverage(task: str, **changes: float) -> Report:
    scored = make(task=task)
    findings = cover(task, scored.outputs, **changes)
    return make(task=task, parts=[dataclasses.replace(part, coverage=findings) for part in scored.parts])


@pytest.mark.parametrize("task", TASKS)
def test_coverage_is_shown_beside_what_chance_allows(task: str) -> None:
    page = Page(render(with_coverage(task)))
    thing = "interval" if task == "regression" else "set"
    for text in [
        f"How often is the answer in the {thing}?",
        "One limit for all.",
        "91.2 %",
        "86.1 to 93.4 %",
        "1.25",
        "The same on the 80 validation images",
    ]:
        assert text in page.text, text
    assert "do not look like the held-out ones" not in page.text
    assert ("The most probable class is in every set" in page.text) == (task in ("multiclass", "binary"))
    assert "#coverage" in page.values("href")
    assert "inf" not in re.findall(r"\binf\b", page.text)


@pytest.mark.parametrize("task", TASKS)
def test_images_unlike_the_held_out_ones_are_pointed_out(task: str) -> None:
    page = Page(render(with_coverage(task, within=0.7)))
    sentence = "The test images do not look like the held-out ones: at 90 %"
    assert sentence in page.text
    assert "70.0 % are within the limits, where chance allows 86.1 to 93.4 %." in page.text


@pytest.mark.parametrize("task", TASKS)
def test_thumbnails_are_embedded_and_may_be_missing(task: str) -> None:
    scored = make(task=task)
    assert render(scored).count("data:image/jpeg;base64,/9j/") == sum(
        len(p.findings.wrong) for p in scored.parts
    )
    first = scored.parts[0]
    bare = [dataclasses.replace(wrong, thumbnail=b"") for wrong in first.findings.wrong]
    findings = dataclasses.replace(first.findings, wrong=bare)
    shown = dataclasses.replace(scored, parts=[dataclasses.replace(first, findings=findings)])
    assert "no image" in render(shown)


def test_flawless_model() -> None:
    text = Page(render(make(parts=[part("test", ["cat", "dog", "emu"], skill=50)]))).text
    assert "Every image was classified correctly." in text
    assert "No image was taken for another class." in text


@pytest.mark.parametrize("task", TASKS)
def test_a_report_without_optional_content(task: str) -> None:
    nothing = {"summary": [], "history": [], "refused": [], "notes": [], "phases": [], "new_layers": []}
    bare = dataclasses.replace(make(task=task, **nothing), parts=[], seconds={}, counts={})
    page = Page(render(bare))
    assert page.tags.count("section") == 7 + len(SECTIONS[task])
    for text in ["Not scored", "none was refused", "No times were recorded", "without epochs"]:
        assert text in page.text


def test_confusions_are_sentences() -> None:
    labels, predicted = np.repeat([0, 0, 1, 1], [36, 12, 1, 9]), np.repeat([0, 1, 0, 1], [36, 12, 1, 9])
    rows = score_classes(labels, predicted, ["cat", "dog"])
    findings = ClassFindings(confusion_matrix(labels, predicted, 2), rows, [])
    values = compute_scores("multiclass", labels, np.eye(2)[predicted])
    scored = PartScores("test", 58, values, 0.5, "", values["top1"], findings)
    text = Page(render(make(["cat", "dog"], parts=[scored]))).text
    assert "12 of 48 cat were called dog" in text
    assert "1 of 10 dog was called cat" in text
    assert "Without training the backbone" in text


def test_labels_are_listed_weakest_first_with_threshold_and_share() -> None:
    scored = labelled("test", OUTPUTS["multilabel"])
    # The order by F1 is the other way round.
    changed = [dataclasses.replace(row, f1=1 - row.average_precision) for row in scored.findings.rows]
    findings = dataclasses.replace(scored.findings, rows=changed)
    shown = make(task="multilabel", parts=[dataclasses.replace(scored, findings=findings)])
    rows = sorted(shown.parts[0].findings.rows, key=lambda row: row.average_precision)
    text = Page(render(shown)).text.replace("\xa0", " ")
    table = text[text.index("Label by label") :]
    assert [table.index(f" {row.name} ") for row in rows] == sorted(
        table.index(f" {row.name} ") for row in rows
    )
    for row in rows:
        assert f"{100 * row.share:.1f} % {100 * row.average_precision:.1f} %" in table
        assert f"{row.threshold:.2f}" in table


def test_labels_missed_and_added_are_named() -> None:
    wrong = WrongLabels("a.jpg", [("sea", 0.1)], [("gull", 0.9)], ["sky"], b"")
    scored = labelled("test", OUTPUTS["multilabel"])
    findings = dataclasses.replace(scored.findings, wrong=[wrong])
    shown = make(task="multilabel", parts=[dataclasses.replace(scored, findings=findings)])
    text = Page(render(shown)).text.replace("\xa0", " ")
    assert re.search(r"missed sea ?10.0 % added gull ?90.0 % right ?sky", text)


def test_a_long_list_of_labels_is_collapsed() -> None:
    labels = [f"label {number}" for number in range(45)]
    page = Page(render(make(labels, task="multilabel", counts={})))
    assert "The other 25 labels" in page.text
    assert all(name in page.text for name in labels)


def test_targets_no_better_than_the_mean_are_marked() -> None:
    scored = measured("test", ["one", "other"], skill=0.4)
    assert not any(row.better for row in scored.findings.rows)
    assert (
        render(make(["one", "other"], task="regression", parts=[scored])).count("no better than predicting")
        == 2
    )
    skilled = measured("test", ["one", "other"], skill=5)
    assert "no better than predicting" not in render(
        make(["one", "other"], task="regression", parts=[skilled])
    )


@pytest.mark.parametrize(("n_classes", "matrix"), [(2, True), (30, True), (31, False), (100, False)])
def test_many_classes_get_a_list_instead_of_a_matrix(n_classes: int, matrix: bool) -> None:
    classes = [f"kind {number}" for number in range(n_classes)]
    html = render(make(classes, parts=[part("test", classes, n=300)]))
    page = Page(html)
    assert ('<table class="matrix' in html) == matrix
    assert ("most frequent pairs" in page.text) != matrix
    assert all(name in page.text for name in classes)


def test_histories_of_every_length() -> None:
    assert Page(render(make(history=[]))).tags.count("svg") == 0
    assert "no curve: head, validation top-1 0.800" in Page(render(make(history=[epoch(0)]))).text
    assert Page(render(make(history=[epoch(0), epoch(1)]))).tags.count("svg") == 2
    long = [epoch(number) for number in range(200)]
    assert Page(render(make(history=long))).tags.count("circle") == 0


def test_losses_that_are_not_numbers_leave_gaps() -> None:
    history = [epoch(0, loss=math.nan), epoch(1), epoch(2, val_loss=math.inf), epoch(3, val_score=math.nan)]
    html = render(make(history=history))
    assert not re.search(r'd="[^"]*(nan|inf)', html)
    assert Page(render(make(history=[epoch(0, val_loss=math.nan, loss=math.nan)] * 2))).tags.count("svg") == 2


def test_epochs_are_numbered_through_all_phases() -> None:
    history = [epoch(1), epoch(2), epoch(1, phase="slow"), epoch(2, phase="slow")]
    svg = render(make(history=history)).split("<svg")[1]
    assert re.findall(r'text-anchor="middle">(\d)</text>', svg) == ["1", "2", "3", "4"]
    assert ">slow</text>" in svg


def test_an_inconsistent_report_is_refused() -> None:
    with pytest.raises(ValueError, match="3 counts of train"):
        make(counts={"train": [1, 2]})
    with pytest.raises(ValueError, match="findings of test for 3 outputs"):
        make(parts=[part("test", ["cat", "dog"])])


def test_writing_replaces_the_file_atomically(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")
    write_report(make(), path)
    assert path.read_text("utf-8") == render(make())
    assert list(tmp_path.iterdir()) == [path]


def test_a_path_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match="nowhere"):
        write_report(make(), tmp_path / "nowhere" / "report.html")
    (tmp_path / "taken").mkdir()
    with pytest.raises(EnvironmentFault, match="taken"):
        write_report(make(), tmp_path / "taken")
    assert [entry.name for entry in tmp_path.iterdir()] == ["taken"]


def test_evaluation_imports_stay_light() -> None:
    code = (
        "import sys, regraft.report.render;"
        "print([m for m in ('keras', 'tensorflow', 'sklearn', 'scipy', 'jinja2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
