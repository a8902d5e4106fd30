"""`regraft search` over 4 plans x 6 settings, against the same 24 runs one by one.

One by one is `regraft train` for each plan and rates with the epochs of the longest attempts, with the frozen
part run in every epoch (`--store-limit 0`), as training loops do; `--stored` lets each run store its boundary
as `train` does by itself. The store holds decoded pixels and pooled features for both sides, and every one of
the runs is a call in this process: imports and decoding are not counted against them. The head is solved in
the same way on both sides.

usage: search.py [--each N] [--epochs N] [--data FOLDER] [--weights FILE] [--stored]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path

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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--each", type=int, default=100, help="photographs a class")
    parser.add_argument("--epochs", type=int, default=9)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--plans", nargs="+", default=[f"stage:block_{n}" for n in (16, 15, 14, 13)])
    parser.add_argument("--stored", action="store_true")
    parser.add_argument("--data", type=Path, default=SHARED / "images" / "clothing")
    parser.add_argument(
        "--weights", type=Path, default=SHARED / "weights" / "mobilenet_v2_imagenet_224_notop.weights.h5"
    )
    options = parser.parse_args()
    for path in (options.data, options.weights):
        if not path.exists():
            print(f"skipped: {path} is not here")
            return
    from regraft import HeadSpec, Recipe, Space, search, train
    from regraft.console import quiet

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
        stack.enter_context(quiet())
        train(
            photos, replace(recipe, budget=1e-3), here / "first", store=warm
        )  # decodes, pools, keeps pixels
        shared = copy(warm, here / "shared")
        begun = time.monotonic()
        run = search(photos, recipe, here / "search", space=space, store=shared)
        searching = time.monotonic() - begun
        best = min(run.metrics["search"], key=lambda tried: tried["val_loss"])
        print(
            f"search: {searching:.0f} s, {len(run.metrics['search'])} attempts; best: {words(best)}",
            flush=True,
        )
        one_by_one, found = 0.0, []
        for number, phase in enumerate(phase for plan in space.plans for phase in space.phases(plan)):
            limit = recipe.store_limit if options.stored else 0.0
            asked = replace(recipe, phases=(phase,), store_limit=limit)
            own = copy(warm, here / "own")
            begun = time.monotonic()
            made = train(photos, asked, here / f"run{number}", store=own)
            one_by_one += time.monotonic() - begun
            loss = made.metrics["validation"]["log_loss"]["value"]
            found.append((loss, f"{phase.unfreeze}, rate {phase.learning_rate:g} x {phase.backbone_rate:g}"))
            print(f"  {found[-1][1]}: {loss:.4f}, {one_by_one:.0f} s so far", flush=True)
        found.sort()
        print(f"one by one: {one_by_one:.0f} s; best: {found[0][1]} with {found[0][0]:.4f}")
        print(f"the search is {one_by_one / searching:.1f} times faster")


def words(tried: dict[str, object]) -> str:
    """A trial in a line."""
    rates = f"rate {tried['learning_rate']:g} x {tried['backbone_rate']:g}"
    return f"{tried['unfreeze']}, {rates}, {tried['epochs']} epochs, loss {tried['val_loss']:.4f}"


if __name__ == "__main__":
    main()
