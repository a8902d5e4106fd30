"""What a run found, and the run folder it becomes.

The folder is filled beside its place and moved there whole: whoever looks sees the old run or the new one.
"""

from __future__ import annotations

import csv
import datetime
import importlib.metadata
import io
import json
import os
import platform
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from regraft.data.catalog import Catalog, Sample
from regraft.data.decode import DECODER, decode
from regraft.deploy.bundle import MANIFEST_FORMAT, write_model
from regraft.errors import EnvironmentFault, UsageError
from regraft.evaluation.explain import most_wrong
from regraft.evaluation.metrics import (
    Interval,
    baseline,
    classification_scores,
    confusion_matrix,
    per_class,
    wilson_interval,
)
from regraft.evaluation.report import Epoch, PartScores, Report, WrongImage, write_report
from regraft.recipe import Recipe

if TYPE_CHECKING:
    import keras

    from regraft.backbone.load import Backbone
    from regraft.features.extract import Features
    from regraft.training.fit import EpochRecord, Fitted
    from regraft.training.solvers import Probe

__all__ = ["Decision", "Outcome", "claim_folder", "write_run"]

THUMBNAIL = 220  # pixels on the longer side
GALLERY = 24


@dataclass(frozen=True)
class Decision:
    """What was kept and why.

    Attributes:
        unfreeze: the plan that was trained; "none" for the linear probe.
        reason: a sentence for the user.
        epochs, best: how many passes ran, and after which the kept weights were taken (0: the probe).
        stopped: what ended fine-tuning; see `training.fit.Fitted`.
        trained: layers and parameters that trained, in words.
        history: a record an epoch.
    """

    unfreeze: str
    reason: str
    epochs: int = 0
    best: int = 0
    stopped: str = "done"
    trained: str = "the head alone"
    history: list[EpochRecord] = field(default_factory=list)

    @property
    def fine_tuned(self) -> bool:
        """Whether the model is anything but the probe."""
        return self.best > 0

    @classmethod
    def of(cls, unfreeze: str, fitted: Fitted, why: str) -> Decision:
        """The decision a finished fine-tuning comes to."""
        first, best = fitted.history[0], fitted.history[fitted.best]
        done = fitted.history[-1].epoch
        ends = {"budget": "the budget ran out", "interrupted": "it was interrupted", "diverged": "it diverged"}
        end = f"; {ends[fitted.stopped]} in epoch {done}" if fitted.stopped in ends else ""
        if fitted.best:
            reason = (
                f"Fine-tuned ({unfreeze}, {why}): top-1 on validation {best.val_top1:.3f} against "
                f"{first.val_top1:.3f} of the linear probe, loss {best.val_loss:.3f} against "
                f"{first.val_loss:.3f}, after epoch {fitted.best} of {done}{end}."
            )
        else:
            tried = max((record.val_top1 for record in fitted.history[1:]), default=float("nan"))
            reason = (
                f"The linear probe: fine-tuning {unfreeze} reached a top-1 on validation of {tried:.3f} at best, "
                f"the probe has {first.val_top1:.3f}{end}."
            )
        return cls(unfreeze, reason, done, fitted.best, fitted.stopped, str(fitted.trained), fitted.history)


@dataclass(frozen=True)
class Outcome:
    """Everything a run made. `answers`: part -> probabilities by the model and by the probe, (n, classes)."""

    recipe: Recipe
    catalog: Catalog
    backbone: Backbone
    model: keras.Model
    features: Features
    probe: Probe
    decision: Decision
    answers: dict[str, tuple[NDArray[Any], NDArray[Any]]]
    seconds: dict[str, float]


@contextmanager
def claim_folder(out: Path, *, overwrite: bool) -> Iterator[Path]:
    """A folder to fill, which takes the place of `out` when all went well and vanishes when it did not.

    Raises:
        UsageError: `out` exists and may not be replaced.
        EnvironmentFault: nothing can be written there.
    """
    if out.exists():
        ours = out.is_dir() and (not any(out.iterdir()) or (out / "manifest.json").is_file())
        if not overwrite:
            raise UsageError(f"{out} exists already. Choose another folder, or replace the run with --overwrite.")
        if not ours:
            raise UsageError(f"{out} is not a run folder, so --overwrite does not replace it. Choose another.")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{out.name}.writing-", dir=out.parent))
        beside.chmod(0o755)
    except OSError as error:
        raise EnvironmentFault(f"Nothing can be written to {out.parent}: {error.strerror or error}.") from error
    try:
        yield beside
        _take_place(beside, out)
    except OSError as error:
        if isinstance(error, EnvironmentFault):
            raise
        raise EnvironmentFault(f"The run folder {out} cannot be written: {error}.") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _take_place(beside: Path, out: Path) -> None:
    if not out.exists():
        beside.rename(out)
        return
    old = beside.with_name(f"{beside.name}.old")
    out.rename(old)
    beside.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def write_run(outcome: Outcome, folder: Path, out: Path) -> dict[str, Any]:
    """Fill a run folder that will end as `out`; returns the metrics."""
    recipe, catalog = outcome.recipe, outcome.catalog
    parts = [_part(outcome, name) for name in outcome.answers]
    metrics = _metrics(outcome, parts)
    _write_json(folder / "metrics.json", metrics)
    (folder / "recipe.toml").write_text(_resolved(outcome).to_toml(), "utf-8")
    (folder / "refused.jsonl").write_text(
        "".join(json.dumps(asdict(refused)) + "\n" for refused in catalog.refused), "utf-8"
    )
    _write_csv(
        folder / "split.csv",
        ["image", "class", "part", "digest"],
        [[s.path, catalog.classes[s.label], s.part, s.digest] for s in catalog.samples],
    )
    _write_csv(
        folder / "history.csv",
        ["epoch", "loss", "val_loss", "val_top1", "learning_rate", "seconds"],
        [list(asdict(record).values()) for record in outcome.decision.history],
    )
    write_report(_report(outcome, parts, out, recipe), folder / "report.html")
    digest = write_model(outcome.model, folder / "model.keras")
    _write_json(folder / "manifest.json", _manifest(outcome, digest))
    return metrics


def _part(outcome: Outcome, name: str) -> PartScores:
    samples = outcome.catalog.part(name)
    labels = np.array([sample.label for sample in samples])
    answer, probed = outcome.answers[name]
    classes = outcome.catalog.classes
    said = answer.argmax(1)
    wrong = [
        WrongImage(
            image=samples[i].path,
            truth=classes[labels[i]],
            said=classes[said[i]],
            probability=float(answer[i, said[i]]),
            truth_probability=float(answer[i, labels[i]]),
            thumbnail=_thumbnail(outcome.catalog.root, samples[i]),
        )
        for i in most_wrong(labels, answer, count=GALLERY)
    ]
    hits = int((probed.argmax(1) == labels).sum())
    return PartScores(
        name=name,
        n=len(samples),
        scores=classification_scores(labels, answer, seed=outcome.recipe.seed),
        confusion=confusion_matrix(labels, said, len(classes)),
        rows=per_class(labels, said, classes),
        wrong=wrong,
        probe_top1=wilson_interval(hits, len(samples)) if outcome.decision.fine_tuned else None,
    )


def _thumbnail(root: Path, sample: Sample) -> bytes:
    """A small JPEG for the report; empty where the file is gone by now."""
    from PIL import Image

    try:
        image = Image.fromarray(decode((root / sample.path).read_bytes(), None).pixels)
    except Exception:
        return b""
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def _metrics(outcome: Outcome, parts: list[PartScores]) -> dict[str, Any]:
    decision, features = outcome.decision, outcome.features
    scored = {
        part.name: {"n": part.n, **{name: _interval(score) for name, score in part.scores.items()}}
        for part in sorted(parts, key=lambda part: part.name, reverse=True)
    }
    return {
        "task": outcome.recipe.task,
        **scored,
        "images": {"used": len(outcome.catalog), "refused": len(outcome.catalog.refused)},
        "features": {"computed": features.computed, "reused": features.reused},
        "seconds": {stage: round(seconds, 3) for stage, seconds in outcome.seconds.items()},
        "decision": {
            "kept": "fine-tuned" if decision.fine_tuned else "probe",
            "unfreeze": decision.unfreeze if decision.fine_tuned else "none",
            "tried": decision.unfreeze,
            "epochs": decision.epochs,
            "best_epoch": decision.best,
            "stopped": decision.stopped,
            "reason": decision.reason,
        },
    }


def _interval(interval: Interval) -> dict[str, float]:
    return {"value": interval.value, "low": interval.low, "high": interval.high}


def _resolved(outcome: Outcome) -> Recipe:
    """The recipe that makes this very run again: what the program chose by the clock is written out."""
    decision, recipe = outcome.decision, outcome.recipe
    finetune = replace(recipe.finetune, epochs=decision.epochs) if decision.epochs else recipe.finetune
    return replace(
        recipe, data=str(Path(recipe.data).resolve()), unfreeze=decision.unfreeze, finetune=finetune
    )


def _manifest(outcome: Outcome, model_digest: str) -> dict[str, Any]:
    backbone, catalog = outcome.backbone, outcome.catalog
    return {
        "format": MANIFEST_FORMAT,
        "created": _now(),
        "task": outcome.recipe.task,
        "classes": list(catalog.classes),
        "pixels": {
            "size": backbone.image_size,
            "range": "RGB 0..255, float32",
            "resize": "the whole image to a square, bilinear with antialiasing",
            "orientation": "EXIF applied",
            "decoder": DECODER,
        },
        "backbone": {"name": backbone.name, "weights": backbone.weights, "contract": backbone.contract},
        "trained": outcome.decision.trained if outcome.decision.fine_tuned else "the head alone",
        "data": {"root": catalog.root.name, "digest": catalog.digest, "images": len(catalog)},
        "model": {"file": "model.keras", "sha256": model_digest, "parameters": outcome.model.count_params()},
        "versions": _versions(),
    }


def _versions() -> dict[str, str]:
    import keras

    found = {"python": platform.python_version(), "backend": keras.backend.backend()}
    for name in ("regraft", "keras", "tensorflow", "tensorflow-cpu", "jax", "openvino", "numpy", "pillow"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _report(outcome: Outcome, parts: list[PartScores], out: Path, recipe: Recipe) -> Report:
    backbone, catalog, decision = outcome.backbone, outcome.catalog, outcome.decision
    first = catalog.part(parts[0].name) if parts else ()
    training = [sample.label for sample in catalog.part("train")]
    run = os.fspath(out)
    return Report(
        title=out.name,
        created=_now(),
        command=f"regraft train {shlex.quote(recipe.data)} -o {shlex.quote(run)} (settings: recipe.toml)",
        summary=[
            ("Backbone", backbone.name),
            ("Weights", backbone.weights),
            ("Image size", f"{backbone.image_size} × {backbone.image_size} px"),
            ("Parameters", f"{outcome.model.count_params():,}"),
            ("Trained in the backbone", decision.trained if decision.fine_tuned else "nothing: head only"),
            ("Head", f"penalty {outcome.probe.penalty:.2g}, chosen by cross-validation"),
            ("Frozen features", f"{outcome.features.computed:,} computed, {outcome.features.reused:,} reused"),
        ],
        decision=decision.reason,
        classes=list(catalog.classes),
        counts={part: catalog.counts(part) for part in ("train", "validation", "test") if catalog.part(part)},
        parts=parts,
        history=[
            Epoch(decision.unfreeze, r.epoch, r.loss, r.val_loss, r.val_top1, r.learning_rate, r.seconds)
            for r in decision.history
        ],
        baseline=baseline(training, [sample.label for sample in first]) if first else 0.0,
        images_used=len(catalog),
        refused=list(catalog.refused),
        notes=[*catalog.notes, *_decoder_notes(outcome)],
        seconds=outcome.seconds,
        usage_python=(
            f"import regraft\n\nbundle = regraft.load({run!r})\n"
            'for prediction in bundle.predict(["photo.jpg"]):\n    print(prediction.label, prediction.probability)'
        ),
        usage_shell=f"regraft predict {shlex.quote(run)} photo.jpg\nregraft evaluate {shlex.quote(run)} FOLDER",
    )


def _decoder_notes(outcome: Outcome) -> list[str]:
    """What the decoder noted of files it accepted, a sentence a kind with the first few names."""
    meaning = {
        "extension_mismatch": "have an extension that is not their format's",
        "animated_first_frame": "are animations; the first frame is used",
        "first_page": "have several pages; the first is used",
        "jpeg_missing_eoi": "lack the end marker of a JPEG and are complete otherwise",
        "tiny_image": "are smaller than 32 pixels on a side",
    }
    named: dict[str, list[str]] = {}
    for sample in outcome.catalog.samples:
        for note in outcome.features.facts(sample).notes:
            named.setdefault(note, []).append(sample.path)
    return [
        f"{len(names)} images {meaning.get(note, note)}: {', '.join(names[:3])}{', ...' if len(names) > 3 else '.'}"
        for note, names in sorted(named.items())
    ]


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", "utf-8")


def _write_csv(path: Path, header: list[str], rows: list[list[Any]]) -> None:
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
