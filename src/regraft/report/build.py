"""An outcome as scores, and as the report's content."""

from __future__ import annotations

import datetime
import os
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from regraft.data.catalog import PARTS
from regraft.data.images.rejections import NOTES
from regraft.evaluation.scores import baseline, no_better, scores
from regraft.metrics.classification import confusion_matrix, per_class
from regraft.metrics.multilabel import choose_thresholds, per_label
from regraft.metrics.ranking import curves
from regraft.metrics.regression import per_target
from regraft.report.content import (
    ClassFindings,
    Epoch,
    LabelFindings,
    NumberFindings,
    PartScores,
    Report,
)
from regraft.report.mistakes import wrong_images, wrong_labels, wrong_numbers
from regraft.system.console import Reporter
from regraft.tasks import TASKS
from regraft.training.outcome import Outcome

__all__ = ["add_warnings", "now", "report_of", "score_parts", "thresholds", "warnings_of"]

Array = npt.NDArray[Any]


def thresholds(outcome: Outcome) -> dict[str, float]:
    """For multilabel the threshold of each label, chosen on the validation part; empty for other tasks.

    An answer that is not below it means the label. Without a validation part each is 0.5.

    Example:
        thresholds(outcome)["dog"]
    """
    catalog = outcome.catalog
    if catalog.task != "multilabel":
        return {}
    if "validation" not in outcome.answers:
        return dict.fromkeys(catalog.outputs, 0.5)
    truth = catalog.targets(catalog.part("validation"))
    chosen = choose_thresholds(truth, outcome.answers["validation"][0])
    return dict(zip(catalog.outputs, chosen.tolist(), strict=True))


def warnings_of(outcome: Outcome) -> tuple[str, ...]:
    """Whether the model is no better than not looking at the images, as a sentence if so."""
    first = next(iter(outcome.answers), None)
    caution = _caution(outcome, first) if first else ""
    return (caution,) if caution else ()


def add_warnings(outcome: Outcome, cautions: Sequence[str], reporter: Reporter) -> Outcome:
    """Return the outcome with what the user must know of the model, and report it.

    That is: cautions about the data, whether images are enlarged, `warnings_of`.
    """
    warnings = (*cautions, *filter(None, [_describe_enlarging(outcome)]), *warnings_of(outcome))
    for warning in warnings:
        reporter.warn(warning)
    return replace(outcome, warnings=warnings)


def _describe_enlarging(outcome: Outcome) -> str:
    """A warning where most images have far fewer pixels than the backbone takes; empty otherwise."""
    size, all_facts = outcome.backbone.image_size, outcome.features.facts(outcome.catalog.samples)
    sides = sorted(max(facts.width, facts.height) for facts in all_facts)
    middle = sides[len(sides) // 2]
    if middle * 2 > size:
        return ""
    return (
        f"Most images are small: {middle} pixels on the longer side are enlarged to {size}. It works, but "
        f"what the backbone knows of detail is of no use; --image-size {max(32, middle)} is faster."
    )


def score_parts(outcome: Outcome) -> list[PartScores]:
    """The scores of each part, in the order of `outcome.answers`: test before validation."""
    limits = np.array(list(thresholds(outcome).values()))
    return [_part(outcome, name, limits) for name in outcome.answers]


def _part(outcome: Outcome, name: str, limits: Array) -> PartScores:
    catalog, seed = outcome.catalog, outcome.recipe.seed
    truth, training = catalog.targets(catalog.part(name)), catalog.targets(catalog.part("train"))
    answers, frozen = outcome.answers[name]
    chosen = limits if catalog.task == "multilabel" else None
    probe = None
    if outcome.decision.fine_tuned:
        probe = next(iter(scores(catalog.task, truth, frozen, thresholds=chosen, seed=seed).values()))
    return PartScores(
        name=name,
        n=len(truth),
        scores=scores(catalog.task, truth, answers, thresholds=chosen, seed=seed),
        baseline=baseline(catalog.task, training, truth),
        caution=_caution(outcome, name),
        probe=probe,
        findings=_findings(outcome, name, limits),
    )


def _caution(outcome: Outcome, part: str) -> str:
    catalog = outcome.catalog
    return no_better(
        catalog.task,
        catalog.targets(catalog.part("train")),
        catalog.targets(catalog.part(part)),
        outcome.answers[part][0],
        outputs=catalog.outputs,
        part=part,
        seed=outcome.recipe.seed,
    )


def _findings(outcome: Outcome, part: str, limits: Array) -> ClassFindings | LabelFindings | NumberFindings:
    """What is particular to the task."""
    catalog = outcome.catalog
    truth, answers = catalog.targets(catalog.part(part)), outcome.answers[part][0]
    if catalog.task == "multilabel":
        rows = per_label(truth, answers, catalog.outputs, thresholds=limits)
        return LabelFindings(rows, wrong_labels(catalog, part, answers, limits))
    if catalog.task == "regression":
        means = catalog.targets(catalog.part("train")).astype(np.float64).mean(axis=0)
        numbers = per_target(truth, answers, catalog.outputs, means=means, seed=outcome.recipe.seed)
        return NumberFindings(numbers, truth, answers, wrong_numbers(catalog, part, answers))
    table = TASKS[catalog.task].complete(answers)
    said = table.argmax(axis=1)
    return ClassFindings(
        confusion_matrix(truth, said, len(catalog.outputs)),
        per_class(truth, said, catalog.outputs),
        wrong_images(catalog, part, table),
        curves(truth, answers[:, 0]) if catalog.task == "binary" else None,
    )


def report_of(outcome: Outcome, parts: list[PartScores], out: Path) -> Report:
    """What the report says of a run whose folder is `out`."""
    catalog, decision, run = outcome.catalog, outcome.decision, os.fspath(out)
    parts_of_data = [part for part in PARTS if catalog.part(part) and catalog.task != "regression"]
    return Report(
        title=out.name,
        created=now(),
        command=f"regraft {shlex.join(['train', outcome.recipe.data, '-o', run])} (settings: recipe.toml)",
        task=catalog.task,
        summary=_summary(outcome),
        decision=decision.reason,
        outputs=list(catalog.outputs),
        counts={part: catalog.counts(part) for part in parts_of_data},
        parts=parts,
        history=_history(outcome),
        score_name=TASKS[catalog.task].score_name,
        images_used=len(catalog),
        refused=list(catalog.refused),
        notes=[*catalog.notes, *outcome.backbone.notes, *_decoder_notes(outcome)],
        seconds=outcome.seconds,
        usage_python=_usage(catalog.task, run),
        usage_shell="\n".join(
            f"regraft {shlex.join([verb, run])} {what}"
            for verb, what in (("predict", "photo.jpg"), ("evaluate", "DATA"))
        ),
        warnings=list(outcome.warnings),
        phases=decision.phases,
        attempts=sorted(decision.attempts, key=lambda each: (not each.kept, each.val_loss)),
        new_layers=list(outcome.backbone.new_layers),
    )


def _summary(outcome: Outcome) -> list[tuple[str, str]]:
    backbone, features = outcome.backbone, outcome.features
    kept = [
        fitted.unfreeze for fitted in outcome.decision.phases if fitted.best and fitted.unfreeze != "none"
    ]
    return [
        ("Task", outcome.catalog.task),
        ("Backbone", backbone.name),
        ("Weights", backbone.weights_briefly),
        ("Image size", f"{backbone.image_size} by {backbone.image_size} pixels"),
        ("Parameters", f"{outcome.network.parameters:,}"),
        ("Trained in the backbone", ", then ".join(kept) or "nothing: head only"),
        ("Head", outcome.head),
        ("Frozen features", f"{features.computed:,} computed, {features.reused:,} reused"),
    ]


def _history(outcome: Outcome) -> list[Epoch]:
    """The epochs of all phases. A later one begins with what the one before kept: no epoch 0 of its own."""
    return [
        Epoch("head" if fitted.unfreeze == "none" else fitted.unfreeze, **vars(record))
        for number, fitted in enumerate(outcome.decision.phases)
        for record in (fitted.history if number == 0 else fitted.history[1:])
    ]


def _usage(task: str, run: str) -> str:
    said = "values" if task == "regression" else "label, prediction.probability"
    return (
        f"import regraft\n\nbundle = regraft.load({run!r})\n"
        'for prediction in bundle.predict(["photo.jpg"]):\n'
        f"    print(prediction.{said})"
    )


def _decoder_notes(outcome: Outcome) -> list[str]:
    """What the decoder noted of files it accepted, a sentence a kind with the first few names."""
    named: dict[str, list[str]] = {}
    samples = outcome.catalog.samples
    for sample, facts in zip(samples, outcome.features.facts(samples), strict=True):
        for note in facts.notes:
            named.setdefault(note, []).append(sample.path)
    return [
        f"{len(names)} images {NOTES[note]}: {', '.join(names[:3])}" + (", ..." if len(names) > 3 else ".")
        for note, names in sorted(named.items())
    ]


def now() -> str:
    """The time, in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
