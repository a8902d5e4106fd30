"""regraft against the recipe of Keras' transfer-learning guide: whole processes from the shell, in turn.

The same images and network are used by the guide's recipe, by `regraft train --unfreeze none` with an empty
store, and by the same command again with that store. The ratios matter: those of a round are measured one
after the other. ResNet50 has random weights on both sides: the time is the same, the score means nothing.

With --epochs below 10 the recipe runs that many of its 10 epochs, and the time of the last one is added for
each of the others: such a figure is marked as extrapolated.

What bounds it:
    whole process, first run, MobileNetV2: 40 to 45 s of processor time, so 20 to 22 s on two cores at best.
        Before the first image passes, 9 s of one thread: importing Keras and TensorFlow 4 to 5 s, building
        2 s, converting and comparing 2 s. Then decoding and the network, 9 s of both, and after it 4 s of one
        thread again: duplicates, shortcuts and head, the model's file, its graph and the comparison of both.
    whole process, first run, ResNet50: the network alone runs 29 images/s in f32, which is 47 s for
        these; decoding takes 9 s of a processor, converting the network 3.5 s; this processor has no bf16.

usage: against_the_guide.py [--rounds N] [--backbone mobilenet_v2|resnet50] [--epochs 10] [--data FOLDER]
    [--weights FILE|random] [--auto] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from processes import (
    ProcessRun,
    Rounds,
    add_comparison,
    compare_scores,
    make_comparison_parser,
    run_process,
    run_rounds,
)  # fmt: skip
from rows import MOBILENET, Row, Sheet, Side, are_present

NAMES = {"mobilenet_v2": "MobileNetV2", "resnet50": "ResNet50"}
# Times faster: a first run without and with bf16 in the processor, a warm run.
TARGETS = {"mobilenet_v2": (12.0, 15.0, 30.0), "resnet50": (11.0, 18.0, 30.0)}
EPOCHS = 10  # of the recipe


def run_guide(options: argparse.Namespace) -> ProcessRun:
    """Run the guide's recipe; its seconds are those of 10 epochs, measured or extrapolated."""
    script = str(Path(__file__).with_name("guide_recipe.py"))
    command = [sys.executable, script, str(options.data), str(options.weights)]
    command += ["--backbone", options.backbone, "--epochs", str(options.epochs)]
    seconds, memory, out = run_process(command)
    result = json.loads(out.splitlines()[-1])
    epochs = result["epochs"]
    skipped = (EPOCHS - len(epochs)) * epochs[-1]
    parts = {
        "the first epoch": epochs[0],
        f"{EPOCHS - 1} more": sum(epochs[1:]) + skipped,
        "imports, listing, the network, the test images": seconds - sum(epochs),
    }
    return ProcessRun(seconds + skipped, memory, result["top1"], parts)


def make_sheet(options: argparse.Namespace, rounds: Rounds) -> Sheet:
    """Return the ratios, where the time goes, memory, and scores if they mean anything."""
    from regraft.features.openvino import has_bf16

    name, sheet = NAMES[options.backbone], Sheet()
    remark = f"{sum(1 for _ in options.data.glob('*/*/*')):,} images"
    if options.weights == "random":
        remark += ", random weights"
    if options.epochs < EPOCHS:
        remark += f"; the recipe extrapolated from {options.epochs} of its {EPOCHS} epochs"
    f32, bf16, warm = TARGETS[options.backbone]
    targets = (bf16 if has_bf16() else f32, warm)
    other = f"the recipe, {EPOCHS} epochs"
    add_comparison(sheet, rounds, other=other, title=name, targets=targets, remark=remark)
    memory = tuple(run.megabytes for run in rounds.first)
    recipe = Side("the recipe", "MB", tuple(run.megabytes for run in rounds.other))
    most = 700.0 if options.backbone == "mobilenet_v2" else None
    sheet.rows.append(Row(f"peak memory, first run, {name}", "MB", memory, at_most=most, sides=(recipe,)))
    if options.weights != "random" and options.epochs == EPOCHS:
        title = f"test top-1 of the probe less the recipe's, {name}"
        sheet.rows.append(compare_scores(rounds, name=title, other="the recipe"))
    return sheet


def main() -> None:
    parser = make_comparison_parser(__doc__)
    parser.add_argument("--backbone", choices=list(NAMES), default="mobilenet_v2")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="epochs that the recipe runs")
    options = parser.parse_args()
    options.weights = options.weights or (str(MOBILENET) if options.backbone == "mobilenet_v2" else "random")
    if are_present(options.data, options.weights):
        rounds = run_rounds(options, lambda: run_guide(options), f"the guide's recipe, {EPOCHS} epochs")
        make_sheet(options, rounds).write(options.json)


if __name__ == "__main__":
    main()
