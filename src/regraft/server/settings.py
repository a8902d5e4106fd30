"""What a server is told: where it listens, who may ask, and its limits."""

from __future__ import annotations

import hmac
import ipaddress
import stat
from dataclasses import dataclass
from pathlib import Path

from regraft.errors import EnvironmentFault, UsageError, describe_os_error

__all__ = ["Limits", "ServerSettings", "is_loopback", "read_token"]

SHORTEST_TOKEN = 16  # characters
HOW_TO_MAKE_A_TOKEN = "python -c 'import secrets; print(secrets.token_urlsafe(32))' > FILE; chmod 600 FILE"


@dataclass(frozen=True)
class Limits:
    """How much a server takes and how long it waits.

    Attributes:
        body_bytes: of one request.
        buffered_bytes: of all bodies that are being received.
        images: of one request.
        queue: images that are being decoded or wait for the model, of all requests.
        connections: open at a time.
        header_seconds, body_seconds: for receiving the headers, and the body, of a request.
        answer_seconds: from the end of the body to the answer.
        grace_seconds: for requests under way when the server is asked to end.
        linger_seconds: for which new requests are still answered then, so that load balancers can react.
    """

    body_bytes: int = 20 * 10**6
    buffered_bytes: int = 256 * 10**6
    images: int = 16
    queue: int = 64
    connections: int = 4000
    header_seconds: float = 10.0
    body_seconds: float = 30.0
    answer_seconds: float = 10.0
    grace_seconds: float = 30.0
    linger_seconds: float = 0.5


@dataclass(frozen=True)
class ServerSettings:
    """Where a server listens, and whom it answers.

    Attributes:
        host: the address to listen on.
        port: 0 for any free one.
        token: the secret that requests must carry; "" for none.
        allowed_hosts: names by which clients may call the server, besides localhost and numeric addresses.
        limits: see `Limits`.

    Raises:
        UsageError: others than this machine could ask without a token.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token: str = ""
    allowed_hosts: tuple[str, ...] = ()
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        if not self.token and not is_loopback(self.host):
            raise UsageError(
                f"--host: expected this machine alone, such as 127.0.0.1, for a server without a token. "
                f"Received: {self.host}. Give a --token-file: {HOW_TO_MAKE_A_TOKEN}"
            )

    def is_allowed_host(self, header: str) -> bool:
        """Return whether the Host header of a request is one of this server's.

        A web page that resolves its own name to this machine sends that name. Numeric addresses are never
        resolved, so every one of them is allowed.

        >>> settings = ServerSettings(allowed_hosts=("models.example.org",))
        >>> [settings.is_allowed_host(host) for host in ("localhost:8000", "[::1]:80", "evil.example", "")]
        [True, True, False, False]
        """
        name = _split_port(header).lower().rstrip(".")
        return name in ("localhost", *self.allowed_hosts) or _is_address(name)

    def is_allowed_token(self, header: str) -> bool:
        """Return whether an Authorization header carries the token, in a time that tells nothing of it."""
        scheme, _, credentials = header.partition(" ")
        is_equal = hmac.compare_digest(credentials.strip().encode(), self.token.encode())
        return not self.token or (scheme.lower() == "bearer" and is_equal)


def _split_port(header: str) -> str:
    """Return the host of a Host header, without its port and without the brackets of IPv6."""
    if header.startswith("["):
        return header[1:].partition("]")[0]
    host, _, port = header.rpartition(":")
    return host if port.isdigit() else header


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches an address.

    >>> [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "example.org")]
    [True, True, True, False, False]
    """
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


def read_token(path: Path) -> str:
    """Return the secret in a file.

    Raises:
        UsageError: everybody on this machine can read the file, or it holds no token.
        EnvironmentFault: it cannot be read.
    """
    try:
        mode = path.stat().st_mode
        text = path.read_text("utf-8", "replace").strip() if stat.S_ISREG(mode) else ""
    except OSError as error:
        raise EnvironmentFault(
            f"The token file {path} cannot be read: {describe_os_error(error)}."
        ) from error
    if mode & stat.S_IROTH:
        raise UsageError(
            f"--token-file: expected a file that only you can read. Received: {path}, which every user of "
            f"this machine can read. Run: chmod 600 {path}"
        )
    if len(text) < SHORTEST_TOKEN or not text.isascii() or not text.isprintable() or " " in text:
        raise UsageError(
            f"--token-file: expected one line of at least {SHORTEST_TOKEN} letters, digits and signs. "
            f"Received: {path}, with {len(text)} characters. Make one: {HOW_TO_MAKE_A_TOKEN}"
        )
    return text
