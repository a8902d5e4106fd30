"""train / validation / test: stratified, decided by content, stable when samples are added.

**Units.** What may not be torn apart is a unit: samples that share an image (byte for byte, or by a tie: two
files that show one picture) or a group, directly or through others. A unit's *place* is a number in [0, 1)
made of the seed and its name, which is the first of its groups or, where it has none, the first of its
images' digests. Units below `fraction` are validation. So a new sample moves no old one, two copies of a
picture fall on the same side, and the order and names of files do not matter. The price is that shares are
right on average, not to the image.

**Strata.** Every class, every label (and having none), or every tenth of every target of a regression
(quantile bins; fewer below 200 samples) is a stratum. Each is owed a least share of its samples, in
validation and in training: one for classes without groups, whose units are all alike; half of what is due
everywhere else. A stratum that got less is mended, those of fewest units first: units of the lowest places
join validation until it has its least share; where validation has too much, those of the highest places
leave it until the least share is left. No move spoils what was mended before (the order of Sechidis,
Tsoumakas and Vlahavas, 2011, "On the stratification of multi-label data"). A stratum of one unit is trained
on.

**What may move when samples are added**: units that mending moves, before or after; and those that a new
sample ties together, which become one.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.data.catalog import Catalog, Sample
from regraft.data.duplicates import tie

__all__ = ["split"]

OPEN = ("", "train")  # the parts that validation is cut from
BINS = 10  # quantile bins of a regression target
BIN_SAMPLES = 20  # samples that a bin has at least


def split(
    catalog: Catalog, *, fraction: float, seed: int = 0, ties: Iterable[tuple[str, str]] = ()
) -> Catalog:
    """Give every sample its part; parts the user cut are kept as they are.

    Args:
        catalog: of any task.
        fraction: share of the training samples that becomes validation, in [0, 1), where there is none yet.
        seed: another seed is another split.
        ties: pairs of digests that fall on the same side, such as those of near duplicates.

    Returns:
        A catalog whose samples all have a part. The notes name each class or label that nothing validates.

    Example:
        >>> from pathlib import Path
        >>> samples = tuple(Sample(f"{i}.png", i % 2, f"{i:032x}", "") for i in range(100))
        >>> cut = split(Catalog(Path("."), ("a", "b"), samples), fraction=0.2)
        >>> 10 < len(cut.part("validation")) < 30
        True
    """
    if any(sample.part == "validation" for sample in catalog.samples):
        return catalog
    if not fraction:
        return replace(catalog, samples=tuple(replace(s, part=s.part or "train") for s in catalog.samples))
    samples = [sample for sample in catalog.samples if sample.part in OPEN]
    units = _units(samples, ties)
    strata = _strata(catalog, samples, units)
    plain = catalog.task in ("multiclass", "binary") and not any(sample.group for sample in samples)
    least = {name: (1, 1) if plain else _half(stratum.total(), fraction) for name, stratum in strata.items()}
    cut = _Cut({unit: _place(unit, seed) for unit in units}, strata, least, fraction)
    cut.mend()
    sides = iter("validation" if unit in cut.chosen else "train" for unit in units)
    parted = (replace(s, part=next(sides)) if s.part in OPEN else s for s in catalog.samples)
    return replace(catalog, samples=tuple(parted), notes=(*catalog.notes, *_notes(catalog, cut)))


class _Cut:
    """Which units validate.

    Args:
        place: unit -> number in [0, 1).
        strata: stratum -> unit -> how many of the stratum's samples are in it.
        least: stratum -> how many of its samples validation and training have at least.
    """

    def __init__(
        self,
        place: dict[str, float],
        strata: dict[str | int, Counter[str]],
        least: dict[str | int, tuple[int, int]],
        fraction: float,
    ) -> None:
        self.strata = strata
        self.chosen = {unit for unit in place if place[unit] < fraction}
        self._place = place
        self._least = least
        self.have = {name: sum(each[u] for u in each if u in self.chosen) for name, each in strata.items()}
        self._strata_of: dict[str, list[str | int]] = defaultdict(list)
        for name, stratum in strata.items():
            for unit in stratum:
                self._strata_of[unit].append(name)
        self._mended: set[str | int] = set()

    def mend(self) -> None:
        """See to every stratum's least shares, the rarest first: those of fewest units."""
        for name in sorted(self.strata, key=lambda name: len(self.strata[name])):
            if not self._is_well(name):
                self._mend(name)
            self._mended.add(name)

    def _mend(self, name: str | int) -> None:
        stratum, (low, high) = self.strata[name], self._bounds(name)
        units = sorted(stratum, key=lambda unit: (self._place[unit], unit))
        if self.have[name] > high:
            for unit in reversed(units):
                if unit in self.chosen and self.have[name] - stratum[unit] >= low:
                    self._move(unit, -1)
        for unit in units:
            if self.have[name] < low and unit not in self.chosen and self.have[name] + stratum[unit] <= high:
                self._move(unit, +1)

    def _bounds(self, name: str | int) -> tuple[int, int]:
        """How many of a stratum's samples may validate; none where they are one unit."""
        low, train = self._least[name]
        return (0, 0) if len(self.strata[name]) == 1 else (low, self.strata[name].total() - train)

    def _is_well(self, name: str | int, change: int = 0) -> bool:
        low, high = self._bounds(name)
        return low <= self.have[name] + change <= high

    def _move(self, unit: str, sign: int) -> None:
        """Take a unit into validation (+1) or out of it (-1), unless a stratum mended before would suffer."""
        changes = {name: sign * self.strata[name][unit] for name in self._strata_of[unit]}
        if any(
            name in self._mended and self._is_well(name) and not self._is_well(name, change)
            for name, change in changes.items()
        ):
            return
        (self.chosen.add if sign > 0 else self.chosen.remove)(unit)
        for name, change in changes.items():
            self.have[name] += change


def _half(samples: int, fraction: float) -> tuple[int, int]:
    """Half of what is due to validation and to training."""
    due = fraction * samples
    return max(1, math.ceil(due / 2)), max(1, math.ceil((samples - due) / 2))


def _units(samples: Sequence[Sample], ties: Iterable[tuple[str, str]]) -> list[str]:
    """The name of each sample's unit."""
    keys = [_keys(sample) for sample in samples]
    units = tie(keys, ties).tolist()  # keys of a part that the user cut are none of these, and tie nothing
    named = {key: unit for own, unit in zip(keys, units, strict=True) for key in own}
    names: dict[int, str] = {}
    for key in sorted(named, key=lambda key: (not _is_group(key), key)):
        names.setdefault(named[key], key)
    return [names[unit] for unit in units]


def _keys(sample: Sample) -> list[str]:
    """What ties a sample to others. Digests are hexadecimal, so no group is taken for one."""
    group = [f"group:{sample.group}"] if sample.group else []
    return [*(photo.digest for photo in sample.photos), *group]


def _is_group(key: str) -> bool:
    return key.startswith("group:")


def _strata(
    catalog: Catalog, samples: Sequence[Sample], units: Sequence[str]
) -> dict[str | int, Counter[str]]:
    """Stratum -> unit -> samples. Classes and labels go by their numbers in `catalog.outputs`."""
    found: dict[str | int, Counter[str]] = defaultdict(Counter)
    if catalog.task == "regression":
        for name, bins in zip(catalog.outputs, _bins(catalog.targets(samples)), strict=True):
            for unit, bin_ in zip(units, bins, strict=True):
                found[f"{name}, bin {bin_}"][unit] += 1
        return found
    for sample, unit in zip(samples, units, strict=True):
        labels = (sample.target,) if isinstance(sample.target, int) else sample.target
        for label in labels or ("no label",):
            found[label if isinstance(label, str) else int(label)][unit] += 1
    return found


def _bins(targets: NDArray[Any]) -> list[list[int]]:
    """For each target, the quantile bin of every sample."""
    count = min(BINS, max(1, len(targets) // BIN_SAMPLES))
    edges = np.quantile(targets, np.arange(1, count) / count, axis=0)
    return [
        np.searchsorted(edge, values, side="right").tolist()
        for edge, values in zip(edges.T, targets.T, strict=True)
    ]


def _notes(catalog: Catalog, cut: _Cut) -> list[str]:
    """What nothing validates."""
    kind = "label" if catalog.task == "multilabel" else "class"
    found = []
    for number, name in enumerate(catalog.outputs):
        stratum = cut.strata.get(number)
        if not stratum or cut.have[number]:
            continue
        if len(stratum) > 1:
            found.append(f"No image of the {kind} {name} could be spared for validation.")
        elif _is_group(next(iter(stratum))):
            why = "are in one group: they are trained on, and nothing validates them"
            found.append(f"All images of the {kind} {name} {why}.")
        else:
            why = "has a single image: it is trained on, and nothing validates it"
            found.append(f"The {kind} {name} {why}.")
    return found


def _place(unit: str, seed: int) -> float:
    """A number in [0, 1) that depends on the unit's name and the seed alone."""
    mixed = hashlib.blake2b(f"{seed}:{unit}".encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(mixed, "big") / 2**64
