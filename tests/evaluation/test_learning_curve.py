"""The forecast of a score from fewer images: its law, its band, its measurements, and bad input."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from regraft.evaluation.learning_curve import compute_learning_curve
from regraft.metrics.learning_curve import fit_power_law


def make_classes(count=600, classes=4, width=60, noise=1.0, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    return 1.5 * np.eye(classes, width)[labels] + noise * rng.normal(size=(count, width)), labels


@pytest.mark.parametrize(
    ("ceiling", "factor", "exponent"), [(0.95, 3.0, 0.7), (1.0, 1.0, 0.3), (0.8, 0.0, 0.5)]
)
def test_a_planted_power_law_is_continued(ceiling, factor, exponent):
    sizes = np.array([100, 200, 500, 1000])
    rng = np.random.default_rng(0)
    by_block = ceiling - factor * sizes**-exponent + 0.02 * rng.normal(size=(10, 1))
    by_block -= by_block.mean(0) - (ceiling - factor * sizes**-exponent)
    law = fit_power_law(sizes, by_block, np.full(4, 0.001))
    truth = ceiling - factor * 4000**-exponent
    forecast = law.forecast(4000)
    assert forecast.low <= truth <= forecast.high
    assert forecast.value == pytest.approx(truth, abs=0.012)
    assert law.predict(np.array([10**9])).max() <= 1


def test_noise_widens_the_band():
    sizes = np.array([100, 200, 500, 1000])
    by_block = np.tile(0.9 - sizes**-0.5, (10, 1))
    widths = []
    for noise in (0.001, 0.02):
        forecast = fit_power_law(sizes, by_block, np.full(4, noise)).forecast(2000)
        widths.append(forecast.high - forecast.low)
    assert widths[1] > 3 * widths[0]


@pytest.mark.slow
def test_scores_are_those_of_heads_of_another_library_on_as_many_images():
    features, labels = make_classes()
    curve = compute_learning_curve(features, labels, task="multiclass")
    assert curve.sizes == (48, 96, 240, 480)
    rng = np.random.default_rng(1)
    for size, score in zip(curve.sizes, curve.scores, strict=True):
        hits = []
        for _ in range(6):
            order = rng.permutation(600)
            train, test = order[:size], order[-120:]
            head = LogisticRegression(C=1 / (size * 0.1), max_iter=500).fit(features[train], labels[train])
            hits.append(head.score(features[test], labels[test]))
        assert score == pytest.approx(np.mean(hits), abs=0.05)


@pytest.mark.slow
def test_the_forecast_holds_for_more_images_of_the_same_kind():
    """A curve of 600 images says what 2,400 will score, and that of 2,400 is measured at 1,920."""
    features, labels = make_classes(2400)
    few = compute_learning_curve(features[:600], labels[:600], task="multiclass")
    many = compute_learning_curve(features, labels, task="multiclass")
    forecast = few.forecasts[2400]
    assert forecast.low - 0.02 <= many.scores[-1] <= forecast.high + 0.02
    assert few.gain.low > 0
    assert few.gain.value > many.gain.value


@pytest.mark.slow
@pytest.mark.parametrize("task", ["binary", "multilabel", "regression"])
def test_every_task_has_a_curve_and_the_same_bits_again(task):
    features, labels = make_classes(200)
    targets = {
        "binary": (labels > 1).astype(int),
        "multilabel": np.eye(4, dtype=np.float32)[labels],
        "regression": features[:, :2] @ np.array([[1.0, 0.5], [-0.5, 2.0]]) + labels[:, None],
    }[task]
    curve = compute_learning_curve(features, targets, task=task)
    assert curve.scores[0] < curve.scores[-1]
    assert curve.gain.low <= curve.gain.value <= curve.gain.high
    assert curve.score in curve.describe()
    assert curve == compute_learning_curve(features, targets, task=task)
    assert bool(curve.output_gains) == (task == "multilabel")


@pytest.mark.slow
def test_the_class_with_the_steepest_curve_is_named():
    """Images of one class are of twelve kinds, those of each other class of one kind."""
    features, labels = make_classes(400, noise=0.6)
    features[labels == 2, 2] -= 1.5
    rows = np.flatnonzero(labels == 2)
    features[rows, 10 + np.arange(len(rows)) % 12] += 3.0
    assert compute_learning_curve(features, labels, task="multiclass").output_gains[0].output == 2


@pytest.mark.slow
def test_images_of_a_group_are_never_on_both_sides(monkeypatch):
    """Ten copies of each image: a copy in training would tell the class of any other."""
    features, labels = make_classes(60, noise=3.0)
    groups = np.repeat(np.arange(60), 10)
    copies = features[groups], labels[groups]
    apart = compute_learning_curve(*copies, task="multiclass", groups=groups)
    together = compute_learning_curve(*copies, task="multiclass")
    assert together.scores[-1] > 0.95
    assert apart.scores[-1] < 0.8


@pytest.mark.slow
def test_few_images_and_constant_numbers():
    features, labels = make_classes(30, classes=2)
    assert compute_learning_curve(features, labels, task="binary") is None
    features, labels = make_classes(101, classes=3)
    labels[labels == 2] = np.append([2, 2], np.zeros((labels == 2).sum() - 2, int))  # two images of a class
    assert compute_learning_curve(features, labels, task="multiclass").sizes[0] >= 3
    assert compute_learning_curve(features[:4], np.array([0, 1, 0, 1]), task="binary") is None
    assert compute_learning_curve(features, np.full((101, 1), 7.0), task="regression") is None


@pytest.mark.slow
def test_of_many_images_one_fold_is_scored():
    features, labels = make_classes(600)
    curve = compute_learning_curve(features, labels, task="multiclass", limits=(400, 100))
    assert curve.sizes[-1] == pytest.approx(320, abs=4)
    assert (curve.images, max(curve.forecasts)) == (600, 2400)
