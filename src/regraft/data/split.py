"""train / validation / test: stratified, decided by content, stable when images are added.

Each image's digest, mixed with the seed, is a number in [0, 1) that no other image can change. Within each
class the images below `fraction` are validation. So a new image never moves an old one, two copies of one
picture always fall on the same side, and the order and names of files do not matter. The price is that a
class's share is right on average, not to the image. Where no image of a class is below (which happens to
small ones), its lowest stands in, so that every class is scored; a new image may take that one's place.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import replace

from regraft.data.catalog import Catalog, Sample

__all__ = ["split"]


def split(catalog: Catalog, *, fraction: float, seed: int = 0) -> Catalog:
    """Give every sample its part; parts the user cut are kept as they are.

    Args:
        catalog: from `Catalog.from_folder`.
        fraction: share of the training images that becomes validation, in (0, 1), where there is none yet.
        seed: another seed is another split.

    Returns:
        A catalog whose samples all have a part. A class with one image keeps it in train, and the notes say
        that nothing validates it.

    Example:
        >>> from pathlib import Path
        >>> samples = tuple(Sample(f"{i}.png", i % 2, f"{i:032x}", "") for i in range(100))
        >>> cut = split(Catalog(Path("."), ("a", "b"), samples), fraction=0.2)
        >>> 10 < len(cut.part("validation")) < 30
        True
    """
    if any(sample.part == "validation" for sample in catalog.samples):
        return catalog
    chosen: set[str] = set()
    alone = []
    for label, contents in sorted(_contents_by_class(catalog).items()):
        chosen |= _lowest(contents, fraction, seed)
        if len(contents) == 1:
            alone.append(catalog.outputs[label])
    samples = tuple(
        replace(sample, part="validation" if sample.digest in chosen else "train")
        if _is_open(sample)
        else sample
        for sample in catalog.samples
    )
    notes = tuple(
        f"The class {name} has a single image: it is trained on, and nothing validates it." for name in alone
    )
    return replace(catalog, samples=samples, notes=(*catalog.notes, *notes))


def _is_open(sample: Sample) -> bool:
    return sample.part in ("", "train")


def _contents_by_class(catalog: Catalog) -> dict[int, set[str]]:
    found: dict[int, set[str]] = defaultdict(set)
    for sample in filter(_is_open, catalog.samples):
        found[sample.target].add(sample.digest)
    return found


def _lowest(contents: set[str], fraction: float, seed: int) -> set[str]:
    """The contents of one class that validate it: those below `fraction`, neither none nor all of several."""
    place = {content: _place(content, seed) for content in contents}
    below = {content for content in contents if place[content] < fraction}
    if below and below != contents:
        return below
    return {min(contents, key=lambda content: place[content])} if len(contents) > 1 else set()


def _place(content: str, seed: int) -> float:
    """A number in [0, 1) that depends on the image's content and the seed alone."""
    mixed = hashlib.blake2b(f"{seed}:{content}".encode(), digest_size=8).digest()
    return int.from_bytes(mixed, "big") / 2**64
