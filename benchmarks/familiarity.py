"""Measure whether a model knows what it does not know: images of another kind, and of a new class.

A head is solved on the training photographs of clothes, with the features that `train` would store; all other
images are measured in f32, as `predict` does. How many of the test photographs are unfamiliar at the level of
1 %: as they are, at half their brightness, and saved again with JPEG quality 50? How many images of another
kind are found, when 5 % of the test photographs may be false alarms? They are photographs of Pillow's and
scikit-learn's tests, a landscape, handwritten digits, and textures; each is saved with the size and the
quantisation tables of a photograph of clothes, so that its file does not give it away.

For new classes, each pair of classes is left out of training in turn, and its images are compared with the
test photographs of the others. The largest probability of the answer is what people use for this.

usage: familiarity.py [--data FOLDER] [--pairs 45] [--json FILE]
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
import warnings
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from PIL import Image
from rows import IMAGES, MOBILENET, SHARED, Row, Sheet, are_present, make_parser
from sklearn.datasets import load_digits, load_sample_images
from sklearn.metrics import roc_auc_score

from regraft import HeadSpec, Recipe
from regraft.data.catalog import Catalog
from regraft.features.engine import EngineRunner
from regraft.features.extract import extract_features
from regraft.features.store import Store
from regraft.pipeline.embed import load_embedding_network
from regraft.solvers.solve import SolvedHead, solve
from regraft.system.console import SILENT
from regraft.uncertainty.familiarity import LEVEL, Familiarity, fit_familiarity
from regraft.uncertainty.held_out import HeldOutAnswers, ReferenceImages

KINDS = ("photographs", "samples", "landscape", "digits", "textures")
CHANGES = ("half brightness", "JPEG quality 50")
FALSE_ALARMS = 0.05
DISTANT_PAIR = frozenset({"hat", "shoes"})  # classes that their distance alone gives away


# --- images of other kinds


def crop(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Return a random part of an image, mirrored or not."""
    share = rng.uniform(0.4, 1)
    width, height = int(image.width * share), int(image.height * share)
    left, top = rng.integers(0, image.width - width + 1), rng.integers(0, image.height - height + 1)
    part = image.convert("RGB").crop((left, top, left + width, top + height))
    return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else part


def open_photographs(folder: Path) -> Iterator[Image.Image]:
    """Yield those files of Pillow's tests that decode to something with contrast."""
    for path in sorted(folder.iterdir()):
        if path.suffix not in (".jpg", ".png", ".tif", ".bmp", ".webp", ".avif", ".gif", ".tga"):
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                image = Image.open(path)
                if min(image.size) < 64 or image.width * image.height > 40_000_000:
                    continue
                image = image.convert("RGB")
        except Exception:
            continue
        if np.asarray(image).std() > 20:
            yield image


def make_texture(kind: int, rng: np.random.Generator, side: int = 256) -> Image.Image:
    """Return stripes, a chessboard, clouds, cells or noise, in two colours."""
    down, across = np.mgrid[:side, :side] / side
    if kind == 0:
        angle = rng.uniform(0, np.pi)
        wave = np.sin(2 * np.pi * rng.uniform(2, 30) * (across * np.cos(angle) + down * np.sin(angle)))
        pattern = 0.5 + 0.5 * wave
    elif kind == 1:
        count = rng.integers(2, 20)
        pattern = (np.floor(across * count) + np.floor(down * count)) % 2
    elif kind == 2:
        rates = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side)))
        rates[0, 0] = 1
        spectrum = np.fft.fft2(rng.normal(size=(side, side))) / rates ** rng.uniform(0.5, 2)
        clouds = np.real(np.fft.ifft2(spectrum))
        pattern = (clouds - clouds.min()) / np.ptp(clouds)
    elif kind == 3:
        points = rng.uniform(size=(rng.integers(5, 60), 2))
        cells = np.hypot(across[..., None] - points[:, 0], down[..., None] - points[:, 1]).min(-1)
        pattern = cells / cells.max()
    else:
        pattern = rng.uniform(size=(side, side))
    first, second = rng.uniform(0, 255, (2, 3))
    pixels = first + (second - first) * pattern[..., None] + rng.normal(0, 5, (side, side, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def make_images(rng: np.random.Generator) -> Iterator[tuple[str, Image.Image]]:
    """Yield images of each kind with its name."""
    for image in open_photographs(SHARED / "corpora" / "unusual"):
        yield from (("photographs", crop(image, rng)) for _ in range(2))
    for array in load_sample_images().images:
        yield from (("samples", crop(Image.fromarray(array), rng)) for _ in range(50))
    for path in sorted((SHARED / "corpora" / "orientation").glob("*.jpg")):
        with Image.open(path) as image:
            yield from (("landscape", crop(image, rng)) for _ in range(12))
    for digit in rng.permutation(load_digits().images)[:200]:
        grey = Image.fromarray((255 - 15 * digit).clip(0, 255).astype(np.uint8))
        yield "digits", grey.resize((256, 256), Image.Resampling.BICUBIC)
    for number in range(200):
        yield "textures", make_texture(number % 5, rng)


def write_images(data: Path, folder: Path) -> None:
    """Write images of each kind, and changed test photographs, into a folder for each."""
    rng = np.random.default_rng(0)
    models = sorted((data / "train").rglob("*.jpg"))
    for number, (kind, image) in enumerate(make_images(rng)):
        with Image.open(models[rng.integers(len(models))]) as model:
            (width, height), tables = model.size, dict(model.quantization)
        (folder / kind).mkdir(parents=True, exist_ok=True)
        scale = max(width / image.width, height / image.height)
        size = max(width, round(scale * image.width)), max(height, round(scale * image.height))
        enlarged = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
        left, top = (size[0] - width) // 2, (size[1] - height) // 2
        cut_out = enlarged.crop((left, top, left + width, top + height))
        qtables = [tables[0], tables.get(1, tables[0])]
        cut_out.save(folder / kind / f"{number:04}.jpg", qtables=qtables, subsampling=2)
    for name in CHANGES:
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number, path in enumerate(sorted((data / "test").rglob("*.jpg"))):
        with Image.open(path) as image:
            dark = image.convert("RGB").point(lambda value: value // 2)
            dark.save(folder / CHANGES[0] / f"{number:04}.jpg", quality=95, subsampling=0)
            image.convert("RGB").save(folder / CHANGES[1] / f"{number:04}.jpg", quality=50)


# --- measuring


class Photographs:
    """Features of the photographs as `train` stores them, and of any images as `predict` computes them."""

    def __init__(self, data: Path, store: Store) -> None:
        recipe = Recipe(backbone="mobilenet_v2", weights=str(MOBILENET), head=HeadSpec(taps="last"))
        self.network = load_embedding_network(recipe)
        self.store = store
        catalog = Catalog.from_folder(data)
        features = extract_features(self.network, catalog, store=store, reporter=SILENT)
        self.catalog = catalog.exclude(features.refused)
        self.stored = np.asarray(features.matrix(self.catalog.samples, "cut_0"), np.float32)
        self.labels = self.catalog.targets(self.catalog.samples)
        self.is_train = np.array([sample.part == "train" for sample in self.catalog.samples])
        self.exact = self.compute(self.catalog)
        self.precision = features.precision

    def compute(self, catalog: Catalog) -> np.ndarray:
        """Return the features of a catalog in f32, (n, d)."""
        features = extract_features(self.network, catalog, store=self.store, precision="f32", reporter=SILENT)
        samples = catalog.exclude(features.refused).samples
        return np.asarray(features.matrix(samples, "cut_0"), np.float32)

    def fit(self, rows: np.ndarray) -> tuple[SolvedHead, Familiarity]:
        """Return a head solved on some rows, and what its answers' familiarity is measured with."""
        samples = tuple(self.catalog.samples[row] for row in rows)
        labels = np.unique(self.labels[rows], return_inverse=True)[1]
        head = solve("logistic", self.stored[rows], labels, task="multiclass")
        assert head.held_out is not None
        held = head.held_out.rows
        held_out = HeldOutAnswers(
            tuple(samples[row] for row in held),
            labels[held],
            head.link(head.held_out.decisions),
            self.stored[rows][held],
            "cross-validation",
        )
        reference = ReferenceImages(samples, labels, self.stored[rows], np.arange(len(rows)))
        texts = [self.catalog.describe_target(sample) for sample in samples]
        familiarity = fit_familiarity(held_out, reference, task="multiclass", labels=texts, seed=0)
        assert familiarity is not None
        return head, familiarity


def measure_auroc(familiar: np.ndarray, strange: np.ndarray) -> float:
    """Return the area under the curve of values that are lower for strange images."""
    truth = np.repeat([0, 1], [len(familiar), len(strange)])
    return float(roc_auc_score(truth, -np.log(np.concatenate([familiar, strange]))))


def measure_other_kinds(photographs: Photographs, folder: Path) -> list[Row]:
    """Return rows on the level for test photographs, and on images of other kinds."""
    head, familiarity = photographs.fit(np.flatnonzero(photographs.is_train))

    def measure(features: np.ndarray) -> np.ndarray:
        return familiarity.measure(features, head.predict(features))

    clean = measure(photographs.exact[~photographs.is_train])
    catalog = Catalog.from_folder(folder)
    features, kinds = photographs.compute(catalog), catalog.targets(catalog.samples)
    measured = {name: measure(features[kinds == row]) for row, name in enumerate(catalog.outputs)}
    remark = f"of {len(clean)} photographs; references stored in {photographs.precision}"
    unfamiliar = {"as they are": (clean, 2.0), **{name: (measured[name], 3.0) for name in CHANGES}}
    rows = [
        Row(f"test photographs unfamiliar at 1 %, {name}", "%", (100 * float(np.mean(values < LEVEL)),),
            None, limit, (), remark)
        for name, (values, limit) in unfamiliar.items()
    ]  # fmt: skip
    threshold = np.quantile(clean, FALSE_ALARMS)
    for kind in KINDS:
        values = measured[kind]
        remark = f"{len(values)} images; {100 * np.mean(values < LEVEL):.0f} % are unfamiliar at 1 %"
        rows += [
            Row(f"AUROC of images of another kind, {kind}", "AUROC", (measure_auroc(clean, values),),
                0.98, None, (), remark),
            Row(f"found at 5 % false alarms, {kind}", "%", (100 * float(np.mean(values <= threshold)),),
                95.0, None, (), remark),
        ]  # fmt: skip
    return [*rows, *measure_cost(photographs, familiarity, head)]


def measure_cost(photographs: Photographs, familiarity: Familiarity, head: SolvedHead) -> list[Row]:
    """Return rows on the time beside that of the network, and on the size of the file."""
    engine = EngineRunner(photographs.network, photographs.store).engine
    features = photographs.exact[:256]
    answers = head.predict(features)
    noise = np.random.default_rng(0).integers(0, 256, (8, engine.batch, 224, 224, 3)).astype(np.uint8)
    shares = []
    for turn in range(6):
        start = time.process_time()
        list(engine.run(noise))
        network = (time.process_time() - start) / (len(noise) * engine.batch)
        start = time.process_time()
        familiarity.measure(features, answers)
        if turn:
            shares.append(100 * (time.process_time() - start) / len(features) / network)
    size = sum(array.nbytes for array in familiarity.to_arrays().values()) / 1e6
    return [
        Row("time of familiarity beside the network's", "%", tuple(shares), None, 5.0),
        Row("size of the file", "MB", (size,), None, 10.0, (), f"{len(familiarity.names):,} images"),
    ]


def measure_new_classes(photographs: Photographs, count: int) -> list[Row]:
    """Return rows on pairs of classes left out of training."""
    names, ours, usual = photographs.catalog.outputs, {}, {}
    pairs = list(combinations(range(len(names)), 2))
    for pair in pairs[:: max(1, len(pairs) // count)]:
        is_new = np.isin(photographs.labels, pair)
        head, familiarity = photographs.fit(np.flatnonzero(photographs.is_train & ~is_new))
        rows = [photographs.exact[~photographs.is_train & ~is_new], photographs.exact[is_new]]
        answers = [head.predict(features) for features in rows]
        values = [familiarity.measure(*both) for both in zip(rows, answers, strict=True)]
        key = frozenset(names[row] for row in pair)
        ours[key] = measure_auroc(*values)
        usual[key] = measure_auroc(*(table.max(1) for table in answers))
        print(f"{', '.join(sorted(key))}: {ours[key]:.3f}, by probability {usual[key]:.3f}", flush=True)
    remark = f"mean of {len(ours)} pairs of classes, lowest {min(ours.values()):.2f}"
    mean, other = float(np.mean(list(ours.values()))), float(np.mean(list(usual.values())))
    table = [
        Row("AUROC of new classes", "AUROC", (mean,), 0.80, None, (), remark),
        Row("AUROC of new classes, above that of the largest probability", "AUROC", (mean - other,),
            0.0, None, (), f"{remark}; the largest probability: {other:.3f}"),
    ]  # fmt: skip
    if DISTANT_PAIR in ours:
        table.append(Row("AUROC of new classes, hat and shoes", "AUROC", (ours[DISTANT_PAIR],), 0.99))
    return table


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--data", type=Path, default=IMAGES)
    parser.add_argument("--pairs", type=int, default=45)
    parser.add_argument("--store", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not are_present(options.data, MOBILENET, SHARED / "corpora"):
        return
    with tempfile.TemporaryDirectory(prefix="regraft-bench-") as folder:
        write_images(options.data, Path(folder) / "images")
        photographs = Photographs(options.data, Store(options.store or Path(folder) / "store"))
        rows = measure_other_kinds(photographs, Path(folder) / "images")
        rows += measure_new_classes(photographs, options.pairs)
    for row in rows:
        print(f"{row.name}: {row.median:.4g} {row.unit}; {row.remark}", flush=True)
    Sheet(rows).write(options.json)


if __name__ == "__main__":
    main()
