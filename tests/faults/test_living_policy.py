"""Policy changes under load: they take effect in all processes and are never rolled back."""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from itertools import count
from pathlib import Path

import asyncpg
import httpx2
import pytest

from entitlements.app.policy.active import activate
from tests.concurrency.scene import an_act, engines, given, open_store, user
from tests.faults.service import Service
from tests.waiting import until

POLICIES = "/v1/admin/policies"
CLIENTS = 4
WORK = 60

# Every operation is within the active time of its policy and has that policy's price.
OUT_OF_PLACE = """
WITH reigns AS (
    SELECT version, activated_at, substring(content FROM 'credit: ([0-9]+)')::int AS price,
           coalesce(lead(activated_at) OVER (ORDER BY activated_at), 'infinity') AS ended_at
    FROM policies
)
SELECT count(*) AS all_of_them, count(*) FILTER (
    WHERE r.version IS NULL OR o.created_at <= r.activated_at OR o.created_at >= r.ended_at
       OR o.amount <> o.quantity * r.price) AS out_of_place
FROM credit_operations AS o LEFT JOIN reigns AS r ON r.version = o.policy_version
WHERE o.kind = 'consume'
"""


def policy(price: int) -> str:
    return f"costs: {{credit: {price}}}\n"


class Running:
    """A service with its own policy file, and a client."""

    def __init__(self, service: Service, file: Path, http: httpx2.AsyncClient) -> None:
        self.service = service
        self.file = file
        self.http = http
        self.done = 0

    async def price(self) -> int:
        """Return the price of a unit, from a check of ten units."""
        body = {"user_id": "ada", "metric": "credit", "amount": 10}
        answer = await self.http.post("/v1/entitlements/check-credits", json=body)
        return int(answer.json()["required_credits"]) // 10

    async def until_price(self, price: int) -> None:
        async def is_so() -> bool:
            return await self.price() == price

        await until(is_so)

    async def health(self) -> dict[str, str]:
        answer = await self.http.get("/healthz")
        assert answer.status_code == 200
        check: dict[str, str] = answer.json()["checks"]["policy"]
        return check

    async def consume(self, client: int) -> None:
        """Consume repeatedly until cancelled."""
        body = {"user_id": f"ada-{client}", "metric": "credit", "amount": 3}
        while True:
            body["correlation_id"] = f"{self.service.port}-{client}-{self.done}"
            answer = await self.http.post("/v1/entitlements/consume-credits", json=body)
            assert answer.json()["success"], answer.text
            self.done += 1

    async def until_done(self, number: int) -> None:
        await until(lambda: self.done >= number)


Start = Callable[[], Awaitable[Running]]


@pytest.fixture
async def start(url: str, tmp_path: Path) -> AsyncIterator[Start]:
    """Start another service on the database, with a file of the first policy."""
    number = count()
    async with AsyncExitStack() as stack:

        async def one_more() -> Running:
            file = tmp_path / f"policy-{next(number)}.yaml"
            file.write_text(policy(1))
            service = await stack.enter_async_context(Service(url, file))
            await service.start()
            http = httpx2.AsyncClient(base_url=service.url, timeout=20)
            return Running(service, file, await stack.enter_async_context(http))

        yield one_more


async def test_a_change_takes_effect_in_three_processes_within_two_seconds_and_exactly_under_load(
    start: Start, url: str
) -> None:
    async with engines(url, policy=policy(1)) as [engine]:
        for client in range(CLIENTS):
            await given(engine, user(f"ada-{client}"), 10**9)
    services = [await start() for _ in range(3)]
    first, second, _ = services

    async def by_http(text: str) -> None:
        answer = await first.http.post(POLICIES, json={"content": text})
        assert answer.status_code == 201

    async def by_file(text: str) -> None:
        await asyncio.to_thread(second.file.write_text, text)

    async def by_command(text: str) -> None:
        store = await open_store(url)
        await activate(store.policies, text, source="cli", name="test", act=an_act())
        await store.close()

    db = await asyncpg.connect(url)
    load = [
        asyncio.create_task(service.consume(client))
        for service in services
        for client in range(CLIENTS)
    ]
    for price, change in enumerate((by_http, by_file, by_command), start=2):
        await asyncio.gather(*(one.until_done(one.done + WORK) for one in services))
        await change(policy(price))
        await asyncio.gather(*(one.until_price(price) for one in services))
        since = await db.fetchval(
            "SELECT extract(epoch FROM clock_timestamp() - max(activated_at)) FROM policies"
        )
        assert since < 2, change.__name__
    await asyncio.gather(*(one.until_done(one.done + WORK) for one in services))
    failed = [task for task in load if task.done()]
    for task in load:
        task.cancel()
    await asyncio.gather(*load, return_exceptions=True)

    found = await db.fetchrow(OUT_OF_PLACE)
    assert not failed
    assert found["all_of_them"] >= 4 * 3 * WORK
    assert found["out_of_place"] == 0
    by_version = "SELECT count(DISTINCT policy_version) FROM credit_operations WHERE kind='consume'"
    assert await db.fetchval(by_version) == 4
    await db.close()


async def test_restarting_an_old_process_does_not_roll_the_policy_back(
    start: Start, url: str
) -> None:
    one = await start()
    await one.until_price(1)
    await one.service.stopped_by(signal.SIGKILL)
    store = await open_store(url)
    await activate(store.policies, policy(2), source="cli", name="test", act=an_act())
    await store.close()

    await one.service.start()

    assert await one.price() == 2
    assert "policy.superseded" in one.service.log()
    back = await one.http.post(POLICIES, json={"content": policy(1)})
    assert (back.status_code, back.json()["code"]) == (409, "policy_superseded")
    assert await one.price() == 2


async def test_an_invalid_file_keeps_the_running_policy_until_it_is_fixed(
    start: Start,
) -> None:
    one = await start()
    one.file.write_text("costs: {credit: -1}\n")

    async def warns() -> bool:
        return (await one.health())["status"] == "warning"

    await until(warns)

    assert "the policy file cannot be used" in (await one.health())["message"]
    problems = (await one.http.get(f"{POLICIES}/active")).json()["problems"]
    assert "must be a whole number" in problems["file"]
    assert await one.price() == 1
    metrics = (await one.http.get("/metrics")).text
    assert 'entitlements_policy_problems{source="file"} 1.0' in metrics

    one.file.write_text(policy(3))
    await one.until_price(3)
    assert (await one.health())["status"] == "healthy"
    await one.service.stopped_by(signal.SIGTERM)
    assert one.service.log().count("policy.broken") == 1
    assert "must be a whole number" in one.service.log()
