"""Measure whether the probabilities of solved heads mean what they say, on real photographs.

    python benchmarks/calibration.py [--splits 20] [--solvers logistic ridge lda] [--task multiclass]
        [--fine-tune PLAN ...] [--data FOLDER] [--features FILE.npz] [--json FILE]

MobileNetV2's features of all images in `train` and `test` are split at random, class by class: three quarters
to train, the rest to test. Each head is solved with settings by cross-validation, and calibrated on its
out-of-fold decision values. Compared are the same decisions uncalibrated (gain 1, no shift), and the
calibrated ones with another temperature on top that fits the test images best, which nobody can know before.
Calibration errors are in 15 bins of equal width over the answers of all splits together, beside what a
perfectly calibrated model would have. With the task multilabel there are five labels, each of them two of the
classes.

An image is in the test part of about a quarter of the splits, so the answers of all splits are not
independent: chance is that of a single answer to each image.

`--fine-tune` trains MobileNetV2 by gradient by each plan named, four epochs at a rate of `--rate`, calibrates
it on the validation part of its own run, and compares the same answers with and without that on the test
images. The plan none trains only a head, of a hidden layer with 256 units.

What bounds it:
    lda, multiclass: calibration error test: a fold solves four fifths of the images, with more features than
        images; the decision values of the head of all of them are on a slightly different scale.

`--features` names a file with `features` (n, d) and `labels` (n,), where they were computed already.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rows import IMAGES, MOBILENET, Row, Sheet, Side, make_parser

from regraft.metrics.calibration import Calibration, measure_calibration
from regraft.solvers.calibration import compute_decisions, fit_simple_link
from regraft.solvers.decision import Link
from regraft.solvers.solve import solve
from regraft.tasks import TASKS

MAX_ECE = 0.02
MAX_GAIN = 0.005  # nats that the best temperature still takes away
MAX_HARM = 0.002  # nats

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Split:
    """The answers of one split.

    Attributes:
        truth, answers: of the test images: targets and (n, units).
        held_truth, held_answers: the same of the training images, out of fold.
        loss, raw_loss, best_loss: log loss on test: of the answers, of uncalibrated ones, and of those by the
            best temperature or, of labels, by the best gain and shift.
        moved: how many test images have another class than by the uncalibrated answers.
        by_class: whether classes have scales of their own.
        seconds: of `solve`.
        test_rows, held_rows: numbers of the images.
    """

    truth: NDArray[np.int64]
    answers: Array
    held_truth: NDArray[np.int64]
    held_answers: Array
    loss: float
    raw_loss: float
    best_loss: float
    moved: int
    by_class: bool
    seconds: float
    test_rows: NDArray[np.int64]
    held_rows: NDArray[np.int64]


def read_features(options) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Read features and class numbers of all images, or compute them."""
    if options.features:
        with np.load(options.features, allow_pickle=False) as stored:
            return stored["features"], stored["labels"]
    from solvers import extract_data

    data = extract_data(options.data, str(MOBILENET))
    features = np.concatenate([data.train, data.test]).astype(np.float32)
    return features, np.concatenate([data.labels, data.truth])


def draw_test(labels: NDArray[np.int64], seed: int) -> NDArray[np.bool_]:
    """Return the mask of a quarter of the images of each class."""
    rng, mask = np.random.default_rng(seed), np.zeros(len(labels), bool)
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        mask[rows[: round(len(rows) / 4)]] = True
    return mask


def make_targets(labels: NDArray[np.int64], task: str) -> NDArray[np.int64]:
    """Return the targets of a task: class numbers, 0 or 1, or five labels."""
    if task == "multiclass":
        return labels
    if task == "binary":
        return (labels % 2).astype(np.int64)
    first, second = np.arange(5), np.arange(5) + 3
    return ((labels[:, None] == first) | (labels[:, None] == second)).astype(np.int64)


def measure_split(solver: str, features: Array, labels: NDArray[np.int64], task: str, seed: int) -> Split:
    """Solve a head on one split and answer its test images."""
    test, targets = draw_test(labels, seed), make_targets(labels, task)
    begun = time.perf_counter()
    head = solve(solver, features[~test], targets[~test], task=task, seed=seed)
    seconds = time.perf_counter() - begun
    decisions, units = head.decide(features[test]), len(head.link.gain)
    encoded = TASKS[task].encode(targets[test], units).astype(np.float64)
    plain = Link(head.link.activation, np.ones(units), np.zeros(units))
    logits = decisions * head.link.gain + head.link.shift
    best = fit_simple_link(logits, encoded, np.ones(len(logits)), task=task)
    answers, raw = head.link(decisions), plain(decisions)
    tables = (answers, raw, best(logits))
    return Split(
        targets[test],
        answers,
        targets[~test][head.held_out.rows],
        head.link(head.held_out.decisions),
        *(float(TASKS[task].compute_losses(table, encoded).mean()) for table in tables),
        int((answers.argmax(1) != raw.argmax(1)).sum()),
        "calibrated by class" in head.phrase,
        seconds,
        np.flatnonzero(test),
        np.flatnonzero(~test)[head.held_out.rows],
    )


def join(splits: list[Split], *, held: bool) -> tuple[Calibration, Calibration]:
    """Measure the calibration of the answers of all splits, and of the first answer to each image."""
    triples = [
        (one.held_truth, one.held_answers, one.held_rows) if held else (one.truth, one.answers, one.test_rows)
        for one in splits
    ]
    truth, answers, rows = (np.concatenate(arrays) for arrays in zip(*triples, strict=True))
    first = np.unique(rows, return_index=True)[1]
    return measure_calibration(truth, answers), measure_calibration(truth[first], answers[first])


def make_rows(solver: str, task: str, splits: list[Split]) -> list[Row]:
    """Return the lines of one solver."""
    name, rows = f"{solver}, {task}", []
    for held, part in ((True, "out of fold"), (False, "test")):
        measured, single = join(splits, held=held)
        chance = single.chance
        rows.append(
            Row(
                f"{name}: calibration error {part}, all splits",
                "",
                (measured.ece,),
                at_most=MAX_ECE,
                remark=f"{measured.n:,} answers; by chance {chance.low:.4f} to {chance.high:.4f} with one "
                "answer to each image",
            )
        )
    losses = Side("log loss", "nats", tuple(split.loss for split in splits))
    gains = tuple(split.loss - split.best_loss for split in splits)
    harms = tuple(split.loss - split.raw_loss for split in splits)
    by_class = sum(split.by_class for split in splits)
    rows.append(
        Row(f"{name}: mean gain of the best temperature on test", "nats", (float(np.mean(gains)),),
            at_most=MAX_GAIN, sides=(losses,), remark=f"by class in {by_class} of {len(splits)} splits"),
    )  # fmt: skip
    raw = np.mean([split.raw_loss for split in splits])
    error = np.std(harms) / len(harms) ** 0.5
    rows.append(
        Row(f"{name}: mean that calibration adds to the log loss on test", "nats", (float(np.mean(harms)),),
            at_most=MAX_HARM, remark=f"standard error {error:.4f}, worst split {max(harms):+.4f}; "
            f"uncalibrated {raw:.4f} on average"),
    )  # fmt: skip
    if task == "multiclass":
        moved = sum(split.moved for split in splits if not split.by_class)
        rows.append(Row(f"{name}: test images whose class a temperature changed", "", (moved,), at_most=0))
    return rows


def measure_fine_tuning(plan: str, data: str, rate: float) -> list[Row]:
    """Fine-tune MobileNetV2 by a plan and compare its test answers with uncalibrated ones."""
    from regraft.pipeline.context import Context
    from regraft.pipeline.train import run_stages
    from regraft.recipe import HeadSpec, Phase, Recipe

    phases = (Phase(plan, epochs=4, learning_rate=rate),) if plan != "none" else ()
    head = HeadSpec() if phases else HeadSpec(hidden=(256,))
    recipe = Recipe(weights=str(MOBILENET), phases=phases, head=head)
    outcome = run_stages(Context.open(None), data, recipe)
    result = outcome.decision.phases[-1]
    answers, catalog = outcome.answers["test"][0], outcome.catalog
    truth = catalog.targets(catalog.part("test"))
    encoded = TASKS["multiclass"].encode(truth, len(catalog.outputs)).astype(np.float64)
    logits = compute_decisions(answers, task="multiclass")
    gain = float(result.link.gain[0]) if result.best and result.link else 1.0
    plain = Link("softmax", np.full(answers.shape[1], 1 / gain), np.zeros(answers.shape[1]))
    best = fit_simple_link(logits, encoded, np.ones(len(logits)), task="multiclass")
    loss, raw, fitted = (
        float(TASKS["multiclass"].compute_losses(table, encoded).mean())
        for table in (answers, plain(logits), best(logits))
    )
    measured, before = measure_calibration(truth, answers), measure_calibration(truth, plain(logits))
    chance = measured.chance
    top1 = (answers.argmax(1) == truth).mean()
    remark = (
        f"temperature {1 / gain:.3f} from {len(catalog.part('validation'))} validation images, best epoch "
        f"{result.best}; {measured.n} test images, top-1 {top1:.3f}, log loss {loss:.4f}; calibration error "
        f"{measured.ece:.4f}, uncalibrated {before.ece:.4f}, by chance {chance.low:.4f} to {chance.high:.4f}"
    )
    name = f"fine-tuned {plan}"
    return [
        Row(f"{name}: gain of the best temperature on test", "nats", (loss - fitted,),
            at_most=MAX_GAIN, remark=remark),
        Row(f"{name}: what calibration adds to the log loss on test", "nats", (loss - raw,),
            at_most=MAX_HARM, remark=f"uncalibrated {raw:.4f}"),
    ]  # fmt: skip


def print_rows(rows: list[Row]) -> None:
    """Print a line for each row, with whether its target is met."""
    for row in rows:
        verdict = {True: "met", False: "MISSED", None: ""}[row.met]
        print(f"{row.name}: {row.median:.4f} {row.unit} {verdict} ({row.remark})", flush=True)


def main() -> None:
    """Measure every solver on every split."""
    parser = make_parser(__doc__)
    parser.add_argument("--solvers", nargs="*", default=["logistic", "ridge", "lda"])
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--task", choices=["multiclass", "binary", "multilabel"], default="multiclass")
    parser.add_argument("--data", default=str(IMAGES), help="folder with train and test")
    parser.add_argument("--features", type=Path, help="file of features, so that none are computed")
    parser.add_argument("--fine-tune", nargs="*", default=[], metavar="PLAN", help="plans, such as last:10")
    parser.add_argument("--rate", type=float, default=3e-4, help="learning rate of fine-tuning")
    options = parser.parse_args()
    sheet = Sheet()
    if options.solvers:
        features, labels = read_features(options)
    for solver in options.solvers:
        splits = [
            measure_split(solver, features, labels, options.task, seed) for seed in range(options.splits)
        ]
        rows = make_rows(solver, options.task, splits)
        print_rows(rows)
        print(f"{solver}: {np.mean([split.seconds for split in splits]):.2f} s a head", flush=True)
        sheet.rows += rows
    for plan in options.fine_tune:
        rows = measure_fine_tuning(plan, options.data, options.rate)
        print_rows(rows)
        sheet.rows += rows
    sheet.write(options.json)


if __name__ == "__main__":
    main()
