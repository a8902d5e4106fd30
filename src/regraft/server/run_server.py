"""Run a server until it is asked to end: its socket, its signals, and its last requests."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import uvicorn

from regraft.errors import EnvironmentFault, describe_os_error
from regraft.server.app import make_app, make_service
from regraft.server.protocol import make_protocol
from regraft.server.registry import ModelRegistry
from regraft.server.service import ImageService
from regraft.server.settings import ServerSettings
from regraft.system.console import TERMINAL, Reporter, format_names

__all__ = ["run_server"]

SETTLE_SECONDS = 0.2  # from the last connection to the end of those without a request
BACKLOG = 2048  # connections that the system holds until they are accepted
SPARE_FILES = 200  # beside those of connections
SILENT_LOGS = 100  # above every level: uvicorn would log what clients send


def run_server(
    folders: dict[str, Path],
    settings: ServerSettings,
    *,
    trust: bool = False,
    reporter: Reporter = TERMINAL,
) -> None:
    """Serve runs until SIGTERM or Ctrl-C; SIGHUP loads those that changed.

    The first signal lets requests under way end, the second ends the process at once.

    Args:
        folders: run folders by name; see `name_runs`.
        settings: where to listen, whom to answer, and limits.
        trust: load SavedModels, too.
        reporter: is told when the server is ready, of reloads, and of defects.

    Raises:
        UsageError, ModelRefused: a run cannot be served; nothing was answered.
        EnvironmentFault: the port is taken, or a package is missing.
    """
    with _open_socket(settings.host, settings.port) as listener:
        _allow_open_files(settings.limits.connections + SPARE_FILES)
        registry = ModelRegistry(folders, trust=trust, reporter=reporter)
        asyncio.run(_ServerRun(registry, settings, listener, reporter).run())


@contextlib.contextmanager
def _open_socket(host: str, port: int) -> Iterator[socket.socket]:
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # asyncio sends small answers at once (TCP_NODELAY) only where the protocol is stated, not left at 0.
        with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
            if sys.platform != "win32":
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            yield listener
    except OSError as error:
        if isinstance(error, EnvironmentFault):
            raise
        raise EnvironmentFault(
            f"Cannot listen on {host}, port {port}: {describe_os_error(error)}. "
            "Choose another port with --port, or --port 0 for any free one."
        ) from error


def _allow_open_files(count: int) -> None:
    """Raise this process' limit of open files as far as that is allowed."""
    if sys.platform != "win32":
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        needed = count if hard == resource.RLIM_INFINITY else min(count, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), hard))


class _Server(uvicorn.Server):
    """uvicorn's server without its signals: it would end the process by the signal that it received."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End as uvicorn does, but reset no connection that is made just now."""
        for _ in range(2):  # accept what waits in the kernel's queue: closing the socket would reset it
            await asyncio.sleep(0)
        for server in self.servers:
            server.close()
        await asyncio.sleep(SETTLE_SECONDS)  # their requests arrive
        await super().shutdown(sockets)


class _ServerRun:
    """A server from its start to its end, in an event loop."""

    def __init__(
        self, registry: ModelRegistry, settings: ServerSettings, listener: socket.socket, reporter: Reporter
    ) -> None:
        self._registry, self._settings = registry, settings
        self._listener, self._reporter = listener, reporter
        self._reloading = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        limits = self._settings.limits
        self._service: ImageService = make_service(self._registry, self._settings)
        config = uvicorn.Config(
            make_app(self._service, self._settings, self._reporter),
            http=make_protocol(limits),
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            log_level=SILENT_LOGS,
            access_log=False,
            server_header=False,
            backlog=BACKLOG,
            timeout_graceful_shutdown=int(limits.grace_seconds),
        )
        self._server = _Server(config)
        self._handle_signals()
        opening = asyncio.create_task(self._open())
        try:
            await self._server.serve(sockets=[self._listener])
            await opening
        finally:
            self._service.close()

    async def _open(self) -> None:
        """Load the models while the server already tells that it is not ready."""
        try:
            await self._service.open()
        except BaseException:
            self._server.should_exit = True
            raise
        host, port = self._listener.getsockname()[:2]
        address = f"[{host}]" if ":" in host else host
        models = format_names(f"{model.name} ({model.version})" for model in self._registry.models)
        self._reporter.info(f"Serving {models} at http://{address}:{port}. Ctrl-C ends it.")

    def _handle_signals(self) -> None:
        if sys.platform == "win32":
            return
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._drain)
        loop.add_signal_handler(signal.SIGHUP, self._start_task, self._reload)

    def _drain(self) -> None:
        """Say that the server is not ready, answer what comes in a moment longer, then take nothing new."""
        self._service.is_draining = True
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):  # the next one ends the process at once
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)
        self._reporter.info("Ending after the requests under way. A second signal ends at once.")
        loop.call_later(self._settings.limits.linger_seconds, setattr, self._server, "should_exit", True)

    def _start_task(self, work: object) -> None:
        task = asyncio.ensure_future(work())  # type: ignore[operator]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _reload(self) -> None:
        if not self._service.is_ready:
            return
        async with self._reloading:
            replaced, failed = await self._service.reload()
        if replaced:
            self._reporter.info(f"Reloaded {format_names(self._name_versions(replaced))}.")
        elif not failed:
            self._reporter.info("Nothing to reload: every run is as it was.")

    def _name_versions(self, names: Sequence[str]) -> list[str]:
        return [f"{name} ({self._registry.get(name).version})" for name in names]
