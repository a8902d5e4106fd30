"""Compare epochs of fine-tuning with Keras' own `fit` on the same images and weights, in turn.

    stage   the last stage trains: regraft on features stored at its boundary, Keras on the full model with
            the same layers frozen
    all     everything trains, both on pixels with flip and crop
    bf16    as `all`, but both in Keras' mixed_bfloat16

Both get the same batches: decoded once, in memory, in the same order, with the same flip and crop (`all`) or
without (`stage`), while a thread makes the next one. So their losses are equal too: that of the first epoch
is printed, before rounding errors grow. That epoch compiles, so its time is not counted. The single pass up
to the boundary is given separately.

On a processor without bf16 of its own (AVX-512 without AVX512_BF16 or AMX) `bf16` runs at half the speed,
because oneDNN emulates it: convolutions, forward and backward, take 2.3 to 3.4 times the processor time of
f32.

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
from rows import IMAGES, are_present

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
from regraft.training.fit import Trainer
from regraft.training.training_data import PhaseData, StoredFeatures

BATCH = 16
RATE = 1e-4


@dataclass(frozen=True)
class ImageSet:
    """Images decoded once, and their classes."""

    catalog: Catalog
    store: Store
    pixels: np.ndarray
    targets: np.ndarray

    def read(self, rows: list[int]) -> tuple[np.ndarray]:
        return (self.pixels[rows],)

    def batches(self, *, augmented: bool) -> Batches[int]:
        """Return the stream that both train on, the same in every epoch of the same number."""
        return Batches(
            range(len(self.targets)),
            self.targets,
            self.read,
            batch_size=BATCH,
            augment=flip_and_crop if augmented else None,
        )


class Model:
    """A backbone with a head; the same for the same seed."""

    def __init__(self, options: argparse.Namespace, outputs: int) -> None:
        keras.utils.set_random_seed(0)
        self.backbone = load_backbone(
            options.backbone, weights=options.weights, image_size=options.image_size
        )
        self.model = graft(self.backbone, HeadSpec(dropout=0.0), outputs=outputs, seed=0)


@dataclass(frozen=True)
class Epochs:
    """The seconds of the epochs after the first, the mean loss of the first, and the seconds before it."""

    seconds: list[float]
    loss: float
    once: float = 0.0


def make_phase(plan: str, epochs: int) -> Phase:
    """Return a phase with one rate for all layers, so that a plain AdamW does the same."""
    return Phase(
        plan, epochs=epochs, batch_size=BATCH, learning_rate=RATE, backbone_rate=1.0, warmup=0.0, patience=99
    )


def train_by_regraft(model: Model, images: ImageSet, plan: str, epochs: int, *, stage: bool) -> Epochs:
    """Train with regraft's loop, on features stored at the boundary or on augmented pixels."""
    start, halves, train = time.monotonic(), None, images.batches(augmented=True)
    few = Batches([0], images.targets[:1], images.read, batch_size=1)
    if stage:
        halves = cut(model.model, resolve_plan(model.backbone, plan))
        features = extract_features(halves.prefix, images.catalog, store=images.store, precision="f32")
        pairs = [(sample, 0) for sample in images.catalog.samples]
        read = StoredFeatures((features,), halves.names).make_reader(pairs)
        train = Batches(pairs, images.targets, read, batch_size=BATCH)
        few = Batches(pairs[:1], images.targets[:1], read, batch_size=1)
    once = time.monotonic() - start
    data = PhaseData(TASKS["multiclass"], train, few)
    trainer = Trainer(model.model, model.backbone, TERMINAL)
    fitted = trainer.train(make_phase(plan, epochs + 1), data, budget=1e6, stored=halves)
    return Epochs([record.seconds for record in fitted.history[2:]], fitted.history[1].loss, once)


def flip_and_crop(batch: Batch, key: list[int]) -> Batch:
    return augment_batch(batch, ("flip", "crop"), key)


def train_by_keras(model: Model, images: ImageSet, plan: str, epochs: int, *, stage: bool) -> Epochs:
    """Train the full model with `Model.fit`."""
    freeze(model.backbone, plan)
    train = images.batches(augmented=not stage)
    optimizer = keras.optimizers.AdamW(Cosine((epochs + 1) * len(train)), weight_decay=1e-4)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    model.model.compile(optimizer, "categorical_crossentropy")
    seconds, losses = [], []
    for epoch in range(1, epochs + 2):
        stream = ((batch.inputs[0].astype(np.float32), batch.targets) for batch in train.iter_shuffled(epoch))
        start = time.monotonic()
        history = model.model.fit(stream, steps_per_epoch=len(train), shuffle=False, verbose=0)
        seconds.append(time.monotonic() - start)
        losses += history.history["loss"]
    return Epochs(seconds[1:], losses[0])


class Cosine(keras.optimizers.schedules.LearningRateSchedule):
    """The learning rates of a phase without warm-up."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def __call__(self, step: Any) -> Any:
        share = (keras.ops.cast(step, "float32") - 1) / (self.steps - 1)
        return RATE * 0.5 * (1 + keras.ops.cos(np.pi * keras.ops.maximum(share, 0.0)))


def compare(title: str, options: argparse.Namespace, images: ImageSet, plan: str) -> None:
    """Train with both in turn; print medians, ranges and the ratio."""
    ours: list[float] = []
    theirs: list[float] = []
    stage = plan != "all"
    for _ in range(options.rounds):
        outputs = images.targets.shape[1]
        regraft = train_by_regraft(Model(options, outputs), images, plan, options.epochs, stage=stage)
        keras.backend.clear_session()
        keras_fit = train_by_keras(Model(options, outputs), images, plan, options.epochs, stage=stage)
        keras.backend.clear_session()
        ours, theirs = ours + regraft.seconds, theirs + keras_fit.seconds
        print(
            f"{title}: before {regraft.once:.1f} s, loss {regraft.loss:.5f} and {keras_fit.loss:.5f}",
            flush=True,
        )
    ratio = statistics.median(theirs) / statistics.median(ours)
    print(
        f"{title}: regraft {format_range(ours)}, Keras {format_range(theirs)} an epoch of "
        f"{len(images.targets)} images: {ratio:.2f} times faster",
        flush=True,
    )


def format_range(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.1f} s ({min(seconds):.1f} to {max(seconds):.1f})"


def read_images(options: argparse.Namespace, folder: str) -> ImageSet:
    """Return some of the images, decoded once."""
    catalog = Catalog.from_folder(options.data)
    chosen = np.random.default_rng(0).choice(len(catalog), options.images, replace=False)
    catalog = replace(catalog, samples=tuple(catalog.samples[number] for number in sorted(chosen)))
    store, size = Store(folder), Model(options, 2).backbone.image_size
    image = keras.Input((size, size, 3))
    network = keras.Model(image, {"mean": keras.layers.GlobalAveragePooling2D()(image)})
    extract_features(network, catalog, store=store, keep_pixels=True)
    pixels = store.entries(pixel_key(size)).read([sample.digest for sample in catalog.samples], "pixels")
    targets = TASKS["multiclass"].encode(catalog.targets(catalog.samples), len(catalog.outputs))
    return ImageSet(catalog, store, pixels, targets)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--weights", default="random")
    parser.add_argument(
        "--image-size", type=int, default=None, help="input size in pixels [default: the backbone's]"
    )
    parser.add_argument("--stage", default="conv5")
    parser.add_argument("--data", type=Path, default=IMAGES)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=2, help="timed epochs, after one that is not timed")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", default="stage,all,bf16")
    options = parser.parse_args()
    if not are_present(options.data):
        return
    kinds = options.only.split(",")
    with tempfile.TemporaryDirectory(prefix="regraft-bench-") as folder:
        images = read_images(options, folder)
        if "stage" in kinds:
            compare(f"stage {options.stage}", options, images, f"stage:{options.stage}")
        if "all" in kinds:
            compare("all", options, images, "all")
        if "bf16" in kinds:
            keras.config.set_dtype_policy("mixed_bfloat16")
            compare("all, mixed_bfloat16", options, images, "all")


if __name__ == "__main__":
    main()
