"""Learning curves: the score of a model over the number of training images, and how it goes on.

A power law is fitted to scores, as errors fall with the number n of images in most of learning (Hestness et
al., Deep learning scaling is predictable, empirically, 2017; Viering and Loog, The shape of learning curves,
2022):

    score(n) = ceiling - factor n^-exponent

Its band is that of a bootstrap over blocks of images, in each draw of which the exponent is drawn too, by how
well it fits: four points do not tell it well, and the forecast has to say so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.metrics.intervals import Interval

__all__ = ["LearningCurve", "OutputGain", "PowerLaw", "fit_power_law", "fit_scores", "summarise_draws"]

DRAWS = 500
EXPONENTS = np.linspace(0.1, 1.0, 19)
COVERAGE = 0.9  # of the band

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class PowerLaw:
    """Draws of score(n) = ceiling - factor n^-exponent, each of shape (draws,)."""

    ceiling: Floats
    factor: Floats
    exponent: Floats

    def predict(self, sizes: NDArray[Any]) -> Floats:
        """Return the scores at numbers of images (m,), for every draw: (draws, m)."""
        scores: Floats = self.ceiling[:, None] - self.factor[:, None] * np.asarray(sizes, np.float64) ** (
            -self.exponent[:, None]
        )
        return scores

    def forecast(self, size: float) -> Interval:
        """Return the score at a number of images, with its 90 % band."""
        return summarise_draws(self.predict(np.array([size]))[:, 0])


@dataclass(frozen=True)
class OutputGain:
    """What twice as many images would add to the score of a class, label or target, by its number."""

    output: int
    gain: float


@dataclass(frozen=True)
class LearningCurve:
    """Scores of heads solved on fewer images, and what more images would bring.

    Attributes:
        score: name of the score: top-1, mAP or R2.
        solver: the kind of head, as a phrase.
        images: the number n of training images.
        sizes: numbers of images that heads were solved on, ascending, shape (m,).
        scores: their scores on held-out images, shape (m,), in the score's unit.
        forecasts: number of images -> score with its 90 % band, at every size, n, 2 n and 4 n.
        gain: what twice as many images would add to the score, with its 90 % band.
        exponent: that of the power law; the middle of its draws.
        output_gains: the classes or labels that would gain most, by recall or average precision.
    """

    score: str
    solver: str
    images: int
    sizes: tuple[int, ...]
    scores: tuple[float, ...]
    forecasts: dict[int, Interval]
    gain: Interval
    exponent: float
    output_gains: tuple[OutputGain, ...] = ()

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> LearningCurve:
        """Return the curve that `dataclasses.asdict` turned into something that JSON holds."""
        forecasts = {int(size): Interval(**band) for size, band in content["forecasts"].items()}
        return cls(
            **{
                **content,
                "sizes": tuple(content["sizes"]),
                "scores": tuple(content["scores"]),
                "forecasts": forecasts,
                "gain": Interval(**content["gain"]),
                "output_gains": tuple(OutputGain(**gain) for gain in content["output_gains"]),
            }
        )

    def describe(self) -> str:
        """Return a sentence on what twice as many images would bring.

        >>> curve = LearningCurve("top-1", "", 100, (), (), {}, Interval(0.014, 0.006, 0.022), 0.5)
        >>> curve.describe()
        'Twice as many images: about +1.4 points of top-1 (0.6 to 2.2), by a head on frozen features.'
        """
        unit, factor = ("", 1.0) if self.score == "R2" else (" points", 100.0)
        digits = 3 if self.score == "R2" else 1
        value, low, high = (
            f"{factor * number:.{digits}f}" for number in (self.gain.value, self.gain.low, self.gain.high)
        )
        noun = f"{unit} of {self.score}" if unit else f" {self.score}"
        return f"Twice as many images: about +{value}{noun} ({low} to {high}), by a head on frozen features."


def fit_power_law(
    sizes: NDArray[Any], by_block: Floats, noise: Floats, *, seed: int = 0, draws: int = DRAWS
) -> PowerLaw:
    """Fit score(n) = ceiling - factor n^-exponent to bootstrap draws of scores.

    Args:
        sizes: numbers of images, shape (m,).
        by_block: scores of blocks of images at these sizes, (blocks, m), whose mean is the score.
        noise: standard error of each mean by the choice of training images, shape (m,).
        seed, draws: of the bootstrap.

    Example:
        >>> sizes = np.array([50, 100, 250, 500])
        >>> scores = np.tile(0.9 - 2 * sizes**-0.5, (10, 1))
        >>> law = fit_power_law(sizes, scores, np.full(4, 1e-4))
        >>> round(law.forecast(2000).value, 3)
        0.855
    """
    rng = np.random.default_rng(seed)
    picks = rng.integers(0, len(by_block), (draws, len(by_block)))
    scores = by_block[picks].mean(1) + noise * rng.normal(size=(draws, len(sizes)))
    fits = [fit_scores(sizes**-exponent, scores) for exponent in EXPONENTS]
    # An exponent is as likely as the residuals of the mean scores say, given their noise.
    middle = [fit_scores(sizes**-exponent, by_block.mean(0)[None])[2][0] for exponent in EXPONENTS]
    level = max(float((noise**2).mean()), 1e-8)
    likelihood = np.exp(-(np.array(middle) - min(middle)) / (2 * level))
    chosen = rng.choice(len(EXPONENTS), draws, p=likelihood / likelihood.sum())
    ceilings, factors = (np.stack([fit[part] for fit in fits]) for part in (0, 1))
    row = np.arange(draws)
    return PowerLaw(ceilings[chosen, row], factors[chosen, row], EXPONENTS[chosen])


def fit_scores(falling: Floats, scores: Floats) -> tuple[Floats, Floats, Floats]:
    """Fit ceiling - factor * falling by least squares; return both and the squared residuals, each (draws,).

    No factor is below 0, and no ceiling above 1, the best of every score.
    """
    centred = falling - falling.mean()
    factor = np.maximum(-(scores @ centred) / (centred @ centred), 0)
    ceiling = scores.mean(1) + factor * falling.mean()
    is_over = ceiling > 1
    factor = np.where(is_over, np.maximum((1 - scores) @ falling / (falling @ falling), 0), factor)
    ceiling = np.where(is_over, 1.0, ceiling)
    residuals = scores - ceiling[:, None] + factor[:, None] * falling
    return ceiling, factor, (residuals**2).sum(1)


def summarise_draws(draws: Floats) -> Interval:
    tail = (1 - COVERAGE) / 2
    low, middle, high = np.quantile(draws, [tail, 0.5, 1 - tail])
    return Interval(float(middle), float(low), float(high))
