"""Problems of a catalog that show only across its images, as values with stable codes.

| code | weight | its cases |
|---|---|---|
| `not_learnable` | error | none: the reason why `regraft train` refuses the data |
| `leaked_copies` | error | one image in several parts, one of which scores a model |
| `contradictory_copies` | error | one image whose samples have different classes or labels |
| `suspicious_labels` | warning | a label that contradicts a head solved without it, worst first |
| `shortcut_size`, `shortcut_format`, `shortcut_folder` | warning | none: that alone tells the class |
| `imbalance` | warning | none: the largest class has ten times the images of the smallest, or more |
| `small_classes` | warning | a class or label of fewer than five images |
| `uniform_images` | warning | an image of one colour |
| `unused_bits` | warning | a 16-bit image, where all of them together use less than a quarter of the range |
| `clipped` | warning | a 16-bit image with samples beyond the range that was asked for |
| `near_copies` | note | one image in files of different bytes: saved again, resized, mirrored, turned |
| `copies` | note | files of the same bytes |
| `chained_pictures` | note | none: images look like their neighbours, as the frames of a film do |
| any other key of `rejections.NOTES` | note | an image with this note of the decoder |

Byte-identical files of different classes are not among them: they are refused, as `conflicting_copies`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.data.catalog import Catalog, Sample
from regraft.data.duplicates import NearDuplicates, find_leaks, group_samples
from regraft.data.images.decode import ImageFacts
from regraft.data.images.rejections import NOTES
from regraft.data.images.sample_range import count_bits, get_white, judge
from regraft.evaluation.label_errors import LabelCheck
from regraft.evaluation.shortcuts import find_shortcuts

__all__ = ["Case", "ImageRef", "Problem", "find_data_cautions", "find_problems", "find_range_cautions"]

MIN_IMBALANCE = 10  # images of the largest class for one of the smallest
MIN_CLASS_SIZE = 5  # images of a class
UNIFORM, UNUSED_BITS, CLIPPED = "uniform", "unused_bits", "clipped"  # notes that have problems of their own
TRANSFORMS = {"": "saved again", "mirrored": "mirrored", "turned": "turned"}


@dataclass(frozen=True, slots=True)
class ImageRef:
    """A sample in a case: its first file, its part ("" for none), its target in words."""

    image: str
    part: str
    label: str


@dataclass(frozen=True, slots=True)
class Case:
    """One instance of a problem.

    Attributes:
        images: the samples that it concerns.
        detail: what is wrong, for a person.
        score: of a suspicious label, the probability of the label by its image, in 0..1; else None.
        error_probability: the probability that a suspicious label is wrong, in 0..1; else None.
        suggestion: the class that the image of a suspicious label looks like; for multilabel, the label to
            add or to take away; else "".
        neighbours: the nearest images of a suspicious label's image, the nearest first.
    """

    images: tuple[ImageRef, ...]
    detail: str = ""
    score: float | None = None
    error_probability: float | None = None
    suggestion: str = ""
    neighbours: tuple[ImageRef, ...] = ()


@dataclass(frozen=True, slots=True)
class Problem:
    """A kind of problem with its instances.

    Attributes:
        code: a code from the table above.
        weight: "error", "warning" or "note".
        summary: sentences for a person: the problem, how often it occurs, and what to do about it.
        cases: every instance, the worst first if there is an order.
    """

    code: str
    weight: str
    summary: str
    cases: tuple[Case, ...] = ()


def find_problems(
    catalog: Catalog,
    facts: Mapping[str, ImageFacts],
    copies: NearDuplicates,
    labels: LabelCheck,
) -> list[Problem]:
    """Find every problem of the table except `not_learnable`, in its order.

    Args:
        catalog: usable samples.
        facts: facts about every image, by digest.
        copies: groups of files that show the same image.
        labels: likely label errors, with rows of `catalog.samples`.

    Example:
        >>> from pathlib import Path
        >>> samples = tuple(Sample(f"{n}.png", n > 3, f"{n:032x}") for n in range(9))
        >>> facts = {sample.digest: ImageFacts(64, 64, "PNG", ("uniform",)) for sample in samples}
        >>> catalog = Catalog(Path(), ("a", "b"), samples)
        >>> problems = find_problems(catalog, facts, NearDuplicates(()), LabelCheck())
        >>> [(problem.code, len(problem.cases)) for problem in problems]
        [('small_classes', 1), ('uniform_images', 9)]
    """
    groups = group_samples(catalog.samples, copies.digest_pairs)
    copied = _list_copied_samples(catalog, groups.tolist())
    facts_of_samples = [facts[sample.digest] for sample in catalog.samples]
    problems: list[Problem | None] = [
        *_find_wrong_copies(catalog, copies, copied),
        _report_label_errors(catalog, labels),
        *_report_shortcuts(catalog, facts_of_samples, groups),
        _find_imbalance(catalog),
        _find_small_classes(catalog),
        _find_uniform_images(catalog, facts_of_samples),
        *_find_wrong_ranges(catalog, facts_of_samples),
        *_find_copies(catalog, copies, copied),
        *_report_notes(catalog, facts_of_samples),
    ]
    return [problem for problem in problems if problem is not None]


def find_data_cautions(
    catalog: Catalog, facts: Sequence[ImageFacts], *, groups: NDArray[Any], class_weight: str = "none"
) -> list[str]:
    """Return the problems that matter to someone who trains a model on the data, as sentences.

    Args:
        catalog: usable samples.
        facts: facts about the image of each sample.
        groups: shape (n,); equal for samples that belong together.
        class_weight: the recipe's; imbalance is left out if it is "balanced".

    Example:
        >>> from pathlib import Path
        >>> samples = tuple(Sample(f"{n}.png", int(n < 5), f"{n:032x}") for n in range(100))
        >>> facts = [ImageFacts(64, 64, "PNG")] * 100
        >>> find_data_cautions(Catalog(Path(), ("a", "b"), samples), facts, groups=np.arange(100))[0][:36]
        'a has 95 images, b 5. Look at the sc'
    """
    imbalance = _find_imbalance(catalog) if class_weight == "none" else None
    problems = [*_report_shortcuts(catalog, facts, groups), imbalance]
    summaries = [problem.summary for problem in problems if problem is not None]
    return [*find_range_cautions(catalog, facts), *summaries]


def find_range_cautions(catalog: Catalog, facts: Sequence[ImageFacts]) -> list[str]:
    """Return what is wrong with the range of 16-bit samples, as sentences; arguments as above."""
    problems = _find_wrong_ranges(catalog, facts)
    return [problem.summary for problem in problems if problem is not None and problem.weight == "warning"]


def _report_shortcuts(catalog: Catalog, facts: Sequence[ImageFacts], groups: NDArray[Any]) -> list[Problem]:
    return [
        Problem(
            f"shortcut_{shortcut.kind}",
            "warning",
            f"The {shortcut.kind} alone tells the class of {shortcut.score.value:.0%} of the images "
            f"(the most frequent class is {shortcut.baseline:.0%}). A model may learn that instead of the "
            "content: check it on images from another source.",
        )
        for shortcut in find_shortcuts(catalog, facts, groups=groups)
    ]


def _make_case(catalog: Catalog, samples: Iterable[Sample], detail: str = "") -> Case:
    return Case(tuple(_name_sample(catalog, sample) for sample in samples), detail)


def _name_sample(catalog: Catalog, sample: Sample) -> ImageRef:
    return ImageRef(sample.path, sample.part, catalog.describe_target(sample))


def _make_problem(code: str, weight: str, cases: Sequence[Case], summary: str) -> Problem | None:
    return Problem(code, weight, summary, tuple(cases)) if cases else None


def _list_copied_samples(catalog: Catalog, groups: Sequence[int]) -> list[list[Sample]]:
    """Return the samples of each image that has several."""
    by_group = defaultdict(list)
    for sample, group in zip(catalog.samples, groups, strict=True):
        by_group[group].append(sample)
    return [samples for samples in by_group.values() if len(samples) > 1]


def _find_wrong_copies(
    catalog: Catalog, copies: NearDuplicates, copied: Sequence[Sequence[Sample]]
) -> list[Problem | None]:
    leaked = {sample for samples in find_leaks(catalog, copies.digest_pairs).values() for sample in samples}
    leaks = [_make_case(catalog, samples) for samples in copied if leaked.intersection(samples)]
    contradictions = [
        _make_case(catalog, samples)
        for samples in copied
        if len({sample.target for sample in samples}) > 1 and catalog.task != "regression"
    ]
    return [
        _make_problem(
            "leaked_copies",
            "error",
            leaks,
            f"Copies of {_count(len(leaked), 'image', 'images')} of test or validation are in an earlier "
            "part, so scores there are too good. Remove the copies from one of the parts.",
        ),
        _make_problem(
            "contradictory_copies",
            "error",
            contradictions,
            f"{_count(len(contradictions), 'image has', 'images have')} copies with different labels. One of "
            "them is wrong.",
        ),
    ]


def _find_copies(
    catalog: Catalog, copies: NearDuplicates, copied: Sequence[Sequence[Sample]]
) -> list[Problem | None]:
    transforms = defaultdict(set)
    for pair in copies.pairs:
        for digest in (pair.first, pair.second):
            transforms[digest].add(TRANSFORMS[pair.transform])
    near, exact = [], []
    for group in copied:
        by_digest = defaultdict(list)
        for sample in group:
            by_digest[sample.digest].append(sample)
        exact += [_make_case(catalog, samples) for samples in by_digest.values() if len(samples) > 1]
        if len(by_digest) > 1:
            names = set().union(*(transforms[digest] for digest in by_digest))
            first_samples = (samples[0] for samples in by_digest.values())
            near.append(_make_case(catalog, first_samples, ", ".join(sorted(names))))
    chained = len(copies.chained)
    return [
        _make_problem(
            "near_copies",
            "note",
            near,
            f"{_count(len(near), 'image exists', 'images exist')} in several versions. "
            "`regraft train` keeps them in one part.",
        ),
        _make_problem(
            "copies",
            "note",
            exact,
            f"{_count(len(exact), 'file has', 'files have')} byte-identical copies. "
            "`regraft train` keeps them in one part.",
        ),
        Problem(
            "chained_pictures",
            "note",
            f"{chained:,} images look like their neighbours, one after the other, like frames of a film. If "
            "they are, name the group of each image in a table: --group COLUMN keeps a group in one part.",
        )
        if chained
        else None,
    ]


def _count(number: int, singular: str, plural: str) -> str:
    return f"{number:,} {singular if number == 1 else plural}"


def _report_label_errors(catalog: Catalog, labels: LabelCheck) -> Problem | None:
    cases = []
    for error in labels.errors:
        name, sample = catalog.outputs[error.output], catalog.samples[error.row]
        text = f"looks like {name}"
        if catalog.task == "multilabel" and error.output in sample.target:  # type: ignore[operator]
            text = f"does not look like {name}"
        text = f"{text} ({error.other_probability:.0%}; as labelled {error.label_probability:.0%})"
        case = replace(
            _make_case(catalog, [sample], text),
            score=error.label_probability,
            error_probability=error.error_probability,
            suggestion=name,
            neighbours=tuple(_name_sample(catalog, catalog.samples[row]) for row in error.neighbours),
        )
        cases.append(case)
    summary = (
        f"{_count(len(cases), 'label contradicts', 'labels contradict')} heads that were solved without them,"
        f" the most probably wrong first. {_describe_wrong_labels(labels)}"
    )
    return _make_problem("suspicious_labels", "warning" if labels.wrong_count else "note", cases, summary)


def _describe_wrong_labels(labels: LabelCheck) -> str:
    """Return a sentence on how many labels are wrong, and how many to look at."""
    if not labels.wrong_count:
        return "Images that are hard to tell explain all of them, so hardly any label is wrong."
    labels_are = _count(labels.wrong_count, "label is", "labels are")
    return (
        f"About {labels_are} wrong, {labels.wrong_share:.1%} of {labels.checked_count:,}: look at twice as "
        "many, from the first. Most of the others are images that are hard to tell."
    )


def _count_classes(catalog: Catalog) -> NDArray[np.int64]:
    """Return the number of samples of each class or label, over all parts."""
    parts = {sample.part for sample in catalog.samples}
    counts: NDArray[np.int64] = np.sum(
        [catalog.count_samples(part) for part in parts], axis=0, dtype=np.int64
    )
    return counts


def _find_imbalance(catalog: Catalog) -> Problem | None:
    if catalog.task not in ("multiclass", "binary"):
        return None
    counts, names = _count_classes(catalog), catalog.outputs
    largest, smallest = int(counts.argmax()), int(counts.argmin())
    if counts[largest] < MIN_IMBALANCE * max(1, counts[smallest]):
        return None
    return Problem(
        "imbalance",
        "warning",
        f"{names[largest]} has {counts[largest]:,} images, {names[smallest]} {counts[smallest]:,}. Look at "
        "the scores of each class; --class-weight balanced gives rare classes the same weight.",
    )


def _find_small_classes(catalog: Catalog) -> Problem | None:
    if catalog.task == "regression":
        return None
    counts, names = _count_classes(catalog), catalog.outputs
    order = np.argsort(counts, kind="stable")
    small = [
        Case((), f"{names[output]}: {counts[output]}") for output in order if counts[output] < MIN_CLASS_SIZE
    ]
    return _make_problem(
        "small_classes",
        "warning",
        small,
        f"{len(small):,} of {len(names):,} classes or labels have fewer than {MIN_CLASS_SIZE} images. One "
        "with a single image is trained on, and nothing validates it.",
    )


def _find_uniform_images(catalog: Catalog, facts: Sequence[ImageFacts]) -> Problem | None:
    cases = _list_cases(catalog, facts, UNIFORM)
    return _make_problem(
        "uniform_images",
        "warning",
        cases,
        f"{_count(len(cases), 'image', 'images')} of one colour: there is nothing to see.",
    )


def _list_cases(catalog: Catalog, facts: Sequence[ImageFacts], note: str) -> list[Case]:
    pairs = zip(catalog.samples, facts, strict=True)
    return [_make_case(catalog, [sample]) for sample, fact in pairs if note in fact.notes]


def _find_wrong_ranges(catalog: Catalog, facts: Sequence[ImageFacts]) -> list[Problem | None]:
    """Compare the highest 16-bit sample of all images with the range that is used."""
    highest, white = max((fact.highest for fact in facts), default=0), get_white(catalog.depth)
    dark, clipped = (_list_cases(catalog, facts, note) for note in (UNUSED_BITS, CLIPPED))
    bits, is_dark = count_bits(highest), UNUSED_BITS in judge(highest, catalog.depth)
    images = _count(len(dark), "image holds", "images hold")
    summary = f"{images} 16-bit samples in less than a quarter of the range"
    if is_dark:
        summary += (
            f" and {'is' if len(dark) == 1 else 'are'} nearly black: the highest sample is {highest:,}, and "
            f"white is {white:,}. If the device gives {bits} bits, pass --depth {bits}"
        )
    beyond = _count(len(clipped), "image holds", "images hold")
    return [
        _make_problem(UNUSED_BITS, "warning" if is_dark else "note", dark, f"{summary}."),
        _make_problem(
            CLIPPED,
            "warning",
            clipped,
            f"{beyond} 16-bit samples up to {highest:,}, and all above {white:,} became white. Pass "
            f"--depth {bits}.",
        ),
    ]


def _report_notes(catalog: Catalog, facts: Sequence[ImageFacts]) -> list[Problem | None]:
    """Return the decoder's notes on files that it accepted."""
    by_note = defaultdict(list)
    for sample, fact in zip(catalog.samples, facts, strict=True):
        for note in set(fact.notes) - {UNIFORM, UNUSED_BITS, CLIPPED}:
            detail = f"{fact.width} x {fact.height} {fact.format}"
            by_note[note].append(_make_case(catalog, [sample], detail))
    return [
        _make_problem(note, "note", cases, f"{_count(len(cases), 'image', 'images')} {NOTES[note]}.")
        for note, cases in sorted(by_note.items())
    ]
