"""Groups of images that are worse than the rest, and how seldom one is called worse by chance."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from regraft.metrics.groups import _test_by_fisher, _test_by_permutation, correct_by_holm, score_groups


def draw_columns(rng, n):
    return {
        "site": [f"site {number}" for number in rng.integers(6, size=n)],
        "camera": [f"camera {number}" for number in rng.integers(4, size=n)],
        "quarter": [f"quarter {number}" for number in rng.integers(4, size=n)],
    }


@pytest.mark.parametrize("seed", range(8))
def test_rights_and_wrongs_are_tested_as_scipy_does(seed):
    rng = np.random.default_rng(seed)
    wrong, chosen = rng.random(200) < 0.3, rng.random(200) < 0.2
    table = [
        [(wrong & chosen).sum(), (~wrong & chosen).sum()],
        [(wrong & ~chosen).sum(), (~wrong & ~chosen).sum()],
    ]
    expected = stats.fisher_exact(table, alternative="greater").pvalue
    assert _test_by_fisher(wrong, chosen) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("wrong", [0, 60])
def test_without_any_difference_nothing_is_improbable(wrong):
    assert _test_by_fisher(np.arange(60) < wrong, np.arange(60) < 20) == pytest.approx(1.0)


def test_numbers_are_tested_as_scipys_permutation_test_does():
    rng = np.random.default_rng(0)
    errors, members = rng.exponential(size=150), np.arange(150) < 40
    errors[:40] *= 1.3
    expected = stats.permutation_test(
        (errors[:40], errors[40:]), lambda a, b: a.mean() - b.mean(),
        alternative="greater", vectorized=False, n_resamples=1999, rng=0,
    ).pvalue  # fmt: skip
    received = _test_by_permutation(errors, members[None], seed=0)[0]
    assert received == pytest.approx(expected, abs=4 * np.sqrt(expected / 1999))


def test_the_correction_is_holms():
    values = np.random.default_rng(0).random(9) ** 3
    expected, highest = {}, 0.0
    for step, number in enumerate(np.argsort(values)):  # as the paper puts it
        highest = max(highest, min(1.0, (9 - step) * values[number]))
        expected[number] = highest
    assert correct_by_holm(values).tolist() == pytest.approx([expected[number] for number in range(9)])
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    assert correct_by_holm(values) == pytest.approx(multitest.multipletests(values, method="holm")[1])


@pytest.mark.parametrize("is_number", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_planted_group_is_named_and_none_without_it(is_number):
    """Of 20 data sets whose errors fall at random, a group is called worse in one at most."""
    false_alarms = hits = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        columns = draw_columns(rng, 372)
        bad = np.array(columns["camera"]) == "camera 2"
        if is_number:
            fair = rng.exponential(size=372)
            planted = np.where(bad, 2.0, 1.0) * fair
        else:
            fair = rng.random(372) < 0.87
            planted = fair & (~bad | (rng.random(372) < 0.75))
        false_alarms += any(row.worse for row in score_groups(fair, columns, is_error=is_number, seed=seed))
        rows = score_groups(planted, columns, is_error=is_number, seed=seed)
        hits += [(row.column, row.value) for row in rows if row.worse] == [("camera", "camera 2")]
    assert false_alarms <= 1
    assert hits >= 15


def test_a_group_that_is_better_is_not_named():
    right = np.arange(100) < 40
    rows = score_groups(right, {"site": ["good"] * 40 + ["bad"] * 60}, is_error=False)
    assert {row.value: row.worse for row in rows} == {"good": False, "bad": True}
    errors = score_groups(100.0 - np.arange(100), {"site": ["bad"] * 40 + ["good"] * 60}, is_error=True)
    assert {row.value: row.worse for row in errors} == {"good": False, "bad": True}


def test_groups_of_fewer_than_ten_images_are_left_out():
    cells = ["rare"] * 9 + ["common"] * 50 + [""] * 41
    assert [row.value for row in score_groups(np.zeros(100, bool), {"site": cells}, is_error=False)] == [
        "common"
    ]
    assert score_groups(np.zeros(100, bool), {"site": ["all"] * 100}, is_error=False) == []


def test_a_row_holds_the_means_of_group_and_rest():
    values, cells = np.arange(40.0), ["low"] * 15 + ["high"] * 25
    rows = {row.value: row for row in score_groups(values, {"half": cells}, is_error=True)}
    assert (rows["high"].n, rows["high"].score.value, rows["high"].rest) == (25, 27.0, 7.0)
    assert rows["high"].score.low < 27.0 < rows["high"].score.high
    assert rows["high"].worse
    again = score_groups(values, {"half": cells}, is_error=True)
    assert list(rows.values()) == again
