"""The chunks of a PNG and their checksums, of which Pillow checks those of metadata but not of pixels."""

from __future__ import annotations

import zlib

from regraft.data.refusal import Refusal

__all__ = ["SIGNATURE", "checked"]

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_CHUNKS = 100_000  # a picture at every limit has a tenth of that
_NEEDED = (b"IHDR", b"PLTE", b"IDAT", b"tRNS", b"IEND")


def checked(data: bytes) -> bytes:
    """The file without those chunks of metadata whose checksum is wrong.

    Raises:
        Refusal: `truncated` without the chunk that ends a PNG; `corrupt` where the checksum of a chunk that
            makes pixels is wrong; `decode_timeout` for more chunks than anyone could need.
    """
    view, at = memoryview(data), len(SIGNATURE)
    sound, since = [], 0  # the stretches between bad chunks
    for _ in range(MAX_CHUNKS):
        kind = data[at + 4 : at + 8]
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if end > len(data):
            raise Refusal("truncated", "the file ends before its last chunk")
        if zlib.crc32(view[at + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            if kind in _NEEDED:
                raise Refusal("corrupt", f"the checksum of {kind.decode()} is wrong")
            sound.append(view[since:at])
            since = end
        at = end
        if kind == b"IEND":
            break
    else:
        raise Refusal("decode_timeout", f"a PNG of more than {MAX_CHUNKS:,} chunks")
    return b"".join([*sound, view[since:]]) if sound else data
