"""What a search may choose from: freeze plans, rates, heads, epochs."""

from __future__ import annotations

from dataclasses import dataclass

from regraft.errors import UsageError
from regraft.recipe import Phase

__all__ = ["Space"]


@dataclass(frozen=True)
class Space:
    """Every plan with every rate, each beginning from the best head.

    Attributes:
        plans: freeze plans as in a `Phase`; empty for four that the program chooses, from a little to all.
        learning_rates: of the head.
        backbone_rates: of the pre-trained layers, as shares of it.
        solvers: of a head without layers of its own; see `HeadSpec.solver`. Those that cannot do the task
            are left out.
        epochs: of the longest attempts.

    Example:
        >>> Space(plans=("last:5", "all"), learning_rates=(1e-4,)).phases("all")[0].learning_rate
        0.0001
        >>> Space(learning_rates=())
        Traceback (most recent call last):
        regraft.errors.UsageError: learning_rates: expected one at least. Received: none.
    """

    plans: tuple[str, ...] = ()
    learning_rates: tuple[float, ...] = (1e-3, 3e-4, 3e-3)
    backbone_rates: tuple[float, ...] = (0.3, 0.1)
    solvers: tuple[str, ...] = ("logistic", "ridge", "lda")
    epochs: int = 9

    def __post_init__(self) -> None:
        for name in ("learning_rates", "backbone_rates", "solvers"):
            if not getattr(self, name):
                raise UsageError(f"{name}: expected one at least. Received: none.")
        if self.epochs < 1:
            raise UsageError(f"epochs: expected a whole number from 1. Received: {self.epochs}.")
        for plan in self.plans:
            self.phases(plan)
            if plan in ("auto", "none"):
                raise UsageError(
                    f"plans: expected all, last:N, from:I, stage:NAME or match:REGEX; the head alone is "
                    f"always tried. Received: {plan}."
                )

    def phases(self, plan: str) -> list[Phase]:
        """A plan with each of the rates.

        Raises:
            UsageError: a plan or a rate that cannot be.
        """
        return [
            Phase(plan, learning_rate=rate, backbone_rate=share, epochs=self.epochs)
            for rate in self.learning_rates
            for share in self.backbone_rates
        ]
