"""Read the body of a request within limits, and find the images in it. Nothing is written to a disk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.requests import ClientDisconnect, Request

from regraft.server.refusals import RequestRefused
from regraft.server.settings import Limits
from regraft.system.console import format_bytes

__all__ = ["BodyReader", "UploadedImage", "discard_body", "split_images"]

DISCARD_SECONDS = 2.0  # for which a body that is refused is still read, so that its client reads the answer
MAX_HEADERS = 16  # of a part
RAW_TYPES = ("application/octet-stream",)
EXPECTED = "send image files as multipart/form-data, or one file with Content-Type: image/jpeg"


class UploadedImage(NamedTuple):
    """An image of a request: a name for the answer, and the bytes of its file."""

    name: str
    data: bytes


class BodyReader:
    """Reads bodies, and counts the bytes of all that are being read.

    Args:
        limits: those of the server.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._buffered = 0

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """Yield the body of a request; its bytes count until the end of the block.

        Raises:
            RequestRefused: it is compressed or too large, or too many bodies are being received.
            ClientDisconnect: the client has gone.
        """
        encoding = request.headers.get("content-encoding", "identity").strip().lower()
        if encoding != "identity":
            raise RequestRefused(415, "unsupported_media_type", "send the body without Content-Encoding")
        stated = request.headers.get("content-length", "")
        if stated.isdigit() and int(stated) > self._limits.body_bytes:
            raise self._make_refusal()
        body = bytearray()
        try:
            async for chunk in request.stream():
                body += chunk
                self._buffered += len(chunk)
                if len(body) > self._limits.body_bytes:
                    raise self._make_refusal()
                if self._buffered > self._limits.buffered_bytes:
                    raise RequestRefused(503, "overloaded", "too many uploads at a time")
            yield bytes(body)
        finally:
            self._buffered -= len(body)

    def _make_refusal(self) -> RequestRefused:
        size = format_bytes(self._limits.body_bytes)
        return RequestRefused(413, "body_too_large", f"expected at most {size}", {"Connection": "close"})


async def discard_body(request: Request) -> None:
    """Read the rest of a refused body for a moment: closing at once could destroy the answer on its way."""
    try:
        async with asyncio.timeout(DISCARD_SECONDS):
            async for _ in request.stream():
                pass
    except (TimeoutError, ClientDisconnect, RuntimeError):
        pass


def split_images(content_type: str, body: bytes, most: int) -> list[UploadedImage]:
    """Return the images in a body.

    Args:
        content_type: that of the request.
        body: a multipart form whose parts are files, or one file.
        most: images of one request.

    Raises:
        RequestRefused: the content type is another one, the form is damaged or has other parts, or there are
            no images or too many.

    >>> split_images("image/png", b"...", 16)
    [UploadedImage(name='image 0', data=b'...')]
    """
    kind, options = parse_options_header(content_type)
    media_type = kind.decode("latin-1").strip().lower()
    if media_type == "multipart/form-data":
        boundary = options.get(b"boundary", b"")
        if not boundary:
            raise RequestRefused(400, "bad_multipart", "the Content-Type names no boundary")
        images = _FormImages(boundary, most).parse(body)
    elif media_type.startswith("image/") or media_type in RAW_TYPES:
        images = [UploadedImage("image 0", body)]
    else:
        raise RequestRefused(415, "unsupported_media_type", EXPECTED)
    if not images:
        raise RequestRefused(400, "no_image", f"the form has no file; {EXPECTED}")
    return images


class _FormImages:
    """The files of a multipart form, which is refused as soon as it is clear that it must be."""

    def __init__(self, boundary: bytes, most: int) -> None:
        self._boundary, self._most = boundary, most
        self._images: list[UploadedImage] = []
        self._headers: dict[bytes, bytes] = {}
        self._field, self._value, self._data = bytearray(), bytearray(), bytearray()
        self._is_complete = False

    def parse(self, body: bytes) -> list[UploadedImage]:
        try:
            parser = MultipartParser(
                self._boundary,
                {
                    "on_part_begin": self._begin_part,
                    "on_header_field": lambda data, start, end: self._field.extend(data[start:end]),
                    "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
                    "on_header_end": self._end_header,
                    "on_headers_finished": self._check_headers,
                    "on_part_data": lambda data, start, end: self._data.extend(data[start:end]),
                    "on_part_end": self._end_part,
                    "on_end": self._end,
                },
                max_header_count=MAX_HEADERS,
            )
            parser.write(body)
            parser.finalize()
        except FormParserError as error:
            raise RequestRefused(400, "bad_multipart", "the form is damaged") from error
        if not self._is_complete:
            raise RequestRefused(400, "bad_multipart", "the form ends before its last boundary")
        return self._images

    def _begin_part(self) -> None:
        if len(self._images) >= self._most:
            raise RequestRefused(400, "too_many_images", f"expected at most {self._most} images in a request")
        self._headers, self._data = {}, bytearray()

    def _end_header(self) -> None:
        self._headers[bytes(self._field).lower()] = bytes(self._value)
        self._field, self._value = bytearray(), bytearray()

    def _check_headers(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        if b"filename" not in options:
            raise RequestRefused(
                400,
                "unexpected_field",
                "expected files only; options belong into the address (?coverage=0.9)",
            )
        name = options[b"filename"].decode("utf-8", "replace")
        self._name = name[:255] or f"image {len(self._images)}"

    def _end_part(self) -> None:
        self._images.append(UploadedImage(self._name, bytes(self._data)))

    def _end(self) -> None:
        self._is_complete = True
