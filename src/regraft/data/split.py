"""Split samples into train, validation and test: stratified, by content, stable when samples are added.

**Units.** A unit is a set of samples that must stay in one part: they share an image (the same bytes, or a
pair of near-duplicates) or a group, directly or through others. The *position* of a unit is a number in
[0, 1) made from the seed and its name, which is the first of its groups or, where it has none, the first of
its images' digests. Units with a position below `fraction` are validation. So new samples do not move old
ones, copies of an image fall into the same part, and the order and names of files do not matter. The price
is that shares are right on average, not exactly.

**Strata.** Every class, every label (and having none), or every tenth of every target of a regression
(quantile bins; fewer below 200 samples) is a stratum. Validation and training should each have a minimum of
its samples: one for classes without groups, whose units are all alike; otherwise half of their share. A
stratum that has less is repaired, the one with the fewest units first: units with the lowest positions join
validation until it has its minimum; where validation has too many samples, units with the highest positions
leave it as long as the minimum remains. No move breaks a stratum that was repaired before (the order of
Sechidis, Tsoumakas and Vlahavas, 2011, "On the stratification of multi-label data"). A stratum of a single
unit is used for training.

When samples are added, only units that a repair moves, or that a new sample joins to others, may move.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.data.catalog import Catalog, Sample
from regraft.data.duplicates import number_groups

__all__ = ["split"]

SPLIT_PARTS = ("", "train")  # the parts that validation is taken from
BINS = 10  # quantile bins of a regression target
SAMPLES_PER_BIN = 20  # at least

Stratum = str | int  # the number of a class or label, or the name of a bin


def split(
    catalog: Catalog, *, fraction: float, seed: int = 0, duplicates: Iterable[tuple[str, str]] = ()
) -> Catalog:
    """Give every sample a part; parts chosen by the user do not change.

    Args:
        catalog: of any task.
        fraction: share of the training samples, in [0, 1), that becomes validation where there is none yet.
        seed: each seed gives another split.
        duplicates: pairs of digests that stay in one part, such as those of near-duplicates.

    Returns:
        A catalog whose samples all have a part. Its notes name each class or label without validation images.

    Example:
        >>> from pathlib import Path
        >>> samples = tuple(Sample(f"{i}.png", i % 2, f"{i:032x}", "") for i in range(100))
        >>> catalog = split(Catalog(Path("."), ("a", "b"), samples), fraction=0.2)
        >>> 10 < len(catalog.part("validation")) < 30
        True
    """
    if any(sample.part == "validation" for sample in catalog.samples):
        return catalog
    if not fraction:
        return replace(catalog, samples=tuple(replace(s, part=s.part or "train") for s in catalog.samples))
    samples = [sample for sample in catalog.samples if sample.part in SPLIT_PARTS]
    units = _name_units(samples, duplicates)
    strata = _count_strata(catalog, samples, units)
    has_equal_units = catalog.task in ("multiclass", "binary") and not any(s.group for s in samples)
    shares = {name: _halve_shares(stratum.total(), fraction) for name, stratum in strata.items()}
    minimums = dict.fromkeys(strata, (1, 1)) if has_equal_units else shares
    positions = {unit: _compute_position(unit, seed) for unit in units}
    assignment = _Assignment(positions, strata, minimums, fraction)
    assignment.repair()
    parts = iter("validation" if unit in assignment.validation else "train" for unit in units)
    new = (replace(s, part=next(parts)) if s.part in SPLIT_PARTS else s for s in catalog.samples)
    notes = (*catalog.notes, *_describe_missing(catalog, assignment))
    return replace(catalog, samples=tuple(new), notes=notes)


class _Assignment:
    """The assignment of units to validation and training.

    Args:
        positions: number in [0, 1) of each unit.
        strata: for each stratum, how many of its samples are in each unit.
        minimums: for each stratum, the smallest number of samples for validation and for training.
        fraction: units with a position below it are validation.
    """

    def __init__(
        self,
        positions: Mapping[str, float],
        strata: Mapping[Stratum, Counter[str]],
        minimums: Mapping[Stratum, tuple[int, int]],
        fraction: float,
    ) -> None:
        self.strata = strata
        self.validation = {unit for unit in positions if positions[unit] < fraction}
        self._positions = positions
        self._minimums = minimums
        self.counts = {n: sum(s[u] for u in s.keys() & self.validation) for n, s in strata.items()}
        self._strata_of_unit: dict[str, list[Stratum]] = defaultdict(list)
        for name, stratum in strata.items():
            for unit in stratum:
                self._strata_of_unit[unit].append(name)
        self._repaired: set[Stratum] = set()

    def repair(self) -> None:
        """Move units until every stratum has its minimums, if possible; strata of few units come first."""
        for name in sorted(self.strata, key=lambda name: len(self.strata[name])):
            if not self._is_within_bounds(name):
                self._repair_stratum(name)
            self._repaired.add(name)

    def _repair_stratum(self, name: Stratum) -> None:
        stratum, (low, high) = self.strata[name], self._get_bounds(name)
        units = sorted(stratum, key=lambda unit: (self._positions[unit], unit))
        if self.counts[name] > high:
            for unit in reversed(units):
                if unit in self.validation and self.counts[name] - stratum[unit] >= low:
                    self._move(unit, -1)
        for unit in units:
            fits = self.counts[name] < low and self.counts[name] + stratum[unit] <= high
            if fits and unit not in self.validation:
                self._move(unit, +1)

    def _get_bounds(self, name: Stratum) -> tuple[int, int]:
        """Return how many samples of a stratum may be validation; none if they are a single unit."""
        low, train = self._minimums[name]
        return (0, 0) if len(self.strata[name]) == 1 else (low, self.strata[name].total() - train)

    def _is_within_bounds(self, name: Stratum, change: int = 0) -> bool:
        low, high = self._get_bounds(name)
        return low <= self.counts[name] + change <= high

    def _move(self, unit: str, sign: int) -> None:
        """Move a unit into validation (+1) or out of it (-1), unless that breaks a repaired stratum."""
        changes = {name: sign * self.strata[name][unit] for name in self._strata_of_unit[unit]}
        if any(
            name in self._repaired
            and self._is_within_bounds(name)
            and not self._is_within_bounds(name, change)
            for name, change in changes.items()
        ):
            return
        (self.validation.add if sign > 0 else self.validation.remove)(unit)
        for name, change in changes.items():
            self.counts[name] += change


def _halve_shares(samples: int, fraction: float) -> tuple[int, int]:
    """Return half of the samples due to validation and to training."""
    validation = fraction * samples
    return max(1, math.ceil(validation / 2)), max(1, math.ceil((samples - validation) / 2))


def _name_units(samples: Sequence[Sample], duplicates: Iterable[tuple[str, str]]) -> list[str]:
    """Return the name of each sample's unit."""
    keys = [_get_keys(sample) for sample in samples]
    # Samples in parts chosen by the user have no keys here, so they join no units.
    units = number_groups(keys, duplicates).tolist()
    unit_of_key = {key: unit for own_keys, unit in zip(keys, units, strict=True) for key in own_keys}
    names: dict[int, str] = {}
    for key in sorted(unit_of_key, key=lambda key: (not _is_group(key), key)):
        names.setdefault(unit_of_key[key], key)
    return [names[unit] for unit in units]


def _get_keys(sample: Sample) -> list[str]:
    """Return what a sample may share with others. Digests are hexadecimal, so they differ from all groups."""
    group = [f"group:{sample.group}"] if sample.group else []
    return [*(image.digest for image in sample.images), *group]


def _is_group(key: str) -> bool:
    return key.startswith("group:")


def _count_strata(
    catalog: Catalog, samples: Sequence[Sample], units: Sequence[str]
) -> dict[Stratum, Counter[str]]:
    """Count the samples of each stratum in each unit; classes and labels are named by their numbers."""
    strata: dict[Stratum, Counter[str]] = defaultdict(Counter)
    if catalog.task == "regression":
        for name, bins in zip(catalog.outputs, _find_bins(catalog.targets(samples)), strict=True):
            for unit, number in zip(units, bins, strict=True):
                strata[f"{name}, bin {number}"][unit] += 1
        return strata
    for sample, unit in zip(samples, units, strict=True):
        labels = (sample.target,) if isinstance(sample.target, int) else sample.target
        for label in labels or ("no label",):
            strata[label if isinstance(label, str) else int(label)][unit] += 1
    return strata


def _find_bins(targets: NDArray[Any]) -> list[list[int]]:
    """Return, for each target, the quantile bin of every sample."""
    count = min(BINS, max(1, len(targets) // SAMPLES_PER_BIN))
    edges = np.quantile(targets, np.arange(1, count) / count, axis=0)
    return [
        np.searchsorted(edge, values, side="right").tolist()
        for edge, values in zip(edges.T, targets.T, strict=True)
    ]


def _describe_missing(catalog: Catalog, assignment: _Assignment) -> list[str]:
    """Return a note for each class or label that has no validation images."""
    kind = "label" if catalog.task == "multilabel" else "class"
    notes = []
    for number, name in enumerate(catalog.outputs):
        stratum = assignment.strata.get(number)
        if not stratum or assignment.counts[number]:
            continue
        if len(stratum) > 1:
            notes.append(f"No image of the {kind} {name} could be spared for validation.")
        else:
            images = "all images in one group" if _is_group(next(iter(stratum))) else "a single image"
            notes.append(f"The {kind} {name} has {images}: nothing validates it.")
    return notes


def _compute_position(unit: str, seed: int) -> float:
    """Return a number in [0, 1) that depends only on the name of the unit and the seed."""
    hashed = hashlib.blake2b(f"{seed}:{unit}".encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(hashed, "big") / 2**64
