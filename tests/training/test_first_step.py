"""Training from a solved head starts where the head is: its first step does not spoil it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import write_photos

from regraft.pipeline.context import Context
from regraft.pipeline.prepare import extract_and_remember, list_data, load_and_resolve, split_catalog
from regraft.pipeline.stages import build_model, choose_taps, find_head_taps, fit_head, gather_training_data
from regraft.recipe import HeadSpec, Phase, Recipe
from regraft.system.console import SilentReporter
from regraft.training.fit import Trainer
from regraft.training.training_data import PhaseData

STEP = Phase("all", epochs=1, batch_size=1000, warmup=0.0)  # one step at the full rate


def write_table(folder: Path, task: str) -> tuple[Any, dict[str, Any]]:
    """Write photographs with targets of a task; return the data, and settings of a recipe."""
    photos = write_photos(folder / "photos")
    files = sorted(photos.rglob("*.png"))
    classes = sorted({file.parent.name for file in files})
    if task == "multiclass":
        return photos, {}
    cell = {
        "binary": lambda number, name: "yes" if name == classes[0] else "no",
        "multilabel": lambda number, name: f"{name}|{'odd' if number % 2 else 'even'}",
        "regression": lambda number, name: str(100 * classes.index(name) + 40 * (number % 3)),
    }[task]
    rows = [f"{file.relative_to(folder)},{cell(n, file.parent.name)}" for n, file in enumerate(files)]
    (folder / "table.csv").write_text("\n".join(["image,target", *rows, ""]))
    separator = "|" if task == "multilabel" else ""
    return folder / "table.csv", {
        "image": ("image",),
        "target": ("target",),
        "separator": separator,
        "task": task,
    }


@pytest.mark.slow
@pytest.mark.parametrize("taps", ["last", "late"])
@pytest.mark.parametrize("task", ["multiclass", "binary", "multilabel", "regression"])
def test_the_first_step_from_a_solved_head_keeps_the_loss(
    tmp_path: Path, network_file: Path, in_this_process: None, task: str, taps: Any
) -> None:
    data, settings = write_table(tmp_path, task)
    recipe = Recipe(backbone=str(network_file), head=HeadSpec(taps=taps), augment=(), **settings)
    context = Context.open(tmp_path / "store", reporter=SilentReporter())
    catalog, recipe = list_data(context, data, recipe)
    backbone, recipe = load_and_resolve(context, recipe)
    candidates = find_head_taps(backbone, recipe, context.in_memory)
    built = build_model(context, backbone, catalog, recipe, candidates)
    features = extract_and_remember(context, built.cut.prefix, catalog, recipe)
    split = split_catalog(context, catalog, features, recipe)
    training = gather_training_data(context, built, backbone, split, recipe=recipe, features=features)
    built, training = choose_taps(context, built, candidates, training)
    _, head = fit_head(context, built, training)
    pixels = training.make_pixel_data(STEP)
    judged_by_training = PhaseData(pixels.task, pixels.train, pixels.train)
    trainer = Trainer(head.model, backbone, context.reporter)
    before, after = trainer.train(STEP, judged_by_training, budget=600).history[:2]
    assert after.val_loss <= 1.1 * before.val_loss + 1e-3
