"""`regraft search` over 4 plans x 6 settings, against the same 24 runs one by one.

One by one is `regraft train` for each plan and rates with the epochs of the longest attempts, with the frozen
part run in every epoch (`--store-limit 0`), as training loops do; `--stored` lets each run store its boundary
as `train` does by itself. What a run takes depends on its plan and not on its rates, so of every plan
`--settings` are run, and count for all. The store holds decoded pixels and pooled features for both sides,
and every one of the runs is a call in this process: imports and decoding are not counted against them. The
head is solved in the same way on both sides.

Whether the search finds the best is asked of a second one that gives all 24 the full number of epochs.

What bounds it:
    search of plans and rates: at 96 pixels the frozen part is quick, and most of an attempt is training the
        rest, which nothing shares. The larger the images and the frozen part, the more a search saves.

Times are wall clock and, for a machine with other work, seconds of processors in this process.

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

from rows import Profile, Row, Sheet, Side, add_json, ratios

SHARED = Path(__file__).resolve().parents[2] / "shared"


def some(data: Path, out: Path, each: int) -> Path:
    """The first photographs of every class of training, as links or copies."""
    for folder in sorted(path for path in (data / "train").iterdir() if path.is_dir()):
        (out / folder.name).mkdir(parents=True)
        for file in sorted(folder.iterdir())[:each]:
            shutil.copyfile(file, out / folder.name / file.name)
    return out


def copy(store: Path, to: Path) -> Path:
    """The same store again, its files linked."""
    shutil.rmtree(to, ignore_errors=True)
    return Path(shutil.copytree(store, to, copy_function=os.link))


class Stopwatch:
    """Seconds of the wall's clock, and of processors, over all stretches in which it ran."""

    def __init__(self) -> None:
        self.wall = self.processors = 0.0

    def __enter__(self) -> None:
        self._begun = time.monotonic(), time.process_time()

    def __exit__(self, *_: object) -> None:
        self.wall += time.monotonic() - self._begun[0]
        self.processors += time.process_time() - self._begun[1]

    def count_for(self, times: float) -> None:
        """What was measured is one of so many."""
        self.wall, self.processors = times * self.wall, times * self.processors

    def __str__(self) -> str:
        return f"{self.wall:.0f} s ({self.processors:.0f} s of processors)"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--each", type=int, default=100, help="photographs a class")
    parser.add_argument("--epochs", type=int, default=9)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--plans", nargs="+", default=[f"stage:block_{n}" for n in (16, 15, 14, 13)])
    parser.add_argument("--settings", type=int, default=1, help="runs of each plan, one by one")
    parser.add_argument("--stored", action="store_true")
    parser.add_argument("--data", type=Path, default=SHARED / "images" / "clothing")
    parser.add_argument(
        "--weights", type=Path, default=SHARED / "weights" / "mobilenet_v2_imagenet_224_notop.weights.h5"
    )
    add_json(parser)
    options = parser.parse_args()
    for path in (options.data, options.weights):
        if not path.exists():
            print(f"skipped: {path} is not here")
            return
    from regraft import HeadSpec, Recipe, Space, search, train
    from regraft.training import tuning

    space = Space(
        plans=tuple(options.plans),
        learning_rates=(1e-3, 3e-4, 3e-3),
        backbone_rates=(0.3, 0.1),
        solvers=("logistic",),
        epochs=options.epochs,
    )
    with tempfile.TemporaryDirectory(prefix="regraft-bench-") as place, contextlib.ExitStack() as stack:
        here = Path(place)
        photos = some(options.data, here / "photos", options.each)
        recipe = Recipe(
            backbone="mobilenet_v2",
            weights=str(options.weights),
            image_size=options.image_size,
            budget=36_000.0,
            head=HeadSpec(solver="logistic"),
        )
        warm = here / "warm"
        stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        train(
            photos, replace(recipe, budget=1e-3), here / "first", store=warm
        )  # decodes, pools, keeps pixels
        shared = copy(warm, here / "shared")
        searching, one_by_one = Stopwatch(), Stopwatch()
        with searching:
            run = search(photos, recipe, here / "search", space=space, store=shared)
        (kept,) = [tried for tried in run.metrics["search"] if tried["kept"]]
        for tried in run.metrics["search"]:
            print(f"  {words(tried)}, {tried['seconds']:.1f} s")
        print(f"search: {searching}; best: {words(kept)}", flush=True)
        tuning.STEPS = 10**9  # no attempt is too long: all have the full number of epochs
        every = search(photos, recipe, here / "every", space=space, store=shared).metrics["search"]
        whole = [tried for tried in every if tried["epochs"]]
        best = min(every, key=lambda tried: tried["val_loss"])
        print(f"all {len(whole)} in full; best: {words(best)}", flush=True)
        for number, phase in enumerate(
            p for plan in space.plans for p in space.phases(plan)[: options.settings]
        ):
            limit = recipe.store_limit if options.stored else 0.0
            asked = replace(recipe, phases=(phase,), store_limit=limit)
            own = copy(warm, here / "own")
            with one_by_one:
                train(photos, asked, here / f"run{number}", store=own)
            print(f"  {setting(vars(phase))}; {number + 1} runs so far {one_by_one}", flush=True)
        one_by_one.count_for(len(whole) / (len(space.plans) * options.settings))
        print(f"one by one, all {len(whole)}: {one_by_one}")
        result = sheet(run.metrics, best, searching, one_by_one)
        for row in result.rows:
            print(f"{row.name}: {row.median:.2f} {row.unit}")
        result.write(options.json)


def sheet(
    metrics: dict[str, Any], best: dict[str, Any], searching: Stopwatch, one_by_one: Stopwatch
) -> Sheet:
    """The ratio, whether both found the same, and the stages of the search."""
    (kept,) = [tried for tried in metrics["search"] if tried["kept"]]
    chosen, right = (setting(tried) if tried["epochs"] else tried["head"] for tried in (kept, best))
    wall = (Side("one by one", "s", (one_by_one.wall,)), Side("search", "s", (searching.wall,)))
    busy = tuple(
        Side(each.name, each.unit, (watch.processors,))
        for each, watch in zip(wall, (one_by_one, searching), strict=True)
    )
    least = (Side("all in full", "", (best["val_loss"],)), Side("search", "", (kept["val_loss"],)))
    rows = [
        Row(
            "search of plans and rates against the same runs one by one",
            "times",
            quotient(wall),
            at_least=5,
            sides=wall,
        ),
        Row("the same in the processor's time", "times", quotient(busy), sides=busy),
        Row(
            "search finds the plan and rates that are best of all with the full number of epochs",
            "yes",
            (float(chosen == right),),
            at_least=1,
            sides=least,
            remark=f"losses on validation; the best of all: {right}; search: {chosen}",
        ),
    ]
    return Sheet(rows, [Profile("search, stage by stage", "s", metrics["seconds"])])


def quotient(sides: tuple[Side, Side]) -> tuple[float, ...]:
    return ratios(sides[0].values, sides[1].values)


def setting(tried: Mapping[str, Any]) -> str:
    """What was asked of an attempt."""
    return f"{tried['unfreeze']}, rate {tried['learning_rate']:g} x {tried['backbone_rate']:g}"


def words(tried: Mapping[str, Any]) -> str:
    """A trial in a line."""
    if not tried["epochs"]:
        return f"head by {tried['head']}, loss {tried['val_loss']:.4f}"
    return f"{setting(tried)}, {tried['epochs']} epochs, loss {tried['val_loss']:.4f}"


if __name__ == "__main__":
    main()
