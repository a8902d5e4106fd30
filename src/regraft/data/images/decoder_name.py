"""The name of the decoder, part of every key of the store: whatever can change a pixel is part of it.

It has a module of its own because decoder processes do not need it, and reading the versions of packages
takes a tenth of the time in which they start.
"""

from __future__ import annotations

import PIL

from regraft.data.images.resize import FAST
from regraft.data.images.sample_range import FULL_DEPTH
from regraft.system.backend import get_installed_versions

__all__ = ["DECODER", "name_decoder"]

_VERSIONS = {"Pillow": PIL.__version__} | (get_installed_versions(["cykooz-resizer"]) if FAST else {})

DECODER = f"decode 5, squash bilinear, {', '.join(map(' '.join, _VERSIONS.items()))}"


def name_decoder(depth: int = FULL_DEPTH) -> str:
    """Return the name of the decoder that uses this many bits of 16-bit samples.

    >>> name_decoder(16) == DECODER, name_decoder(12).removeprefix(DECODER)
    (True, ', 16-bit samples of 12 bits')
    """
    return DECODER if depth == FULL_DEPTH else f"{DECODER}, 16-bit samples of {depth} bits"
