"""The blocks of a GIF: how many pieces stand before and within its first picture.

Pillow takes them one by one, so a file of one-byte pieces keeps it for minutes.
"""

from __future__ import annotations

from regraft.data.refusal import Refusal

__all__ = ["check_work"]

MAX_PIECES = 100_000  # and one more for so many bytes; encoders fill pieces to 255
BYTES_A_PIECE = 128
_EXTENSION, _PICTURE, _END = 0x21, 0x2C, 0x3B


def check_work(data: bytes) -> None:
    """Refuse a file of more pieces, up to its second picture, than any encoder makes.

    Raises:
        Refusal: `decode_timeout`.
    """
    at, pieces, pictures, most = _behind_palette(data, 10, 13), 0, 0, MAX_PIECES + len(data) // BYTES_A_PIECE
    while at < len(data) and pictures < 2:
        kind = data[at]
        if kind == _END:
            return
        if kind == _EXTENSION:
            at += 2
        elif kind == _PICTURE:
            at = _behind_palette(data, at + 9, at + 10) + 1
            pictures += 1
        else:  # nothing that is known: Pillow goes on by a byte
            at += 1
        if kind in (_EXTENSION, _PICTURE):
            while at < len(data) and data[at] and pieces <= most:
                at += data[at] + 1
                pieces += 1
            at += 1
        pieces += 1
        if pieces > most:
            raise Refusal("decode_timeout", f"a GIF in more than {most:,} pieces")


def _behind_palette(data: bytes, flags: int, start: int) -> int:
    """Where a palette ends that begins at `start`, if the byte at `flags` says that there is one."""
    here = data[flags] if flags < len(data) else 0
    return start + (3 << (here & 7) + 1 if here & 0x80 else 0)
