"""The name of what decodes: part of every key of the store, so whatever can change a pixel is part of it.

A process that decodes has no need of it, and reading a version takes a tenth of that process' start.
"""

from __future__ import annotations

import PIL

from regraft.data.images.resize import FAST
from regraft.system.backend import installed

__all__ = ["DECODER"]

_LIBRARIES = {"Pillow": PIL.__version__} | (installed(["cykooz-resizer"]) if FAST else {})

DECODER = f"decode 5, squash bilinear, {', '.join(map(' '.join, _LIBRARIES.items()))}"
