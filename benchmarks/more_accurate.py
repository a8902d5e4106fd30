"""Measure what taps and the refit bring: a solved head by the earlier settings and by the defaults.

    python benchmarks/more_accurate.py [--photos FOLDER] [--weights FILE] [--backbone NAME] [--repeats 10]

All photographs are split anew in each repeat: a third is held out, and a fifth of the others is a validation
part. The earlier head (`--taps last --refit never`) is solved on the last layer's features of the other four
fifths; the new one on the layers that cross-validation chooses, of all that are not held out. Both answer the
same held-out images. Features are extracted once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NamedTuple

import keras
import numpy as np
import typer
from numpy.typing import NDArray

from regraft.backbones.load import load_backbone
from regraft.data.catalog import Catalog
from regraft.features.extract import extract_features
from regraft.features.store import Store
from regraft.models.attention import pool
from regraft.models.taps import find_taps
from regraft.solvers.cross_validation import make_folds
from regraft.solvers.feature_scoring import choose_taps
from regraft.solvers.solve import make_training_rows, solve

SHARED = Path(__file__).resolve().parents[2] / "shared"


class Score(NamedTuple):
    """The share of right answers, and the mean loss."""

    top1: float
    log_loss: float


def extract_blocks(
    backbone_name: str, weights: str, photos: Path, store: Store
) -> tuple[list[NDArray[np.float32]], NDArray[np.int64]]:
    """Return the pooled features of each candidate layer, and the class of each photograph."""
    backbone = load_backbone(backbone_name, weights=weights)
    pooled = {tap.name: pool(tap.tensor, "avg", f"pool_{tap.name}") for tap in find_taps(backbone, "auto")}
    catalog = Catalog.from_folder(photos)
    features = extract_features(keras.Model(backbone.model.inputs[0], pooled), catalog, store=store)
    samples = catalog.exclude(features.refused).samples
    return [features.matrix(samples, name) for name in pooled], catalog.targets(samples)


def score_head(
    blocks: list[NDArray[np.float32]],
    labels: NDArray[np.int64],
    train: NDArray[np.bool_],
    held: NDArray[np.bool_],
) -> Score:
    """Solve a head on some images and score it on others."""
    features = [block[train] for block in blocks]
    head = solve("logistic", features if len(blocks) > 1 else features[0], labels[train], task="multiclass")
    answers = head.predict(np.concatenate([block[held] for block in blocks], 1))
    truth = labels[held]
    losses = -np.log(np.maximum(answers[np.arange(len(truth)), truth], 1e-12))
    return Score(float((answers.argmax(1) == truth).mean()), float(losses.mean()))


def compare_once(
    blocks: list[NDArray[np.float32]], labels: NDArray[np.int64], seed: int
) -> tuple[Score, Score]:
    """Return the scores of the earlier head and of the new one on the same third of the images."""
    held = make_folds(labels, count=3, seed=seed)[0]
    rest = np.flatnonzero(~held)
    validation = make_folds(labels[rest], count=5, seed=seed)[0]
    train = np.zeros(len(labels), bool)
    train[rest[~validation]] = True
    rows, _ = make_training_rows(blocks[-1][~held], labels[~held], task="multiclass", seed=seed, weights=None)
    numbers = choose_taps([block[~held] for block in blocks], rows)
    before = score_head([blocks[-1]], labels, train, held)
    after = score_head([blocks[number] for number in numbers], labels, ~held, held)
    print(
        f"{seed:>3}  {before.top1:.4f} {before.log_loss:.4f}  {after.top1:.4f} {after.log_loss:.4f}",
        flush=True,
    )
    return before, after


def main(
    photos: Annotated[Path, typer.Option(help="Folder of class folders.")] = SHARED / "images/clothing",
    weights: Annotated[str, typer.Option(help="Weights of the backbone.")] = str(
        SHARED / "weights/mobilenet_v2_imagenet_224_notop.weights.h5"
    ),
    backbone: Annotated[str, typer.Option(help="Backbone.")] = "mobilenet_v2",
    repeats: Annotated[int, typer.Option(help="How often a third is held out.")] = 10,
    store: Annotated[Path | None, typer.Option(help="Folder of computed features.")] = None,
) -> None:
    """Print the scores of both heads in each repeat, and the mean difference with its standard error."""
    blocks, labels = extract_blocks(backbone, weights, photos, Store.open(store))
    print(f"{len(labels):,} images; top-1 and log loss before, and now:")
    pairs = np.array([compare_once(blocks, labels, seed) for seed in range(repeats)])
    before, after = pairs.mean(0)
    gains, drops = pairs[:, 1, 0] - pairs[:, 0, 0], 1 - pairs[:, 1, 1] / pairs[:, 0, 1]
    error = 1 / np.sqrt(max(1, repeats - 1))
    print(
        f"top-1 {before[0]:.4f} -> {after[0]:.4f}: "
        f"{100 * gains.mean():+.2f} +- {100 * gains.std() * error:.2f} points"
    )
    print(
        f"log loss {before[1]:.4f} -> {after[1]:.4f}: "
        f"{-100 * drops.mean():+.1f} +- {100 * drops.std() * error:.1f} %"
    )


if __name__ == "__main__":
    typer.run(main)
