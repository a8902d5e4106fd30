"""Names and scores as lines for a terminal."""

from __future__ import annotations

import sys
from typing import Any

from regraft.console import escape_controls

__all__ = ["print_scores", "safe"]


def safe(text: str) -> str:
    """A name as one printable line in any terminal's encoding."""
    encoding = sys.stdout.encoding or "utf-8"
    return escape_controls(text).encode(encoding, "backslashreplace").decode(encoding)


def print_scores(scores: dict[str, Any]) -> None:
    """The scores of each part with their intervals, as in metrics.json."""
    for part in ("test", "validation", "train", "all"):
        if part not in scores:
            continue
        print(f"{part}, {scores[part]['n']:,} images:")
        for name, score in scores[part].items():
            if name != "n":
                print(f"  {name:<18} {score['value']:.3f}   95 % {score['low']:.3f} to {score['high']:.3f}")
