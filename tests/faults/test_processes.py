"""Several processes behind one port: killed, stopped, and scraped together."""

import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import psutil
import pytest

from entitlements.ids import uuid7
from entitlements.service.compose import build
from entitlements.settings import load
from tests.faults.service import Service
from tests.waiting import until

POLICY = "costs: {credit: 1}\n"
CONSUME = "/v1/entitlements/consume-credits"
BODY = {"user_id": "ada", "metric": "credit", "amount": 1, "correlation_id": "c"}
COUNTED = re.compile(
    r'entitlements_credit_consumption_total\{metric="credit",source="none"\} (\S+)'
)
PROCESSES = 2


@asynccontextmanager
async def running(
    folder: Path, database: str, redis_url: str, **environment: str
) -> AsyncIterator[Service]:
    """Run a service with two processes, and wait until both serve."""
    policy = folder / "policy.yaml"
    policy.write_text(POLICY)
    async with Service(database, policy) as service:
        await service.start(
            ENTITLEMENTS_WORKERS=str(PROCESSES),
            ENTITLEMENTS_REDIS_URL=redis_url,
            ENTITLEMENTS_SHUTDOWN_DELAY_S="0",
            **environment,
        )
        await until(lambda: len(serving(service)) == PROCESSES)
        yield service


@pytest.fixture
async def service(tmp_path: Path, postgres_url: str, redis_url: str) -> AsyncIterator[Service]:
    async with running(tmp_path, postgres_url, redis_url) as service:
        yield service


def children(service: Service) -> list[psutil.Process]:
    """Return the child processes, without the resource tracker of multiprocessing."""
    return [one for one in psutil.Process(service.pid).children() if is_child(one)]


def is_child(process: psutil.Process) -> bool:
    try:
        return "resource_tracker" not in " ".join(process.cmdline())
    except psutil.Error:  # it has just ended
        return False


def serving(service: Service) -> list[psutil.Process]:
    """Return the children that listen on the service's port."""
    return [one for one in children(service) if listens(one, service.port)]


def listens(process: psutil.Process, port: int) -> bool:
    try:
        found = process.net_connections()
    except psutil.Error:  # it has just ended
        return False
    return any(one.status == psutil.CONN_LISTEN and one.laddr.port == port for one in found)


async def consumed(service: Service, times: int) -> None:
    """Consume ``times`` times, each over a new connection, so that both processes get requests."""
    for _ in range(times):
        async with httpx2.AsyncClient(base_url=service.url) as http:
            answer = await http.post(CONSUME, json=BODY, headers={"Idempotency-Key": uuid7()})
            assert answer.status_code == 200, answer.text


async def counted(service: Service) -> int:
    """Return the number of consumptions in a scrape."""
    async with httpx2.AsyncClient(base_url=service.url) as http:
        found = COUNTED.search((await http.get("/metrics")).text)
        return int(float(found[1])) if found else 0


async def test_a_killed_process_is_replaced_and_its_counters_stay(service: Service) -> None:
    await consumed(service, 20)
    assert [await counted(service) for _ in range(10)] == [20] * 10
    victim, other = serving(service)

    victim.kill()
    await until(lambda: victim not in children(service) and len(serving(service)) == PROCESSES)
    await consumed(service, 10)

    assert other in serving(service)
    assert await counted(service) == 30
    assert '"event":"process.ended"' in service.log()


async def test_no_child_outlives_the_parent_process(service: Service) -> None:
    started = children(service)

    psutil.Process(service.pid).kill()

    await until(lambda: not [one for one in started if one.is_running()])
    with pytest.raises(httpx2.ConnectError):
        await consumed(service, 1)


async def test_the_bootstrap_key_is_created_once_and_sigterm_stops_all_processes(
    tmp_path: Path, postgres_url: str, redis_url: str
) -> None:
    keys = {
        "ENTITLEMENTS_AUTH": "keys",
        "ENTITLEMENTS_BOOTSTRAP_KEY_FILE": str(tmp_path / "key"),
    }
    async with running(tmp_path, postgres_url, redis_url, **keys) as service:
        started = children(service)
        assert await service.stopped_by(signal.SIGTERM) == 0

    assert not [one for one in started if one.is_running()]
    assert service.log().count("key.bootstrapped") == 1
    async with build(load(database_url=postgres_url)) as system:
        assert len(await system.engine.store.keys.all()) == 1


async def test_a_child_that_cannot_start_ends_all_processes(
    tmp_path: Path, postgres_url: str, redis_url: str
) -> None:
    options = {
        "ENTITLEMENTS_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
        "ENTITLEMENTS_KAFKA_OPTIONS": "sasl.pasword=x",
        "ENTITLEMENTS_RELAY_ENABLED": "false",
    }
    with pytest.raises(RuntimeError, match="KAFKA_OPTIONS: No such configuration property"):
        async with running(tmp_path, postgres_url, redis_url, **options):
            pass
