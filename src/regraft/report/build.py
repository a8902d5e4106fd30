"""Turn the outcome of a run into scores, warnings and the content of its report."""

from __future__ import annotations

import datetime
import math
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
from regraft.data.sources import is_in_memory
from regraft.evaluation.scores import (
    compare_with_baseline,
    compute_baseline,
    compute_calibration,
    compute_scores,
)
from regraft.evaluation.slices import SLICE_MEASURES, describe_worse_slices, score_slices
from regraft.metrics.classification import confusion_matrix, score_classes
from regraft.metrics.groups import GroupRow
from regraft.metrics.multilabel import choose_thresholds, score_labels
from regraft.metrics.ranking import compute_curves
from regraft.metrics.regression import score_targets
from regraft.report.content import (
    ClassFindings,
    CoverageFindings,
    Epoch,
    FamiliarityFindings,
    LabelFindings,
    NumberFindings,
    PartScores,
    Report,
)
from regraft.report.mistakes import list_strangest, list_wrong_images, list_wrong_labels, list_wrong_numbers
from regraft.system.console import Reporter
from regraft.tasks import TASKS
from regraft.training.outcome import Outcome
from regraft.uncertainty.conformal import measure_class_coverages, measure_coverages
from regraft.uncertainty.familiarity import LEVEL, is_count_surprising
from regraft.uncertainty.prediction_sets import DEFAULT_COVERAGE, ClassSets

__all__ = [
    "add_warnings",
    "choose_label_thresholds",
    "find_cautions",
    "make_report",
    "score_parts",
    "show_python_usage",
    "show_shell_usage",
    "utc_now",
]

Array = npt.NDArray[Any]


def choose_label_thresholds(outcome: Outcome) -> dict[str, float]:
    """Return the threshold of each label, chosen on the validation part; nothing unless multi-label.

    An answer that is not below its threshold stands for the label. Without a validation part, thresholds
    are 0.5.

    Example:
        choose_label_thresholds(outcome)["dog"]
    """
    catalog = outcome.catalog
    if catalog.task != "multilabel":
        return {}
    if "validation" not in outcome.answers:
        return dict.fromkeys(catalog.outputs, 0.5)
    truth = catalog.targets(catalog.part("validation"))
    chosen = choose_thresholds(truth, outcome.answers["validation"][0])
    return dict(zip(catalog.outputs, chosen.tolist(), strict=True))


def find_cautions(outcome: Outcome) -> tuple[str, ...]:
    """Return a sentence if the model is no better than answers that ignore the images, else nothing."""
    first = next(iter(outcome.answers), None)
    caution = _find_caution(outcome, first) if first else ""
    return (caution,) if caution else ()


def add_warnings(outcome: Outcome, cautions: Sequence[str], reporter: Reporter) -> Outcome:
    """Report warnings and return the outcome with them, and with the scores of slices.

    They are the `cautions` about the data, one if images are enlarged, those of `find_cautions`, and one for
    each slice that is worse than the rest.
    """
    outcome = replace(outcome, slices=_score_slices(outcome))
    part = next(iter(outcome.answers), "")
    worse = describe_worse_slices(outcome.slices, task=outcome.catalog.task, part=part)
    enlargement = filter(None, [_describe_enlargement(outcome)])
    warnings = (*cautions, *enlargement, *find_cautions(outcome), *worse)
    for warning in warnings:
        reporter.warn(warning)
    return replace(outcome, warnings=warnings)


def _score_slices(outcome: Outcome) -> tuple[GroupRow, ...]:
    """Score the slices of the first part in the answers; nothing if no part was scored."""
    part = next(iter(outcome.answers), None)
    if part is None:
        return ()
    catalog = outcome.catalog
    return score_slices(
        catalog,
        part,
        outcome.answers[part][0],
        facts=outcome.features.facts(catalog.part(part)),
        columns=outcome.recipe.slice,
        seed=outcome.recipe.seed,
    )


def _describe_enlargement(outcome: Outcome) -> str:
    """Return a warning if most images have far fewer pixels than the backbone takes, else ""."""
    size, all_facts = outcome.backbone.image_size, outcome.features.facts(outcome.catalog.samples)
    sides = sorted(max(facts.width, facts.height) for facts in all_facts)
    median = sides[len(sides) // 2]
    if median * 2 > size:
        return ""
    return (
        f"Most images are small: {median} pixels on the longer side are enlarged to {size}. It works, but "
        f"the backbone finds no fine detail in them; --image-size {max(32, median)} is faster."
    )


def score_parts(outcome: Outcome) -> list[PartScores]:
    """Return the scores of each part, in the order of `outcome.answers`: test before validation."""
    limits = np.array(list(choose_label_thresholds(outcome).values()))
    return [_score_part(outcome, name, limits) for name in outcome.answers]


def _score_part(outcome: Outcome, name: str, limits: Array) -> PartScores:
    catalog, seed = outcome.catalog, outcome.recipe.seed
    truth, training = catalog.targets(catalog.part(name)), catalog.targets(catalog.part("train"))
    answers, frozen = outcome.answers[name]
    chosen = limits if catalog.task == "multilabel" else None
    probe = None
    if outcome.decision.fine_tuned:
        probe = next(iter(compute_scores(catalog.task, truth, frozen, thresholds=chosen, seed=seed).values()))
    return PartScores(
        name=name,
        n=len(truth),
        scores=compute_scores(catalog.task, truth, answers, thresholds=chosen, seed=seed),
        baseline=compute_baseline(catalog.task, training, truth),
        caution=_find_caution(outcome, name),
        probe=probe,
        findings=_make_findings(outcome, name, limits),
        calibration=compute_calibration(catalog.task, truth, answers, seed=seed),
        coverage=_measure_coverage(outcome, name),
        familiarity=_measure_familiarity(outcome, name),
        source=outcome.validation_source if name == "validation" else "",
    )


def _measure_coverage(outcome: Outcome, part: str) -> CoverageFindings | None:
    """Return the coverage on a part; None if there are no limits, or if they were set on the part itself."""
    uncertainty, catalog = outcome.judge_uncertainty(part), outcome.catalog
    conformal = None if uncertainty is None else uncertainty.conformal
    if conformal is None:
        return None
    targets, answers = catalog.targets(catalog.part(part)), outcome.answers[part][0]
    features, names = outcome.part_features.get(part), catalog.outputs
    classes = []
    if isinstance(conformal, ClassSets):
        classes = measure_class_coverages(conformal, targets, answers, level=DEFAULT_COVERAGE, names=names)
    return CoverageFindings(
        measure_coverages(conformal, targets, answers, features, names=names),
        classes,
        conformal.describe(DEFAULT_COVERAGE, names),
    )


def _measure_familiarity(outcome: Outcome, part: str) -> FamiliarityFindings | None:
    """Return how familiar a part is; None if that is not known, or if it was what familiarity was set on."""
    uncertainty, features = outcome.judge_uncertainty(part), outcome.part_features.get(part)
    familiarity = None if uncertainty is None else uncertainty.familiarity
    if familiarity is None or features is None:
        return None
    values = familiarity.measure(features, outcome.answers[part][0])
    unfamiliar = int((values < LEVEL).sum())
    return FamiliarityFindings(
        level=LEVEL,
        unfamiliar=unfamiliar,
        expected=math.ceil(LEVEL * len(values)),
        is_surprising=is_count_surprising(unfamiliar, len(values)),
        strangest=list_strangest(outcome.catalog, part, values),
    )


def _find_caution(outcome: Outcome, part: str) -> str:
    catalog = outcome.catalog
    return compare_with_baseline(
        catalog.task,
        catalog.targets(catalog.part("train")),
        catalog.targets(catalog.part(part)),
        outcome.answers[part][0],
        outputs=catalog.outputs,
        part=part,
        seed=outcome.recipe.seed,
    )


def _make_findings(
    outcome: Outcome, part: str, limits: Array
) -> ClassFindings | LabelFindings | NumberFindings:
    catalog = outcome.catalog
    truth, answers = catalog.targets(catalog.part(part)), outcome.answers[part][0]
    if catalog.task == "multilabel":
        rows = score_labels(truth, answers, catalog.outputs, thresholds=limits)
        return LabelFindings(rows, list_wrong_labels(catalog, part, answers, limits))
    if catalog.task == "regression":
        means = catalog.targets(catalog.part("train")).astype(np.float64).mean(axis=0)
        numbers = score_targets(truth, answers, catalog.outputs, means=means, seed=outcome.recipe.seed)
        return NumberFindings(numbers, truth, answers, list_wrong_numbers(catalog, part, answers))
    table = TASKS[catalog.task].expand_binary(answers)
    predicted = table.argmax(axis=1)
    return ClassFindings(
        confusion_matrix(truth, predicted, len(catalog.outputs)),
        score_classes(truth, predicted, catalog.outputs),
        list_wrong_images(catalog, part, table),
        compute_curves(truth, answers[:, 0]) if catalog.task == "binary" else None,
    )


def make_report(outcome: Outcome, parts: list[PartScores], out: Path) -> Report:
    """Return the content of the report on a run whose folder is `out`."""
    catalog, decision, run = outcome.catalog, outcome.decision, os.fspath(out)
    counted_parts = [part for part in PARTS if catalog.part(part) and catalog.task != "regression"]
    return Report(
        title=out.name,
        created=utc_now(),
        command=f"{_show_training(outcome.recipe.data, run)} (settings: recipe.toml)",
        task=catalog.task,
        summary=_summarise(outcome),
        decision=decision.reason,
        outputs=list(catalog.outputs),
        counts={part: catalog.count_samples(part) for part in counted_parts},
        parts=parts,
        history=_join_histories(outcome),
        score_name=TASKS[catalog.task].score_name,
        images_used=len(catalog),
        refused=list(catalog.refused),
        notes=[*catalog.notes, *outcome.backbone.notes, *_describe_decoder_notes(outcome)],
        seconds=outcome.seconds,
        usage_python=show_python_usage(catalog.task, run),
        usage_shell=show_shell_usage(run),
        warnings=list(outcome.warnings),
        phases=decision.phases,
        attempts=sorted(decision.attempts, key=lambda attempt: (not attempt.kept, attempt.val_loss)),
        new_layers=list(outcome.backbone.new_layers),
        slices=outcome.slices,
        slice_measure=SLICE_MEASURES[catalog.task],
        learning_curve=outcome.learning_curve,
    )


def _show_training(data: str, run: str) -> str:
    """Return the command that made a run, or the call if its data came from Python."""
    if is_in_memory(data):
        return f"regraft.train(data, recipe, {run!r})"
    return f"regraft {shlex.join(['train', data, '-o', run])}"


def _summarise(outcome: Outcome) -> list[tuple[str, str]]:
    backbone, features = outcome.backbone, outcome.features
    fine_tuned = [
        phase.unfreeze for phase in outcome.decision.phases if phase.best and phase.unfreeze != "none"
    ]
    return [
        ("Task", outcome.catalog.task),
        ("Backbone", backbone.name),
        ("Weights", backbone.short_weights),
        ("Image size", f"{backbone.image_size} by {backbone.image_size} pixels"),
        ("Parameters", f"{outcome.network.parameters:,}"),
        ("Trained in the backbone", ", then ".join(fine_tuned) or "nothing: head only"),
        ("Head", outcome.head),
        ("Frozen features", f"{features.computed:,} computed, {features.reused:,} reused"),
    ]


def _join_histories(outcome: Outcome) -> list[Epoch]:
    """Return the epochs of all phases; a later phase starts where another ended, so without epoch 0."""
    return [
        Epoch("head" if phase.unfreeze == "none" else phase.unfreeze, **vars(record))
        for number, phase in enumerate(outcome.decision.phases)
        for record in (phase.history if number == 0 else phase.history[1:])
    ]


def show_python_usage(task: str, run: str) -> str:
    """Return Python code that predicts an image with the model of a run folder."""
    attributes = "values" if task == "regression" else "label, prediction.probability"
    return (
        f"import regraft\n\nbundle = regraft.load({run!r})\n"
        'for prediction in bundle.predict(["photo.jpg"]):\n'
        f"    print(prediction.{attributes})"
    )


def show_shell_usage(run: str) -> str:
    """Return the commands that predict an image and score labelled images with the model of a run folder."""
    return "\n".join(
        f"regraft {shlex.join([command, run])} {argument}"
        for command, argument in (("predict", "photo.jpg"), ("evaluate", "DATA"))
    )


def _describe_decoder_notes(outcome: Outcome) -> list[str]:
    """Return a sentence for each kind of note on accepted files, with the first three names."""
    files_by_note: dict[str, list[str]] = {}
    samples = outcome.catalog.samples
    for sample, facts in zip(samples, outcome.features.facts(samples), strict=True):
        for note in facts.notes:
            files_by_note.setdefault(note, []).append(sample.path)
    return [
        f"{len(names)} images {NOTES[note]}: {', '.join(names[:3])}" + (", ..." if len(names) > 3 else ".")
        for note, names in sorted(files_by_note.items())
    ]


def utc_now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
