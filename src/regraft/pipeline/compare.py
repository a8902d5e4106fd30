"""`regraft compare`: which of several runs is better on the same test images, and how sure that is.

Only images count that are in the test part of every run and in no other part of any: no model has learnt
from them. If no run has a test part, the validation parts are compared likewise. The result is available as
objects, as an HTML page, and as a JSON object. Its names are stable:

    {"form": 1, "created": "...", "task": "multiclass", "outputs": ["cat", "dog"], "part": "test",
     "images": 372, "notes": ["..."], "reference": {"run": "runs/a", "scores": {"top1": {...}}},
     "comparisons": [{"run": "runs/b", "scores": {...}, "differences": {"top1": {"value": 0.03, "low": ...}},
                      "mcnemar": {"gained": 17, "lost": 6, "p_value": 0.035}, "verdict": "better",
                      "summary": "...", "changes": [{"image": "cat/7.jpg", "target": "cat", "before": "dog",
                                                     "after": "cat", "gain": 1.0}]}]}
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from regraft.data.images.decode import has_digest
from regraft.errors import UsageError
from regraft.evaluation.comparison import (
    ModelAnswers,
    PairedComparison,
    compare_models,
    format_difference,
    is_better_when_lower,
)
from regraft.evaluation.scores import MEASURES, compute_scores
from regraft.inference.bundle import Bundle, load
from regraft.metrics.intervals import Interval
from regraft.pipeline.run_answers import RunAnswers, list_parts, open_run_answers
from regraft.report.build import utc_now
from regraft.report.mistakes import make_thumbnail
from regraft.report.render import render_page
from regraft.system.console import format_names
from regraft.tasks import TASKS

__all__ = ["Comparison", "compare"]

FORM = 1  # version of the JSON object
MAX_SHOWN = 24  # images on the page, gained and lost ones each
VALIDATION_CAUTION = (
    "There is no test part: these validation images were also used to choose the models, so expect slightly "
    "lower scores on new ones."
)


@dataclass(frozen=True)
class Comparison:
    """Several runs on the same images, each beside the first. Returned by `compare`.

    Attributes:
        task, outputs: of all runs; see `Bundle`.
        part: the part that the images are from, "test" or "validation".
        images: how many images were compared.
        reference: the first run.
        scores: of the first run on these images, each with its 95 % interval.
        comparisons: every other run, in order.
        notes: sentences on which images were left out, and why.
        created: the time of the comparison.
        files: image -> its file and digest, if the file is known.
        depth: how many bits of 16-bit samples are shown.
    """

    task: str
    outputs: tuple[str, ...]
    part: str
    images: int
    reference: str
    scores: dict[str, Interval]
    comparisons: tuple[PairedComparison, ...]
    notes: tuple[str, ...]
    created: str
    files: dict[str, tuple[Path, str]]
    depth: int

    def to_json(self) -> str:
        """Return the comparison as a JSON object in ASCII, as described in `regraft.pipeline.compare`."""
        names = ("created", "task", "outputs", "part", "images", "notes")
        content = {
            "form": FORM,
            **{name: getattr(self, name) for name in names},
            "reference": {
                "run": self.reference,
                "scores": {name: asdict(score) for name, score in self.scores.items()},
            },
            "comparisons": [asdict(comparison) for comparison in self.comparisons],
        }
        return json.dumps(content, indent=2) + "\n"

    def to_html(self) -> str:
        """Return the comparison as a self-contained HTML page with thumbnails."""
        return render_page(
            "compare.html.j2",
            (),
            comparison=self,
            report=self,  # read by the macros shared with the report
            measures=MEASURES,
            shown=MAX_SHOWN,
            thumbnail=self._make_thumbnail,
            difference=format_difference,
            lower=is_better_when_lower,
        )

    def _make_thumbnail(self, image: str) -> bytes:
        """Return a small JPEG of an image; b"" if its file is gone or holds something else now."""
        path, content = self.files.get(image, (Path(), ""))
        return make_thumbnail(path, depth=self.depth) if has_digest(path, content) else b""


def compare(runs: Sequence[str | os.PathLike[str]], *, seed: int = 0, trust: bool = False) -> Comparison:
    """Compare runs on the images that all of them were tested on, each with the first.

    Args:
        runs: run folders, two at least, of the same task and the same classes, labels or targets. Their
            splits may differ: an image counts if it is in the test part of every run, and in no other part
            of any. A run of an earlier version has no file of answers, and its model is run again.
        seed: random seed of the bootstrap.
        trust: you know where a SavedModel inside a model comes from; see `load_backbone`.

    Raises:
        UsageError: fewer than two runs, runs of other tasks or classes, no common images; or a run without
            answers whose images are not there any more.
        ModelRefused: a folder is not a finished run, or it is damaged.

    Example:
        comparison = compare(["runs/probe", "runs/fine_tuned"])
        print(comparison.comparisons[0].summary)
    """
    opened, part = _open_runs(runs, trust=trust)
    first, selection = opened[0], _select_images(opened, part)
    task, outputs, images = first.task, first.outputs, selection.images
    targets = first.targets[selection.rows[0]]
    models = [
        ModelAnswers(run.name, run.answers[rows], run.thresholds)
        for run, rows in zip(opened, selection.rows, strict=True)
    ]
    reference = models[0]
    return Comparison(
        task,
        outputs,
        part,
        len(images),
        first.name,
        compute_scores(task, targets, reference.answers, thresholds=reference.thresholds, seed=seed),
        tuple(
            compare_models(task, targets, reference, model, outputs=outputs, images=images, seed=seed)
            for model in models[1:]
        ),
        selection.notes,
        utc_now(),
        _locate_images(opened, selection),
        first.depth,
    )


def _open_runs(runs: Sequence[str | os.PathLike[str]], *, trust: bool) -> tuple[list[RunAnswers], str]:
    """Return the answers of each run, their columns in the order of the first, and the part they are for."""
    _require_several(runs)
    bundles = [load(run, trust=trust) for run in runs]
    for bundle, run in zip(bundles[1:], runs[1:], strict=True):
        _require_same_outputs((os.fspath(runs[0]), bundles[0]), (os.fspath(run), bundle))
    has_test = any("test" in list_parts(bundle.path) for bundle in bundles)
    part = "test" if has_test else "validation"
    opened = [open_run_answers(run, bundle, part) for run, bundle in zip(runs, bundles, strict=True)]
    return [_order_outputs(run, opened[0].outputs) for run in opened], part


def _require_several(runs: Sequence[str | os.PathLike[str]]) -> None:
    names = [runs] if isinstance(runs, str | os.PathLike) else list(runs)
    if len(names) < 2:
        received = ", ".join(os.fspath(name) for name in names) or "none"
        raise UsageError(f"Expected two run folders or more to compare. Received: {received}.")
    resolved = [os.path.realpath(name) for name in names]
    if len(set(resolved)) < len(resolved):
        twice = next(os.fspath(name) for name in names if resolved.count(os.path.realpath(name)) > 1)
        raise UsageError(f"Expected different run folders. Received twice: {twice}.")


def _require_same_outputs(first: tuple[str, Bundle], other: tuple[str, Bundle]) -> None:
    (one, bundle), (two, second) = first, other
    if bundle.task != second.task:
        raise UsageError(
            f"Expected runs of one task. Received: {one} is {bundle.task}, {two} is {second.task}."
        )
    missing = [name for name in bundle.outputs if name not in second.outputs]
    added = [name for name in second.outputs if name not in bundle.outputs]
    if missing or added:
        kind = {"multilabel": "labels", "regression": "targets"}.get(bundle.task, "classes")
        lists = ((one, missing), (two, added))
        only = "; ".join(f"only {run} has {format_names(names)}" for run, names in lists if names)
        raise UsageError(f"Expected runs with the same {kind}. Received: {only}.")


def _order_outputs(run: RunAnswers, outputs: tuple[str, ...]) -> RunAnswers:
    """Return the run with its outputs in another order."""
    if run.outputs == outputs:
        return run
    order = [run.outputs.index(name) for name in outputs]
    if run.task in ("multiclass", "binary"):
        both = TASKS[run.task].expand_binary(run.answers)[:, order]
        number = np.argsort(order)
        answers = both[:, 1:] if run.task == "binary" else both
        return replace(run, outputs=outputs, targets=number[run.targets], answers=answers)
    limits = None if run.thresholds is None else run.thresholds[order]
    return replace(
        run,
        outputs=outputs,
        targets=run.targets[:, order],
        answers=run.answers[:, order],
        thresholds=limits,
    )


class _Selection(NamedTuple):
    """The compared images: for each run the numbers of its rows, their names in the first, and notes."""

    rows: list[NDArray[np.intp]]
    images: list[str]
    notes: tuple[str, ...]


def _select_images(runs: Sequence[RunAnswers], part: str) -> _Selection:
    """Select the images of a part of all runs that no model has learnt from.

    Raises:
        UsageError: there are none.
    """
    numbers = [_number_contents(run) for run in runs]
    common = set.intersection(*(set(own) for own in numbers))
    learnt = {
        content for content in common if not all(run.elsewhere.isdisjoint(content.split()) for run in runs)
    }
    differing = _find_differing_targets(runs, numbers, common - learnt)
    usable = sorted(common - learnt - differing)
    counts = {
        f"in the {part} part of some runs only": len(set().union(*numbers)) - len(common),
        "in another part of a run, whose model may have learnt from them": len(learnt),
        "with different targets in the runs": len(differing),
    }
    reasons = [f"{count:,} {reason}" for reason, count in counts.items() if count]
    if not usable:
        sizes = ", ".join(f"{run.name} has {len(own):,}" for run, own in zip(runs, numbers, strict=True))
        raise UsageError(
            f"Expected {part} images that all runs share. Received none: {sizes}; left out: "
            f"{'; '.join(reasons) or 'none'}. Train the runs with the same test part, or with the same data "
            "and --seed."
        )
    caution = [VALIDATION_CAUTION] if part == "validation" else []
    return _Selection(
        [np.array([own[content] for content in usable]) for own in numbers],
        [runs[0].rows[numbers[0][content]].image for content in usable],
        (
            f"{len(usable):,} images compared: in the {part} part of every run, and in no other part of any.",
            *(f"Left out: {reason}." for reason in reasons),
            *caution,
        ),
    )


def _number_contents(run: RunAnswers) -> dict[str, int]:
    """Return the number of the row for each content; of copies, the first."""
    numbers: dict[str, int] = {}
    for number, row in enumerate(run.rows):
        numbers.setdefault(row.digest, number)
    return numbers


def _find_differing_targets(
    runs: Sequence[RunAnswers], numbers: Sequence[dict[str, int]], contents: Iterable[str]
) -> set[str]:
    """Return the contents whose targets are not the same in all runs."""
    first, own = runs[0].targets, numbers[0]
    return {
        content
        for content in contents
        for run, other in zip(runs[1:], numbers[1:], strict=True)
        if not np.array_equal(first[own[content]], run.targets[other[content]])
    }


def _locate_images(runs: Sequence[RunAnswers], selection: _Selection) -> dict[str, tuple[Path, str]]:
    """Return file and digest of each image's first file, in the folder of a run that still has one."""
    for run, rows in zip(runs, selection.rows, strict=True):
        if run.root is not None:
            own = [run.rows[number] for number in rows.tolist()]
            files = ((run.root / row.image, row.digest.split()[0]) for row in own)
            return dict(zip(selection.images, files, strict=True))
    return {}
