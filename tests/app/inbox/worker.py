"""`entitlements worker` as a process that can be killed."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.app.inbox.scene import QUICK
from tests.concurrency.scene import POLICY
from tests.programs import Program
from tests.waiting import PATIENCE_S


@contextmanager
def worker(
    url: str,
    bootstrap: str,
    prefix: str,
    folder: Path,
    *,
    kind: str = "consumer",
    **environment: str,
) -> Iterator[Program]:
    policy = folder / "policy.yaml"
    policy.write_text(POLICY)
    options = ",".join(f"{name}={value}" for name, value in QUICK.items())
    own = {name: value for name, value in os.environ.items() if "ENTITLEMENTS" not in name} | {
        "ENTITLEMENTS_DATABASE_URL": url,
        "ENTITLEMENTS_POLICY_FILE": str(policy),
        "ENTITLEMENTS_KAFKA_BOOTSTRAP_SERVERS": bootstrap,
        "ENTITLEMENTS_KAFKA_OPTIONS": options,
        "ENTITLEMENTS_TOPIC_PREFIX": prefix,
        "ENTITLEMENTS_CONSUMER_GROUP": prefix,
        "ENTITLEMENTS_LOG_LEVEL": "WARNING",
    }
    process = Program("worker", kind, environment=own | environment, log=folder / "worker.log")
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def ended(process: Program) -> int:
    return await asyncio.to_thread(process.wait, PATIENCE_S)


async def killed(process: Program) -> None:
    """Wait until the process has died at its failpoint."""
    assert await ended(process) == -signal.SIGKILL
