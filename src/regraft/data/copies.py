"""Samples of the same bytes: labels that contradict each other, and links to one file.

Nobody but the user knows which of two labels of one picture is right, so none of them is learnt from. A
second name of a file, by a symbolic or a hard link, is no second image.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from regraft.data.sample import Sample

__all__ = ["contradictions", "same_files"]


def contradictions(samples: Sequence[Sample], classes: Sequence[str]) -> dict[int, str]:
    """Place of each sample whose pictures another sample has with another class -> what to say of it.

    Example:
        >>> one, two = Sample("cat/1.png", 0, "61" * 16), Sample("dog/7.png", 1, "61" * 16)
        >>> contradictions([one, two], ["cat", "dog"])[0]
        'the same bytes as dog/7.png, which is dog'
    """
    found = {}
    for places in _alike(samples):
        for at in places:
            other = next((n for n in places if samples[n].target != samples[at].target), None)
            if other is not None:
                name = classes[cast("int", samples[other].target)]
                found[at] = f"the same bytes as {samples[other].path}, which is {name}"
    return found


def same_files(root: Path, samples: Sequence[Sample]) -> set[int]:
    """Places of the samples whose file is that of an earlier one, of the same target and part, too."""
    found = set()
    for places in _alike(samples):
        seen = set()
        for at in places:
            sample = samples[at]
            if sample.more:
                continue
            try:
                file = (root / sample.path).stat()
            except OSError:  # gone by now: the decoder will say so
                continue
            name = (file.st_dev, file.st_ino, sample.target, sample.part, sample.group)
            if name in seen:
                found.add(at)
            seen.add(name)
    return found


def _alike(samples: Sequence[Sample]) -> list[list[int]]:
    """The places of samples of the same pictures, where there are several."""
    places = defaultdict(list)
    for at, sample in enumerate(samples):
        places[sample.digest, *(photo.digest for photo in sample.more)].append(at)
    return [found for found in places.values() if len(found) > 1]
