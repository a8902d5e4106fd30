"""The run folder: filled beside its place and moved there whole.

Whoever looks sees the old run or the new one, never half of one.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from regraft.data.images.decoder_name import DECODER
from regraft.data.images.decoder_pool import DecodeAhead, Job
from regraft.data.table_files import safe_cell
from regraft.errors import EnvironmentFault, UsageError, name_os_errors
from regraft.inference.bundle import MANIFEST_FORMAT
from regraft.inference.model_files import GRAPH, write_trained_model
from regraft.recipe import Recipe, TaskChoice
from regraft.report.build import now, report_of, score_parts, thresholds
from regraft.report.content import PartScores
from regraft.report.render import write_report
from regraft.system.atomic import new_folder, take_place
from regraft.system.backend import versions
from regraft.system.console import Reporter
from regraft.training.outcome import Outcome

if TYPE_CHECKING:
    from regraft.training.fit import Fitted

__all__ = ["claim_folder", "open_sample_images", "write_run"]

SAMPLES = 4  # on which a graph for another engine is compared with the model


@contextmanager
def claim_folder(out: Path, *, overwrite: bool, mark: str = "manifest.json") -> Iterator[Path]:
    """A folder to fill, which takes the place of `out` when all went well and vanishes when it did not.

    Only a folder that is empty or holds the file `mark` is replaced.

    Raises:
        UsageError: `out` exists and may not be replaced.
        EnvironmentFault: nothing can be written there.
    """
    if out.exists():
        ours = out.is_dir() and (not any(out.iterdir()) or (out / mark).is_file())
        if not overwrite:
            raise UsageError(f"{out} exists already. Choose another folder, or replace it with --overwrite.")
        if not ours:
            raise UsageError(
                f"{out} is not a run folder (no {mark} in it), so --overwrite does not replace it. "
                "Choose another."
            )
    with ExitStack() as stack:
        with name_os_errors(f"Nothing can be written to {out.parent}"):
            out.parent.mkdir(parents=True, exist_ok=True)
            beside = stack.enter_context(new_folder(out.parent, f".{out.name}.writing-"))
        try:
            yield beside
            take_place(beside, out)
        except EnvironmentFault:
            raise
        except OSError as error:
            raise EnvironmentFault(f"The run folder {out} cannot be written: {error}.") from error


def write_run(
    outcome: Outcome,
    folder: Path,
    out: Path,
    open_images: Callable[[], DecodeAhead] | None,
    reporter: Reporter,
) -> dict[str, Any]:
    """Fill a run folder that will end as `out`; returns the metrics.

    Args:
        outcome: what the run found.
        folder: where to write.
        out: the name that the folder will have.
        open_images: see `write_trained_model`.

    Raises:
        ModelRefused: a weight of the model is not a finite number.
    """
    with ThreadPoolExecutor(1) as beside:  # thumbnails take no Keras, and half a second
        scored = beside.submit(_write_scores, outcome, folder, out)
        _write_records(outcome, folder)
        files = write_trained_model(outcome.network, folder, open_images, reporter)
        metrics = scored.result()
    _write_json(folder / "manifest.json", _manifest(outcome, files))
    return metrics


def open_sample_images(outcome: Outcome) -> DecodeAhead:
    """Begin to decode a few of a run's images once more."""
    catalog = outcome.catalog
    samples = (catalog.part("validation") or catalog.samples)[:SAMPLES]
    jobs = [Job(catalog.root / photo.path, photo.digest) for s in samples for photo in s.photos]
    return DecodeAhead(jobs, outcome.backbone.image_size, workers=1)


def _write_scores(outcome: Outcome, folder: Path, out: Path) -> dict[str, Any]:
    parts = score_parts(outcome)
    metrics = _metrics(outcome, parts)
    _write_json(folder / "metrics.json", metrics)
    write_report(report_of(outcome, parts, out), folder / "report.html")
    return metrics


def _write_records(outcome: Outcome, folder: Path) -> None:
    """What was asked for, what was not used, which image was in which part, and the course of training."""
    catalog = outcome.catalog
    (folder / "recipe.toml").write_text(_recipe_text(outcome), "utf-8")
    (folder / "refused.jsonl").write_text(
        "".join(json.dumps(asdict(refused)) + "\n" for refused in catalog.refused), "utf-8"
    )
    _write_csv(
        folder / "split.csv",
        ["image", "target", "part", "digest"],
        [[s.path, catalog.words(s), s.part, s.digest] for s in catalog.samples],
    )
    _write_csv(
        folder / "history.csv",
        ["phase", "epoch", "loss", "val_loss", "val_score", "learning_rate", "seconds"],
        [
            [phase.unfreeze, *asdict(record).values()]
            for phase in outcome.decision.phases
            for record in phase.history
        ],
    )


def _metrics(outcome: Outcome, parts: list[PartScores]) -> dict[str, Any]:
    decision, features = outcome.decision, outcome.features
    scored = {
        part.name: {"n": part.n, **{name: asdict(score) for name, score in part.scores.items()}}
        for part in sorted(parts, key=lambda part: part.name, reverse=True)
    }
    return {
        "task": outcome.catalog.task,
        **scored,
        "images": {"used": len(outcome.catalog), "refused": len(outcome.catalog.refused)},
        "leaks": outcome.leaks,
        "features": {"computed": features.computed, "reused": features.reused},
        "seconds": {stage: round(seconds, 3) for stage, seconds in outcome.seconds.items()},
        "decision": {
            "kept": "fine-tuned" if decision.fine_tuned else "head",
            "head": outcome.head,
            "reason": decision.reason,
            "phases": [_phase(phase) for phase in decision.phases],
        },
        "search": [asdict(attempt) for attempt in decision.attempts],
        "warnings": list(outcome.warnings),
    }


def _phase(fitted: Fitted) -> dict[str, Any]:
    return {
        "unfreeze": fitted.unfreeze,
        "layers": fitted.trained.layers,
        "parameters": fitted.trained.parameters,
        "epochs": fitted.history[-1].epoch,
        "best_epoch": fitted.best,
        "stopped": fitted.stopped,
    }


def _resolved(outcome: Outcome) -> Recipe:
    """Return the recipe that makes this very run again: what the program chose is written out."""
    recipe, phases = outcome.recipe, outcome.decision.phases
    return replace(
        recipe,
        precision=outcome.features.precision,
        head=replace(recipe.head, solver=outcome.solver or recipe.head.solver),
        views=recipe.views if phases else recipe.view_count,  # without phases it would be another
        data=_anywhere(recipe.data),
        backbone=_anywhere(recipe.backbone),
        weights=_anywhere(recipe.weights),
        task=cast("TaskChoice", outcome.catalog.task),
        phases=tuple(replace(fitted.phase, epochs=fitted.planned) for fitted in phases),
    )


def _recipe_text(outcome: Outcome) -> str:
    text = _resolved(outcome).to_toml()
    if not outcome.handed:
        return text
    return f"# Handed over in Python, and to be handed over again: {', '.join(outcome.handed)}.\n{text}"


def _anywhere(name: str) -> str:
    """A path so that it means the same from every folder; any other word as it is."""
    path = Path(name)
    return str(path.resolve()) if path.exists() and name not in ("imagenet", "random") else name


def _manifest(outcome: Outcome, files: dict[str, str]) -> dict[str, Any]:
    backbone, catalog, recipe = outcome.backbone, outcome.catalog, outcome.recipe
    return {
        "format": MANIFEST_FORMAT,
        "created": now(),
        "task": catalog.task,
        "outputs": list(catalog.outputs),
        "thresholds": thresholds(outcome),
        "photos": len(catalog.samples[0].photos),
        "columns": {"image": recipe.image, "target": recipe.target, "separator": recipe.separator},
        "pixels": {
            "size": backbone.image_size,
            "range": "RGB 0..255, float32",
            "resize": "the whole image to a square, bilinear with antialiasing",
            "orientation": "EXIF applied",
            "decoder": DECODER,
        },
        "backbone": {
            "name": backbone.name,
            "weights": backbone.weights,
            "contract": backbone.contract,
            "new_layers": list(backbone.new_layers),
        },
        "head": outcome.head,
        "trained": [f"{phase.unfreeze}: {phase.trained}" for phase in outcome.decision.phases if phase.best],
        "data": {"root": catalog.root.name, "digest": catalog.digest, "images": len(catalog)},
        "files": files,
        "graph_of": files["model.keras"] if GRAPH[0] in files else None,
        "parameters": outcome.network.parameters,
        "versions": versions(),
    }


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", "utf-8")


def _write_csv(path: Path, header: list[str], rows: list[list[Any]]) -> None:
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(
            [[safe_cell(cell) if isinstance(cell, str) else cell for cell in row] for row in rows]
        )
