"""Decode images of requests in guarded processes, from an event loop."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor

from regraft.data.images.decode import DecodedImage
from regraft.data.images.decoder_process import DecoderProcess
from regraft.data.images.rejections import Rejection

__all__ = ["ImageDecoder"]


class ImageDecoder:
    """A few decoder processes that images wait for in the order in which they came.

    The bytes go to the process over a pipe, so no image is ever written to a disk.

    Args:
        seconds: for one image; then its process is replaced.
        workers: number of processes; None for one per processor.
    """

    def __init__(self, seconds: float, workers: int | None = None) -> None:
        self._processes = [DecoderProcess(seconds) for _ in range(workers or os.cpu_count() or 1)]
        self._threads = ThreadPoolExecutor(len(self._processes), thread_name_prefix="decoder")
        self._starts = [self._threads.submit(process.start) for process in self._processes]
        self._idle: asyncio.Queue[DecoderProcess] | None = None

    async def open(self) -> None:
        """Wait until every process is ready.

        Raises:
            EnvironmentFault: one cannot be started.
        """
        await asyncio.gather(*(asyncio.wrap_future(start) for start in self._starts))
        self._idle = asyncio.Queue()
        for process in self._processes:
            self._idle.put_nowait(process)

    async def decode(self, data: bytes, size: int, depth: int) -> DecodedImage | Rejection:
        """Return the image in the bytes of a file, or why it is refused; see `decode.decode`.

        A caller that is cancelled while it waits takes up no process. One that is cancelled later leaves its
        process to finish the image first.

        Raises:
            EnvironmentFault: a process that ended cannot be replaced.
        """
        if self._idle is None:
            raise RuntimeError("open() comes first")
        idle, process = self._idle, await self._idle.get()
        work = asyncio.get_running_loop().run_in_executor(
            self._threads, process.decode_bytes, data, size, depth
        )
        work.add_done_callback(lambda _: idle.put_nowait(process))
        return await asyncio.shield(work)

    def close(self) -> None:
        """End the processes; images that are being decoded are refused."""
        for process in self._processes:
            process.interrupt()
        self._threads.shutdown(wait=True, cancel_futures=True)
        for process in self._processes:
            process.end()
