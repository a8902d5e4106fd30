"""What a run says of its backbone, without the network itself: plain values that a file can hold."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["BackboneFacts"]


@dataclass(frozen=True, kw_only=True)
class BackboneFacts:
    """A backbone in words and numbers.

    Attributes:
        name: the table's name for it, or the name of the file, model, module or preset it came from.
        image_size: pixels a side.
        weights: where the weights come from, as a phrase for reports.
        contract: the pixel contract in front of the layers, see `regraft.backbones.preprocessing`.
        new_layers: names of layers with weights that learned nothing yet, see `regraft.models.surgery`.
        notes: what was done to the network on the way, as sentences for reports.
        frozen_because: why its layers cannot train; "" where they can.

    Example:
        >>> facts = BackboneFacts(name="a", image_size=8, weights=f"file sha256 {'0' * 64}", contract="raw")
        >>> facts.weights_briefly
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
    def weights_briefly(self) -> str:
        """`weights` with digests cut to twelve digits, for the eye."""
        return re.sub(r"\b([0-9a-f]{12})[0-9a-f]{20,}\b", r"\1", self.weights)
