"""`SolvedHead`: what a solver found, as numbers, as Keras layers, or as an estimator to keep."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.training.affine import Link, Scaler
from regraft.training.crossval import Settings
from regraft.training.kept import Kept
from regraft.training.rules import Linear, Rule

__all__ = ["SolvedHead"]

Matrix = NDArray[np.float64]


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
    def is_graph(self) -> bool:
        """Whether it becomes Keras layers; otherwise it is kept with skops, see `kept`."""
        return not isinstance(self.rule, Kept)

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

    def apply_decisions(self, features: Any) -> Any:
        """As `apply`, without temperature, units of the target and activation: the bare decision values."""
        return self.rule.graph(features, self.scaler, Link.none(len(self.link.gain)))

    def decisions(self, features: NDArray[np.floating[Any]]) -> Matrix:
        """Decision values (n, units) of features (n, d), in float64."""
        return self.rule.decide(self.scaler(features))

    def predict(self, features: NDArray[np.floating[Any]]) -> Matrix:
        """The task's answers, (n, units), to features (n, d), in float64."""
        return self.link(self.decisions(features))
