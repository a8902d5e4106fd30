"""Plant wrong labels among photographs, and measure how well `find_label_errors` ranks and counts them.

    python benchmarks/label_errors.py [--photos FOLDER] [--weights FILE] [--seeds 5]

Labels are flipped at 1, 5 and 20 %: to any other class, or to the one that the class is most often confused
with. For each it prints the area under the ROC curve of the planted errors, the share of planted ones among
as many first as were planted, and the estimated share of wrong labels. The first line is the data as they
are. If cleanlab is installed, it ranks and counts with the same out-of-fold probabilities of linear
discriminant analysis, without the votes of neighbours.
"""

from __future__ import annotations

import argparse
import importlib.util
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rows import IMAGES, MOBILENET
from sklearn.metrics import roc_auc_score

import regraft.evaluation.label_errors as checked
from regraft.data.catalog import Catalog
from regraft.evaluation.label_noise import fit_label_noise
from regraft.models.joint_taps import make_pooled_network
from regraft.pipeline.context import Context
from regraft.pipeline.embed import read_vectors
from regraft.pipeline.prepare import choose_backend, extract_and_remember, open_backbone
from regraft.recipe import Recipe
from regraft.solvers.closed_form import DISCRIMINANT
from regraft.solvers.cross_validation import cross_validate
from regraft.solvers.solve import make_training_rows

RATES = (0.01, 0.05, 0.2)
KINDS = ("any class", "nearest class")

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Photographs:
    """Features (n, d) and class numbers (n,) of images."""

    features: NDArray[np.floating[Any]]
    labels: Labels


def load_photographs(folder: str, weights: str) -> Photographs:
    """Compute MobileNetV2's pooled features of every image; they stay in the store."""
    recipe = Recipe(weights=weights, phases=())
    choose_backend(recipe.backbone)
    context = Context.open(None)
    catalog = Catalog.open(folder, recipe)
    network = make_pooled_network(open_backbone(recipe, reporter=context.reporter), recipe.head)
    features = extract_and_remember(context, network, catalog, recipe)
    catalog = catalog.exclude(features.refused)
    return Photographs(read_vectors(features, network, catalog), catalog.targets(catalog.samples))


def add_options(parser: argparse.ArgumentParser, *, seeds: int) -> None:
    """Add the options that name the features, and the number of seeds."""
    parser.add_argument("--photos", default=str(IMAGES))
    parser.add_argument("--weights", default=str(MOBILENET))
    parser.add_argument("--features", type=Path, help="npz file with features and labels, instead of images")
    parser.add_argument("--seeds", type=int, default=seeds)


def open_photographs(options: argparse.Namespace) -> Photographs:
    """Read or compute the features that the options of `add_options` name."""
    if not options.features:
        return load_photographs(options.photos, options.weights)
    content = np.load(options.features)
    return Photographs(content["features"], content["labels"])


def score_out_of_fold(photographs: Photographs, seed: int) -> Floats:
    """Return the probabilities of one partition into folds, (n, classes)."""
    rows, _ = make_training_rows(
        photographs.features, photographs.labels, task="multiclass", seed=seed, weights=None
    )
    trials, answered = cross_validate(DISCRIMINANT, rows)
    best = min(trials, key=lambda trial: float(trial.losses.mean()))
    probabilities = np.full(rows.targets.shape, 1 / rows.targets.shape[1])
    probabilities[answered] = best.link(best.decisions)
    return probabilities


def find_nearest_classes(labels: Labels, probabilities: Floats) -> Labels:
    """Return the class that each class is most often confused with."""
    confusions = np.zeros((probabilities.shape[1],) * 2)
    np.add.at(confusions, (labels, probabilities.argmax(1)), 1)
    np.fill_diagonal(confusions, -1)
    nearest: Labels = confusions.argmax(1)
    return nearest


def plant_errors(labels: Labels, kind: str, rate: float, *, nearest: Labels, seed: int) -> Labels:
    """Return labels of which a share is wrong."""
    rng = np.random.default_rng(seed)
    rows = rng.choice(len(labels), round(rate * len(labels)), replace=False)
    wrong, classes = labels.copy(), len(nearest)
    if kind == "any class":
        wrong[rows] = (labels[rows] + rng.integers(1, classes, len(rows))) % classes
    else:
        wrong[rows] = nearest[labels[rows]]
    return wrong


def rate_ranking(suspicion: Floats, planted: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the area under the ROC curve, and the share of planted errors among as many first."""
    first = np.argsort(-suspicion, kind="stable")[: planted.sum()]
    return float(roc_auc_score(planted, suspicion)), float(planted[first].mean())


def judge_every_label(photographs: Photographs, seed: int) -> tuple[Floats, float]:
    """Return the error probability of every label, and the estimated share of wrong ones."""
    rows, _ = make_training_rows(
        photographs.features, photographs.labels, task="multiclass", seed=seed, weights=None
    )
    groups = np.arange(len(photographs.labels))
    scores, _ = checked._score_rows(rows, groups)
    neighbours = checked.find_neighbours(photographs.features, count=checked.VOTERS, groups=groups)
    scores = scores + checked.VOTE_WEIGHT * checked._count_votes(rows, neighbours)
    noise = fit_label_noise(scores, photographs.labels)
    wrong = noise.compute_error_probabilities(scores, photographs.labels)
    return wrong, float(wrong.mean())


def rank_with_cleanlab(labels: Labels, probabilities: Floats) -> tuple[Floats, float]:
    """Return cleanlab's suspicion of each label, and the share of labels that it finds wrong."""
    from cleanlab.count import num_label_issues
    from cleanlab.rank import get_label_quality_scores

    quality = get_label_quality_scores(labels, probabilities, method="normalized_margin")
    return -quality, float(num_label_issues(labels, probabilities)) / len(labels)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser, seeds=5)
    options = parser.parse_args()
    photographs = open_photographs(options)
    has_cleanlab = importlib.util.find_spec("cleanlab") is not None
    probabilities = score_out_of_fold(photographs, 0)
    nearest = find_nearest_classes(photographs.labels, probabilities)
    contradicted = int((probabilities.argmax(1) != photographs.labels).sum())
    print(f"{len(photographs.labels):,} labels as they are: {contradicted} contradicted by a head, estimated")
    print(f"  regraft {judge_every_label(photographs, 0)[1]:.1%} wrong", flush=True)
    if has_cleanlab:
        print(f"  cleanlab {rank_with_cleanlab(photographs.labels, probabilities)[1]:.1%} wrong")
    for kind in KINDS:
        for rate in RATES:
            figures: dict[str, list[tuple[float, ...]]] = {}
            for seed in range(options.seeds):
                labels = plant_errors(photographs.labels, kind, rate, nearest=nearest, seed=seed)
                planted, dirty = labels != photographs.labels, replace(photographs, labels=labels)
                results = {"regraft": judge_every_label(dirty, seed)}
                if has_cleanlab:
                    results["cleanlab"] = rank_with_cleanlab(labels, score_out_of_fold(dirty, seed))
                for name, (suspicion, share) in results.items():
                    figures.setdefault(name, []).append((*rate_ranking(suspicion, planted), share))
            for name, values in figures.items():
                area, first, share = np.mean(values, 0)
                low = np.min(values, 0)
                print(
                    f"{rate:.0%} to {kind}, {name}: AUROC {area:.3f} (least {low[0]:.3f}), "
                    f"{first:.0%} of as many first are planted (least {low[1]:.0%}), estimated {share:.1%}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
