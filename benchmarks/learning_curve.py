"""Measure how well the learning curve forecasts the score of more images, and how long it takes.

    python benchmarks/learning_curve.py [--photos FOLDER] [--weights FILE] [--seeds 20]

For each seed the power law is fitted to the scores at 10, 20 and 50 % of the images, and its forecast for
100 % is compared with the score measured there: on all images, and on a random half of them.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from label_errors import Photographs, add_options, open_photographs

from regraft.evaluation import learning_curve
from regraft.metrics.learning_curve import PowerLaw, fit_power_law


def measure_scores(photographs: Photographs, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return sizes (m,), scores of blocks (blocks, m) and their noise (m,), as the curve is fitted to."""
    arguments = []

    def remember(*values: np.ndarray, **settings: int) -> PowerLaw:
        arguments.append(values)
        return fit_power_law(*values, **settings)

    learning_curve.fit_power_law = remember
    learning_curve.compute_learning_curve(
        photographs.features, photographs.labels, task="multiclass", seed=seed
    )
    return arguments[0]


def print_forecasts(name: str, photographs: list[Photographs]) -> None:
    """Print how often the forecast from half of the images holds; each seed has its photographs."""
    hits, errors, widths = 0, [], []
    for seed, images in enumerate(photographs):
        sizes, by_block, noise = measure_scores(images, seed)
        forecast = fit_power_law(sizes[:-1], by_block[:, :-1], noise[:-1]).forecast(sizes[-1])
        score = by_block[:, -1].mean()
        hits += forecast.low <= score <= forecast.high
        errors.append(forecast.value - score)
        widths.append(forecast.high - forecast.low)
    print(
        f"{name}: the score of {sizes[-1]:,} images, forecast from {sizes[-2]:,}, lies in the band for "
        f"{hits} of {len(photographs)} seeds; error {np.mean(errors):+.4f} +- {np.std(errors):.4f}, "
        f"band {np.mean(widths):.3f} wide",
        flush=True,
    )


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser, seeds=20)
    options = parser.parse_args()
    photographs = open_photographs(options)
    times = []
    for _ in range(3):
        start, processor = time.perf_counter(), time.process_time()
        curve = learning_curve.compute_learning_curve(
            photographs.features, photographs.labels, task="multiclass"
        )
        times.append((time.perf_counter() - start, time.process_time() - processor))
    wall, processor = min(times)
    print(f"{len(photographs.labels):,} images of {photographs.features.shape[1]:,} features: {wall:.2f} s,")
    print(f"  {processor:.2f} s of processor time. {curve.describe()}", flush=True)
    halves = []
    for seed in range(options.seeds):
        rows = np.random.default_rng(seed).permutation(len(photographs.labels))[
            : len(photographs.labels) // 2
        ]
        halves.append(Photographs(photographs.features[rows], photographs.labels[rows]))
    print_forecasts("all images", [photographs] * options.seeds)
    print_forecasts("a random half", halves)


if __name__ == "__main__":
    main()
