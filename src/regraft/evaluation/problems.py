"""What looking across all images of a catalog finds, as values with stable codes.

| code | weight | what its cases are |
|---|---|---|
| `not_learnable` | error | none: `regraft train` refuses the data, and why |
| `leaked_copies` | error | one picture in several parts, one of which scores a model |
| `contradictory_copies` | error | one picture whose samples have different classes or labels |
| `suspicious_labels` | warning | a label that a head solved without it contradicts, worst first |
| `shortcut_size`, `shortcut_format`, `shortcut_folder` | warning | none: that alone tells the class |
| `imbalance` | warning | none: the largest class has ten times the images of the smallest, or more |
| `small_classes` | warning | a class or label of fewer than five images |
| `uniform_images` | warning | an image of one colour |
| `near_copies` | note | one picture in files of different bytes: saved again, resized, mirrored, turned |
| `copies` | note | files of the same bytes |
| `chained_pictures` | note | none: images look like their neighbours, as the frames of a film do |
| any other key of `data.refusal.NOTES` | note | an image of which the decoder noted that |

Byte-identical files of different classes are in no problem: they are refused, as `conflicting_copies`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.data.catalog import Catalog, Sample
from regraft.data.duplicates import Copies, groups_of, leaked
from regraft.data.images.decode import Facts
from regraft.data.images.rejections import NOTES
from regraft.evaluation.label_errors import Suspect
from regraft.evaluation.shortcuts import find_shortcuts

__all__ = ["Case", "Picture", "Problem", "cautions", "find_problems"]

IMBALANCE = 10  # images of the largest class for one of the smallest
FEW = 5  # images of a class
UNIFORM = "uniform"  # the decoder's note that has a problem of its own

HOW = {"": "saved again", "mirrored": "mirrored", "turned": "turned"}


@dataclass(frozen=True, slots=True)
class Picture:
    """A sample as a case names it: its first file, its part ("" for none), its target in words."""

    image: str
    part: str
    label: str


@dataclass(frozen=True, slots=True)
class Case:
    """One instance of a problem. `detail` is for a person; `score` a probability in 0..1, or None."""

    images: tuple[Picture, ...]
    detail: str = ""
    score: float | None = None


@dataclass(frozen=True, slots=True)
class Problem:
    """What was found.

    Attributes:
        code: one of the table above.
        weight: "error", "warning" or "note".
        summary: sentences for a person: what, how much of it, what to do.
        cases: every instance, the worst first where there is an order.
    """

    code: str
    weight: str
    summary: str
    cases: tuple[Case, ...] = ()


def find_problems(
    catalog: Catalog, facts: Mapping[str, Facts], copies: Copies, suspects: Sequence[Suspect]
) -> list[Problem]:
    """Everything in the table but `not_learnable`, in its order.

    Args:
        catalog: what can be used.
        facts: of every image, by digest.
        copies: which of them show one picture.
        suspects: labels that are doubted, by the row of `catalog.samples`.

    Example:
        >>> from pathlib import Path
        >>> samples = tuple(Sample(f"{n}.png", n > 3, f"{n:032x}") for n in range(9))
        >>> facts = {sample.digest: Facts(64, 64, "PNG", ("uniform",)) for sample in samples}
        >>> found = find_problems(Catalog(Path(), ("a", "b"), samples), facts, Copies(()), [])
        >>> [(problem.code, len(problem.cases)) for problem in found]
        [('small_classes', 1), ('uniform_images', 9)]
    """
    groups = groups_of(catalog.samples, copies.ties)
    pictures = _group_copies(catalog, groups.tolist())
    of_samples = [facts[sample.digest] for sample in catalog.samples]
    found: list[Problem | None] = [
        *_of_groups(catalog, copies, pictures),
        _suspicious(catalog, suspects),
        *_shortcuts(catalog, of_samples, groups),
        _imbalance(catalog),
        _small_classes(catalog),
        _uniform(catalog, of_samples),
        *_same_pictures(catalog, copies, pictures),
        *_noted(catalog, of_samples),
    ]
    return [problem for problem in found if problem is not None]


def cautions(
    catalog: Catalog, facts: Sequence[Facts], *, groups: NDArray[Any], class_weight: str = "none"
) -> list[str]:
    """What of these problems a person should know whose model is trained on the data, as sentences.

    Args:
        catalog: what can be used.
        facts: of each sample.
        groups: shape (n,); equal for samples that belong together.
        class_weight: that of the recipe; imbalance is no news where it is "balanced".

    Example:
        >>> from pathlib import Path
        >>> samples = tuple(Sample(f"{n}.png", int(n < 5), f"{n:032x}") for n in range(100))
        >>> facts = [Facts(64, 64, "PNG")] * 100
        >>> cautions(Catalog(Path(), ("a", "b"), samples), facts, groups=np.arange(100))[0][:36]
        'a has 95 images, b 5. Look at the sc'
    """
    found = [*_shortcuts(catalog, facts, groups), _imbalance(catalog) if class_weight == "none" else None]
    return [problem.summary for problem in found if problem is not None]


def _shortcuts(catalog: Catalog, facts: Sequence[Facts], groups: NDArray[Any]) -> list[Problem]:
    return [
        Problem(
            f"shortcut_{each.kind}",
            "warning",
            f"The {each.kind} alone tells the class of {each.score.value:.0%} of the images "
            f"(the most frequent class is {each.baseline:.0%}). A model may learn that instead of what "
            "is shown: check it on images of another source.",
        )
        for each in find_shortcuts(catalog, facts, groups=groups)
    ]


def _picture(catalog: Catalog, sample: Sample) -> Picture:
    return Picture(sample.path, sample.part, catalog.words(sample))


def _case(catalog: Catalog, samples: Iterable[Sample], detail: str = "") -> Case:
    return Case(tuple(_picture(catalog, sample) for sample in samples), detail)


def _group_copies(catalog: Catalog, groups: Sequence[int]) -> list[list[Sample]]:
    """The samples of each picture that has several."""
    found = defaultdict(list)
    for sample, group in zip(catalog.samples, groups, strict=True):
        found[group].append(sample)
    return [samples for samples in found.values() if len(samples) > 1]


def _of_groups(
    catalog: Catalog, copies: Copies, pictures: Sequence[Sequence[Sample]]
) -> list[Problem | None]:
    out = {sample for samples in leaked(catalog, copies.ties).values() for sample in samples}
    leaks = [_case(catalog, group) for group in pictures if out.intersection(group)]
    against = [
        _case(catalog, group)
        for group in pictures
        if len({sample.target for sample in group}) > 1 and catalog.task != "regression"
    ]
    return [
        _problem(
            "leaked_copies",
            "error",
            leaks,
            f"{len(out):,} {_images(len(out))} of test or validation show{'s' * (len(out) == 1)} a picture "
            "that a part before it has too: scores there are too good. Take the copies out of one side.",
        ),
        _problem(
            "contradictory_copies",
            "error",
            against,
            f"{len(against):,} picture{'s have' if len(against) != 1 else ' has'} copies with different "
            "labels. One of them is wrong.",
        ),
    ]


def _same_pictures(
    catalog: Catalog, copies: Copies, pictures: Sequence[Sequence[Sample]]
) -> list[Problem | None]:
    hows = defaultdict(set)
    for pair in copies.near:
        for content in (pair.first, pair.second):
            hows[content].add(HOW[pair.how])
    near, exact = [], []
    for group in pictures:
        same = defaultdict(list)
        for sample in group:
            same[sample.digest].append(sample)
        exact += [_case(catalog, samples) for samples in same.values() if len(samples) > 1]
        if len(same) > 1:
            said = set().union(*(hows[digest] for digest in same))
            near.append(_case(catalog, (samples[0] for samples in same.values()), ", ".join(sorted(said))))
    chained = len(copies.chained)
    return [
        _problem(
            "near_copies",
            "note",
            near,
            f"{len(near):,} picture{'s are' if len(near) != 1 else ' is'} there in several versions. "
            "`regraft train` keeps them on one side of its split.",
        ),
        _problem(
            "copies",
            "note",
            exact,
            f"{len(exact):,} file{'s have' if len(exact) != 1 else ' has'} copies of the same bytes. "
            "`regraft train` keeps them on one side of its split.",
        ),
        Problem(
            "chained_pictures",
            "note",
            f"{chained:,} images look like their neighbours, one after the other, as frames of a film do. If "
            "they are, name what belongs together in a table: --group COLUMN keeps it on one side.",
        )
        if chained
        else None,
    ]


def _problem(code: str, weight: str, cases: Sequence[Case], summary: str) -> Problem | None:
    return Problem(code, weight, summary, tuple(cases)) if cases else None


def _images(count: int) -> str:
    return "image" if count == 1 else "images"


def _suspicious(catalog: Catalog, suspects: Sequence[Suspect]) -> Problem | None:
    cases = []
    for one in suspects:
        name, picture = catalog.outputs[one.output], _picture(catalog, catalog.samples[one.row])
        what = f"looks like {name}"
        if catalog.task == "multilabel":
            has = one.output in catalog.samples[one.row].target  # type: ignore[operator]
            what = f"does not look like {name}" if has else what
        cases.append(Case((picture,), f"{what} ({one.other:.0%}; as labelled {one.given:.0%})", one.given))
    return _problem(
        "suspicious_labels",
        "warning",
        cases,
        f"{len(cases):,} labels are doubted by a head that has not seen them, the most doubtful first. Look "
        "at the first few dozen: further down, the head is mistaken more often than the labels.",
    )


def _counts(catalog: Catalog) -> NDArray[np.int64]:
    """Samples of each class or label, over all parts."""
    parts = {sample.part for sample in catalog.samples}
    return np.array([catalog.counts(part) for part in parts], np.int64).sum(axis=0)  # type: ignore[no-any-return]


def _imbalance(catalog: Catalog) -> Problem | None:
    if catalog.task not in ("multiclass", "binary"):
        return None
    counts, names = _counts(catalog), catalog.outputs
    most, least = int(counts.argmax()), int(counts.argmin())
    if counts[most] < IMBALANCE * max(1, counts[least]):
        return None
    return Problem(
        "imbalance",
        "warning",
        f"{names[most]} has {counts[most]:,} images, {names[least]} {counts[least]:,}. Look at the "
        "scores of each class; --class-weight balanced lets rare ones count as much.",
    )


def _small_classes(catalog: Catalog) -> Problem | None:
    if catalog.task == "regression":
        return None
    counts, names = _counts(catalog), catalog.outputs
    few = [
        Case((), f"{names[at]}: {counts[at]}") for at in np.argsort(counts, kind="stable") if counts[at] < FEW
    ]
    return _problem(
        "small_classes",
        "warning",
        few,
        f"{len(few):,} of {len(names):,} classes or labels have fewer than {FEW} images. One that has a "
        "single image is trained on, and nothing validates it.",
    )


def _uniform(catalog: Catalog, facts: Sequence[Facts]) -> Problem | None:
    cases = [
        _case(catalog, [sample])
        for sample, each in zip(catalog.samples, facts, strict=True)
        if UNIFORM in each.notes
    ]
    return _problem(
        "uniform_images",
        "warning",
        cases,
        f"{len(cases):,} {_images(len(cases))} of one colour: there is nothing to see.",
    )


def _noted(catalog: Catalog, facts: Sequence[Facts]) -> list[Problem | None]:
    """What the decoder noted of files that it accepted."""
    noted = defaultdict(list)
    for sample, each in zip(catalog.samples, facts, strict=True):
        for note in set(each.notes) - {UNIFORM}:
            noted[note].append(_case(catalog, [sample], f"{each.width} x {each.height} {each.format}"))
    return [
        _problem(note, "note", cases, f"{len(cases):,} {_images(len(cases))} {NOTES[note]}.")
        for note, cases in sorted(noted.items())
    ]
