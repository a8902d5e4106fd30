"""The page is complete, self-contained and harmless, whatever the data says."""

from __future__ import annotations

import dataclasses
import doctest
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

from regraft.data.catalog import Refused
from regraft.errors import EnvironmentFault
from regraft.evaluation import charts, report
from regraft.evaluation.charts import PLOT, line_chart, ticks
from regraft.evaluation.explain import most_wrong
from regraft.evaluation.metrics import (
    Interval,
    classification_scores,
    confusion_matrix,
    per_class,
    wilson_interval,
)
from regraft.evaluation.report import Epoch, PartScores, Report, WrongImage, render, write_report

SECTIONS = ["result", "facts", "scores", "confusions", "curves", "wrong", "classes", "data", "time", "use"]
VOID = {"meta", "link", "img", "br", "line", "circle", "path"}
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


def part(name: str, classes: list[str], *, n: int = 80, skill: float = 1.5) -> PartScores:
    generator = np.random.default_rng(len(name))
    labels = generator.integers(len(classes), size=n)
    logits = generator.normal(size=(n, len(classes)))
    logits[np.arange(n), labels] += skill
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    said = probabilities.argmax(axis=1)
    wrong = [
        WrongImage(
            f"{name}/{i}.jpg",
            classes[labels[i]],
            classes[said[i]],
            probabilities[i, said[i]],
            probabilities[i, labels[i]],
            jpeg(),
        )
        for i in most_wrong(labels, probabilities, count=5)
    ]
    scores = classification_scores(labels, probabilities)
    confusion = confusion_matrix(labels, said, len(classes))
    return PartScores(name, n, scores, confusion, per_class(labels, said, classes), wrong, None)


def epoch(number: int, **changes: object) -> Epoch:
    made = Epoch("fine-tune" if number else "head", number, 0.5 / (number + 1), 0.6, 0.8, 1e-4, 2.5)
    return dataclasses.replace(made, **changes)


def make(classes: list[str] | None = None, **changes: object) -> Report:
    classes = classes or ["cat", "dog", "emu"]
    counts = {name: [10] * len(classes) for name in ("train", "validation", "test")}
    made = Report(
        title="Pets",
        created="2030-01-01",
        command="regraft train pets --out run",
        summary=[("Backbone", "a small one"), ("Image size", "64 x 64")],
        decision="The fine-tuned model was kept.",
        classes=classes,
        counts=counts,
        parts=[part("test", classes), part("validation", classes)],
        history=[epoch(number) for number in range(4)],
        baseline=0.35,
        images_used=240,
        refused=[Refused("a.jpg", "truncated", "ends early"), Refused("b.jpg", "truncated", "ends early")],
        notes=["One image occurs twice."],
        seconds={"scan": 0.5, "fit": 75.0, "extract": 3700.0},
        usage_python='bundle = regraft.load("run")\nprint(bundle)',
        usage_shell="regraft predict run < photo.jpg",
    )
    return dataclasses.replace(made, **changes)


def test_documented_examples_are_true() -> None:
    assert doctest.testmod(report) == doctest.TestResults(0, 2)
    assert doctest.testmod(charts) == doctest.TestResults(0, 2)


def test_every_section_and_what_it_says() -> None:
    page = Page(render(make()))
    assert [value for tag, name, value in page.attributes if (tag, name) == ("section", "id")] == SECTIONS
    for said in [
        "Pets",
        "The fine-tuned model was kept.",
        "a small one",
        "Top-1 accuracy",
        "Balanced accuracy",
        "Macro F1",
        "Log loss",
        "Test, 80 images",
        "Validation, 80 images",
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
        assert said in page.text, said


def test_the_headline_is_the_first_parts_accuracy_with_its_interval() -> None:
    scored = make()
    top1 = scored.parts[0].scores["top1"]
    text = Page(render(scored)).text.replace("\xa0", " ")
    assert f"{100 * top1.value:.1f} % of the 80 test images were answered right" in text
    assert f"between {100 * top1.low:.1f} % and {100 * top1.high:.1f} %" in text


def test_a_model_no_better_than_the_largest_class_is_called_so() -> None:
    assert "not distinguishable" in render(make(baseline=0.99))
    assert "not distinguishable" not in render(make(baseline=0.01))


def test_missing_test_part_is_pointed_out() -> None:
    scored = make()
    assert "There is no test part" not in render(scored)
    assert "There is no test part" in render(dataclasses.replace(scored, parts=scored.parts[1:]))


def test_almost_all_right_is_not_rounded_to_all() -> None:
    scored = make()
    nearly = {**scored.parts[0].scores, "top1": Interval(0.9999, 0.999, 1.0)}
    shown = dataclasses.replace(scored, parts=[dataclasses.replace(scored.parts[0], scores=nearly)])
    assert "99.9<small>" in render(shown)


def test_nothing_is_requested_and_nothing_runs() -> None:
    html = render(make())
    page = Page(html)
    assert POLICY in page.values("content")
    assert html.index(POLICY) < html.index("<style>")
    assert not {"script", "iframe", "object", "embed", "form", "base"} & set(page.tags)
    assert all(value.startswith(("#", "data:")) for value in page.values("href") + page.values("src"))
    assert not [
        name for _, name, _ in page.attributes if name.startswith("on") or name in ("srcset", "action")
    ]
    assert not re.search(r"https?:|//|url\(|@import", re.sub(r"base64,[^\"]*", "", html))


def test_the_page_is_accessible() -> None:
    page = Page(render(make()))
    alternatives = [value for tag, name, value in page.attributes if (tag, name) == ("img", "alt") and value]
    assert len(alternatives) == page.tags.count("img") > 0
    headers = [name for tag, name, _ in page.attributes if tag == "th" and name == "scope"]
    assert len(headers) == page.tags.count("th")
    assert page.tags.count("svg") == 2
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


def test_hostile_names_are_only_text(tmp_path: Path) -> None:
    classes = HOSTILE
    refused = [Refused(name, name, name) for name in HOSTILE]
    history = [epoch(number, phase=HOSTILE[number]) for number in range(4)]
    shown = make(
        classes,
        title=HOSTILE[0],
        decision=HOSTILE[1],
        refused=refused,
        history=history,
        notes=HOSTILE,
        command=HOSTILE[3],
        summary=[(HOSTILE[0], HOSTILE[1])],
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


def test_thumbnails_are_embedded_and_their_absence_is_borne() -> None:
    scored = make()
    assert render(scored).count("data:image/jpeg;base64,/9j/") == sum(len(p.wrong) for p in scored.parts)
    bare = [dataclasses.replace(wrong, thumbnail=b"") for wrong in scored.parts[0].wrong]
    shown = dataclasses.replace(scored, parts=[dataclasses.replace(scored.parts[0], wrong=bare)])
    assert "no picture" in render(shown)


def test_flawless_model() -> None:
    text = Page(render(make(parts=[part("test", ["cat", "dog", "emu"], skill=50)]))).text
    assert "Every image was answered right." in text
    assert "No image was taken for another class." in text


def test_nothing_but_the_obligatory() -> None:
    bare = make(summary=[], parts=[], history=[], refused=[], notes=[], seconds={}, counts={})
    page = Page(render(bare))
    assert page.tags.count("section") == len(SECTIONS)
    for said in ["Not scored", "none was refused", "No times were taken", "without epochs"]:
        assert said in page.text


def test_confusions_are_sentences() -> None:
    classes = ["cat", "dog"]
    confusion = np.array([[36, 12], [1, 9]])
    labels, said = np.repeat([0, 0, 1, 1], [36, 12, 1, 9]), np.repeat([0, 1, 0, 1], [36, 12, 1, 9])
    scores = {"top1": wilson_interval(45, 58)}
    scored = PartScores("test", 58, scores, confusion, per_class(labels, said, classes), [], scores["top1"])
    text = Page(render(make(classes, parts=[scored]))).text
    assert "12 of 48 cat were called dog" in text
    assert "1 of 10 dog was called cat" in text
    assert "Linear probe" in text


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
    assert "no curve: head, validation top-1 80.0" in Page(render(make(history=[epoch(0)]))).text
    assert Page(render(make(history=[epoch(0), epoch(1)]))).tags.count("svg") == 2
    long = [epoch(number) for number in range(200)]
    assert Page(render(make(history=long))).tags.count("circle") == 0


def test_losses_that_are_not_numbers_leave_gaps() -> None:
    history = [epoch(0, loss=math.nan), epoch(1), epoch(2, val_loss=math.inf), epoch(3, val_top1=math.nan)]
    html = render(make(history=history))
    assert not re.search(r'd="[^"]*(nan|inf)', html)
    assert Page(render(make(history=[epoch(0, val_loss=math.nan, loss=math.nan)] * 2))).tags.count("svg") == 2


def test_phases_that_each_count_from_one_are_counted_on() -> None:
    history = [epoch(1), epoch(2), epoch(1, phase="slow"), epoch(2, phase="slow")]
    svg = render(make(history=history)).split("<svg")[1]
    assert re.findall(r'text-anchor="middle">(\d)</text>', svg) == ["1", "2", "3", "4"]
    assert ">slow</text>" in svg


def test_a_chart_spans_its_plot() -> None:
    chart = line_chart("Loss", [0, 5, 10], series={"a": [1.0, math.nan, 0.0]}, phases=["x", "x", "x"])
    assert chart.lines[0].path == f"M{PLOT.left} {PLOT.top}M{PLOT.right} {PLOT.bottom}"
    assert chart.boundaries == chart.phases == []


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0.131, 0.132), (-3, 7), (5, 5), (0, 0), (1e-9, 1e9), (2.3, 2.3000001)]
)
def test_ticks_are_round_few_and_enclose(low: float, high: float) -> None:
    found = ticks(low, high)
    assert found[0] <= low <= high <= found[-1]
    assert 2 <= len(found) <= 8
    steps = np.diff(found)
    np.testing.assert_allclose(steps, steps[0])


def test_an_inconsistent_report_is_refused() -> None:
    with pytest.raises(ValueError, match="3 counts of train"):
        make(counts={"train": [1, 2]})
    with pytest.raises(ValueError, match="scores of test for 3 classes"):
        make(parts=[part("test", ["cat", "dog"])])


def test_writing_replaces_whole_files_only(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")
    write_report(make(), path)
    assert path.read_text("utf-8") == render(make())
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match="nowhere"):
        write_report(make(), tmp_path / "nowhere" / "report.html")
    (tmp_path / "taken").mkdir()
    with pytest.raises(EnvironmentFault, match="taken"):
        write_report(make(), tmp_path / "taken")
    assert [entry.name for entry in tmp_path.iterdir()] == ["taken"]


def test_evaluation_imports_stay_light() -> None:
    code = (
        "import sys, regraft.evaluation.report;"
        "print([m for m in ('keras', 'tensorflow', 'sklearn', 'scipy', 'jinja2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
