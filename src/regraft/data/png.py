"""The chunks of a PNG and their checksums, of which Pillow checks those of metadata but not of pixels."""

from __future__ import annotations

import struct
import zlib

from regraft.data.refusal import Refusal

__all__ = ["SIGNATURE", "checked"]

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_CHUNKS = 100_000  # a picture at every limit has a tenth of that
_PIXELS = (b"IHDR", b"PLTE", b"IDAT", b"tRNS")


def checked(data: bytes) -> bytes:
    """The file without those chunks of metadata whose checksum is wrong.

    Raises:
        Refusal: `corrupt` where the checksum of a chunk that makes pixels is wrong; `decode_timeout` for more
            chunks than anyone could need.
    """
    view, at, kept, bad = memoryview(data), 8, 8, []
    for _ in range(MAX_CHUNKS):
        if at + 12 > len(data):
            break
        (length,) = struct.unpack_from(">I", data, at)
        kind, end = data[at + 4 : at + 8], at + 12 + length
        if end > len(data):
            break  # cut short: the decoder says so
        if zlib.crc32(view[at + 4 : end - 4]) != struct.unpack_from(">I", data, end - 4)[0]:
            if kind in _PIXELS or kind == b"IEND":
                raise Refusal("corrupt", f"the checksum of {kind.decode()} is wrong")
            bad.append((at, end))
        at = end
        if kind == b"IEND":
            break
    else:
        raise Refusal("decode_timeout", f"a PNG of more than {MAX_CHUNKS:,} chunks")
    if not bad:
        return data
    parts = []
    for start, end in bad:
        parts.append(data[kept:start])
        kept = end
    return data[:8] + b"".join(parts) + data[kept:]
