"""`regraft check`: find problems of a data set, before or after a model is trained on it.

Files are listed and decoded as by `train`, and everything computed stays in the store for it. The findings
are available as objects, as an HTML page, and as a JSON object. Its names and codes are stable:

    {"form": 1, "data": "photos", "created": "...", "task": "multiclass", "outputs": ["cat", "dog"],
     "counts": {"train": [400, 380]}, "used": 780, "unchecked": "", "notes": ["..."],
     "checked_labels": 780, "wrong_labels": 4,
     "refused": [{"image": "cat/7.jpg", "code": "truncated", "detail": "..."}],
     "problems": [{"code": "near_copies", "weight": "note", "summary": "...",
                   "cases": [{"images": [{"image": "cat/1.jpg", "part": "train", "label": "cat"}, ...],
                              "detail": "mirrored", "score": null, "error_probability": null,
                              "suggestion": "", "neighbours": []}]}]}

Codes of files are listed in `data.images.rejections`, codes of problems in `evaluation.problems`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from regraft.backbones.zoo import find_entry, is_zoo_name
from regraft.data.catalog import PARTS, Catalog, RejectedFile
from regraft.data.duplicates import NearDuplicates, group_samples
from regraft.data.images.decode import ImageFacts
from regraft.data.images.sample_range import FULL_DEPTH
from regraft.data.sources import name_data
from regraft.errors import DataError, EnvironmentFault
from regraft.evaluation.label_errors import LABEL_TASKS, LabelCheck, find_label_errors
from regraft.evaluation.problems import Case, Problem, find_problems
from regraft.features.image_facts import decode_missing
from regraft.pipeline.context import Context
from regraft.pipeline.embed import read_vectors
from regraft.pipeline.prepare import extract_and_remember, open_backbone, report_backbone
from regraft.recipe import Recipe
from regraft.report.build import utc_now
from regraft.report.mistakes import THUMBNAIL_SIZE, make_thumbnail
from regraft.report.render import load_script, render_page
from regraft.system.imports import import_in_background

__all__ = ["Checkup", "Findings", "check"]

FORM = 1  # version of the JSON object
DEFAULT_SIZE = 224  # pixels to decode at if the backbone is not loaded and its size not known
MAX_CASES = 30  # shown of a problem
MAX_IMAGES = 6  # shown of a case
LABEL_PROBLEM = "suspicious_labels"  # reviewed on the page
MAX_REVIEWED = 300  # labels
SMALL_SIZE = 110  # pixels of the thumbnails of neighbours
WEIGHTS = {"error": "Fix this first", "warning": "Worth a look", "note": "Good to know"}


@dataclass(frozen=True)
class Findings:
    """The results of `regraft check`.

    Attributes:
        data, created: the name of the data as in a recipe, and the time of the check.
        task: see `Catalog`.
        outputs: names of the classes, labels or targets.
        counts: part -> images with each class or label, "all" without parts; empty for regression.
        used: the number of usable samples.
        refused: the files that cannot be used.
        problems: problems across images.
        notes: what was skipped when the data were listed.
        unchecked: why labels were not checked; "" if they were.
        checked_labels: how many labels were checked; of multilabel, images times labels. Those of classes
            with fewer than five images are not.
        wrong_labels: about how many of them are wrong.
    """

    data: str
    created: str
    task: str
    outputs: tuple[str, ...]
    counts: dict[str, list[int]]
    used: int
    refused: tuple[RejectedFile, ...]
    problems: tuple[Problem, ...]
    notes: tuple[str, ...] = ()
    unchecked: str = ""
    checked_labels: int = 0
    wrong_labels: int = 0


@dataclass(frozen=True)
class Checkup:
    """The findings on a folder or table of images. Returned by `check`.

    Attributes:
        findings: see `Findings`.
        root: the folder that image names are relative to.
        fault: the error that `train` would raise on these data, if any.
        depth: how many bits of 16-bit samples are shown.
    """

    findings: Findings
    root: Path
    fault: DataError | None = None
    depth: int = FULL_DEPTH

    def find_problem(self, code: str) -> Problem | None:
        """Return the problem with this code, or None."""
        return next((problem for problem in self.findings.problems if problem.code == code), None)

    def to_json(self) -> str:
        """Return the findings as a JSON object in ASCII, as described in `regraft.pipeline.check`."""
        return json.dumps({"form": FORM, **asdict(self.findings)}, indent=2) + "\n"

    def to_html(self) -> str:
        """Return the findings as a self-contained HTML page with thumbnails, on which labels are reviewed."""
        labels = self.find_problem(LABEL_PROBLEM)
        reviewed = labels.cases[:MAX_REVIEWED] if labels else ()
        thumbnails = self._make_thumbnails(reviewed)
        script, script_hash = load_script("review.js")

        def get_thumbnail(image: str, *, small: bool = False) -> bytes:
            size = SMALL_SIZE if small else THUMBNAIL_SIZE
            return thumbnails.get((image, size)) or self._make_thumbnail((image, size))

        return render_page(
            "check.html.j2",
            self.findings.refused,
            findings=self.findings,
            report=self.findings,  # read by the macros shared with the report
            weights=WEIGHTS,
            cases=MAX_CASES,
            images=MAX_IMAGES,
            review=LABEL_PROBLEM if reviewed else "",
            reviewed=MAX_REVIEWED,
            script=script,
            script_hash=script_hash,
            thumbnail=get_thumbnail,
        )

    def _make_thumbnail(self, image: tuple[str, int]) -> bytes:
        name, size = image
        return make_thumbnail(self.root / name, depth=self.depth, size=size)

    def _make_thumbnails(self, cases: Sequence[Case]) -> dict[tuple[str, int], bytes]:
        """Return the thumbnails of cases and their neighbours, by name and size; they take a thread each."""
        large = [(image.image, THUMBNAIL_SIZE) for case in cases for image in case.images]
        small = [(image.image, SMALL_SIZE) for case in cases for image in case.neighbours]
        names = list(dict.fromkeys([*large, *small]))
        with ThreadPoolExecutor() as pool:
            return dict(zip(names, pool.map(self._make_thumbnail, names), strict=True))


def check(
    data: Catalog | str | PathLike[str],
    recipe: Recipe | None = None,
    *,
    labels: bool = True,
    trust: bool = False,
    store: str | PathLike[str] | None = None,
) -> Checkup:
    """Find problems of images and labels, as the command `regraft check` does.

    Args:
        data: as for `train`.
        recipe: as for `train`; the columns of a table, the task, and the backbone whose features are used to
            check labels.
        labels: whether to check labels, which needs a backbone. They are also not checked for regression, if
            weights are not available, or if `train` would refuse the data; then the findings say why.
        trust: you know where a SavedModel comes from; see `load_backbone`.
        store: the folder of computed features; None for the user's cache.

    Raises:
        UsageError, DataError: the data do not exist, or no image can be used; see `Catalog`.
        EnvironmentFault: the store cannot be written.
        ModelRefused: see `load_backbone`.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> folder = Path(tempfile.mkdtemp())
        >>> for number, name in enumerate(["cat/1.png", "cat/2.png", "dog/1.png"]):
        ...     (folder / name).parent.mkdir(exist_ok=True)
        ...     Image.new("RGB", (40, 40), (80 * number, 90, 200)).save(folder / name)
        >>> (folder / "dog" / "2.png").write_bytes(b"<html>")
        6
        >>> findings = check(folder, labels=False, store=tempfile.mkdtemp()).findings
        >>> findings.used, findings.counts, [(file.image, file.code) for file in findings.refused]
        (3, {'all': [2, 1]}, [('dog/2.png', 'not_an_image')])
    """
    recipe, context = recipe or Recipe(), Context.open(store, trust=trust)
    catalog = Catalog.open(data, recipe)
    context.reporter.info(f"{len(catalog):,} images listed, {len(catalog.refused):,} refused at once.")
    decoded = _decode_all(context, catalog, recipe, labels=labels)
    copies = NearDuplicates.from_facts(decoded.facts, reporter=context.reporter)
    labels_checked, fault, unchecked = _find_label_errors(context, decoded, copies, recipe)
    catalog = decoded.catalog
    problems = find_problems(catalog, decoded.facts, copies, labels_checked)
    if fault is not None:
        problems.insert(0, Problem("not_learnable", "error", str(fault)))
    findings = Findings(
        data=name_data(data, recipe).data,
        created=utc_now(),
        task=catalog.task,
        outputs=catalog.outputs,
        counts=_count_images(catalog),
        used=len(catalog),
        refused=catalog.refused,
        problems=tuple(problems),
        notes=catalog.notes,
        unchecked=unchecked,
        checked_labels=labels_checked.checked_count,
        wrong_labels=labels_checked.wrong_count,
    )
    return Checkup(findings, catalog.root, fault, catalog.depth)


@dataclass(frozen=True)
class _DecodedData:
    """A catalog whose images were decoded, with their features (n, d) or the reason why there are none."""

    catalog: Catalog
    facts: dict[str, ImageFacts]
    vectors: NDArray[np.float32] | None
    unchecked: str = ""


def _decode_all(context: Context, catalog: Catalog, recipe: Recipe, *, labels: bool) -> _DecodedData:
    """Decode every image and compute its features if labels are to be checked; `train` reuses them."""
    unchecked = "" if labels else "it was not requested (--no-labels)."
    if catalog.task not in LABEL_TASKS:
        unchecked = f"{catalog.task} has targets, not labels."
    if not unchecked:
        try:
            with import_in_background("keras"):
                backbone = open_backbone(recipe, trust=context.trust, reporter=context.reporter)
        except EnvironmentFault as fault:
            unchecked = str(fault)
        else:
            from regraft.models.joint_taps import make_pooled_network

            report_backbone(context.reporter, backbone)
            recipe = replace(recipe, phases=())  # with phases, pixels would be stored too
            network = make_pooled_network(backbone, recipe.head)
            features = extract_and_remember(context, network, catalog, recipe)
            catalog = catalog.exclude(features.refused)
            facts = features.facts_by_digest(catalog.digests)
            return _DecodedData(catalog, facts, read_vectors(features, network, catalog))
    context.reporter.info(f"Labels are not checked: {unchecked}")
    size = DEFAULT_SIZE
    if is_zoo_name(recipe.backbone):
        size = find_entry(recipe.backbone).choose_size(recipe.image_size)
    facts, refused = decode_missing(catalog, store=context.store, size=size, reporter=context.reporter)
    return _DecodedData(catalog.exclude(refused), facts, None, unchecked)


def _find_label_errors(
    context: Context, decoded: _DecodedData, copies: NearDuplicates, recipe: Recipe
) -> tuple[LabelCheck, DataError | None, str]:
    """Return likely label errors, the error that `train` would raise, and why labels were not checked."""
    try:
        learnable = decoded.catalog.require_learnable()
    except DataError as fault:
        return LabelCheck(), fault, decoded.unchecked or "no model can be trained on these data."
    if decoded.vectors is None:
        return LabelCheck(), None, decoded.unchecked
    labels = find_label_errors(
        decoded.vectors,
        learnable.targets(learnable.samples),
        task=learnable.task,
        reporter=context.reporter,
        seed=recipe.seed,
        groups=group_samples(learnable.samples, copies.digest_pairs),
    )
    number = [decoded.catalog.outputs.index(name) for name in learnable.outputs]
    errors = tuple(replace(error, output=number[error.output]) for error in labels.errors)
    return replace(labels, errors=errors), None, ""


def _count_images(catalog: Catalog) -> dict[str, list[int]]:
    if catalog.task == "regression":
        return {}
    parts = [part for part in ("", *PARTS) if catalog.part(part)]
    return {part or "all": catalog.count_samples(part) for part in parts}
