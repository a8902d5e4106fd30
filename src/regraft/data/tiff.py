"""The directory of a TIFF's first page: how many numbers its entries hold.

Pillow makes an object of each, of a fraction several, so a file of nothing but numbers keeps it for minutes.
"""

from __future__ import annotations

import struct

from regraft.data.refusal import Refusal

__all__ = ["MAX_TILES", "check_work"]

MAX_TILES = 250_000  # of 16 x 16 pixels, the smallest there are, in a picture of the largest size
MAX_NUMBERS = 4 * MAX_TILES  # each tile has its place and its length
_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
_TEXTS = (1, 2, 7)  # types that stay bytes
_FRACTIONS = (5, 10)


def check_work(data: bytes) -> None:
    """Refuse a file whose directory holds more numbers than any picture needs.

    Raises:
        Refusal: `decode_timeout`.
    """
    order = "<" if data[:2] == b"II" else ">"
    big = 43 in data[2:4]
    first, count, entry = ("Q", "Q", "HHQQ") if big else ("I", "H", "HHII")
    try:
        (at,) = struct.unpack_from(order + first, data, 8 if big else 4)
        (entries,) = struct.unpack_from(order + count, data, at)
        at += struct.calcsize(order + count)
        step, numbers = struct.calcsize(order + entry), 0
        for place in range(at, min(at + entries * step, len(data)), step):
            _, kind, held, where = struct.unpack_from(order + entry, data, place)
            if kind in _BYTES and kind not in _TEXTS and where + held * _BYTES[kind] <= len(data):
                numbers += held * (10 if kind in _FRACTIONS else 1)
    except (struct.error, OverflowError):  # broken, which the decoder says
        return
    if numbers > MAX_NUMBERS:
        raise Refusal(
            "decode_timeout", f"a TIFF whose directory holds {numbers:,} numbers, at most {MAX_NUMBERS:,}"
        )
