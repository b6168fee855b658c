"""Two service processes on one database, asked over HTTP."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.concurrency.scene import POLICY, balance, engines, given, user
from tests.faults.service import Service

CONSUME = "/v1/entitlements/consume-credits"


@pytest.fixture
async def services(any_url: str, tmp_path: Path) -> AsyncIterator[list[httpx2.AsyncClient]]:
    """A client of each."""
    policy = tmp_path / "policy.yaml"
    policy.write_text(POLICY)
    async with engines(any_url) as [engine]:
        await given(engine, user("ada"), 100)
        await given(engine, user("bob"), 100)
    async with AsyncExitStack() as stack:
        clients = []
        for _ in range(2):
            service = await stack.enter_async_context(Service(any_url, policy))
            await service.start()
            client = httpx2.AsyncClient(base_url=service.url, timeout=20)
            clients.append(await stack.enter_async_context(client))
        yield clients


async def consume(
    services: list[httpx2.AsyncClient], n: int, user_id: str, amount: int, *, key: str
) -> httpx2.Response:
    body: dict[str, Any] = {"user_id": user_id, "metric": "credit", "amount": amount}
    headers = {"Idempotency-Key": key, "X-Correlation-ID": key}
    return await services[n % 2].post(CONSUME, json=body, headers=headers)


async def left(any_url: str, name: str) -> int:
    async with engines(any_url) as [engine]:
        return await balance(engine, user(name))


async def test_20_consumptions_of_10_from_100_over_two_services_are_10(
    services: list[httpx2.AsyncClient], any_url: str
) -> None:
    replies = await asyncio.gather(
        *(consume(services, n, "ada", 10, key=f"k{n}") for n in range(20))
    )
    assert [reply.json()["success"] for reply in replies].count(True) == 10
    assert await left(any_url, "ada") == 0


async def test_one_key_16_times_over_two_services_is_one_debit(
    services: list[httpx2.AsyncClient], any_url: str
) -> None:
    replies = await asyncio.gather(
        *(consume(services, n, "ada", 10, key="once") for n in range(16))
    )
    assert [reply.json()["replayed"] for reply in replies].count(True) == 15
    assert len({reply.json()["operation_id"] for reply in replies}) == 1
    assert await left(any_url, "ada") == 90


async def test_two_services_race_for_one_key_and_the_other_is_refused(
    services: list[httpx2.AsyncClient], any_url: str
) -> None:
    replies = await asyncio.gather(
        consume(services, 0, "ada", 10, key="once"),
        consume(services, 1, "bob", 10, key="once"),
        *(consume(services, n, "ada", 1, key=f"beside-{n}") for n in range(10)),
    )
    assert sorted(reply.status_code for reply in replies[:2]) == [200, 422]
    assert {reply.status_code for reply in replies[2:]} == {200}
    assert await left(any_url, "ada") + await left(any_url, "bob") == 180


async def test_8_first_credits_of_5_over_two_services_make_40(
    services: list[httpx2.AsyncClient], any_url: str
) -> None:
    body = {"subject_type": "user", "subject_id": "new", "amount": 5, "reason": "a test"}

    answers = await asyncio.gather(
        *(services[n % 2].post("/v1/admin/credits/adjust", json=body) for n in range(8))
    )

    assert sorted(answer.json()["new_balance"] for answer in answers) == list(range(5, 45, 5))
    assert await left(any_url, "new") == 40
