"""`regraft check`: what is wrong with the data, before or after a model is trained on them.

Files are listed, decoded and judged as `train` does it, and what is computed stays in the store for it. The
findings are lines, a page and a JSON object of this form, whose names and codes stay as they are:

    {"form": 1, "data": "photos", "created": "...", "task": "multiclass", "outputs": ["cat", "dog"],
     "counts": {"train": [400, 380]}, "used": 780, "unchecked": "", "notes": ["..."],
     "refused": [{"image": "cat/7.jpg", "code": "truncated", "detail": "..."}],
     "problems": [{"code": "near_copies", "weight": "note", "summary": "...",
                   "cases": [{"images": [{"image": "cat/1.jpg", "part": "train", "label": "cat"}, ...],
                              "detail": "mirrored", "score": null}]}]}

Codes of files are those of `data.refusal`, codes of problems those of `evaluation.problems`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from os import PathLike, fspath
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from regraft.backbones.zoo import find, is_zoo_name
from regraft.data.catalog import Catalog, Refused
from regraft.data.duplicates import Copies, groups_of
from regraft.data.images.decode import Facts
from regraft.errors import DataError, EnvironmentFault
from regraft.evaluation.label_errors import TASKS, Suspect, find_suspects
from regraft.evaluation.problems import Problem, find_problems
from regraft.features.image_facts import look_at
from regraft.pipeline.context import Context
from regraft.pipeline.embed import pooled_network, read_vectors
from regraft.pipeline.prepare import extract, open_backbone, report_backbone
from regraft.recipe import Recipe
from regraft.report.build import now
from regraft.report.mistakes import thumbnail
from regraft.report.render import render_page
from regraft.system.imports import begin

__all__ = ["Checkup", "Findings", "check"]

FORM = 1  # of the JSON object
SIZE = 224  # pixels to decode at where the backbone's size is not known without it
CASES = 30  # shown of a problem
IMAGES = 6  # shown of a case
WEIGHTS = {"error": "Mend this first", "warning": "Worth a look", "note": "Good to know"}


@dataclass(frozen=True)
class Findings:
    """Everything that `regraft check` says.

    Attributes:
        data, created: what was checked, and when.
        task: as `Catalog.task`.
        outputs: names of the classes, labels or targets.
        counts: part ("all" where nothing is cut) -> images of each class or label; empty for regression.
        used: samples that can be used.
        refused: files that cannot.
        problems: what was found across images.
        notes: what was left out when the data were listed.
        unchecked: why labels were not checked; "" where they were.
    """

    data: str
    created: str
    task: str
    outputs: tuple[str, ...]
    counts: dict[str, list[int]]
    used: int
    refused: tuple[Refused, ...]
    problems: tuple[Problem, ...]
    notes: tuple[str, ...] = ()
    unchecked: str = ""


@dataclass(frozen=True)
class Checkup:
    """What was found in a folder or table of images.

    Attributes:
        findings: see `Findings`.
        root: the folder that image names are relative to.
        fault: why `train` refuses the data, if it does.
    """

    findings: Findings
    root: Path
    fault: DataError | None = None

    def problem(self, code: str) -> Problem | None:
        """The problem of this code, if there is one."""
        return next((each for each in self.findings.problems if each.code == code), None)

    def as_json(self) -> str:
        """The object that this module describes, in ASCII."""
        return json.dumps({"form": FORM, **asdict(self.findings)}, indent=2) + "\n"

    def as_html(self) -> str:
        """A self-contained page with thumbnails, in the look and under the rules of the report."""
        return render_page(
            "check.html.j2",
            self.findings.refused,
            found=self.findings,
            report=self.findings,  # what the macros shared with the report look at
            weights=WEIGHTS,
            cases=CASES,
            images=IMAGES,
            thumbnail=lambda image: thumbnail(self.root / image),
        )


def check(
    data: Catalog | str | PathLike[str],
    recipe: Recipe | None = None,
    *,
    labels: bool = True,
    trust: bool = False,
    store: str | PathLike[str] | None = None,
) -> Checkup:
    """Look for what is wrong with images and labels. What `regraft check` calls.

    Args:
        data: as for `train`.
        recipe: a table's columns, task, and the backbone whose features judge the labels, as for `train`.
        labels: whether labels are judged; without, no backbone is needed. They are not, and that is said,
            where its weights cannot be had, for regression, and where `train` refuses the data.
        trust: you know where a SavedModel comes from; see `load_backbone`.
        store: folder of computed features; None for the user's cache.

    Raises:
        UsageError, DataError: no such data, or not one image that can be used; see `Catalog`.
        EnvironmentFault: the store cannot be written.
        ModelRefused: see `load_backbone`.

    Example:
        found = check("photos").problem("suspicious_labels")
        [case.images[0].image for case in found.cases[:30]]
    """
    recipe, context = recipe or Recipe(), Context.open(store, trust=trust)
    catalog = Catalog.open(data, recipe)
    context.reporter.info(f"{len(catalog):,} images listed, {len(catalog.refused):,} refused at once.")
    seen = _decode_all(context, catalog, recipe, labels=labels)
    copies = Copies.of(seen.facts, reporter=context.reporter)
    suspects, fault, unchecked = _doubted(context, seen, copies, recipe)
    problems = find_problems(seen.catalog, seen.facts, copies, suspects)
    if fault is not None:
        problems.insert(0, Problem("not_learnable", "error", str(fault)))
    findings = Findings(
        data=fspath(data.root if isinstance(data, Catalog) else data),
        created=now(),
        task=seen.catalog.task,
        outputs=seen.catalog.outputs,
        counts=_counts(seen.catalog),
        used=len(seen.catalog),
        refused=seen.catalog.refused,
        problems=tuple(problems),
        notes=seen.catalog.notes,
        unchecked=unchecked,
    )
    return Checkup(findings, seen.catalog.root, fault)


@dataclass(frozen=True)
class _Seen:
    """A catalog whose images were all decoded: `vectors` (n, d), or why there are none."""

    catalog: Catalog
    facts: dict[str, Facts]
    vectors: NDArray[np.float32] | None
    why_not: str = ""


def _decode_all(context: Context, catalog: Catalog, recipe: Recipe, *, labels: bool) -> _Seen:
    """Decode every image; with a backbone at hand also run it, for whose features `train` will ask."""
    why_not = "" if labels else "nobody asked for it."
    if catalog.task not in TASKS:
        why_not = f"the targets of {catalog.task} are no labels."
    if not why_not:
        try:
            with begin("keras"):
                backbone = open_backbone(recipe, trust=context.trust, reporter=context.reporter)
        except EnvironmentFault as fault:
            why_not = str(fault)
        else:
            report_backbone(context.reporter, backbone)
            recipe = replace(recipe, phases=())  # `train` keeps pixels where it has phases
            features = extract(context, pooled_network(backbone, recipe.head), catalog, recipe)
            catalog = catalog.without(features.refused)
            return _Seen(catalog, features.facts_of(catalog.contents), read_vectors(features, catalog))
    context.reporter.info(f"Labels are not checked: {why_not}")
    size = find(recipe.backbone).size_at(recipe.image_size) if is_zoo_name(recipe.backbone) else SIZE
    facts, refused = look_at(catalog, store=context.store, size=size, reporter=context.reporter)
    return _Seen(catalog.without(refused), facts, None, why_not)


def _doubted(
    context: Context, seen: _Seen, copies: Copies, recipe: Recipe
) -> tuple[Sequence[Suspect], DataError | None, str]:
    """Return likely label errors, the error that `train` raises, if any, and why labels were not checked."""
    try:
        learnable = seen.catalog.learnable()
    except DataError as fault:
        return [], fault, seen.why_not or "no model can be trained on these data."
    if seen.vectors is None:
        return [], None, seen.why_not
    names = learnable.outputs
    found = find_suspects(
        seen.vectors,
        learnable.targets(learnable.samples),
        task=learnable.task,
        reporter=context.reporter,
        seed=recipe.seed,
        groups=groups_of(learnable.samples, copies.ties),
    )
    number = {at: seen.catalog.outputs.index(name) for at, name in enumerate(names)}
    return [Suspect(one.row, number[one.output], one.given, one.other) for one in found], None, ""


def _counts(catalog: Catalog) -> dict[str, list[int]]:
    if catalog.task == "regression":
        return {}
    parts = [part for part in ("", "train", "validation", "test") if catalog.part(part)]
    return {part or "all": catalog.counts(part) for part in parts}
