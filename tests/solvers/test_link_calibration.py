"""Calibration: planted distortions are undone, and the fits equal an independent optimiser's."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit, log_softmax, softmax
from sklearn.linear_model import LogisticRegression

from regraft.solvers.calibration import (
    choose_link,
    compute_decisions,
    fit_answer_link,
    fit_inverse_temperature,
    fit_platt,
    fit_simple_link,
    fit_vector_scaling,
)
from regraft.solvers.decision import Link
from regraft.solvers.solve import solve

Matrix = np.ndarray


def draw_classes(n: int, units: int = 4, *, spread: float = 2.0, seed: int = 0) -> tuple[Matrix, Matrix]:
    """Return logits (n, units), and one-hot targets drawn with their softmax."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, spread, (n, units))
    return logits, np.eye(units)[(logits + rng.gumbel(size=logits.shape)).argmax(1)]


def draw_labels(n: int, labels: int = 3, *, seed: int = 0) -> tuple[Matrix, Matrix]:
    rng = np.random.default_rng(seed)
    logits = rng.normal(-1, 2, (n, labels))
    return logits, (rng.random((n, labels)) < expit(logits)).astype(float)


def make_folds(n: int, count: int = 5) -> list[Matrix]:
    return [np.arange(n) % count == number for number in range(count)]


# --- temperature


@pytest.mark.parametrize("temperature", [0.2, 3.0])
def test_the_temperature_of_logits_that_are_too_hot_or_too_cold_is_found(temperature: float) -> None:
    logits, targets = draw_classes(40_000)
    ones = np.ones(40_000)
    gains = fit_inverse_temperature(logits * temperature, targets, ones, task="multiclass")
    np.testing.assert_allclose(gains * temperature, 1, rtol=0.02)
    logits, targets = draw_labels(40_000)
    gains = fit_inverse_temperature(logits * temperature, targets, ones, task="multilabel")
    np.testing.assert_allclose(gains * temperature, 1, rtol=0.02)


def test_the_temperature_of_calibrated_logits_is_one() -> None:
    logits, targets = draw_classes(5_000)
    (gain, *_) = fit_inverse_temperature(logits, targets, np.ones(5_000), task="multiclass")
    assert 0.95 < gain < 1.05


@pytest.mark.parametrize("seed", range(3))
def test_the_temperature_equals_that_of_a_general_optimiser(seed: int) -> None:
    """Of few rows, so that the targets' move towards the middle counts."""
    logits, targets = draw_classes(40, seed=seed)
    weights = np.random.default_rng(seed).random(40) + 0.5
    soft = targets * (1 - 1 / 42) + 1 / 42 / 4

    def measure(log_gain: Matrix) -> float:
        return float(-weights @ (soft * log_softmax(np.exp(log_gain) * 2 * logits, axis=1)).sum(1))

    expected = np.exp(minimize(measure, np.zeros(1), method="Nelder-Mead", options={"xatol": 1e-6}).x[0])
    received = fit_inverse_temperature(2 * logits, targets, weights, task="multiclass")
    np.testing.assert_allclose(received, expected, rtol=2e-3)


def test_decisions_without_an_error_do_not_end_in_certainty() -> None:
    truth = np.eye(2)[np.arange(10) % 2]
    link = fit_simple_link(truth, truth, np.ones(10), task="multiclass")
    assert 0.8 < link(truth).max() < 0.99


# --- Platt scaling


def test_a_planted_gain_and_shift_of_labels_are_undone() -> None:
    logits, targets = draw_labels(60_000)
    link = fit_simple_link(3 * logits + [-2.0, 0.0, 2.0], targets, np.ones(len(logits)), task="multilabel")
    np.testing.assert_allclose(link.gain, 1 / 3, rtol=0.02)
    np.testing.assert_allclose(link.shift, [2 / 3, 0, -2 / 3], atol=0.03)


def test_platt_scaling_equals_a_logistic_regression_on_the_decision_values() -> None:
    """Of many rows, where neither the moved targets nor the prior of the shift count."""
    logits, targets = draw_labels(50_000, 1)
    weights = np.random.default_rng(1).random(len(logits)) + 0.5
    gain, shift = fit_platt(2 * logits[:, 0] + 1, targets[:, 0], weights)
    exact = LogisticRegression(C=np.inf, tol=1e-10).fit(2 * logits + 1, targets[:, 0], weights)
    assert gain == pytest.approx(exact.coef_[0, 0], rel=1e-3)
    assert shift == pytest.approx(exact.intercept_[0], abs=1e-3)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
def test_platt_scaling_of_few_rows_equals_a_general_optimiser(scale: float) -> None:
    logits, targets = draw_labels(30, 1, seed=3)
    values, soft = scale * logits[:, 0], targets[:, 0] * (1 - 1 / 32) + 1 / 64

    def measure(point: Matrix) -> float:
        z = point[0] / scale * values + point[1]
        return float((np.logaddexp(0, z) - soft * z).sum() + point[1] ** 2 / 2)

    expected = minimize(measure, np.array([1.0, 0.0]), method="BFGS", options={"gtol": 1e-8}).x
    gain, shift = fit_platt(values, targets[:, 0], np.ones(30))
    assert (gain * scale, shift) == pytest.approx(tuple(expected), rel=1e-4, abs=1e-5)


def test_a_label_of_one_kind_gets_no_shift_and_no_certainty() -> None:
    values = np.random.default_rng(0).normal(-2, 0.5, 40)
    gain, shift = fit_platt(values, np.zeros(40), np.ones(40))
    assert shift == 0
    assert 0 < expit(gain * values).mean() < 0.05


def test_decisions_that_run_against_the_truth_end_at_its_share() -> None:
    logits, targets = draw_labels(2_000, 1)
    gain, shift = fit_platt(-logits[:, 0], targets[:, 0], np.ones(2_000))
    assert 0 < gain < 0.01
    assert expit(shift) == pytest.approx(targets.mean(), abs=0.01)


def test_labels_may_weight_rows_differently() -> None:
    logits, targets = draw_labels(5_000, 2)
    balanced = np.where(targets > 0, 0.5 / targets.mean(0), 0.5 / (1 - targets.mean(0)))
    weights = np.stack([np.ones(5_000), balanced[:, 1]], 1)
    link = fit_simple_link(logits, targets, weights, task="multilabel")
    assert link.shift[0] == pytest.approx(0, abs=0.15)
    assert link.shift[1] > 0.3  # the rare kind counts as much as the other


# --- structured vector scaling


def test_classes_with_scales_and_offsets_of_their_own_are_calibrated_by_class() -> None:
    logits, targets = draw_classes(3_000)
    bent = (logits - [0.0, 1.0, -1.0, 0.0]) / [1.0, 1.0, 0.5, 0.5]
    chosen = choose_link(bent, targets, np.ones(3_000), task="multiclass", folds=make_folds(3_000))
    assert chosen.by_class
    expected, received = softmax(logits, axis=1), chosen.link(bent)
    simple = fit_simple_link(bent, targets, np.ones(3_000), task="multiclass")(bent)
    assert abs(received - expected).mean() < 0.02
    assert abs(simple - expected).mean() > 0.05


def test_where_a_temperature_is_enough_classes_get_nothing_of_their_own() -> None:
    times = 0
    for seed in range(10):
        logits, targets = draw_classes(600, seed=seed)
        chosen = choose_link(3 * logits, targets, np.ones(600), task="multiclass", folds=make_folds(600))
        times += chosen.by_class
        if not chosen.by_class:
            assert np.ptp(chosen.link.gain) == 0 == abs(chosen.link.shift).max()
    assert times <= 3  # one standard error is a coincidence in 16 %


def test_vector_scaling_equals_a_general_optimiser() -> None:
    logits, targets = draw_classes(300, 3)
    weights = np.random.default_rng(0).random(300) + 0.5
    gain = fit_inverse_temperature(logits, targets, weights, task="multiclass")[0]
    soft = targets * (1 - 1 / 302) + 1 / 302 / 3

    def measure(point: Matrix) -> float:
        logs = log_softmax(gain * logits * (1 + point[:3]) + point[3:], axis=1)
        return float(-weights @ (soft * logs).sum(1) / weights.sum() + point @ point / (2 * 300 * 0.3**2))

    point = minimize(measure, np.zeros(6), method="BFGS", options={"gtol": 1e-9}).x
    gains, shifts = fit_vector_scaling(logits, targets, weights, freedom=0.3)
    np.testing.assert_allclose(gains, gain * (1 + point[:3]), atol=2e-3)
    np.testing.assert_allclose(shifts, point[3:], atol=2e-3)


def test_less_freedom_is_nearer_to_the_temperature() -> None:
    logits, targets = draw_classes(300, 3)
    ones = np.ones(300)
    gain = fit_inverse_temperature(logits, targets, ones, task="multiclass")[0]
    far = [
        np.ptp(fit_vector_scaling(logits, targets, ones, freedom=free)[0]) / gain for free in (1e-3, 0.1, 1)
    ]
    assert far[0] < 1e-3 < far[1] < far[2]


def test_views_of_one_image_count_as_one_where_chance_is_measured() -> None:
    """Ten copies of each row show no more than one does."""
    logits, targets = draw_classes(150, seed=1)
    bent, groups = logits + np.array([0.0, 0.8, 0.0, 0.0]), np.arange(150)
    single = choose_link(bent, targets, np.ones(150), task="multiclass", folds=make_folds(150), groups=groups)
    folds = [np.tile(held, 10) for held in make_folds(150)]
    rows = [np.tile(array, (10, 1)) for array in (bent, targets)]
    many = choose_link(*rows, np.ones(1_500), task="multiclass", folds=folds, groups=np.tile(groups, 10))
    alone = choose_link(*rows, np.ones(1_500), task="multiclass", folds=folds)
    assert (single.by_class, many.by_class, alone.by_class) == (False, False, True)


def test_few_rows_of_a_class_leave_the_temperature() -> None:
    logits, targets = draw_classes(30)
    bent = logits * [1.0, 3.0, 1.0, 1.0]
    assert not choose_link(bent, targets, np.ones(30), task="multiclass", folds=make_folds(30)).by_class


# --- answers


@pytest.mark.parametrize(("task", "activation"), [("multiclass", "softmax"), ("multilabel", "sigmoid")])
def test_decisions_of_probabilities_give_the_probabilities_back(task: str, activation: str) -> None:
    logits, _ = draw_classes(50)
    link = Link(activation, np.ones(4), np.zeros(4))
    np.testing.assert_allclose(link(compute_decisions(link(logits), task=task)), link(logits), atol=1e-12)


def test_probabilities_of_exactly_zero_and_one_have_finite_decisions() -> None:
    for task in ("multiclass", "multilabel"):
        assert np.isfinite(compute_decisions(np.array([[0.0, 1.0], [1.0, 0.0]]), task=task)).all()


def test_answers_of_an_over_confident_network_get_their_temperature() -> None:
    logits, targets = draw_classes(20_000)
    answers = softmax(3 * logits, axis=1).astype(np.float32)
    link = fit_answer_link(answers, targets, np.ones((20_000, 1)), task="multiclass")
    assert link is not None
    np.testing.assert_allclose(link.gain, 1 / 3, rtol=0.03)
    assert (link(compute_decisions(answers, task="multiclass")).argmax(1) == answers.argmax(1)).all()


@pytest.mark.parametrize("count", [29, 30])
def test_answers_to_few_images_stay_as_they_are(count: int) -> None:
    logits, targets = draw_classes(count)
    link = fit_answer_link(softmax(logits, axis=1), targets, np.ones((count, 1)), task="multiclass")
    assert (link is None) == (count < 30)


def test_answers_that_cannot_be_judged_stay_as_they_are() -> None:
    logits, targets = draw_classes(50)
    answers, ones = softmax(logits, axis=1), np.ones((50, 1))
    assert fit_answer_link(answers, np.eye(4)[np.zeros(50, int)], ones, task="multiclass") is None
    assert fit_answer_link(np.full((50, 4), np.nan), targets, ones, task="multiclass") is None
    assert fit_answer_link(logits, logits, ones, task="regression") is None


def test_a_label_that_no_image_has_keeps_its_probabilities() -> None:
    logits, targets = draw_labels(200, 2)
    targets[:, 1] = 0
    link = fit_answer_link(expit(3 * logits), targets, np.ones((200, 1)), task="multilabel")
    assert link is not None
    assert link.gain[0] < 0.6
    assert (link.gain[1], link.shift[1]) == (1, 0)


@pytest.mark.parametrize("task", ["binary", "multilabel", "multiclass"])
def test_answers_of_exactly_zero_and_one_give_a_finite_link(task: str) -> None:
    logits, targets = draw_labels(100, 1) if task == "binary" else draw_labels(100, 3)
    if task == "multiclass":
        targets = np.eye(3)[logits.argmax(1)]
        targets[:20] = np.roll(targets[:20], 1, axis=1)
    answers = np.eye(3)[logits.argmax(1)] if task == "multiclass" else (logits > 0).astype(float)
    link = fit_answer_link(answers, targets, np.ones((100, 1)), task=task)
    assert link is not None
    assert np.isfinite([link.gain, link.shift]).all()
    calibrated = link(compute_decisions(answers, task=task))
    assert 0 < calibrated.min() < calibrated.max() < 1


# --- solved heads


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["logistic", "ridge", "lda", "neighbours"])
def test_a_solved_head_answers_unseen_images_with_calibrated_probabilities(solver: str) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(3_000) % 3
    features = 1.2 * np.eye(3)[labels] @ rng.normal(size=(3, 30)) * 0.4 + rng.normal(size=(3_000, 30))
    head = solve(solver, features[:600], labels[:600], task="multiclass")
    answers = head.predict(features[600:])
    confidence, right = answers.max(1), answers.argmax(1) == labels[600:]
    assert confidence.mean() == pytest.approx(right.mean(), abs=0.04)


def test_a_class_of_two_images_and_thirty_images_in_all_are_calibrated() -> None:
    rng = np.random.default_rng(0)
    labels = np.array([0] * 14 + [1] * 14 + [2] * 2)
    features = 2 * np.eye(3)[labels] + rng.normal(size=(30, 3))
    head = solve("logistic", features, labels, task="multiclass")
    assert np.isfinite(head.link.gain).all()
    assert (head.link.gain > 0).all()
    assert np.ptp(head.link.gain) == 0
    head = solve("logistic", features, (labels == 2).astype(int), task="binary")
    assert np.isfinite(head.predict(features)).all()
    assert head.predict(features).max() < 0.99


@pytest.mark.slow
def test_the_phrase_names_calibration_by_class_only_where_it_was_taken() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [1_500, 100, 100])
    features = np.eye(3)[labels] * [1.0, 2.0, 4.0] + rng.normal(size=(1_700, 3))
    heads = [solve(name, features, labels, task="multiclass") for name in ("ridge", "logistic")]
    for head in heads:
        assert head.phrase.endswith(", calibrated by class") == (np.ptp(head.link.gain) > 0)
    assert heads[0].phrase.endswith("calibrated by class")  # ridge's decisions lean to the large class
