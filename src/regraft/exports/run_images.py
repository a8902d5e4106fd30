"""The images of a run from their files: to calibrate, to replay and to judge an export."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from regraft.data.images.decode import decode, has_digest
from regraft.data.images.decoder_pool import DecodingPool, Job
from regraft.data.images.rejections import Rejection
from regraft.errors import ModelRefused
from regraft.inference.bundle import Bundle
from regraft.inference.predict import group_images
from regraft.pipeline.predictions import ImageRow, read_split
from regraft.pipeline.run_answers import find_image_root

__all__ = ["RunImages"]

CHUNK = 32  # samples decoded at a time


class RunImages(NamedTuple):
    """The images of a run that are still where they were, with the same content.

    Attributes:
        bundle: the run.
        root: the folder that they are in; None if it is not known any more.
        rows: the images of all parts, as the run listed them; empty for a damaged or older run.
    """

    bundle: Bundle
    root: Path | None
    rows: list[ImageRow]

    @classmethod
    def find(cls, bundle: Bundle) -> RunImages:
        """Find the images of a run."""
        try:
            rows = read_split(bundle.path)
        except ModelRefused:
            rows = []
        return cls(bundle, find_image_root(bundle.path), rows)

    def choose(self, parts: Sequence[str], most: int) -> list[ImageRow]:
        """Return images of the first of these parts that has any on disk, evenly spread over the part."""
        for part in parts:
            rows = [row for row in self.rows if row.part == part]
            spread = (
                [rows[number * len(rows) // most] for number in range(most)] if len(rows) > most else rows
            )
            if present := [row for row in spread if self._is_present(row)]:
                return present
        return []

    def _is_present(self, row: ImageRow) -> bool:
        paths, digests = self._list_files(row), row.digest.split()
        return len(paths) == len(digests) and all(map(has_digest, paths, digests))

    def _list_files(self, row: ImageRow) -> list[Path]:
        if self.root is None:
            return []
        names = [row.image] if self.bundle.images_per_sample == 1 else row.image.split(" ")
        return [self.root / name for name in names]

    def decode(self, rows: Sequence[ImageRow]) -> Iterator[tuple[list[int], NDArray[np.uint8]]]:
        """Yield chunks of samples as the network takes them: numbers of rows, and pixels (n, size, size, 3).

        A file that cannot be decoded any more is left out.
        """
        jobs = [
            Job(path, digest)
            for row in rows
            for path, digest in zip(self._list_files(row), row.digest.split(), strict=True)
        ]
        with DecodingPool(jobs, self.bundle.image_size, depth=self.bundle.depth) as pool:
            samples = enumerate(group_images(iter(pool), self.bundle.images_per_sample))
            usable = ((number, one) for number, one in samples if not isinstance(one, Rejection))
            while chunk := list(islice(usable, CHUNK)):
                yield [number for number, _ in chunk], np.stack([pixels for _, pixels in chunk])

    def decode_unresized(self, row: ImageRow) -> NDArray[np.uint8]:
        """Return an image as large as it is, upright, uint8 (1, height, width, 3)."""
        (path,) = self._list_files(row)
        return decode(path.read_bytes(), None, depth=self.bundle.depth).pixels[None]
