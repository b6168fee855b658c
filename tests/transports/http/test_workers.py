"""Probes and scrapes of background workers."""

from collections.abc import AsyncIterator

import httpx2
import pytest

from entitlements.app.process.clock import utc_now
from entitlements.contracts.http import HealthCheck
from entitlements.transports.http.workers import Worker, create_app

HEALTH = {"database": HealthCheck(status="healthy", message="")}


@pytest.fixture
def health() -> dict[str, HealthCheck]:
    return dict(HEALTH)


@pytest.fixture
async def probes(health: dict[str, HealthCheck]) -> AsyncIterator[httpx2.AsyncClient]:
    async def checks() -> dict[str, HealthCheck]:
        return health

    worker = Worker(
        name="worker",
        environment="test",
        backlog=lambda: None,
        relay=None,
        clock=utc_now,
        health=checks,
    )
    transport = httpx2.ASGITransport(create_app(worker))
    async with httpx2.AsyncClient(transport=transport, base_url="http://worker") as client:
        yield client


async def test_a_worker_is_ready_while_its_parts_are_healthy(
    probes: httpx2.AsyncClient, health: dict[str, HealthCheck]
) -> None:
    ready = await probes.get("/readyz")
    health["database"] = HealthCheck(status="unhealthy", message="it does not answer")
    not_ready = await probes.get("/readyz")

    assert (ready.status_code, ready.json()) == (200, {"status": "ready"})
    assert (not_ready.status_code, not_ready.json()) == (503, {"status": "not_ready"})
    assert (await probes.get("/livez")).status_code == 200


async def test_head_is_get_without_the_body(probes: httpx2.AsyncClient) -> None:
    for path in ("/livez", "/readyz", "/healthz", "/metrics"):
        get, head = await probes.get(path), await probes.head(path)

        assert (head.status_code, head.content) == (200, b"")
        assert head.headers == get.headers


async def test_other_methods_are_refused(probes: httpx2.AsyncClient) -> None:
    answer = await probes.post("/livez")

    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")
