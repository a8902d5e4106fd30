"""Refusals of requests: an HTTP status, a stable code and a message, and how they become JSON.

| status | codes |
|---|---|
| 400 | `bad_request`, `bad_host`, `bad_multipart`, `bad_query`, `bad_json`, `no_image`, `unexpected_field`, `wrong_number_of_images`, `too_many_images` |
| 401 | `unauthorized` |
| 404, 405 | `not_found`, `unknown_model`, `method_not_allowed` |
| 408 | `request_timeout` |
| 413 | `body_too_large`, and the reasons `file_too_large` and `too_many_pixels` |
| 415 | `unsupported_media_type` |
| 422 | every other reason for which training leaves out an image, see `data.images.rejections` |
| 500 | `internal_error` |
| 501 | `no_heat_maps` |
| 503 | `not_ready`, `overloaded`, `no_decoder` |
| 504 | `answer_timeout` |
"""  # noqa: E501

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from regraft.data.images.rejections import Rejection

__all__ = ["RETRY_SECONDS", "RequestRefused", "choose_status", "encode_json", "encode_refusal"]

RETRY_SECONDS = "1"  # what Retry-After says: the queue is worked off in about a second
_TOO_LARGE = ("file_too_large", "too_many_pixels")


class RequestRefused(Exception):  # noqa: N818 - an answer, not a failure of the server
    """A request that gets no answer but a reason: a `status`, a stable `code`, a `message`, and `headers`."""

    def __init__(
        self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status, self.code, self.message = status, code, message
        self.headers = dict(headers or {})
        if status == 503:
            self.headers.setdefault("Retry-After", RETRY_SECONDS)

    @classmethod
    def from_rejection(cls, rejection: Rejection) -> RequestRefused:
        """Refuse a request because its image is refused.

        >>> refused = RequestRefused.from_rejection(Rejection("empty", "the file has no bytes"))
        >>> refused.status, refused.code
        (422, 'empty')
        """
        return cls(choose_status(rejection.code), rejection.code, rejection.detail)


def choose_status(code: str) -> int:
    """Return the HTTP status for a code of `data.images.rejections`."""
    return 413 if code in _TOO_LARGE else 422


def encode_json(value: Any) -> bytes:
    """Return a value as JSON in UTF-8; a number that is not finite is a defect."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode(
        "utf-8", "backslashreplace"
    )


def encode_refusal(refused: RequestRefused, request_id: str, *, open_inference: bool = False) -> bytes:
    """Return the body of a refusal.

    Args:
        refused: the reason.
        request_id: by which logs name the request.
        open_inference: whether the error is a text, as the Open Inference Protocol has it.
    """
    if open_inference:
        return encode_json(
            {"error": refused.message or refused.code, "code": refused.code, "request_id": request_id}
        )
    return encode_json(
        {"error": {"code": refused.code, "message": refused.message, "request_id": request_id}}
    )
