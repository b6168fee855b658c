"""The service as a separate process that can be killed, and clients that retry until success."""

import asyncio
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx2

from tests.programs import Program
from tests.servers import free_port
from tests.waiting import PATIENCE_S


class Service:
    """`entitlements serve` on a free loopback port, without authentication."""

    def __init__(self, database_url: str, policy: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = policy.with_name(f"service-{self.port}.log")
        self._environment = {
            name: value for name, value in os.environ.items() if "ENTITLEMENTS" not in name
        } | {
            "ENTITLEMENTS_AUTH": "none",
            "ENTITLEMENTS_DATABASE_URL": database_url,
            "ENTITLEMENTS_HTTP_PORT": str(self.port),
            "ENTITLEMENTS_POLICY_FILE": str(policy),
            "ENTITLEMENTS_LOG_LEVEL": "WARNING",
        }
        self._process: Program | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    async def start(self, **environment: str) -> None:
        """Start it; wait until it is ready or has died at its failpoint.

        There is no timeout while the process lives, because machines differ in speed.
        """
        self._process = Program(
            "serve", environment={**self._environment, **environment}, log=self._log
        )
        async with httpx2.AsyncClient(base_url=self.url) as http:
            while True:
                try:
                    if (await http.get("/readyz")).is_success:
                        return
                except httpx2.TransportError:
                    pass
                status = self._process.poll()
                if status == -signal.SIGKILL:
                    return
                if status is not None:
                    raise RuntimeError(f"the service does not start: {self.log()[-3000:]}")
                await asyncio.sleep(0.02)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def killed(self) -> None:
        """Wait until it has died of SIGKILL."""
        assert self._process is not None
        status = await asyncio.to_thread(self._process.wait, PATIENCE_S)
        assert status == -signal.SIGKILL, self.log()[-3000:]

    async def stopped_by(self, number: int) -> int:
        """Send the signal and return the exit status."""
        assert self._process is not None
        self._process.send_signal(number)
        return await asyncio.to_thread(self._process.wait, PATIENCE_S)

    def log(self) -> str:
        return self._log.read_text(errors="replace")


async def insist(
    http: httpx2.AsyncClient, key: str, body: Mapping[str, Any], path: str = "consume-credits"
) -> dict[str, Any]:
    """Repeat the request with its key until it succeeds; retry only lost connections and 503."""
    headers = {"Idempotency-Key": key}
    while True:
        try:
            reply = await http.post(f"/v1/entitlements/{path}", json=dict(body), headers=headers)
        except httpx2.TransportError:
            await asyncio.sleep(0.1)
            continue
        if reply.status_code == httpx2.codes.SERVICE_UNAVAILABLE:
            await asyncio.sleep(0.1)
            continue
        assert reply.is_success, reply.text
        answer: dict[str, Any] = reply.json()
        return answer
