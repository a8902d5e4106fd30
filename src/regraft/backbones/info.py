"""The description of a backbone without the network itself, and the files that texts for one mean."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from regraft.backbones.zoo import WEIGHTS_WORDS, is_zoo_name

__all__ = ["BackboneInfo", "locate_backbone", "locate_weights"]


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
        cautions: what looks wrong with it, as sentences that the user should act on.
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
    cautions: tuple[str, ...] = ()
    frozen_because: str = ""

    @property
    def short_weights(self) -> str:
        """Return `weights` with every digest cut to twelve digits, for people to read."""
        return re.sub(r"\b([0-9a-f]{12})[0-9a-f]{20,}\b", r"\1", self.weights)


def locate_backbone(backbone: str) -> Path | None:
    """Return the file or folder that a backbone's text means; None for a name, a handle or a preset.

    >>> locate_backbone("resnet50") is None
    True
    """
    return None if is_zoo_name(backbone) or not Path(backbone).exists() else Path(backbone)


def locate_weights(weights: str) -> Path | None:
    """Return the file that a text for weights means; None for a word, or where there is nothing.

    >>> locate_weights("imagenet") is None
    True
    """
    return None if weights in WEIGHTS_WORDS or not Path(weights).exists() else Path(weights)
