"""A relay with a file as its sink, in a separate process that can be stopped and killed.

``python -m tests.faults.filing URL FILE NAME LEASE_S``. While ``FILE.NAME.gate`` exists, it waits
before it writes, and creates ``FILE.NAME.waits`` to show that it waits.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from entitlements import wiring
from entitlements.app.outbox.relay import Destination, Relay
from entitlements.app.outbox.sink import Acked, Message, PublishResult
from tests.waiting import PATIENCE_S, until


class File:
    """A sink that writes a line per event, all events of a call in one write."""

    def __init__(self, path: Path, name: str) -> None:
        self._name = name
        self._gate = path.with_name(f"{path.name}.{name}.gate")
        self._waits = self._gate.with_suffix(".waits")
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    async def publish(self, messages: Sequence[Message]) -> list[PublishResult]:
        while self._gate.exists():
            self._waits.touch()
            await asyncio.sleep(0.005)
        lines = (f"{self._name} {one.event_id} {one.key}\n" for one in messages)
        os.write(self._file, "".join(lines).encode())
        return [Acked()] * len(messages)


async def main(url: str, path: str, name: str, lease_s: str) -> None:
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    store = await wiring.open_store(url)
    destination = Destination(sink=File(Path(path), name), name="file", lease_s=float(lease_s))
    relay = Relay(store.outbox, destination, name=name, source="entitlements_service")
    relay.start()
    await stopped.wait()
    await relay.stop()
    await store.close()


class Filing:
    """The relay process and its gate."""

    def __init__(self, url: str, path: Path, name: str, *, lease_s: float = 1.0) -> None:
        self.path = path
        self._arguments = [url, str(path), name, str(lease_s)]
        self._gate = path.with_name(f"{path.name}.{name}.gate")
        self._process: subprocess.Popen[bytes] | None = None

    async def __aenter__(self) -> Self:
        self._spawn()
        return self

    def _spawn(self) -> None:
        self._process = subprocess.Popen([sys.executable, "-m", __spec__.name, *self._arguments])

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def send(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    async def ended(self) -> int:
        assert self._process is not None
        return await asyncio.to_thread(self._process.wait, PATIENCE_S)

    def shut(self) -> None:
        self._gate.touch()

    def open(self) -> None:
        self._gate.unlink()

    async def waits(self) -> None:
        """Wait until it has read events and waits to write them."""
        await until(self._gate.with_suffix(".waits").exists)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
