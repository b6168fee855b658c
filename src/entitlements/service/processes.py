"""Serving from several processes on one port, and the supervisor that keeps them running."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, suppress
from itertools import count
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import uvloop
from prometheus_client import CollectorRegistry, generate_latest

from entitlements.app.ports import StoreUnavailable
from entitlements.app.process.log import EventLog
from entitlements.observe import siblings

log = EventLog(__name__)

AGAIN_AFTER_S: Final = 1.0
MERGED: Final = "merged"
"""The name of the socket that serves the metrics of all processes."""
_SPAWNED: Final = multiprocessing.get_context("spawn")  # a fork would inherit a running event loop


class Ties:
    """The connection of a process to its supervisor and to the other processes."""

    def __init__(self, line: Connection, folder: Path, name: str) -> None:
        self._line = line
        self._folder = folder
        self._name = name

    @property
    def is_first(self) -> bool:
        """Return whether this is the first process that was started."""
        return self._name == "1"

    def is_ready(self) -> None:
        """Report to the supervisor that the process serves requests."""
        self._line.send_bytes(b"ready")

    def giving(self, registry: CollectorRegistry) -> AbstractAsyncContextManager[None]:
        """Serve the process's metrics to the supervisor, which merges them."""

        async def text() -> bytes:
            return generate_latest(registry)

        return siblings.giving(self._folder / self._name, text)

    async def metrics(self) -> bytes:
        """Return the metrics of all processes. Raise StoreUnavailable."""
        try:
            return await siblings.read(self._folder / MERGED)
        except OSError as error:
            raise StoreUnavailable("metrics: the first process does not answer") from error


Work = Callable[[Ties], Awaitable[None]]
"""The work of each process until SIGTERM. It must be picklable."""


async def supervise(work: Work, sockets: Iterable[socket.socket], number: int) -> None:
    """Keep ``number`` processes running until SIGTERM or SIGINT; then they finish their requests.

    A process that exits is replaced. All processes end when the supervisor does, even if it is
    killed. ``sockets`` are those that the processes listen on. Raise StoreUnavailable if a process
    does not start.
    """
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for each in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(each, stopping.set)
    with TemporaryDirectory(prefix="entitlements-") as name:
        folder = Path(name)
        crew = _Crew(work, folder, stopping)
        async with siblings.giving(folder / MERGED, crew.metrics):
            keeping = [asyncio.create_task(crew.keep_one()) for _ in range(number)]
            stopped = asyncio.create_task(stopping.wait())
            await asyncio.wait([stopped, *keeping], return_when=asyncio.FIRST_COMPLETED)
            stopping.set()
            for taken in sockets:
                taken.close()  # connections are refused once no process listens any more
            crew.stop()
            await asyncio.wait(keeping)
            await asyncio.gather(*keeping)


class _Crew:
    """The running processes."""

    def __init__(self, work: Work, folder: Path, stopping: asyncio.Event) -> None:
        self._work = work
        self._folder = folder
        self._stopping = stopping
        self._living: dict[str, SpawnProcess] = {}
        self._together = siblings.MergedMetrics()
        self._names = map(str, count(1))

    async def keep_one(self) -> None:
        """Keep one process running until all stop. Raise StoreUnavailable if it does not start."""
        while not self._stopping.is_set():
            name = next(self._names)
            ours, theirs = _SPAWNED.Pipe()
            with ours:
                process = _SPAWNED.Process(
                    target=_run, args=(self._work, theirs, self._folder, name)
                )
                process.start()
                theirs.close()
                self._living[name] = process
                await _readable(process.sentinel)
                process.join()
                del self._living[name]
                self._together.ended(self._folder / name)
                if self._stopping.is_set():
                    return
                if not _was_ready(ours):
                    raise StoreUnavailable(
                        f"a process exited with {process.exitcode} while starting"
                    )
            log.error("process.ended", pid=process.pid, status=process.exitcode)
            with suppress(TimeoutError):
                async with asyncio.timeout(AGAIN_AFTER_S):
                    await self._stopping.wait()

    def stop(self) -> None:
        for process in self._living.values():
            process.terminate()

    async def metrics(self) -> bytes:
        return await self._together.text(self._folder / name for name in self._living)


def _was_ready(line: Connection) -> bool:
    """Return whether the process had reported that it is ready before it exited."""
    try:
        line.recv_bytes()
    except EOFError:
        return False
    return True


async def _readable(descriptor: int) -> None:
    """Wait until the descriptor is readable: a process's sentinel is, once it has exited."""
    event = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(descriptor, event.set)
    try:
        await event.wait()
    finally:
        loop.remove_reader(descriptor)


def _run(work: Work, line: Connection, folder: Path, name: str) -> None:
    uvloop.run(_tied(work, line, folder, name))


async def _tied(work: Work, line: Connection, folder: Path, name: str) -> None:
    """Work until SIGTERM, or until the supervisor's end of the pipe is closed."""
    loop = asyncio.get_running_loop()

    def gone() -> None:
        loop.remove_reader(line.fileno())
        os.kill(os.getpid(), signal.SIGTERM)

    loop.add_reader(line.fileno(), gone)
    try:
        await work(Ties(line, folder, name))
    finally:
        loop.remove_reader(line.fileno())
