"""Three service processes that count limits in one Redis, called over HTTP."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import asyncpg
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
  essay:
    - {{limit: {LIMIT}/day, warn: 80%}}
    - {{limit: {10 * LIMIT}/month, per: org, warn: 5%}}
"""
USER_WARN_AT = 240
ORG_WARN_AT = 150
CHECK = "/v1/entitlements/check-credits"
CONSUME = "/v1/entitlements/consume-credits"
RESET = "/v1/admin/credits/reset-rate-limit"
Written = Callable[[], Awaitable[list[tuple[str, str, int, int]]]]
"""Returns subject type and id, window length and used units of every event that was written."""
LOG = """
CREATE TABLE near_log AS SELECT subject_type, subject_id, window_s, payload FROM limit_near LIMIT 0;
CREATE FUNCTION log_near() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO near_log VALUES (NEW.subject_type, NEW.subject_id, NEW.window_s, NEW.payload);
    RETURN NULL;
END $$;
CREATE TRIGGER log_near AFTER INSERT OR UPDATE OF event_id ON limit_near
FOR EACH ROW EXECUTE FUNCTION log_near();
"""
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


async def test_all_processes_together_warn_once_for_each_limit(
    url: str, services: list[httpx2.AsyncClient]
) -> None:
    async with logged_warnings(url) as written:
        together = [
            service.post(CONSUME, json=ESSAY | {"correlation_id": f"c{n}-{m}"})
            for n, service in enumerate(services)
            for m in range(LIMIT // len(services))
        ]
        answers = await asyncio.gather(*together)
        # Each process writes its last event after those that it noted before.
        for n, service in enumerate(services):
            last = {"user_id": f"last-{n}", "metric": "essay", "amount": LIMIT}
            await service.post(CONSUME, json=last | {"correlation_id": "c"})
        await until(lambda: has_last_events(written, len(services)))
        events = await written()
    found = {(kind, subject): (window_s, used) for kind, subject, window_s, used in events}

    assert all(answer.json()["success"] for answer in answers)
    assert len(events) == len(found) == 2 + len(services)
    day_s, used_by_ada = found["user", "ada"]
    month_s, used_by_school = found["org", "school"]
    assert (day_s, month_s) == (86_400, 30 * 86_400)
    assert USER_WARN_AT <= used_by_ada <= LIMIT
    assert ORG_WARN_AT <= used_by_school <= LIMIT


async def has_last_events(written: Written, processes: int) -> bool:
    return sum(subject.startswith("last-") for _, subject, *_ in await written()) == processes


@asynccontextmanager
async def logged_warnings(url: str) -> AsyncIterator[Written]:
    """Log every event of a near limit that any process writes."""
    db = await asyncpg.connect(url)

    async def written() -> list[tuple[str, str, int, int]]:
        rows = await db.fetch("SELECT subject_type, subject_id, window_s, payload FROM near_log")
        return [(*row[:3], json.loads(row["payload"])["data"]["used"]) for row in rows]

    try:
        await db.execute(LOG)
        yield written
    finally:
        await db.close()


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
