"""Epochs of fine-tuning: regraft against Keras' own `fit` on the same photographs and weights, alternating.

    stage   the last stage trains: regraft on what is stored at its boundary, Keras on the whole model with
            the same layers frozen
    all     everything trains, both on pixels with flip and crop
    bf16    the same as `all` in Keras' mixed_bfloat16, both

Both are given the same batches: decoded once, in memory, in the same order, changed by the same flip and crop
(`all`) or not at all (`stage`), the next one made by a thread while a step runs. So their losses are the same
as well: that of the first epoch is printed, before rounding has grown. That epoch compiles, so its time is
left out. The boundary's one pass is given by itself.

On a processor without bf16 of its own (AVX-512 without AVX512_BF16 or AMX) `bf16` runs at half the speed, for
oneDNN imitates it there: convolutions, forward and backward, take 2.3 to 3.4 times the processor time of f32.

usage: finetune.py [--backbone resnet50] [--image-size 224] [--stage conv5] [--images 256] [--rounds 2]
                   [--only stage,all,bf16]
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

from regraft.backbones.load import load_backbone
from regraft.data.augmentation import augment_batch
from regraft.data.batches import Batch, Batches
from regraft.data.catalog import Catalog
from regraft.features.extract import extract_features
from regraft.features.store import Store, pixel_key
from regraft.models.cut import cut
from regraft.models.freeze import freeze, resolve_plan
from regraft.models.head import graft
from regraft.recipe import HeadSpec, Phase
from regraft.system.console import TERMINAL
from regraft.tasks import TASKS
from regraft.training.fit import Lesson, Trainer
from regraft.training.training_data import Tensors

SHARED = Path(__file__).resolve().parents[2] / "shared"
BATCH = 16
RATE = 1e-4


@dataclass(frozen=True)
class Photographs:
    """Images decoded once, and their classes."""

    catalog: Catalog
    store: Store
    pixels: np.ndarray
    targets: np.ndarray

    def read(self, rows: list[int]) -> tuple[np.ndarray]:
        return (self.pixels[rows],)

    def batches(self, *, augmented: bool) -> Batches[int]:
        """The stream that both learn from, the same in every epoch of the same number."""
        return Batches(
            range(len(self.targets)),
            self.targets,
            self.read,
            batch_size=BATCH,
            augment=flip_and_crop if augmented else None,
        )


class Model:
    """A backbone with a head, with random or real weights; the same for the same seed."""

    def __init__(self, options: argparse.Namespace, outputs: int) -> None:
        keras.utils.set_random_seed(0)
        self.backbone = load_backbone(
            options.backbone, weights=options.weights, image_size=options.image_size
        )
        self.model = graft(self.backbone, HeadSpec(dropout=0.0), outputs=outputs, seed=0)


@dataclass(frozen=True)
class Measured:
    """Seconds of the epochs after the first; mean loss of the first; seconds before it."""

    seconds: list[float]
    loss: float
    once: float = 0.0


def phase(plan: str, epochs: int) -> Phase:
    """One rate for all layers, so that one plain AdamW does the same."""
    return Phase(
        plan, epochs=epochs, batch_size=BATCH, learning_rate=RATE, backbone_rate=1.0, warmup=0.0, patience=99
    )


def by_regraft(made: Model, photographs: Photographs, plan: str, epochs: int, *, stage: bool) -> Measured:
    """regraft's own loop: on what is stored at the boundary, or on augmented pixels."""
    begun, halves, train = time.monotonic(), None, photographs.batches(augmented=True)
    few = Batches([0], photographs.targets[:1], photographs.read, batch_size=1)
    if stage:
        halves = cut(made.model, resolve_plan(made.backbone, plan))
        features = extract_features(halves.prefix, photographs.catalog, store=photographs.store)
        pairs = [(sample, 0) for sample in photographs.catalog.samples]
        read = Tensors((features,), halves.names).reader(pairs)
        train = Batches(pairs, photographs.targets, read, batch_size=BATCH)
        few = Batches(pairs[:1], photographs.targets[:1], read, batch_size=1)
    once = time.monotonic() - begun
    lesson = Lesson(TASKS["multiclass"], train, few)
    trainer = Trainer(made.model, made.backbone, TERMINAL)
    fitted = trainer.train(phase(plan, epochs + 1), lesson, budget=1e6, stored=halves)
    return Measured([record.seconds for record in fitted.history[2:]], fitted.history[1].loss, once)


def flip_and_crop(batch: Batch, key: list[int]) -> Batch:
    return augment_batch(batch, ("flip", "crop"), key)


def by_keras(made: Model, photographs: Photographs, plan: str, epochs: int, *, stage: bool) -> Measured:
    """`Model.fit` on the whole model."""
    freeze(made.backbone, plan)
    train = photographs.batches(augmented=not stage)
    optimizer = keras.optimizers.AdamW(Cosine((epochs + 1) * len(train)), weight_decay=1e-4)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    made.model.compile(optimizer, "categorical_crossentropy")
    seconds, losses = [], []
    for epoch in range(1, epochs + 2):
        given = ((batch.inputs[0].astype(np.float32), batch.targets) for batch in train.shuffled(epoch))
        begun = time.monotonic()
        history = made.model.fit(given, steps_per_epoch=len(train), shuffle=False, verbose=0)
        seconds.append(time.monotonic() - begun)
        losses += history.history["loss"]
    return Measured(seconds[1:], losses[0])


class Cosine(keras.optimizers.schedules.LearningRateSchedule):
    """The rates of a phase without warm-up."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def __call__(self, step: Any) -> Any:
        share = (keras.ops.cast(step, "float32") - 1) / (self.steps - 1)
        return RATE * 0.5 * (1 + keras.ops.cos(np.pi * keras.ops.maximum(share, 0.0)))


def compare(title: str, options: argparse.Namespace, photographs: Photographs, plan: str) -> None:
    """Both, alternating; prints medians, spread and ratio."""
    ours: list[float] = []
    theirs: list[float] = []
    stage = plan != "all"
    for _ in range(options.rounds):
        outputs = photographs.targets.shape[1]
        one = by_regraft(Model(options, outputs), photographs, plan, options.epochs, stage=stage)
        keras.backend.clear_session()
        other = by_keras(Model(options, outputs), photographs, plan, options.epochs, stage=stage)
        keras.backend.clear_session()
        ours, theirs = ours + one.seconds, theirs + other.seconds
        print(f"{title}: before {one.once:.1f} s, loss {one.loss:.5f} and {other.loss:.5f}", flush=True)
    print(
        f"{title}: regraft {spread(ours)}, Keras {spread(theirs)} an epoch of {len(photographs.targets)} "
        f"images: {statistics.median(theirs) / statistics.median(ours):.2f} times faster",
        flush=True,
    )


def spread(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.1f} s ({min(seconds):.1f} to {max(seconds):.1f})"


def photographs_of(options: argparse.Namespace, folder: str) -> Photographs:
    """So many of the photographs, decoded once."""
    catalog = Catalog.from_folder(options.data)
    chosen = np.random.default_rng(0).choice(len(catalog), options.images, replace=False)
    catalog = replace(catalog, samples=tuple(catalog.samples[number] for number in sorted(chosen)))
    store, size = Store(folder), Model(options, 2).backbone.image_size
    image = keras.Input((size, size, 3))
    nothing = keras.Model(image, {"mean": keras.layers.GlobalAveragePooling2D()(image)})
    extract_features(nothing, catalog, store=store, keep_pixels=True)
    pixels = store.entries(pixel_key(size)).read([sample.digest for sample in catalog.samples], "pixels")
    targets = TASKS["multiclass"].encode(catalog.targets(catalog.samples), len(catalog.outputs))
    return Photographs(catalog, store, pixels, targets)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--weights", default="random")
    parser.add_argument("--image-size", type=int, default=None, help="pixels a side; the backbone's own")
    parser.add_argument("--stage", default="conv5")
    parser.add_argument("--data", type=Path, default=SHARED / "images" / "clothing")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=2, help="timed, after one that is not")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", default="stage,all,bf16")
    options = parser.parse_args()
    if not options.data.exists():
        print(f"skipped: {options.data} is not here")
        return
    wanted = options.only.split(",")
    with tempfile.TemporaryDirectory(prefix="regraft-bench-") as folder:
        photographs = photographs_of(options, folder)
        if "stage" in wanted:
            compare(f"stage {options.stage}", options, photographs, f"stage:{options.stage}")
        if "all" in wanted:
            compare("all", options, photographs, "all")
        if "bf16" in wanted:
            keras.config.set_dtype_policy("mixed_bfloat16")
            compare("all, mixed_bfloat16", options, photographs, "all")


if __name__ == "__main__":
    main()
