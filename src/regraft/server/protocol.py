"""HTTP/1.1 on a connection, with the deadlines that uvicorn does not have.

A client that sends one byte a second would hold a connection for ever. Here headers and body have absolute
deadlines, answers must be read in time, and connections have a limit. Errors below HTTP are JSON, too.
"""

from __future__ import annotations

import asyncio
import secrets
import sys
from http import HTTPStatus
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from regraft.server.refusals import RequestRefused, encode_refusal
from regraft.server.settings import Limits

__all__ = ["DeadlineProtocol", "make_protocol"]

FLUSH_SECONDS = 5.0  # for a client to read the rest of an answer after which the connection closes
READ_SECONDS = 60.0  # for a client to read an answer, beside the time in which it is made


class DeadlineProtocol(H11Protocol):
    """A connection that is closed when a request, or the reading of its answer, takes too long."""

    limits = Limits()  # `make_protocol` sets others

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._phase: tuple[str, object] = ("", None)
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for headers; a connection beyond the limit is dropped."""
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            transport.abort()
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Take bytes from the client."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Wait for the next request on this connection."""
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the deadline."""
        self._set_deadline(None, lambda: None)
        super().connection_lost(exc)

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection, even if its client does not read."""
        super().timeout_keep_alive_handler()
        self._abort_later()

    def shutdown(self) -> None:
        """Close the connection when its request is done."""
        super().shutdown()
        if self.transport.is_closing():
            self._abort_later()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP/1.1; uvicorn calls this while it handles the error."""
        error = sys.exc_info()[1]
        status = getattr(error, "error_status_hint", 400)
        text = "the headers are too long" if status == 431 else "this is not a valid HTTP/1.1 request"
        self._refuse(RequestRefused(status, "bad_request", text))

    def _watch(self) -> None:
        """Set the deadline for what the connection waits for now, unless it waits for the same already."""
        limits, cycle = self.limits, self.cycle
        if cycle is None or cycle.response_complete:
            phase, seconds, expire = "headers", limits.header_seconds, self._expire
        elif cycle.more_body:
            phase, seconds, expire = "body", limits.body_seconds, self._expire
        else:
            phase, seconds, expire = "answer", limits.answer_seconds + READ_SECONDS, self.transport.abort
        if (phase, cycle) != self._phase:
            self._phase = (phase, cycle)
            self._set_deadline(seconds, expire)

    def _set_deadline(self, seconds: float | None, expire: Any) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = None if seconds is None else self.loop.call_later(seconds, expire)

    def _expire(self) -> None:
        self._refuse(RequestRefused(408, "request_timeout", f"the {self._phase[0]} did not arrive in time"))

    def _refuse(self, refused: RequestRefused) -> None:
        """Answer below the application, then close the connection."""
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True  # its task ends as if the client had gone
            cycle.message_event.set()
        body = encode_refusal(refused, secrets.token_hex(8))
        headers = {
            "content-type": "application/json",
            "content-length": str(len(body)),
            "connection": "close",
        }
        try:
            for event in (
                h11.Response(
                    status_code=refused.status,
                    headers=list(headers.items()),
                    reason=HTTPStatus(refused.status).phrase,
                ),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        except h11.LocalProtocolError:
            pass  # an answer has begun
        self.transport.close()
        self._abort_later()

    def _abort_later(self) -> None:
        self.loop.call_later(FLUSH_SECONDS, self.transport.abort)


def make_protocol(limits: Limits) -> type[DeadlineProtocol]:
    """Return the protocol with these limits, as uvicorn takes it: a class."""
    return type("LimitedProtocol", (DeadlineProtocol,), {"limits": limits})
