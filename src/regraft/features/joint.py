"""The features of several networks for the same images, as if one network had made them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.data.catalog import Sample
from regraft.features.extract import Features
from regraft.features.openvino import Precision

__all__ = ["JointFeatures"]


class JointFeatures(Features):
    """The tensors of several networks, each read from the store under the key of its own network.

    Attributes:
        parts: the features of each network, of the same images.
        computed, reused: how many images were computed now by some network, and how many by none.
        refused: files that turned out to be unusable, one entry per file.
    """

    def __init__(self, parts: Sequence[Features]) -> None:
        self.parts = tuple(parts)
        self.computed = max(part.computed for part in parts)
        self.reused = min(part.reused for part in parts)
        self.refused = tuple({item.image: item for part in parts for item in part.refused}.values())

    def matrix(self, samples: Sequence[Sample], name: str) -> NDArray[Any]:
        """Return one tensor, named by `name_tensor`, as `Features.matrix` does."""
        _, number, tensor = name.split("_", 2)
        return self.parts[int(number) - 1].matrix(samples, tensor)

    @property
    def key(self) -> str:
        """The store's keys of these tensors."""
        return "\n\n".join(part.key for part in self.parts)

    @property
    def fingerprint(self) -> str:
        """The fingerprints of the networks."""
        return " ".join(part.fingerprint for part in self.parts)

    @property
    def precision(self) -> Precision:
        """The coarsest precision of any network."""
        return "bf16" if any(part.precision == "bf16" for part in self.parts) else "f32"

    @property
    def seconds_per_image(self) -> float:
        """The seconds that all networks together take for one image on this machine."""
        return float(np.sum([part.seconds_per_image for part in self.parts]))

    def facts(self, samples: Sequence[Sample]) -> Any:
        """Return what the decoder learnt of each sample's first image."""
        return self.parts[0].facts(samples)

    def facts_by_digest(self, digests: Sequence[str]) -> Any:
        """Return what the decoder learnt of each of these images."""
        return self.parts[0].facts_by_digest(digests)
