"""What the decoder remarks on files that it uses all the same: stable names, each with what it says.

`docs/refusals.md` lists them for users.
"""

from __future__ import annotations

__all__ = ["NOTES"]

# Each completes "3 images ...".
NOTES = {
    "animated_first_frame": "are animations; the first frame is used",
    "bad_colour_profile": "hold a colour profile that cannot be used; their numbers are taken as sRGB",
    "extension_mismatch": "have an extension that is not their format's",
    "extreme_aspect": "are more than ten times as long as wide; squashed to a square, little is left of them",
    "first_page": "have several pages or pictures; the first is used",
    "jpeg_missing_eoi": "lack the end marker of a JPEG and are complete otherwise",
    "jpeg_missing_scans": "are progressive JPEGs without all of their last scans, hence blurred",
    "tiny_image": "are smaller than 32 pixels on a side",
    "uniform": "are one colour all over",
}
