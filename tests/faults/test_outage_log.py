"""What a service writes into its log while PostgreSQL is away: when that began, when it ended."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import httpx2
import msgspec
import pytest

from tests.books import assert_books_balance
from tests.faults.service import Service, insist
from tests.servers import PostgresServer
from tests.tables import migrate
from tests.waiting import until

CLIENTS = 16
POLICY = "costs: {cj: 1}\nsignup_bonuses: {user: 100000, org: 0}\n"


async def backend_killed(server: PostgresServer, url: str) -> None:
    """The server ends all other sessions then, each with a message, and recovers."""
    db = await asyncpg.connect(url)
    pid = await db.fetchval(
        "SELECT pid FROM pg_stat_activity WHERE application_name = 'entitlements'"
        " AND datname = current_database() LIMIT 1"
    )
    if pid is None:
        pid = await db.fetchval(
            "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend'"
            " AND pid <> pg_backend_pid() AND datname = current_database() LIMIT 1"
        )
    os.kill(pid, signal.SIGKILL)
    db.terminate()


async def stopped_at_once(server: PostgresServer, _url: str) -> None:
    await asyncio.to_thread(server.restart_immediate)


async def gone_for_a_while(server: PostgresServer, _url: str) -> None:
    await asyncio.to_thread(server.kill)
    await asyncio.sleep(3)
    await asyncio.to_thread(server.start)


@pytest.mark.parametrize("crash", [backend_killed, stopped_at_once, gone_for_a_while])
async def test_an_outage_is_one_line_and_its_end_another(
    crash: Callable[[PostgresServer, str], Any],
    crashable_postgres: PostgresServer,
    tmp_path: Path,
) -> None:
    url = crashable_postgres.create_database()
    await asyncio.to_thread(migrate, url)
    policy = tmp_path / "policy.yaml"
    policy.write_text(POLICY)
    async with Service(url, policy) as service:
        await service.start(ENTITLEMENTS_LOG_LEVEL="INFO")
        async with busy(service):
            await asyncio.sleep(1)
            await crash(crashable_postgres, url)
            await until(lambda: "database.available" in events(service))
        seen = events(service)
        assert await service.stopped_by(signal.SIGTERM) == 0

    assert seen == ["database.unavailable", "database.available"], service.log()
    await assert_books_balance(url)


def events(service: Service) -> list[str]:
    """Return the events of all lines but the usual ones, and lines that are not JSON."""
    found = []
    for line in service.log().splitlines():
        try:
            event = msgspec.json.decode(line)["event"]
        except msgspec.DecodeError:
            event = line
        if event not in USUAL and '"logger":"uvicorn.error"' not in line:
            found.append(event)
    return found


USUAL = frozenset(
    ("http.request", "access.off", "service.started", "store.opened", "policy.changed",
     "relay.leases", "limits.recounted")
)  # fmt: skip


@asynccontextmanager
async def busy(service: Service) -> AsyncIterator[None]:
    """Clients who consume and check all the while, and do not give up."""
    async with httpx2.AsyncClient(base_url=service.url, timeout=30) as http:
        tasks = [asyncio.create_task(client(http, f"u{number}")) for number in range(CLIENTS)]
        yield
        for task in tasks:
            task.cancel()
        for ended in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(ended, asyncio.CancelledError), ended


async def client(http: httpx2.AsyncClient, user: str) -> None:
    await http.post("/v1/admin/accounts", json={"subject_type": "user", "subject_id": user})
    number = 0
    while True:
        number += 1
        work = {"user_id": user, "metric": "cj", "amount": 1, "correlation_id": "c"}
        await insist(http, f"{user}-{number}", work)
        await http.post("/v1/entitlements/check-credits", json={"user_id": user, "metric": "cj"})
