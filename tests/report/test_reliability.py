"""What the report says about probabilities: the sentence, the verdict and the diagram."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from test_render import OUTPUTS, PART, Page, make

from regraft.metrics.calibration import Calibration, Chance, ReliabilityBin, measure_calibration
from regraft.report.charts import SQUARE
from regraft.report.reliability import describe_calibration, describe_example, make_reliability_chart
from regraft.report.render import render


def measure(probability: float, share: float, n: int = 400) -> Calibration:
    truth = (np.arange(n) < share * n).astype(int)
    return measure_calibration(truth, np.full((n, 1), probability))


def make_calibrated(task: str, calibration: Calibration | None):
    parts = [
        dataclasses.replace(PART[task](name, OUTPUTS[task]), calibration=calibration)
        for name in ("test", "validation")
    ]
    return make(task=task, parts=parts)


def test_the_example_is_the_answers_with_ninety_per_cent_if_there_are_enough() -> None:
    rare, common, sure = (
        ReliabilityBin(n, probability, 0.5, 0.25, 0.75)
        for n, probability in ((19, 0.9), (50, 0.5), (20, 0.91))
    )
    chance = Chance(0, 0, 0)
    for bins, expected in (((common, rare), "50 images"), ((common, sure), "20 images")):
        text = describe_example(Calibration(69, 0, chance, 0, bins), task="multiclass", outputs=["a", "b"])
        assert f"Of the {expected} answered with" in text


def test_the_example_says_what_a_probability_is_of() -> None:
    measured = measure(0.9, 0.91)
    texts = {
        task: describe_example(measured, task=task, outputs=["cat", "dog"])
        for task in ("multiclass", "binary", "multilabel")
    }
    assert texts["multiclass"].startswith("Of the 400 images answered with 90 %, 91 % are right;")
    assert texts["binary"].startswith("Of the 400 images given dog with 90 %, 91 % are dog;")
    assert texts["multilabel"].startswith("Of the 400 labels given with 90 %, 91 % are there;")


@pytest.mark.parametrize(
    ("probability", "share", "verdict"),
    [(0.9, 0.91, "nothing shows"), (0.9, 0.7, "are too high: 90.0 %"), (0.6, 0.8, "are too low: 60.0 %")],
)
def test_the_verdict_compares_with_chance(probability: float, share: float, verdict: str) -> None:
    assert verdict in describe_calibration(measure(probability, share))


def test_errors_that_cancel_are_no_direction() -> None:
    truth = np.repeat([1, 0, 1, 0], [70, 30, 30, 70])
    answers = np.repeat([0.95, 0.05], 100)[:, None]
    text = describe_calibration(measure_calibration(truth, answers))
    assert "too high in some ranges, too low in others" in text


def test_the_diagram_puts_calibrated_answers_on_the_diagonal() -> None:
    bins = tuple(ReliabilityBin(30, p, p, p - 0.05, p + 0.05) for p in (0.25, 0.75))
    chart = make_reliability_chart(Calibration(60, 0.0, Chance(0.04, 0, 0.1), 0.1, bins))
    model, diagonal = chart.lines
    assert diagonal.path == f"M{SQUARE.left} {SQUARE.bottom}L{SQUARE.right} {SQUARE.top}"
    for (x, y), box in zip(chart.points, chart.bars, strict=True):
        across = (x - SQUARE.left) / (SQUARE.right - SQUARE.left)
        up = (SQUARE.bottom - y) / (SQUARE.bottom - SQUARE.top)
        assert across == pytest.approx(up, abs=1e-3)
        left, top, width, height = box
        assert (left + width / 2, top + height / 2) == pytest.approx((x, y), abs=0.2)
        assert height == pytest.approx(0.1 * (SQUARE.bottom - SQUARE.top), abs=0.2)
    assert model.role == "model"
    assert "Given 25%: 25% of 30." in chart.description


def test_boxes_stay_within_the_plot() -> None:
    chart = make_reliability_chart(measure_calibration([[0], [1]] * 30, [[0.0], [1.0]] * 30))
    for left, top, width, height in chart.bars:
        assert SQUARE.left <= left <= left + width <= SQUARE.right + 0.1
        assert SQUARE.top <= top <= top + height <= SQUARE.bottom


@pytest.mark.parametrize("task", ["multiclass", "binary", "multilabel"])
def test_the_page_has_the_section_with_its_diagram(task: str) -> None:
    page = Page(render(make_calibrated(task, measure(0.9, 0.7))))
    text = page.text.replace("\xa0", " ")
    assert "probabilities" in page.values("id")
    assert "#probabilities" in page.values("href")
    assert "Can the probabilities be trusted?" in text
    assert "90 %, 70 % are" in text
    assert "The probabilities are too high" in text
    assert f"is {measure(0.9, 0.7).brier:.3f}; lower is better" in text
    assert (
        page.values("id").count("reliability-0-title") == page.values("id").count("reliability-1-title") == 1
    )


def test_numbers_have_no_such_section() -> None:
    page = Page(render(make_calibrated("regression", None)))
    assert "probabilities" not in page.values("id")
    assert "#probabilities" not in page.values("href")


def test_a_class_name_cannot_change_the_page() -> None:
    report = make_calibrated("binary", measure(0.9, 0.7))
    page = Page(render(dataclasses.replace(report, outputs=["a", "<b>\u202e"])))
    assert "images given <b>\\u202e with" in page.text


def test_epochs_show_their_calibrated_loss() -> None:
    report = make()
    history = [dataclasses.replace(one, val_loss_calibrated=0.1234) for one in report.history]
    assert "0.1234" in Page(render(dataclasses.replace(report, history=history))).text
