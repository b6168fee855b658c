"""Two service processes on one database, called over HTTP."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Any

import httpx2
import pytest
import pytest_asyncio

from tests.books import assert_books_balance
from tests.concurrency.scene import POLICY, balance, engines, given, user
from tests.faults.service import Service
from tests.servers import Postgres

CONSUME = "/v1/entitlements/consume-credits"


@pytest.fixture(scope="module", params=["postgres", "sqlite"])
def database(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """One database for all tests of an engine; each test has its own subjects."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('services')}/books.db"
        yield url
        asyncio.run(assert_books_balance(url))
        return
    server: Postgres = request.getfixturevalue("postgres_server")
    with server.database(request.getfixturevalue("postgres_template")) as url:
        yield url
        asyncio.run(assert_books_balance(url))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def addresses(
    database: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[list[str]]:
    """The URLs of the two services."""
    policy = tmp_path_factory.mktemp("policy") / "policy.yaml"
    policy.write_text(POLICY)
    async with engines(database) as [engine]:
        for name in ("ten", "once", "ada", "bob"):
            await given(engine, user(name), 100)
    async with Service(database, policy) as first, Service(database, policy) as second:
        await asyncio.gather(first.start(), second.start())
        yield [first.url, second.url]


@pytest.fixture
async def services(addresses: list[str]) -> AsyncIterator[list[httpx2.AsyncClient]]:
    """A client of each service."""
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(httpx2.AsyncClient(base_url=url, timeout=20))
            for url in addresses
        ]


async def consume(
    services: list[httpx2.AsyncClient], n: int, user_id: str, amount: int, *, key: str
) -> httpx2.Response:
    body: dict[str, Any] = {"user_id": user_id, "metric": "credit", "amount": amount}
    headers = {"Idempotency-Key": key, "X-Correlation-ID": key}
    return await services[n % 2].post(CONSUME, json=body, headers=headers)


async def left(database: str, name: str) -> int:
    async with engines(database) as [engine]:
        return await balance(engine, user(name))


async def test_10_of_20_concurrent_consumptions_of_10_from_100_succeed(
    services: list[httpx2.AsyncClient], database: str
) -> None:
    replies = await asyncio.gather(
        *(consume(services, n, "ten", 10, key=f"k{n}") for n in range(20))
    )
    assert [reply.json()["success"] for reply in replies].count(True) == 10
    assert await left(database, "ten") == 0


async def test_one_key_16_times_over_two_services_is_one_debit(
    services: list[httpx2.AsyncClient], database: str
) -> None:
    replies = await asyncio.gather(
        *(consume(services, n, "once", 10, key="once") for n in range(16))
    )
    assert [reply.json()["replayed"] for reply in replies].count(True) == 15
    assert len({reply.json()["operation_id"] for reply in replies}) == 1
    assert await left(database, "once") == 90


async def test_two_services_race_for_one_key_and_the_other_is_refused(
    services: list[httpx2.AsyncClient], database: str
) -> None:
    replies = await asyncio.gather(
        consume(services, 0, "ada", 10, key="either"),
        consume(services, 1, "bob", 10, key="either"),
        *(consume(services, n, "ada", 1, key=f"beside-{n}") for n in range(10)),
    )
    assert sorted(reply.status_code for reply in replies[:2]) == [200, 422]
    assert {reply.status_code for reply in replies[2:]} == {200}
    assert await left(database, "ada") + await left(database, "bob") == 180


async def test_8_concurrent_first_grants_of_5_by_two_services_add_up_to_40(
    services: list[httpx2.AsyncClient], database: str
) -> None:
    body = {"subject_type": "user", "subject_id": "new", "amount": 5, "reason": "a test"}

    answers = await asyncio.gather(
        *(services[n % 2].post("/v1/admin/credits/adjust", json=body) for n in range(8))
    )

    assert sorted(answer.json()["new_balance"] for answer in answers) == list(range(5, 45, 5))
    assert await left(database, "new") == 40
