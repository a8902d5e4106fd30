"""What a run found: the data, the model, what was decided and why."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from regraft.data.catalog import Catalog
from regraft.recipe import Recipe

if TYPE_CHECKING:
    import keras

    from regraft.backbone.load import Backbone
    from regraft.features.extract import Features
    from regraft.training.fit import EpochRecord, Fitted
    from regraft.training.solvers import Probe

__all__ = ["Decision", "Outcome"]


@dataclass(frozen=True)
class Decision:
    """What was kept and why.

    Attributes:
        unfreeze: the plan that was trained; "none" for the linear probe.
        reason: a sentence for the user.
        planned: the number of passes the rates were laid out for.
        epochs, best: how many passes ran, and after which the kept weights were taken (0: the probe).
        stopped: what ended fine-tuning; see `training.fit.Fitted`.
        trained: layers and parameters that trained, in words.
        history: a record an epoch.
    """

    unfreeze: str
    reason: str
    planned: int = 0
    epochs: int = 0
    best: int = 0
    stopped: str = "done"
    trained: str = "the head alone"
    history: list[EpochRecord] = field(default_factory=list)

    @property
    def fine_tuned(self) -> bool:
        """Whether the model is anything but the probe."""
        return self.best > 0

    @classmethod
    def of(cls, unfreeze: str, fitted: Fitted, why: str) -> Decision:
        """The decision a finished fine-tuning comes to."""
        first, best = fitted.history[0], fitted.history[fitted.best]
        done = fitted.history[-1].epoch
        ends = {
            "budget": "the budget ran out",
            "interrupted": "it was interrupted",
            "diverged": "it diverged",
        }
        end = f"; {ends[fitted.stopped]} in epoch {done}" if fitted.stopped in ends else ""
        if fitted.best:
            reason = (
                f"Fine-tuned ({unfreeze}, {why}): on validation a loss of {best.val_loss:.3f} against "
                f"{first.val_loss:.3f} of the linear probe and a top-1 of {best.val_top1:.3f} against "
                f"{first.val_top1:.3f}, after epoch {fitted.best} of {done}{end}."
            )
        else:
            tried = min(fitted.history[1:], key=lambda record: record.val_loss, default=first)
            reason = (
                f"The linear probe: fine-tuning {unfreeze} did not beat it on validation, with a loss of "
                f"{tried.val_loss:.3f} against {first.val_loss:.3f} and a top-1 of {tried.val_top1:.3f} "
                f"against {first.val_top1:.3f} at its best{end}."
            )
        return cls(
            unfreeze,
            reason,
            planned=fitted.planned,
            epochs=done,
            best=fitted.best,
            stopped=fitted.stopped,
            trained=str(fitted.trained),
            history=fitted.history,
        )


@dataclass(frozen=True)
class Outcome:
    """Everything a run made. `answers`: part -> probabilities by the model and by the probe, (n, classes)."""

    recipe: Recipe
    catalog: Catalog
    backbone: Backbone
    model: keras.Model
    features: Features
    probe: Probe
    decision: Decision
    answers: dict[str, tuple[NDArray[Any], NDArray[Any]]]
    seconds: dict[str, float]
