"""Classical heads on the features of a frozen backbone: one entry, `solve`.

| solver | tasks | solved by | chosen by cross-validation | becomes |
|---|---|---|---|---|
| logistic | classes, labels | Newton's method, ours | penalty, one a label | a Dense layer |
| ridge | all | one eigendecomposition, ours | penalty, one a label or target | a Dense layer |
| lda | classes, labels | one eigendecomposition, ours | shrinkage | a Dense layer |
| svm | all | LinearSVC one against the rest, LinearSVR | penalty | a Dense layer |
| svm-rbf | all | SVC one against one, SVR | C, gamma | Dense layers around an exponential |
| neighbours | all | a search | k, metric, weights | Dense, top k, a table |
| boosting | all | HistGradientBoosting | number of trees | an estimator, kept with skops |
| any estimator | what it can | its own `fit` | nothing: it has its settings | an estimator, kept with skops |

Labels (multilabel) and several targets are solved one by one where the method knows only one.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.errors import DataError, RegraftError, UsageError, nearest
from regraft.solvers.cross_validation import Family, Part, Settings, Trial, cross_validate, solved
from regraft.solvers.decision import Linear, Link, Rule, Scaler
from regraft.solvers.estimator_io import Kept
from regraft.solvers.sklearn_heads import FAMILIES, given
from regraft.tasks import TASKS

__all__ = ["SOLVERS", "SolvedHead", "part_of", "solve"]

Matrix = NDArray[np.float64]

SOLVERS = tuple(FAMILIES)


@dataclass(frozen=True)
class SolvedHead:
    """A head solved on features.

    Attributes:
        solver: its name, one of `classical.SOLVERS`, or the class of an estimator handed in.
        phrase: how it was found, in words.
        settings: what was chosen; with a number behind the name where labels or targets differ.
        losses: held-out loss of all settings tried, by their text.
        score: the task's score on held-out images of the training part; NaN where none could be held out.
        rule: decision values of standardised features.
        scaler: standardises features.
        link: answers from decision values.
    """

    solver: str
    phrase: str
    settings: Settings
    losses: dict[str, float]
    score: float
    rule: Rule
    scaler: Scaler
    link: Link

    @property
    def kept(self) -> Kept | None:
        """For `write_estimator`: the estimators with their link, or None for a head of Keras layers."""
        return replace(self.rule, link=self.link) if isinstance(self.rule, Kept) else None

    @property
    def weights(self) -> NDArray[np.float32] | None:
        """Kernel (d, units) of the one Dense layer that a linear head is, or None."""
        return self._folded.weights.astype(np.float32) if self._folded else None

    @property
    def bias(self) -> NDArray[np.float32] | None:
        """Bias (units,) of that layer, or None."""
        return self._folded.bias.astype(np.float32) if self._folded else None

    @property
    def _folded(self) -> Linear | None:
        return self.rule.folded(self.scaler, self.link) if isinstance(self.rule, Linear) else None

    def apply(self, features: Any) -> Any:
        """The head as plain Keras layers, the last one named `head_output`.

        Args:
            features: a Keras tensor (batch, d), symbolic or real.

        Returns:
            The task's answers, float32 (batch, units).

        Raises:
            UsageError: the head does not become layers; see `kept`.
        """
        return self.rule.graph(features, self.scaler, self.link)

    def decisions(self, features: NDArray[np.floating[Any]]) -> Matrix:
        """Decision values (n, units) of features (n, d), in float64."""
        return self.rule.decide(self.scaler(features))

    def predict(self, features: NDArray[np.floating[Any]]) -> Matrix:
        """The task's answers, (n, units), to features (n, d), in float64."""
        return self.link(self.decisions(features))


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
    """Solve a classical head; its settings by cross-validation on the rows given.

    Args:
        solver: one of `SOLVERS`, or an estimator of scikit-learn's kind, which is cloned, not changed.
        features: shape (n, d), as the backbone gives them; or several such blocks, which count alike however
            wide they are.
        targets: class numbers (n,) for "multiclass" and "binary", 0/1 (n, labels) for "multilabel", numbers
            (n, targets) for "regression".
        task: one of `tasks.TASKS`.
        seed: of the folds and of solvers that draw numbers.
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
    family, name = _family(solver, task)
    blocks = () if isinstance(features, np.ndarray) else tuple(block.shape[1] for block in features)
    data = np.concatenate(features, 1) if blocks else np.asarray(features)
    part, link = part_of(data, np.asarray(targets), task=task, seed=seed, weights=sample_weight)
    part = replace(part, blocks=blocks)
    places = None if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    with _told(family, part):
        trials, held = cross_validate(family, part, groups=places)
        best = _best(trials, family, part)
        chosen, link = _settings(best, family, part), _link(best, link)
        rule, scaler = _solved(family, part, chosen)
    return SolvedHead(
        solver=name,
        phrase=_phrase(family, _shown(chosen), trials),
        settings=_shown(chosen),
        losses={_text(trial.settings): float(trial.losses.mean()) for trial in trials},
        score=_score(best, part.told(held), task),
        rule=rule,
        scaler=scaler,
        link=link,
    )


@contextmanager
def _told(family: Family, part: Part) -> Iterator[None]:
    """What a solver cannot do becomes one message; what it remarks on the way is not for the user."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Liblinear failed to converge")  # within the rough tolerance
            warnings.filterwarnings("ignore", "Bins whose width|Feature .* is constant", UserWarning)
            yield
    except (ValueError, np.linalg.LinAlgError) as error:
        if isinstance(error, RegraftError):
            raise
        shape = f"{part.data.shape[0]:,} images with {part.data.shape[1]:,} features"
        raise DataError(
            f"{family.phrase} cannot be solved on {shape}: {error}. Choose another solver."
        ) from error


def _family(solver: str | Any, task: str) -> tuple[Family, str]:
    if task not in TASKS:
        raise UsageError(
            f"task: expected one of {', '.join(TASKS)}. Received: {task!r}.{nearest(str(task), TASKS)}"
        )
    if not isinstance(solver, str):
        return given(solver, task), type(solver).__name__
    if solver not in FAMILIES:
        hint = nearest(solver, FAMILIES)
        raise UsageError(f"solver: expected one of {', '.join(FAMILIES)}. Received: {solver!r}.{hint}")
    family = FAMILIES[solver]
    if task not in family.tasks:
        able = ", ".join(name for name, other in FAMILIES.items() if task in other.tasks)
        raise UsageError(f"The solver {solver} cannot do {task}; these can: {able}.")
    return family, solver


def part_of(
    features: NDArray[Any], targets: NDArray[Any], *, task: str, seed: int, weights: NDArray[Any] | None
) -> tuple[Part, Link]:
    """Checked rows, a regression's targets standardised; and the link that gives their units back."""
    rows = len(features)
    if features.ndim != 2 or len(targets) != rows or rows < 2:
        raise DataError(
            "Expected features (n, d) and as many targets, two at least. "
            f"Received: {features.shape} and {targets.shape}."
        )
    if not np.isfinite(features).all() or not np.isfinite(targets).all():
        raise DataError(
            "Expected finite features and targets. Received: values that are infinite or no numbers."
        )
    if task in ("multiclass", "binary"):
        _check_classes(targets, task)
    shares = np.ones(rows) if weights is None else np.asarray(weights, np.float64)
    if shares.shape != (rows,) or not np.isfinite(shares).all() or shares.min() < 0 or not shares.any():
        raise DataError(
            f"Expected {rows} weights, not negative and not all zero. Received: shape {shares.shape}."
        )
    outputs = int(targets.max()) + 1 if task == "multiclass" else targets.reshape(rows, -1).shape[1]
    encoded = (
        targets.astype(np.float64).reshape(rows, -1)
        if task == "regression"
        else TASKS[task].encode(targets, outputs).astype(np.float64)
    )
    scaler = Scaler.of(encoded) if task == "regression" else Scaler.none(encoded.shape[1])
    link = Link(TASKS[task].activation, scaler.scale, scaler.mean)
    data = features.astype(np.float64)
    return Part(data, scaler(encoded), shares * rows / shares.sum(), task, seed), link


def _check_classes(labels: NDArray[Any], task: str) -> None:
    found = np.unique(labels)
    wanted = np.arange(2 if task == "binary" else max(2, int(found.max()) + 1))
    if not np.array_equal(found, wanted):
        raise DataError(
            f"Expected images of every class in training: {len(wanted)} classes. "
            f"Received: images of {len(np.intersect1d(found, wanted))} of them."
        )


def _best(trials: list[Trial], family: Family, part: Part) -> list[Trial]:
    """The trial of the lowest loss, for each unit: one for all unless the family has settings a unit."""
    units = part.targets.shape[1]
    if not trials:
        return []
    if family.per_unit and part.task in ("multilabel", "regression"):
        return [min(trials, key=lambda trial: float(trial.losses[unit])) for unit in range(units)]
    return [min(trials, key=lambda trial: float(trial.losses.mean()))] * units


def _settings(best: list[Trial], family: Family, part: Part) -> list[Settings]:
    """The settings of each unit; the middle of the grid where nothing could be held out to choose by."""
    grid = list(family.grid(part))
    return [trial.settings for trial in best] or [grid[len(grid) // 2]] * part.targets.shape[1]


def _link(best: list[Trial], link: Link) -> Link:
    if link.activation == "linear" or not best:
        return link
    return replace(link, gain=np.array([trial.link.gain[unit] for unit, trial in enumerate(best)]))


def _solved(family: Family, part: Part, chosen: list[Settings]) -> tuple[Rule, Scaler]:
    """The rule on all rows; where units have settings of their own, each takes its column of theirs."""
    found = {_text(settings): partial(solved, family, part, settings) for settings in chosen}
    rules = {text: solve_one() for text, solve_one in found.items()}
    first, scaler = rules[_text(chosen[0])]
    if len(rules) == 1:
        return first, scaler
    linear = [rules[_text(settings)][0] for settings in chosen]
    weights = [rule.weights[:, unit] for unit, rule in enumerate(linear) if isinstance(rule, Linear)]
    bias = [rule.bias[unit] for unit, rule in enumerate(linear) if isinstance(rule, Linear)]
    return Linear(np.stack(weights, 1), np.array(bias)), scaler


def _score(best: list[Trial], part: Part, task: str) -> float:
    if not best:
        return float("nan")
    different = {id(trial): trial for trial in best}  # mostly one for all units
    answers = {number: trial.link(trial.decisions) for number, trial in different.items()}
    chosen = np.stack([answers[id(trial)][:, unit] for unit, trial in enumerate(best)], 1)
    return TASKS[task].score(chosen, part.targets)


def _shown(chosen: list[Settings]) -> Settings:
    if len({_text(settings) for settings in chosen}) == 1:
        return chosen[0]
    return {
        f"{name} {unit}": value for unit, settings in enumerate(chosen) for name, value in settings.items()
    }


def _text(settings: Settings) -> str:
    shown = {name: f"{value:.3g}" if isinstance(value, float) else value for name, value in settings.items()}
    return ", ".join(f"{name} {value}" for name, value in shown.items())


def _phrase(family: Family, settings: Settings, trials: list[Trial]) -> str:
    how = " by cross-validation" if len(trials) > 1 else ""
    names = {name.rsplit(" ", 1)[0] for name in settings if " " in name}
    what = f"{' and '.join(sorted(names))} of each output" if names else _text(settings)
    return f"{family.phrase}, {what}{how}" if settings else family.phrase
