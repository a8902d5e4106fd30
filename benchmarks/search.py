"""Compare `regraft search` over 4 plans x 6 settings with the same 24 runs one by one.

One by one means `regraft train` for each plan and pair of rates, with the epochs of the longest trials. The
frozen part runs in every epoch (`--store-limit 0`), as in usual training loops; with `--stored` each run
stores its boundary, as `train` does by default. The time of a run depends on its plan and not on its rates,
so only `--settings` runs of each plan are made, and count for all. The store holds decoded pixels and pooled
features for both sides, and each run is a call in this process, so imports and decoding do not count. Both
sides solve the head in the same way.

A second search, which gives all 24 the full number of epochs, shows whether the first one found the best.

What bounds it:
    search of plans and rates: at 96 pixels the frozen part is quick, and most of a trial is training the
        rest, which is not shared. The larger the images and the frozen part, the more a search saves.

Times are wall clock and, because of other work on the machine, processor seconds of this process.

usage: search.py [--each N] [--epochs N] [--settings N] [--data FOLDER] [--weights FILE] [--stored]
    [--json FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rows import IMAGES, MOBILENET, Profile, Row, Sheet, Side, are_present, compute_ratios, make_parser


def copy_images(data: Path, out: Path, count: int) -> Path:
    """Copy the first training images of every class."""
    for folder in sorted(path for path in (data / "train").iterdir() if path.is_dir()):
        (out / folder.name).mkdir(parents=True)
        for file in sorted(folder.iterdir())[:count]:
            shutil.copyfile(file, out / folder.name / file.name)
    return out


def copy_store(store: Path, to: Path) -> Path:
    """Copy a store by linking its files."""
    shutil.rmtree(to, ignore_errors=True)
    return Path(shutil.copytree(store, to, copy_function=os.link))


class Stopwatch:
    """Wall-clock and processor seconds, summed over all `with` blocks."""

    def __init__(self) -> None:
        self.wall = self.processors = 0.0

    def __enter__(self) -> None:
        self._start = time.monotonic(), time.process_time()

    def __exit__(self, *_: object) -> None:
        self.wall += time.monotonic() - self._start[0]
        self.processors += time.process_time() - self._start[1]

    def multiply(self, factor: float) -> None:
        """Extrapolate to more runs."""
        self.wall, self.processors = factor * self.wall, factor * self.processors

    def __str__(self) -> str:
        return f"{self.wall:.0f} s ({self.processors:.0f} processor s)"


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--each", type=int, default=100, help="images per class")
    parser.add_argument("--epochs", type=int, default=9)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--plans", nargs="+", default=[f"stage:block_{n}" for n in (16, 15, 14, 13)])
    parser.add_argument("--settings", type=int, default=1, help="runs of each plan one by one")
    parser.add_argument("--stored", action="store_true")
    parser.add_argument("--data", type=Path, default=IMAGES)
    parser.add_argument("--weights", type=Path, default=MOBILENET)
    options = parser.parse_args()
    if not are_present(options.data, options.weights):
        return
    with tempfile.TemporaryDirectory(prefix="regraft-bench-") as folder:
        measure(options, Path(folder))


def measure(options: argparse.Namespace, folder: Path) -> None:
    """Search, search with all epochs, and run one by one; print and write the results."""
    from regraft import search, train
    from regraft.recipe import HeadSpec, Recipe, SearchSpace
    from regraft.training import tuning

    space = SearchSpace(
        plans=tuple(options.plans),
        learning_rates=(1e-3, 3e-4, 3e-3),
        backbone_rates=(0.3, 0.1),
        solvers=("logistic",),
        epochs=options.epochs,
    )
    images = copy_images(options.data, folder / "images", options.each)
    recipe = Recipe(
        backbone="mobilenet_v2",
        weights=str(options.weights),
        image_size=options.image_size,
        budget=36_000.0,
        head=HeadSpec(solver="logistic"),
    )
    with contextlib.redirect_stderr(io.StringIO()):
        warm = folder / "warm"
        first = replace(recipe, budget=1e-3)  # decodes, computes features and stores pixels
        train(images, first, folder / "first", store=warm)
        store = copy_store(warm, folder / "shared")
        searching, one_by_one = Stopwatch(), Stopwatch()
        with searching:
            run = search(images, recipe, folder / "search", space=space, store=store)
        for trial in run.metrics["search"]:
            print(f"  {describe_trial(trial)}, {trial['seconds']:.1f} s")
        print(f"search: {searching}; best: {describe_trial(find_winner(run.metrics))}", flush=True)
        tuning.FEWEST_STEPS = 10**9  # no trial is too long: all have the full number of epochs
        trials = search(images, recipe, folder / "every", space=space, store=store).metrics["search"]
        count = sum(trial["epochs"] > 0 for trial in trials)
        best = min(trials, key=lambda trial: trial["val_loss"])
        print(f"all {count} in full; best: {describe_trial(best)}", flush=True)
        phases = [phase for plan in space.plans for phase in space.make_phases(plan)[: options.settings]]
        for number, phase in enumerate(phases, 1):
            limit = recipe.store_limit if options.stored else 0.0
            single = replace(recipe, phases=(phase,), store_limit=limit)
            store = copy_store(warm, folder / "own")
            with one_by_one:
                train(images, single, folder / f"run{number}", store=store)
            print(f"  {describe_setting(vars(phase))}; {number} runs so far {one_by_one}", flush=True)
        one_by_one.multiply(count / len(phases))
        print(f"one by one, all {count}: {one_by_one}")
        sheet = make_sheet(run.metrics, best, searching, one_by_one)
        for row in sheet.rows:
            print(f"{row.name}: {row.median:.2f} {row.unit}")
        sheet.write(options.json)


def find_winner(metrics: dict[str, Any]) -> dict[str, Any]:
    """Return the trial that a search has kept."""
    (winner,) = [trial for trial in metrics["search"] if trial["kept"]]
    return winner


def make_sheet(
    metrics: dict[str, Any], best: dict[str, Any], searching: Stopwatch, one_by_one: Stopwatch
) -> Sheet:
    """Return the ratios, whether both found the same, and the stages of the search."""
    winner = find_winner(metrics)
    chosen, expected = (
        describe_setting(trial) if trial["epochs"] else trial["head"] for trial in (winner, best)
    )
    wall = (Side("one by one", "s", (one_by_one.wall,)), Side("search", "s", (searching.wall,)))
    busy = (Side("one by one", "s", (one_by_one.processors,)), Side("search", "s", (searching.processors,)))
    losses = (Side("all in full", "", (best["val_loss"],)), Side("search", "", (winner["val_loss"],)))
    rows = [
        Row(
            "search of plans and rates against the same runs one by one",
            "times",
            divide(wall),
            at_least=5,
            sides=wall,
        ),
        Row("the same in the processor's time", "times", divide(busy), sides=busy),
        Row(
            "search finds the plan and rates that are best of all with the full number of epochs",
            "yes",
            (float(chosen == expected),),
            at_least=1,
            sides=losses,
            remark=f"losses on validation; the best of all: {expected}; search: {chosen}",
        ),
    ]
    return Sheet(rows, [Profile("search, stage by stage", "s", metrics["seconds"])])


def divide(sides: tuple[Side, Side]) -> tuple[float, ...]:
    return compute_ratios(sides[0].values, sides[1].values)


def describe_setting(trial: Mapping[str, Any]) -> str:
    """Return the plan and the rates of a trial."""
    return f"{trial['unfreeze']}, rate {trial['learning_rate']:g} x {trial['backbone_rate']:g}"


def describe_trial(trial: Mapping[str, Any]) -> str:
    """Describe a trial in a line."""
    if not trial["epochs"]:
        return f"head by {trial['head']}, loss {trial['val_loss']:.4f}"
    return f"{describe_setting(trial)}, {trial['epochs']} epochs, loss {trial['val_loss']:.4f}"


if __name__ == "__main__":
    main()
