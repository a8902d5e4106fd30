"""Heads solved on the features of a frozen backbone: one entry, `solve`.

| solver | tasks | solved by | chosen by cross-validation | becomes |
|---|---|---|---|---|
| logistic | classes, labels | Newton's method, ours | penalty, one per label | a Dense layer |
| ridge | all | one eigendecomposition, ours | penalty, one per label or target | a Dense layer |
| lda | classes, labels | one eigendecomposition, ours | shrinkage | a Dense layer |
| svm | all | LinearSVC one against the rest, LinearSVR | penalty | a Dense layer |
| svm-rbf | all | SVC one against one, SVR | C, gamma | Dense layers around an exponential |
| neighbours | all | a search | k, metric, weights | Dense, top k, a table |
| boosting | all | HistGradientBoosting | number of trees | an estimator, written with skops |
| any estimator | its own | its own `fit` | nothing: it has its settings | an estimator, written with skops |

Labels (multilabel) and several targets are solved one by one if the method knows only one.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.errors import DataError, RegraftError, UsageError, suggest_nearest
from regraft.solvers.calibration import CalibratedLink, choose_link
from regraft.solvers.closed_form import DISCRIMINANT, RIDGE
from regraft.solvers.cross_validation import (
    HeldOut,
    Settings,
    SolverSpec,
    TrainingRows,
    Trial,
    cross_validate,
    fit_rule,
    make_folds,
)
from regraft.solvers.decision import Linear, Link, Rule, Scaler
from regraft.solvers.estimator_io import EstimatorHead
from regraft.solvers.fewer_rows import answer_from_fewer
from regraft.solvers.logistic import LOGISTIC
from regraft.solvers.sklearn_heads import BOOSTING, LINEAR_SVM, NEIGHBOURS, RADIAL_SVM, spec_from_estimator
from regraft.tasks import TASKS

__all__ = ["SOLVER_SPECS", "SolvedHead", "make_training_rows", "solve"]

Matrix = NDArray[np.float64]

CALIBRATION_FOLDS = 5

SOLVER_SPECS: dict[str, SolverSpec] = {
    "logistic": LOGISTIC,
    "ridge": RIDGE,
    "lda": DISCRIMINANT,
    "svm": LINEAR_SVM,
    "svm-rbf": RADIAL_SVM,
    "neighbours": NEIGHBOURS,
    "boosting": BOOSTING,
}


@dataclass(frozen=True)
class SolvedHead:
    """A head solved on features.

    Attributes:
        solver: key of `SOLVER_SPECS`, or the class name of a user's estimator.
        phrase: description of how the head was found.
        settings: chosen settings; names end with a number if labels or targets differ.
        losses: held-out loss of each choice of settings, by its text.
        score: the task's score on held-out images of the training part; NaN if none could be held out.
        rule: from standardised features to decision values.
        scaler: standardises features.
        link: from decision values to answers.
        held_out: decision values of rows by heads solved without them, with the chosen settings; None if
            nothing could be held out.
    """

    solver: str
    phrase: str
    settings: Settings
    losses: dict[str, float]
    score: float
    rule: Rule
    scaler: Scaler
    link: Link
    held_out: HeldOut | None = None

    @property
    def estimator_head(self) -> EstimatorHead | None:
        """Estimators with their link, for `write_estimator`; None for a head of Keras layers."""
        return replace(self.rule, link=self.link) if isinstance(self.rule, EstimatorHead) else None

    @property
    def weights(self) -> Matrix | None:
        """Kernel (d, units) of the one Dense layer that a linear head is, in float64, or None."""
        return self._raw_rule.weights if self._raw_rule else None

    @property
    def bias(self) -> Matrix | None:
        """Bias (units,) of that layer, in float64, or None."""
        return self._raw_rule.bias if self._raw_rule else None

    @property
    def _raw_rule(self) -> Linear | None:
        return self.rule.absorb(self.scaler, self.link) if isinstance(self.rule, Linear) else None

    def build_layers(self, features: Any) -> Any:
        """Apply the head as plain Keras layers, the last one named `head_output`.

        Args:
            features: a Keras tensor (batch, d), symbolic or real.

        Returns:
            The task's answers, float32 (batch, units).

        Raises:
            UsageError: the head does not become layers; see `estimator_head`.
        """
        return self.rule.build_layers(features, self.scaler, self.link)

    def decide(self, features: NDArray[np.floating[Any]]) -> Matrix:
        """Return decision values (n, units) of features (n, d), in float64."""
        return self.rule.decide(self.scaler(features))

    def predict(self, features: NDArray[np.floating[Any]]) -> Matrix:
        """Return the task's answers, (n, units), to features (n, d), in float64."""
        return self.link(self.decide(features))


def solve(
    solver: str | Any,
    features: NDArray[np.floating[Any]] | Sequence[NDArray[np.floating[Any]]],
    targets: NDArray[Any],
    *,
    task: str,
    seed: int = 0,
    groups: NDArray[Any] | Sequence[str] | None = None,
    sample_weight: NDArray[np.floating[Any]] | None = None,
) -> SolvedHead:
    """Solve a head, with settings chosen by cross-validation on the same rows.

    Args:
        solver: key of `SOLVER_SPECS`, or a scikit-learn estimator, which is cloned and not changed.
        features: raw features, shape (n, d); or several such blocks, which count alike whatever their width.
        targets: class numbers (n,) for "multiclass" and "binary", 0/1 (n, labels) for "multilabel", numbers
            (n, targets) for "regression".
        task: one of `tasks.TASKS`.
        seed: random seed, for folds and for solvers that draw numbers.
        groups: shape (n,); rows of one group, such as views of one image, are never on both sides of a fold.
        sample_weight: shape (n,), not negative: how much each row counts.

    Raises:
        UsageError: an unknown solver, or one that cannot do the task.
        DataError: features and targets that no such head can be solved on.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> labels = np.arange(60) % 3
        >>> features = 5 * np.eye(3)[labels] + rng.normal(size=(60, 3))
        >>> head = solve("svm", features, labels, task="multiclass")
        >>> bool((head.predict(features).argmax(1) == labels).mean() > 0.95)
        True
        >>> head.weights.shape
        (3, 3)
    """
    spec, name = _find_spec(solver, task)
    blocks = () if isinstance(features, np.ndarray) else tuple(block.shape[1] for block in features)
    data = np.concatenate(features, 1) if blocks else np.asarray(features)
    rows, link = make_training_rows(data, np.asarray(targets), task=task, seed=seed, weights=sample_weight)
    rows = replace(rows, blocks=blocks)
    numbers = None if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    with _explain_failure(spec, rows):
        trials, held = cross_validate(spec, rows, groups=numbers)
        best = _choose_trials(trials, spec, rows)
        settings = _list_settings(best, spec, rows)
        rule, scaler = _solve_units(spec, rows, settings)
        fewer = answer_from_fewer(spec, rows, settings, groups=numbers) if best else None
    held_out = HeldOut(np.flatnonzero(held), _join_decisions(best), fewer) if best else None
    if best and spec.keeps_predictions and task != "regression":
        calibrated = CalibratedLink(best[0].link)
    else:
        calibrated = _calibrate(link, held_out, rows, groups=numbers)
    phrase = _describe(spec, _merge_settings(settings), trials)
    return SolvedHead(
        solver=name,
        phrase=f"{phrase}, calibrated by class" if calibrated.by_class else phrase,
        settings=_merge_settings(settings),
        losses={_format(trial.settings): float(trial.losses.mean()) for trial in trials},
        score=_score(held_out, calibrated.link, rows),
        rule=rule,
        scaler=scaler,
        link=calibrated.link,
        held_out=held_out,
    )


@contextmanager
def _explain_failure(spec: SolverSpec, rows: TrainingRows) -> Iterator[None]:
    """Turn a solver's failure into one message, and hide warnings that a user can do nothing about."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Liblinear failed to converge")  # within the rough tolerance
            warnings.filterwarnings("ignore", "Bins whose width|Feature .* is constant", UserWarning)
            yield
    except (ValueError, np.linalg.LinAlgError) as error:
        if isinstance(error, RegraftError):
            raise
        shape = f"{rows.data.shape[0]:,} images with {rows.data.shape[1]:,} features"
        raise DataError(
            f"{spec.phrase} cannot be solved on {shape}: {error}. Choose another solver."
        ) from error


def _find_spec(solver: str | Any, task: str) -> tuple[SolverSpec, str]:
    if task not in TASKS:
        hint = suggest_nearest(str(task), TASKS)
        raise UsageError(f"task: expected one of {', '.join(TASKS)}. Received: {task!r}.{hint}")
    if not isinstance(solver, str):
        return spec_from_estimator(solver, task), type(solver).__name__
    if solver not in SOLVER_SPECS:
        hint = suggest_nearest(solver, SOLVER_SPECS)
        raise UsageError(f"solver: expected one of {', '.join(SOLVER_SPECS)}. Received: {solver!r}.{hint}")
    spec = SOLVER_SPECS[solver]
    if task not in spec.tasks:
        able = ", ".join(name for name, other in SOLVER_SPECS.items() if task in other.tasks)
        raise UsageError(f"The solver {solver} cannot do {task}; these can: {able}.")
    return spec, solver


def make_training_rows(
    features: NDArray[Any], targets: NDArray[Any], *, task: str, seed: int, weights: NDArray[Any] | None
) -> tuple[TrainingRows, Link]:
    """Check features and targets, and standardise the targets of a regression.

    Returns:
        The rows, and the link that gives answers the targets' units back.

    Raises:
        DataError: features, targets and weights do not fit together, or are not finite.
    """
    count = len(features)
    if features.ndim != 2 or len(targets) != count or count < 2:
        raise DataError(
            "Expected features (n, d) and as many targets, two at least. "
            f"Received: {features.shape} and {targets.shape}."
        )
    if not np.isfinite(features).all() or not np.isfinite(targets).all():
        raise DataError(
            "Expected finite features and targets. Received: values that are infinite or not numbers."
        )
    if task in ("multiclass", "binary"):
        _check_classes(targets, task)
    shares = np.ones(count) if weights is None else np.asarray(weights, np.float64)
    if shares.shape != (count,) or not np.isfinite(shares).all() or shares.min() < 0 or not shares.any():
        raise DataError(
            f"Expected {count} weights, not negative and not all zero. Received: shape {shares.shape}."
        )
    outputs = int(targets.max()) + 1 if task == "multiclass" else targets.reshape(count, -1).shape[1]
    encoded = (
        targets.astype(np.float64).reshape(count, -1)
        if task == "regression"
        else TASKS[task].encode(targets, outputs).astype(np.float64)
    )
    scaler = Scaler.from_features(encoded) if task == "regression" else Scaler.identity(encoded.shape[1])
    link = Link(TASKS[task].activation, scaler.scale, scaler.mean)
    data = features.astype(np.float64)
    return TrainingRows(data, scaler(encoded), shares * count / shares.sum(), task, seed), link


def _check_classes(labels: NDArray[Any], task: str) -> None:
    present = np.unique(labels)
    expected = np.arange(2 if task == "binary" else max(2, int(present.max()) + 1))
    if not np.array_equal(present, expected):
        raise DataError(
            f"Expected images of every class in training: {len(expected)} classes. "
            f"Received: images of {len(np.intersect1d(present, expected))} of them."
        )


def _choose_trials(trials: list[Trial], spec: SolverSpec, rows: TrainingRows) -> list[Trial]:
    """Return the trial of lowest loss for each unit: the same one unless each unit has its own settings."""
    units = rows.targets.shape[1]
    if not trials:
        return []
    if spec.is_per_unit and rows.task in ("multilabel", "regression"):
        return [min(trials, key=lambda trial: float(trial.losses[unit])) for unit in range(units)]
    return [min(trials, key=lambda trial: float(trial.losses.mean()))] * units


def _list_settings(best: list[Trial], spec: SolverSpec, rows: TrainingRows) -> list[Settings]:
    """Return the settings of each unit; the middle of the grid if nothing could be held out to choose by."""
    grid = list(spec.grid(rows))
    return [trial.settings for trial in best] or [grid[len(grid) // 2]] * rows.targets.shape[1]


def _join_decisions(best: list[Trial]) -> Matrix:
    """Return the held-out decision values, (m, units), of each unit from its own trial."""
    return np.stack([trial.decisions[:, unit] for unit, trial in enumerate(best)], 1)


def _calibrate(
    link: Link, held_out: HeldOut | None, rows: TrainingRows, *, groups: NDArray[Any] | None
) -> CalibratedLink:
    """Fit the link to held-out decision values; a regression keeps the one that it has."""
    if held_out is None or rows.task == "regression":
        return CalibratedLink(link)
    numbers = held_out.rows
    targets, weights = rows.targets[numbers], rows.weights[numbers]
    groups, folds = None if groups is None else groups[numbers], []
    if rows.task == "multiclass":
        labels = rows.labels[numbers]
        folds = make_folds(labels, count=CALIBRATION_FOLDS, seed=rows.seed, groups=groups)
    return choose_link(
        held_out.decisions, targets, weights, task=rows.task, folds=folds, groups=groups, seed=rows.seed
    )


def _score(held_out: HeldOut | None, link: Link, rows: TrainingRows) -> float:
    """Return the task's score on held-out rows; the targets of a regression are standardised."""
    if held_out is None:
        return float("nan")
    answers = held_out.decisions if rows.task == "regression" else link(held_out.decisions)
    return TASKS[rows.task].score(answers, rows.targets[held_out.rows])


def _solve_units(spec: SolverSpec, rows: TrainingRows, settings: list[Settings]) -> tuple[Rule, Scaler]:
    """Solve all rows; if units have settings of their own, take from each solution the unit's column."""
    names = [_format(one) for one in settings]
    solutions = {
        name: fit_rule(spec, rows, one) for name, one in dict(zip(names, settings, strict=True)).items()
    }
    first, scaler = solutions[names[0]]
    if len(solutions) == 1:
        return first, scaler
    rules = [solutions[name][0] for name in names]
    weights = [rule.weights[:, unit] for unit, rule in enumerate(rules) if isinstance(rule, Linear)]
    bias = [rule.bias[unit] for unit, rule in enumerate(rules) if isinstance(rule, Linear)]
    return Linear(np.stack(weights, 1), np.array(bias)), scaler


def _merge_settings(settings: list[Settings]) -> Settings:
    """Return the settings of all units as one; if they differ, names end with the number of the unit."""
    if len({_format(one) for one in settings}) == 1:
        return settings[0]
    return {f"{name} {unit}": value for unit, one in enumerate(settings) for name, value in one.items()}


def _format(settings: Settings) -> str:
    texts = {name: f"{value:.3g}" if isinstance(value, float) else value for name, value in settings.items()}
    return ", ".join(f"{name} {value}" for name, value in texts.items())


def _describe(spec: SolverSpec, settings: Settings, trials: list[Trial]) -> str:
    if not settings:
        return spec.phrase
    unit_names = {name.rsplit(" ", 1)[0] for name in settings if " " in name}
    text = f"{' and '.join(sorted(unit_names))} of each output" if unit_names else _format(settings)
    return f"{spec.phrase}, {text}{' by cross-validation' if len(trials) > 1 else ''}"
