"""The name of the decoder, part of every key of the store: whatever can change a pixel is part of it.

It has a module of its own because decoder processes do not need it, and reading the versions of packages
takes a tenth of the time in which they start.
"""

from __future__ import annotations

import PIL

from regraft.data.images.resize import FAST
from regraft.system.backend import get_installed_versions

__all__ = ["DECODER"]

_VERSIONS = {"Pillow": PIL.__version__} | (get_installed_versions(["cykooz-resizer"]) if FAST else {})

DECODER = f"decode 5, squash bilinear, {', '.join(map(' '.join, _VERSIONS.items()))}"
