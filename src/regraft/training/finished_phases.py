"""Results of finished phases in the store: a run that is repeated with everything equal trains nothing again.

    <store>/phases-1/<digest of what the phase depends on>.npz     32 bytes of digest, then a checkpoint

What a phase depends on is the network before it (graph and weights), its freeze plan and settings, the images
with their targets and weights, the seed, and the versions of the packages that compute. A result that the
clock cut short is not stored. Files are written next to their place and renamed; a damaged one counts as
missing. The oldest are deleted once all of them take more than `LIMIT` bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import keras
import numpy as np

from regraft.backbones.graph import flatten_layers
from regraft.errors import EnvironmentFault
from regraft.features.keras_engine import fingerprint
from regraft.features.store import Store
from regraft.models.freeze import resolve_plan
from regraft.recipe import Phase
from regraft.system.backend import get_versions
from regraft.system.files import make_temporary_file, remove_stale
from regraft.training.checkpoint import Arrays, pack_checkpoint, unpack_checkpoint
from regraft.training.fit import EPOCHS
from regraft.training.training_data import TrainingData

__all__ = ["FinishedPhases", "describe_phase_inputs"]

LIMIT = 2 * 10**9  # bytes of all results together
DIGEST = 32  # bytes of a file's digest

Result = tuple[dict[str, Any], Arrays]


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
    settings = {
        "phase": {**asdict(phase), "unfreeze": str(plan), "epochs": phase.epochs or EPOCHS},
        "network": fingerprint(model),
        "key": data.views[0].key,
        "recipe": {
            name: getattr(recipe, name)
            for name in ("seed", "augment", "views", "feature_noise", "class_weight")
        },
        "versions": get_versions(),
    }
    digest = hashlib.blake2b(json.dumps(settings, sort_keys=True, default=str).encode(), digest_size=16)
    for part in ("train", "validation"):
        samples = catalog.part(part)
        digest.update(json.dumps([part, [sample.digest for sample in samples]]).encode())
        weights = data.weigh(part)
        for array in (data.standardise_targets(part), np.ones(0) if weights is None else weights):
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


class FinishedPhases:
    """The results of finished phases in a store, looked up by a digest of their inputs.

    What cannot be written or read is trained again, so no method raises an error because of the disk.
    """

    def __init__(self, store: Store) -> None:
        self._store, self._folder = store, store.folder("phases-1", "")

    def read(self, inputs: str) -> Result | None:
        """Return state and arrays of the phase with these inputs, or None."""
        path = self._folder / f"{inputs}.npz"
        try:
            content = path.read_bytes()
            if hashlib.blake2b(content[DIGEST:], digest_size=DIGEST).digest() != content[:DIGEST]:
                return None
            result = unpack_checkpoint(io.BytesIO(content[DIGEST:]), path)
            os.utime(path)  # what is used is not the oldest
        except (OSError, EnvironmentFault):
            return None
        return result

    def write(self, inputs: str, result: Result) -> None:
        """Store state and arrays of a finished phase; delete the oldest results beyond the limit."""
        file = io.BytesIO()
        pack_checkpoint(file, *result)
        content = file.getvalue()
        if len(content) > LIMIT / 4:
            return
        with suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            remove_stale(self._folder, ".writing-")
            with make_temporary_file(self._folder, ".writing-") as temporary:
                digest = hashlib.blake2b(content, digest_size=DIGEST).digest()
                temporary.write_bytes(digest + content)
                temporary.replace(self._folder / f"{inputs}.npz")
            _delete_oldest(self._folder)

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


def _delete_oldest(folder: Path) -> None:
    files = [(path.stat().st_mtime, path.stat().st_size, path) for path in folder.glob("*.npz")]
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total <= LIMIT:
            break
        path.unlink(missing_ok=True)
        total -= size
