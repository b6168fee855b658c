"""Three service processes that count limits in one Redis, called over HTTP."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import httpx2
import pytest

from tests.faults.service import Service
from tests.servers import RedisServer
from tests.waiting import until

LIMIT = 300
CLIENTS = 64
POLICY = f"""
costs: {{essay: 0}}
rate_limits:
  essay: [{LIMIT}/day, {{limit: {10 * LIMIT}/month, per: org}}]
"""
CHECK = "/v1/entitlements/check-credits"
CONSUME = "/v1/entitlements/consume-credits"
RESET = "/v1/admin/credits/reset-rate-limit"
ESSAY = {"user_id": "ada", "org_id": "school", "metric": "essay", "amount": 1}


@pytest.fixture
async def services(
    url: str, tmp_path: Path, crashable_redis: RedisServer
) -> AsyncIterator[list[httpx2.AsyncClient]]:
    """A client of each service."""
    policy = tmp_path / "policy.yaml"
    policy.write_text(POLICY)
    async with AsyncExitStack() as stack:
        started = [await stack.enter_async_context(Service(url, policy)) for _ in range(3)]
        await asyncio.gather(
            *(one.start(ENTITLEMENTS_REDIS_URL=crashable_redis.url) for one in started)
        )
        yield [
            await stack.enter_async_context(httpx2.AsyncClient(base_url=one.url, timeout=20))
            for one in started
        ]


async def used(service: httpx2.AsyncClient, per: str, subject_id: str) -> int:
    answer = (await service.get(f"/v1/admin/rate-limits/{subject_id}")).json()
    assert answer["degraded"] is False
    (found,) = (int(limit["used"]) for limit in answer["limits"] if limit["per"] == per)
    return found


async def limiter_health(service: httpx2.AsyncClient) -> str:
    answer = await service.get("/healthz")
    assert answer.status_code == 200
    status: str = answer.json()["checks"]["limiter"]["status"]
    return status


async def test_a_limit_is_exceeded_by_at_most_the_requests_in_flight(
    services: list[httpx2.AsyncClient],
) -> None:
    consumed = 0

    async def client(n: int) -> None:
        """Check and consume one essay after another until a check is denied."""
        nonlocal consumed
        service = services[n % len(services)]
        while consumed < 2 * LIMIT:
            if not (await service.post(CHECK, json=ESSAY)).json()["allowed"]:
                return
            key = f"essay-{consumed}-{n}"
            consumed += 1
            named = {"Idempotency-Key": key, "X-Correlation-ID": key}
            answer = await service.post(CONSUME, json=ESSAY, headers=named)
            assert answer.json()["success"], answer.text

    await asyncio.gather(*(client(n) for n in range(CLIENTS)))

    # Each other client can have passed its check before the last essay was counted.
    assert LIMIT <= consumed <= LIMIT + CLIENTS - 1
    assert [await used(service, "user", "ada") for service in services] == [consumed] * 3
    assert await used(services[0], "org", "school") == consumed
    await _what_one_resets_all_forget(*services)


async def _what_one_resets_all_forget(
    one: httpx2.AsyncClient, other: httpx2.AsyncClient, third: httpx2.AsyncClient
) -> None:
    denied = (await one.post(CHECK, json=ESSAY)).json()
    reset = await other.post(RESET, json={"subject_id": "ada", "metric": "essay"})
    allowed = (await third.post(CHECK, json=ESSAY)).json()

    assert denied["reason"] == "rate_limit_exceeded"
    assert reset.json()["success"]
    assert allowed["allowed"]


async def test_pausing_or_killing_redis_under_load_fails_no_request(
    services: list[httpx2.AsyncClient], crashable_redis: RedisServer
) -> None:
    statuses: set[int] = set()
    degraded: set[bool] = set()
    longest_s = 0.0
    checks = 0

    async def client(n: int) -> None:
        nonlocal longest_s, checks
        while True:
            began = time.monotonic()
            answer = await services[n % 3].post(CHECK, json=ESSAY)
            longest_s = max(longest_s, time.monotonic() - began)
            checks += 1
            statuses.add(answer.status_code)
            degraded.add(answer.json().get("degraded", False))

    async def all_say(status: str) -> bool:
        return {await limiter_health(service) for service in services} == {status}

    async def gone_on() -> None:
        target = checks + 200
        await until(lambda: checks >= target)

    load = [asyncio.create_task(client(n)) for n in range(12)]
    try:
        await gone_on()
        calm_s = longest_s
        for outage in (crashable_redis.pause, crashable_redis.kill):
            await gone_on()
            degraded.clear()
            outage()
            await until(lambda: all_say("warning"))
            await gone_on()
            assert True in degraded
            assert (await services[0].get("/readyz")).status_code == 200

            if outage == crashable_redis.pause:
                crashable_redis.resume()
            else:
                crashable_redis.start()
            await until(lambda: all_say("healthy"))
            degraded.clear()
            await gone_on()
            assert False in degraded
    finally:
        for task in load:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*load)

    assert statuses == {200}
    assert longest_s < 2 + 20 * calm_s, "a request while Redis is unavailable takes too long"
