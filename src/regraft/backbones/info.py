"""The description of a backbone without the network itself: plain values that a file can hold."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["BackboneInfo"]


@dataclass(frozen=True, kw_only=True)
class BackboneInfo:
    """The description of a backbone.

    Attributes:
        name: its name in the table, or that of the file, model, module or preset that it comes from.
        image_size: pixels a side.
        weights: the origin of its weights, as a phrase for reports.
        contract: the pixel contract in front of the layers, see `regraft.backbones.preprocessing`.
        new_layers: names of layers whose weights are untrained, see `regraft.models.surgery`.
        notes: what loading did to the network, as sentences for reports.
        frozen_because: why its layers cannot train; "" where they can.

    Example:
        >>> info = BackboneInfo(name="a", image_size=8, weights=f"file sha256 {'0' * 64}", contract="raw")
        >>> info.short_weights
        'file sha256 000000000000'
    """

    name: str
    image_size: int
    weights: str
    contract: str
    new_layers: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    frozen_because: str = ""

    @property
    def short_weights(self) -> str:
        """Return `weights` with every digest cut to twelve digits, for people to read."""
        return re.sub(r"\b([0-9a-f]{12})[0-9a-f]{20,}\b", r"\1", self.weights)
