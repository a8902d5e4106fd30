"""One function for every task."""

from __future__ import annotations

import numpy as np
import pytest

from regraft.evaluation.scores import MEASURES, compute_scores

LABELS = np.array([0, 1, 1, 0, 1])
POSITIVE = np.array([[0.2], [0.7], [0.6], [0.4], [0.3]])
HEADLINE = {"multiclass": "top1", "binary": "top1", "multilabel": "mAP", "regression": "mae"}
EXAMPLES = {
    "multiclass": (LABELS, np.hstack([1 - POSITIVE, POSITIVE])),
    "binary": (LABELS, POSITIVE),
    "multilabel": (np.eye(5)[:, :2] + np.eye(5)[:, 1:3], np.hstack([1 - POSITIVE, POSITIVE])),
    "regression": (LABELS[:, np.newaxis].astype(float), POSITIVE),
}


@pytest.mark.parametrize("task", EXAMPLES)
def test_the_first_score_sums_the_others_up_and_all_are_named(task: str) -> None:
    scores = compute_scores(task, *EXAMPLES[task])
    assert next(iter(scores)) == HEADLINE[task]
    assert set(scores) <= set(MEASURES)


def test_thresholds_decide_which_labels_are_answered() -> None:
    lenient = compute_scores("multilabel", *EXAMPLES["multilabel"], thresholds=[0.01, 0.01])
    assert lenient["micro_f1"].value == pytest.approx(2 * 4 / (4 + 10))
    assert lenient["mAP"] == compute_scores("multilabel", *EXAMPLES["multilabel"])["mAP"]


def test_a_seed_fixes_the_intervals() -> None:
    for task, example in EXAMPLES.items():
        assert compute_scores(task, *example, seed=3) == compute_scores(task, *example, seed=3)
