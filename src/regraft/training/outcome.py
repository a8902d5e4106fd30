"""What a run found: the data, the model, what was decided and why."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from regraft.backbones.info import BackboneFacts
from regraft.data.catalog import Catalog
from regraft.recipe import Recipe, Solver

if TYPE_CHECKING:
    import keras

    from regraft.features.extract import Features
    from regraft.solvers.estimator_io import Kept
    from regraft.training.fit import Fitted

__all__ = ["UNTOUCHED", "Attempt", "Decision", "Outcome", "TrainedModel"]

UNTOUCHED = "Nothing of the backbone was trained, as asked for."

_ENDS = {
    "budget": "the budget ran out",
    "interrupted": "it was interrupted",
    "diverged": "its loss left the finite numbers",
}


@dataclass(frozen=True)
class Attempt:
    """One thing that a search tried, judged on validation at its best epoch.

    Attributes:
        head: the solver that found its head.
        unfreeze: the freeze plan; "none" for the head alone.
        learning_rate, backbone_rate: of its phase; None for the head alone.
        epochs: how many it was given; 0 for a head that was solved.
        val_loss, val_score: see `tasks`.
        seconds: what it took.
        stopped: see `training.fit.Fitted`; "done" for a head that was solved.
        kept: whether the model is this one.
    """

    head: str
    unfreeze: str
    learning_rate: float | None
    backbone_rate: float | None
    epochs: int
    val_loss: float
    val_score: float
    seconds: float
    stopped: str = "done"
    kept: bool = False

    @property
    def rate_below(self) -> float | None:
        """The rate of the pre-trained layers, where any trained."""
        if self.learning_rate is None or self.backbone_rate is None:
            return None
        return self.learning_rate * self.backbone_rate


@dataclass(frozen=True)
class Decision:
    """What was trained, what was kept, and why.

    Attributes:
        reason: sentences for the user.
        phases: what each phase of training by gradient did, in order.
        attempts: what a search tried, in order.
    """

    reason: str
    phases: tuple[Fitted, ...] = field(default=())
    attempts: tuple[Attempt, ...] = field(default=())

    @property
    def fine_tuned(self) -> bool:
        """Whether anything of the backbone was trained and kept."""
        return any(phase.best > 0 and phase.unfreeze != "none" for phase in self.phases)

    @property
    def interrupted(self) -> bool:
        """Whether the user stopped a phase."""
        stopped = [each.stopped for each in self.phases] + [each.stopped for each in self.attempts]
        return "interrupted" in stopped

    @classmethod
    def of(cls, phases: tuple[Fitted, ...], score_name: str) -> Decision:
        """The decision that finished phases come to."""
        return cls(" ".join(_sentence(phase, score_name) for phase in phases), phases)


def _sentence(fitted: Fitted, score_name: str) -> str:
    first, best = fitted.history[0], fitted.history[fitted.best]
    done = fitted.history[-1].epoch
    end = f"; {_ENDS[fitted.stopped]} in epoch {done}" if fitted.stopped in _ENDS else ""
    if fitted.stopped == "diverged":
        end += f", so try a tenth of its rate: --learning-rate {fitted.phase.learning_rate / 10:g}"
    what = "The head, trained by gradient" if fitted.unfreeze == "none" else f"Fine-tuning {fitted.unfreeze}"
    why = f" ({fitted.why})" if fitted.why else ""
    score = _a(score_name)
    if fitted.best:
        return (
            f"{what}{why}, kept: on validation a loss of {best.val_loss:.3g} against {first.val_loss:.3g} "
            f"before and {score} of {best.val_score:.3f} against {first.val_score:.3f}, after epoch "
            f"{fitted.best} of {done}{end}."
        )
    tried = min(fitted.history[1:], key=lambda record: record.val_loss, default=first)
    return (
        f"{what}{why}, not kept: it did not beat what was there before on validation, with a loss of "
        f"{tried.val_loss:.3g} against {first.val_loss:.3g} and {score} of {tried.val_score:.3f} "
        f"against {first.val_score:.3f} at its best{end}."
    )


def _a(name: str) -> str:
    """With its article: "an R2", "an mAP", "a top-1"."""
    return f"{'an' if name[0] in 'Rm' else 'a'} {name}"


@dataclass(frozen=True)
class TrainedModel:
    """The network that a run trained.

    Attributes:
        model: RGB pixels 0..255 to answers, or to what `kept` answers from.
        photos: how many images make a sample.
        kept: scikit-learn estimators that answer from what the model gives, if the head is made of them.
        graph: the model as OpenVINO's file, where the store has it.
    """

    model: keras.Model
    photos: int = 1
    kept: Kept | None = None
    graph: Path | None = None

    @property
    def parameters(self) -> int:
        """How many numbers the model holds."""
        return int(self.model.count_params())


@dataclass(frozen=True)
class Outcome:
    """Everything a run made.

    Attributes:
        head: how the head was found, as a phrase: "logistic regression, penalty 0.01 by cross-validation".
        answers: part -> answers of the model and of the head on the untouched backbone, shapes as in `tasks`.
        warnings: what the user must know of the model, for console and report.
        leaks: part -> how many of its samples show a picture of a part before it; see `data.leaks`.
        solver: of the head, where a search chose it; None where the recipe says it.
        handed: what was handed over in Python, which no recipe can hold: "backbone", "head".
    """

    recipe: Recipe
    catalog: Catalog
    backbone: BackboneFacts
    network: TrainedModel
    features: Features
    head: str
    decision: Decision
    answers: dict[str, tuple[NDArray[Any], NDArray[Any]]]
    seconds: dict[str, float]
    warnings: tuple[str, ...] = ()
    handed: tuple[str, ...] = ()
    leaks: dict[str, int] = field(default_factory=dict)
    solver: Solver | None = None
