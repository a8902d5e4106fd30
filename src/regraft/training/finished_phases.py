"""Results of finished phases in the store: a run that is repeated with everything equal trains nothing again.

What a phase depends on is the network before it (graph and weights), its freeze plan and settings, the images
with their targets and weights, the seed, and the versions of the packages that compute. A result that the
clock cut short is not stored.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import keras

from regraft.backbones.graph import flatten_layers
from regraft.features.keras_engine import fingerprint
from regraft.features.store import Store
from regraft.models.freeze import resolve_plan
from regraft.recipe import Phase
from regraft.training.fit import EPOCHS
from regraft.training.stored_results import StoredResults, digest_inputs
from regraft.training.training_data import TrainingData

__all__ = ["FinishedPhases", "describe_phase_inputs"]


def describe_phase_inputs(model: keras.Model, phase: Phase, data: TrainingData) -> str:
    """Return a digest of everything that decides what a phase makes of a model, except clock and boundary.

    Args:
        model: as it is before the phase.
        phase: what trains, and how.
        data: what it learns from.
    """
    recipe, catalog = data.recipe, data.catalog
    plan = phase.unfreeze
    if plan != "auto":
        flags = resolve_plan(data.backbone, plan).flags
        plan = "".join(str(int(flags.get(id(layer), True))) for layer in flatten_layers(model))
    settings: dict[str, Any] = {
        "phase": {**asdict(phase), "unfreeze": str(plan), "epochs": phase.epochs or EPOCHS},
        "network": fingerprint(model),
        "key": data.views[0].key,
        "recipe": {
            name: getattr(recipe, name)
            for name in ("seed", "augment", "views", "feature_noise", "class_weight")
        },
    }
    arrays = []
    for part in ("train", "validation"):
        settings[part] = [sample.digest for sample in catalog.part(part)]
        arrays += [data.standardise_targets(part), data.weigh(part)]
    return digest_inputs(settings, arrays)


class FinishedPhases(StoredResults):
    """The results of finished phases in a store, and what the clock decided for them."""

    def __init__(self, store: Store) -> None:
        super().__init__(store, "phases-1")

    def remember_choice(self, inputs: str, choice: dict[str, Any]) -> None:
        """Keep what the clock decided for a phase, so that a repeated run decides alike."""
        self._store.remember(f"choice of a phase: {inputs}", json.dumps(choice))

    def recall_choice(self, inputs: str) -> dict[str, Any] | None:
        """Return what `remember_choice` kept, or None."""
        try:
            choice = json.loads(self._store.recall(f"choice of a phase: {inputs}") or "")
        except ValueError:
            return None
        return choice if isinstance(choice, dict) else None
