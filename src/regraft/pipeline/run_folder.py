"""Write the files of a run folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from regraft.backbones.info import locate_backbone, locate_weights
from regraft.data.images.decoder_name import name_decoder
from regraft.data.images.decoder_pool import DecodingPool, Job
from regraft.data.sources import is_in_memory
from regraft.evaluation.slices import SLICE_MEASURES
from regraft.inference.bundle import MANIFEST_FORMAT
from regraft.inference.model_files import GRAPH, write_graph_and_selftest, write_trained_model
from regraft.pipeline.heat_maps import add_heat_maps, plan_heat_maps
from regraft.pipeline.predictions import SPLIT, join_digests, write_csv, write_predictions
from regraft.recipe import Recipe, TaskChoice
from regraft.report.bill_of_materials import BILL, make_bill
from regraft.report.build import choose_label_thresholds, make_report, score_parts, utc_now
from regraft.report.content import PartScores, Report
from regraft.report.model_card import MODEL_CARD, make_model_card
from regraft.report.render import write_report
from regraft.settings.network_list import join_items, split_for_each
from regraft.system.backend import get_versions
from regraft.system.console import Reporter
from regraft.system.files import hash_file
from regraft.training.outcome import Outcome
from regraft.uncertainty.file import UNCERTAINTY, write_uncertainty

if TYPE_CHECKING:
    from regraft.training.loop import PhaseResult

__all__ = ["open_sample_images", "write_run"]

GRAPH_CHECK_SAMPLES = 4  # on which a graph for another engine is compared with the model


def write_run(
    outcome: Outcome,
    folder: Path,
    out: Path,
    open_images: Callable[[], DecodingPool] | None,
    reporter: Reporter,
) -> dict[str, Any]:
    """Write all files of a run folder and return its metrics.

    Args:
        outcome: the result of the run.
        folder: the folder to fill.
        out: the path that it will be moved to.
        open_images: see `write_graph_and_selftest`.
        reporter: see `write_graph_and_selftest`.

    Raises:
        ModelRefused: a weight of the model is not a finite number.
    """
    with ThreadPoolExecutor(1) as pool:  # thumbnails and heat maps need a second and no Keras
        scores = pool.submit(_write_scores, outcome, folder)
        plan = pool.submit(lambda: plan_heat_maps(scores.result()[1], outcome))
        _write_records(outcome, folder, reporter)
        files = write_graph_and_selftest(outcome.network, folder, open_images, reporter)
        parts = pool.submit(lambda: add_heat_maps(scores.result()[1], plan.result(), outcome, folder))
        files |= write_trained_model(outcome.network, folder)
        files[UNCERTAINTY] = _write_uncertainty(outcome, folder)
    metrics = scores.result()[0]
    report = make_report(outcome, parts.result(), out)
    write_report(report, folder / "report.html")
    _write_json(folder / "manifest.json", _describe_model(report, _make_manifest(outcome, files), folder))
    return metrics


def open_sample_images(outcome: Outcome) -> DecodingPool:
    """Start to decode a few of a run's images, to compare the model with its graph on them."""
    catalog = outcome.catalog
    samples = (catalog.part("validation") or catalog.samples)[:GRAPH_CHECK_SAMPLES]
    jobs = [Job(catalog.root / image.path, image.digest) for sample in samples for image in sample.images]
    return DecodingPool(jobs, outcome.backbone.image_size, workers=1, depth=catalog.depth)


def _write_uncertainty(outcome: Outcome, folder: Path) -> str:
    """Write what the run knows about the reliability of its answers; return the file's SHA-256."""
    write_uncertainty(outcome.uncertainty, folder / UNCERTAINTY)
    return hash_file(folder / UNCERTAINTY)


def _describe_model(report: Report, manifest: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Write the model card and the bill of materials; return the manifest with their digests."""
    files = dict(manifest["files"])
    (folder / MODEL_CARD).write_text(make_model_card(report, manifest), "utf-8")
    files[MODEL_CARD] = hash_file(folder / MODEL_CARD)
    _write_json(folder / BILL, make_bill(report, {**manifest, "files": files}))
    files[BILL] = hash_file(folder / BILL)
    return {**manifest, "files": files}


def _write_scores(outcome: Outcome, folder: Path) -> tuple[dict[str, Any], list[PartScores]]:
    parts = score_parts(outcome)
    metrics = _make_metrics(outcome, parts)
    _write_json(folder / "metrics.json", metrics)
    return metrics, parts


def _write_records(outcome: Outcome, folder: Path, reporter: Reporter) -> None:
    """Write the recipe, the refused files, the split, the answers and the history of training."""
    catalog = outcome.catalog
    (folder / "recipe.toml").write_text(_format_recipe(outcome), "utf-8")
    (folder / "refused.jsonl").write_text(
        "".join(json.dumps(asdict(refused)) + "\n" for refused in catalog.refused), "utf-8"
    )
    write_csv(
        folder / SPLIT,
        ["image", "target", "part", "digest"],
        [[s.path, catalog.describe_target(s), s.part, join_digests(s)] for s in catalog.samples],
    )
    write_predictions(catalog, outcome.answers, folder, reporter)
    write_csv(
        folder / "history.csv",
        [
            "phase",
            "epoch",
            "loss",
            "val_loss",
            "val_score",
            "learning_rate",
            "seconds",
            "val_loss_calibrated",
        ],
        [
            [phase.unfreeze, *asdict(record).values()]
            for phase in outcome.decision.phases
            for record in phase.history
        ],
    )


def _make_metrics(outcome: Outcome, parts: list[PartScores]) -> dict[str, Any]:
    decision, features = outcome.decision, outcome.features
    scores = {
        part.name: {
            "n": part.n,
            **({"source": part.source} if part.source else {}),
            **{name: asdict(score) for name, score in part.scores.items()},
            **(part.calibration.to_metrics() if part.calibration else {}),
            "coverage": [coverage.to_json() for coverage in part.coverage.levels] if part.coverage else [],
            **({"unfamiliar": part.familiarity.unfamiliar} if part.familiarity else {}),
        }
        for part in sorted(parts, key=lambda part: part.name, reverse=True)
    }
    return {
        "task": outcome.catalog.task,
        **scores,
        "images": {"used": len(outcome.catalog), "refused": len(outcome.catalog.refused)},
        "leaks": outcome.leaks,
        "features": {"computed": features.computed, "reused": features.reused},
        "seconds": {stage: round(seconds, 3) for stage, seconds in outcome.seconds.items()},
        "decision": {
            "kept": "fine-tuned" if decision.fine_tuned else "head",
            "head": outcome.head,
            "reason": decision.reason,
            "phases": [_summarise_phase(phase) for phase in decision.phases],
            "refitted": bool(outcome.validation_source),
        },
        "slices": _list_slices(outcome),
        "search": [asdict(attempt) for attempt in decision.attempts],
        "learning_curve": outcome.learning_curve and asdict(outcome.learning_curve),
        "warnings": list(outcome.warnings),
    }


def _list_slices(outcome: Outcome) -> list[dict[str, Any]]:
    part, measure = next(iter(outcome.answers), ""), SLICE_MEASURES[outcome.catalog.task]
    return [{"part": part, "measure": measure, **asdict(row)} for row in outcome.slices]


def _summarise_phase(phase: PhaseResult) -> dict[str, Any]:
    return {
        "unfreeze": phase.unfreeze,
        "layers": phase.trained.layers,
        "parameters": phase.trained.parameters,
        "epochs": phase.history[-1].epoch,
        "best_epoch": phase.best,
        "weights": str(phase.mixture or f"epoch {phase.best}"),
        "stopped": phase.stopped,
        "gain": phase.gain and asdict(phase.gain),
    }


def _write_out_choices(outcome: Outcome) -> Recipe:
    """Return the recipe that reproduces this run: everything the program chose is written out."""
    recipe, phases = outcome.recipe, outcome.decision.phases
    was_left_out = outcome.decision.fine_tuned and not outcome.validation_source
    paths = {
        "data": None if is_in_memory(recipe.data) else Path(recipe.data),
        "root": Path(recipe.root) if recipe.root else None,
    }
    absolute: dict[str, Any] = {name: str(path.resolve()) for name, path in paths.items() if path is not None}
    weights = split_for_each(recipe.weights, len(recipe.networks), "weights")
    absolute["backbone"] = ",".join(_make_absolute(name, locate_backbone(name)) for name in recipe.networks)
    absolute["weights"] = join_items([_make_absolute(name, locate_weights(name)) for name in weights])
    return replace(
        recipe,
        **absolute,
        precision=outcome.features.precision,
        head=replace(recipe.head, solver=outcome.solver or recipe.head.solver),
        views=recipe.views if phases else recipe.view_count,  # without phases, auto is another number
        task=cast("TaskChoice", outcome.catalog.task),
        refit="never" if was_left_out else recipe.refit,
        phases=tuple(replace(result.phase, epochs=result.planned_epochs) for result in phases),
    )


def _make_absolute(text: str, path: Path | None) -> str:
    return text if path is None else str(path.resolve())


def _format_recipe(outcome: Outcome) -> str:
    text = _write_out_choices(outcome).to_toml()
    names = [*outcome.in_memory_objects, *(["data"] if is_in_memory(outcome.recipe.data) else [])]
    if not names:
        return text
    return f"# Passed in from Python, and to be passed in again: {', '.join(names)}.\n{text}"


def _make_manifest(outcome: Outcome, files: dict[str, str]) -> dict[str, Any]:
    backbone, catalog, recipe = outcome.backbone, outcome.catalog, outcome.recipe
    return {
        "format": MANIFEST_FORMAT,
        "created": utc_now(),
        "task": catalog.task,
        "outputs": list(catalog.outputs),
        "thresholds": choose_label_thresholds(outcome),
        "photos": len(catalog.samples[0].images),
        "columns": {"image": recipe.image, "target": recipe.target, "separator": recipe.separator},
        "pixels": {
            "size": backbone.image_size,
            "range": "RGB 0..255, float32",
            "resize": "the whole image to a square, bilinear with antialiasing",
            "orientation": "EXIF applied",
            "decoder": name_decoder(catalog.depth),
            "depth": catalog.depth,
        },
        "backbone": {
            "name": backbone.name,
            "weights": backbone.weights,
            "contract": backbone.contract,
            "new_layers": list(backbone.new_layers),
        },
        "head": outcome.head,
        "features": outcome.network.inner and asdict(outcome.network.inner),
        "trained": [f"{phase.unfreeze}: {phase.trained}" for phase in outcome.decision.phases if phase.best],
        "data": {"root": catalog.root.name, "digest": catalog.digest, "images": len(catalog)},
        "files": files,
        "graph_of": files["model.keras"] if GRAPH[0] in files else None,
        "parameters": outcome.network.parameters,
        "versions": get_versions(),
    }


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", "utf-8")
