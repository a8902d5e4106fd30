"""What surrounds every request: who may ask, its number, headers of the answer, errors as JSON, figures."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from regraft.server.body import discard_body
from regraft.server.metrics import ServerMetrics
from regraft.server.refusals import RequestRefused, encode_refusal
from regraft.server.settings import ServerSettings
from regraft.system.console import Reporter, escape_controls

__all__ = ["CLIENT_GONE", "CONTENT_POLICY", "Refusal", "RequestGuard", "RequestPassport"]

CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = [
    (b"content-security-policy", CONTENT_POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
    (b"cross-origin-resource-policy", b"same-origin"),
]
_OPEN_PATHS = re.compile(r"/|/docs|/openapi\.json|/static/[\w.-]+|/v2/health/(live|ready)")  # without a token
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
LONGEST_HEADERS = 16_384  # bytes
CLIENT_GONE = 499  # the status that figures have for it


class RequestPassport:
    """What is noted about a request: its number, and the status of its answer once that has begun."""

    def __init__(self, request: Request) -> None:
        stated = request.headers.get("x-request-id", "")
        self.request_id = stated if _REQUEST_ID.fullmatch(stated) else secrets.token_hex(8)
        self.status = 0


class RequestGuard:
    """The outermost application.

    Args:
        app: the application inside.
        settings: who may ask.
        metrics: counts requests.
        is_draining: whether connections should close after their answer.
        reporter: is told of defects.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: ServerSettings,
        *,
        metrics: ServerMetrics,
        is_draining: Callable[[], bool],
        reporter: Reporter,
    ) -> None:
        self._app, self._settings, self._metrics = app, settings, metrics
        self._is_draining, self._reporter = is_draining, reporter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            return
        start, request = time.perf_counter(), Request(scope, receive)
        passport = scope["passport"] = RequestPassport(request)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                passport.status = message["status"]
                message["headers"] = [*message.get("headers", []), *self._make_headers(passport)]
            await send(message)

        self._metrics.begin_request()
        try:
            await self._answer(request, passport, send_with_headers)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            seconds = time.perf_counter() - start
            self._metrics.end_request(route, passport.status or CLIENT_GONE, seconds)

    def _make_headers(self, passport: RequestPassport) -> list[tuple[bytes, bytes]]:
        closing = [(b"connection", b"close")] if self._is_draining() else []
        return [*_HEADERS, (b"x-request-id", passport.request_id.encode()), *closing]

    async def _answer(self, request: Request, passport: RequestPassport, send: Send) -> None:
        try:
            self._check(request)
            await self._app(request.scope, request.receive, send)
        except RequestRefused as refused:
            await Refusal(refused)(request.scope, request.receive, send)
        except Exception as error:  # the application has answered it already
            self._report(error, passport)

    def _check(self, request: Request) -> None:
        """Refuse a request that is ambiguous, that came by another name, or that has no token."""
        headers = request.headers
        if "transfer-encoding" in headers and "content-length" in headers:
            raise RequestRefused(400, "bad_request", "two lengths of the body", {"Connection": "close"})
        if sum(len(name) + len(value) for name, value in headers.raw) > LONGEST_HEADERS:
            raise RequestRefused(431, "bad_request", "the headers are too long", {"Connection": "close"})
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._settings.is_allowed_host(hosts[0]):
            raise RequestRefused(
                400, "bad_host", "this name is not the server's; start it with --allow-host NAME to use it"
            )
        is_open = _OPEN_PATHS.fullmatch(request.scope["path"])
        if not is_open and not self._settings.is_allowed_token(headers.get("authorization", "")):
            raise RequestRefused(
                401, "unauthorized", "send Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"}
            )

    def _report(self, error: Exception, passport: RequestPassport) -> None:
        text = escape_controls(f"{type(error).__name__}: {error}"[:300])
        self._reporter.error(f"request {passport.request_id} failed: {text}")


class Refusal:
    """An answer that gives the reason of a refusal.

    Where that closes the connection, the rest of the body is read for a moment, so that the client, which may
    still be sending, sees the answer.
    """

    def __init__(self, refused: RequestRefused) -> None:
        self._refused = refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        refused = self._refused
        body = encode_refusal(
            refused, scope["passport"].request_id, open_inference=scope["path"].startswith("/v2")
        )
        headers = {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            **refused.headers,
        }
        encoded = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": refused.status, "headers": encoded})
        await send({"type": "http.response.body", "body": body, "more_body": True})
        if "Connection" in headers:
            await discard_body(Request(scope, receive))
        await send({"type": "http.response.body", "body": b"", "more_body": False})
