"""An outcome as scores, and as the report's content."""

from __future__ import annotations

import datetime
import io
import os
import shlex
from pathlib import Path

import numpy as np

from regraft.data.catalog import Sample
from regraft.data.decode import decode
from regraft.evaluation.explain import most_wrong
from regraft.evaluation.metrics import (
    baseline,
    classification_scores,
    confusion_matrix,
    per_class,
    wilson_interval,
)
from regraft.evaluation.report import Epoch, PartScores, Report, WrongImage
from regraft.outcome import Outcome

__all__ = ["now", "report_of", "score_parts"]

THUMBNAIL = 220  # pixels on the longer side
GALLERY = 24  # wrong images shown a part


def score_parts(outcome: Outcome) -> list[PartScores]:
    """The scores of each part, in the order of `outcome.answers`: test before validation."""
    return [_part(outcome, name) for name in outcome.answers]


def report_of(outcome: Outcome, parts: list[PartScores], out: Path) -> Report:
    """What the report says of a run whose folder is `out`."""
    recipe = outcome.recipe
    backbone, catalog, decision = outcome.backbone, outcome.catalog, outcome.decision
    first = catalog.part(parts[0].name) if parts else ()
    training = [sample.target for sample in catalog.part("train")]
    run = os.fspath(out)
    return Report(
        title=out.name,
        created=now(),
        command=f"regraft train {shlex.quote(recipe.data)} -o {shlex.quote(run)} (settings: recipe.toml)",
        summary=[
            ("Backbone", backbone.name),
            ("Weights", backbone.weights_briefly),
            ("Image size", f"{backbone.image_size} by {backbone.image_size} pixels"),
            ("Parameters", f"{outcome.model.count_params():,}"),
            ("Trained in the backbone", decision.trained if decision.fine_tuned else "nothing: head only"),
            ("Head", f"penalty {outcome.probe.penalty:.2g}, chosen by cross-validation"),
            (
                "Frozen features",
                f"{outcome.features.computed:,} computed, {outcome.features.reused:,} reused",
            ),
        ],
        decision=decision.reason,
        classes=list(catalog.outputs),
        counts={part: catalog.counts(part) for part in ("train", "validation", "test") if catalog.part(part)},
        parts=parts,
        history=[
            Epoch(decision.unfreeze, r.epoch, r.loss, r.val_loss, r.val_top1, r.learning_rate, r.seconds)
            for r in decision.history
        ],
        baseline=baseline(training, [sample.target for sample in first]) if first else 0.0,
        images_used=len(catalog),
        refused=list(catalog.refused),
        notes=[*catalog.notes, *_decoder_notes(outcome)],
        seconds=outcome.seconds,
        usage_python=(
            f"import regraft\n\nbundle = regraft.load({run!r})\n"
            'for prediction in bundle.predict(["photo.jpg"]):\n'
            "    print(prediction.label, prediction.probability)"
        ),
        usage_shell="\n".join(
            f"regraft {shlex.join([verb, run])} {what}"
            for verb, what in (("predict", "photo.jpg"), ("evaluate", "FOLDER"))
        ),
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
        f"{len(names)} images {meaning.get(note, note)}: {', '.join(names[:3])}"
        + (", ..." if len(names) > 3 else ".")
        for note, names in sorted(named.items())
    ]


def _part(outcome: Outcome, name: str) -> PartScores:
    samples = outcome.catalog.part(name)
    labels = np.array([sample.target for sample in samples])
    answer, probed = outcome.answers[name]
    classes = outcome.catalog.outputs
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


def now() -> str:
    """The time, in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
