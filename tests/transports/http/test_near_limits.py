"""Warnings before a limit, over HTTP and for reported use, on every engine."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from entitlements.app.access.keys import Role
from entitlements.service.compose import build
from entitlements.settings import load
from tests.app.inbox.events import CONSUMPTION, use
from tests.contracts.schemas import faults
from tests.surfaces.scene import Clock
from tests.tables import sqlite_url
from tests.transports.http.api import Api
from tests.transports.http.test_events import come
from tests.waiting import until_waited_for

CONSUME = "/v1/entitlements/consume-credits"
CONSUME_BULK = "/v1/entitlements/consume-credits/bulk"
HOLDS = "/v1/entitlements/holds"
ADJUST = "/v1/admin/credits/adjust"
RESET = "/v1/admin/credits/reset-rate-limit"
POLICY = """
costs: {essay: 1, gratis: 0, call: 0, plain: 0, dear: 1000000}
rate_limits:
  essay: [{limit: 10/minute, warn: 75%}, {limit: 100/day, per: org, warn: 20%}]
  gratis: {limit: 3/hour, warn: 100%}
  call: {limit: 1000/day, warn: 50%}
  plain: 3/hour
  dear: {limit: 2/hour, warn: 50%}
  credit_adjustment: {limit: 5/hour, warn: 60%}
"""


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    file = tmp_path / "policy.yaml"
    file.write_text(POLICY)
    return file


@pytest.fixture(params=["sqlite", "postgres"])
async def api(
    request: pytest.FixtureRequest, tmp_path: Path, policy: Path, clock: Clock
) -> AsyncIterator[Api]:
    if request.param == "sqlite":
        url = sqlite_url(tmp_path)
    else:
        url = request.getfixturevalue("postgres_url")
    settings = load(database_url=url, policy_file=policy)
    async with AsyncExitStack() as stack:
        system = await stack.enter_async_context(build(settings, clock=clock))
        api = Api(system, stack)
        await api.give("user:ada", 500)
        await api.give("org:school", 500)
        yield api


async def consume(api: Api, metric: str, amount: int, **fields: Any) -> dict[str, Any]:
    body = {"user_id": "ada", "metric": metric, "amount": amount, "correlation_id": "essay-1"}
    key = fields.pop("key", None) or api.system.engine.new_id()
    answer = await api.post(CONSUME, body | fields, Idempotency_Key=key)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def events(api: Api) -> list[dict[str, Any]]:
    """Return the waiting events of near limits, oldest first, and mark them as published."""
    engine = api.system.engine
    await engine.limit_events.flush()
    waiting = await engine.store.outbox.limit_events(100)
    await engine.store.outbox.mark_limit_events(waiting)
    found = [json.loads(event.payload) for event in waiting]
    return [one for one in found if one["event_type"].endswith(".rate_limit.near.v1")]


async def warnings(api: Api) -> list[tuple[str, str, int, int]]:
    """Return subject, metric, used and window of the waiting events, sorted."""
    found = [event["data"] for event in await events(api)]
    return sorted(
        (":".join(one["subject"].values()), one["metric"], one["used"], one["window_seconds"])
        for one in found
    )


async def limits(api: Api, subject_id: str, per: str) -> dict[str, tuple[int, int | None]]:
    """Return the used units and the level of each metric's limit."""
    found = (await api.call("GET", f"/v1/admin/rate-limits/{subject_id}")).json()["limits"]
    return {one["metric"]: (one["used"], one["warn_at"]) for one in found if one["per"] == per}


async def test_the_consumption_that_reaches_the_level_publishes_one_event(api: Api) -> None:
    for amount in (3, 4):
        await consume(api, "essay", amount)
    below = await events(api)
    span = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    body = {"user_id": "ada", "metric": "essay", "amount": 1, "correlation_id": "essay-8"}
    await api.post(CONSUME, body, traceparent=span)
    await consume(api, "essay", 1)
    (event,) = await events(api)
    await consume(api, "essay", 5)

    assert below == []
    assert event["event_type"] == "huleedu.entitlements.rate_limit.near.v1"
    assert event["event_timestamp"] == "2026-03-01T08:00:00Z"
    assert event["data"] == {
        "subject": {"type": "user", "id": "ada"},
        "metric": "essay",
        "limit": 10,
        "used": 8,
        "window_seconds": 60,
        "correlation_id": "essay-8",
    }
    assert event["metadata"]["user_id"] == "ada"
    assert event["metadata"]["traceparent"].startswith("00-0af7651916cd43dd8448eb211c80319c-")
    assert faults(event, "entitlements.rate_limit.near.v1") == []
    assert await events(api) == []


async def test_a_consumption_above_the_limit_warns_as_well(api: Api) -> None:
    await consume(api, "call", 5_000)

    assert await warnings(api) == [("user:ada", "call", 5_000, 86_400)]


async def test_a_metric_without_a_warning_publishes_nothing(api: Api) -> None:
    await consume(api, "plain", 3)

    assert await events(api) == []


async def test_a_limit_per_org_warns_the_org_for_all_its_users(api: Api) -> None:
    for n in range(4):
        await consume(api, "essay", 5, user_id=f"u{n}", org_id="school")
    (event,) = await events(api)
    await consume(api, "essay", 5, user_id="u4", org_id="school")
    again = await events(api)
    await consume(api, "essay", 8, user_id="u5")

    assert event["data"]["subject"] == {"type": "org", "id": "school"}
    assert (event["data"]["used"], event["data"]["limit"]) == (20, 100)
    assert event["metadata"] == {"user_id": "u3", "org_id": "school"}
    assert again == []
    assert await warnings(api) == [], "u5 could not pay, and so used nothing"


async def test_a_bulk_of_several_metrics_warns_once_for_each(api: Api) -> None:
    work = [("essay", 4), ("gratis", 2), ("essay", 4), ("call", 400), ("plain", 9), ("gratis", 1)]
    items = [
        {
            "user_id": "ada",
            "org_id": "school",
            "metric": metric,
            "amount": amount,
            "correlation_id": f"c{n}",
            "idempotency_key": f"k{n}",
        }
        for n, (metric, amount) in enumerate(work)
    ]

    for atomic in (False, True):
        body = {"items": items, "atomic": atomic}
        assert (await api.post(CONSUME_BULK, body)).status_code == 200

    assert await warnings(api) == [("user:ada", "essay", 8, 60), ("user:ada", "gratis", 3, 3_600)]


async def test_an_atomic_bulk_warns_as_well(api: Api) -> None:
    item = {"user_id": "ada", "org_id": "school", "amount": 10, "correlation_id": "c"}
    items = [item | {"metric": metric} for metric in ("essay", "gratis", "essay")]

    await api.post(CONSUME_BULK, {"items": items, "atomic": True})

    assert await warnings(api) == [
        ("org:school", "essay", 20, 86_400),
        ("user:ada", "essay", 20, 60),
        ("user:ada", "gratis", 10, 3_600),
    ]


async def test_replayed_and_failed_consumptions_warn_of_nothing(api: Api, clock: Clock) -> None:
    failed = await consume(api, "dear", 1)
    await consume(api, "essay", 8, key="k")
    first = await warnings(api)
    clock.advance(minutes=2)
    replayed = await consume(api, "essay", 8, key="k")

    assert (failed["success"], replayed["replayed"]) == (False, True)
    assert first == [("user:ada", "essay", 8, 60)]
    assert await events(api) == []


async def test_a_hold_warns_when_it_is_taken_and_its_settlement_for_what_it_adds(
    api: Api, clock: Clock
) -> None:
    taken = {"user_id": "ada", "requirements": {"essay": 7, "call": 500}, "correlation_id": "c"}
    hold = (await api.post(HOLDS, taken)).json()["hold_id"]
    at_taking = await warnings(api)
    settled = {"requirements": {"essay": 8, "call": 200}}
    answer = await api.post(f"{HOLDS}/{hold}/settle", settled)

    assert answer.status_code == 200, answer.text
    assert at_taking == [("user:ada", "call", 500, 86_400)]
    assert await warnings(api) == [("user:ada", "essay", 8, 60)]


async def test_reported_use_warns_as_requests_do(api: Api) -> None:
    def report(n: int, units: int, **fields: Any) -> tuple[str, dict[str, Any]]:
        processing = {"processing_id": f"p{n}", "org_id": "school"}
        return CONSUMPTION, use("ada", units, resource_type="essay", **processing, **fields)

    await come(api, report(1, 5), report(2, 2), first=0)
    below = await events(api)
    await come(api, report(3, 1), report(3, 1), report(2, 2), first=10)
    (event,) = await events(api)

    assert below == []
    assert (event["data"]["used"], event["data"]["metric"]) == (8, "essay")
    assert event["metadata"]["org_id"] == "school"


async def test_a_window_warns_again_when_its_length_has_passed(api: Api, clock: Clock) -> None:
    await consume(api, "essay", 8)
    seen = [await warnings(api)]
    for seconds in (59, 1):
        clock.advance(seconds=seconds)
        await consume(api, "essay", 2)
        seen.append(await warnings(api))

    assert seen == [[("user:ada", "essay", 8, 60)], [], [("user:ada", "essay", 12, 60)]]


async def test_a_window_that_stays_near_its_limit_warns_once_in_its_time(
    api: Api, clock: Clock
) -> None:
    seen = []
    for _ in range(26):
        await consume(api, "call", 500)
        seen.append(len(await events(api)))
        clock.advance(hours=1)

    assert seen == [1] + 23 * [0] + [1, 0]


async def test_a_reset_forgets_the_use_and_not_the_last_warning(api: Api, clock: Clock) -> None:
    await consume(api, "essay", 8)
    first = await warnings(api)
    reset = await api.post(RESET, {"subject_id": "ada", "metric": "essay"})
    clock.advance(seconds=59)
    await consume(api, "essay", 9)
    soon = await warnings(api)
    clock.advance(seconds=1)
    await consume(api, "essay", 1)

    assert reset.json()["success"]
    assert (first, soon) == ([("user:ada", "essay", 8, 60)], [])
    assert await warnings(api) == [("user:ada", "essay", 10, 60)]


async def test_an_operator_is_warned_of_the_limit_of_adjustments(api: Api) -> None:
    operator = await api.as_role(Role.OPERATOR)
    body = {"subject_type": "user", "subject_id": "ada", "amount": 5, "reason": "test"}
    for _ in range(4):
        assert (await operator.post(ADJUST, json=body)).status_code == 200
    (key,) = [one for one in await api.system.engine.store.keys.all() if one.role == "operator"]

    (event,) = await events(api)

    assert event["data"]["subject"] == {"type": "user", "id": key.id}
    assert (event["data"]["metric"], event["data"]["used"]) == ("credit_adjustment", 3)
    assert event["metadata"] == {}


async def test_the_usage_of_limits_shows_from_which_units_on_they_warn(api: Api) -> None:
    await consume(api, "essay", 3, org_id="school")

    assert await limits(api, "ada", "user") == {
        "essay": (3, 8),
        "gratis": (0, 3),
        "call": (0, 500),
        "plain": (0, None),
        "dear": (0, 1),
        "credit_adjustment": (0, 3),
    }
    assert await limits(api, "school", "org") == {"essay": (3, 20)}


async def test_no_request_waits_for_the_write_of_a_warning(postgres_url: str, policy: Path) -> None:
    settings = load(database_url=postgres_url, policy_file=policy)
    rival = await asyncpg.connect(postgres_url)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(rival.close)
        api = Api(await stack.enter_async_context(build(settings)), stack)
        await rival.execute("BEGIN; LOCK TABLE limit_near IN EXCLUSIVE MODE")
        near = await consume(api, "call", 600)
        await until_waited_for(rival)
        more = [await consume(api, metric, 900) for metric in ("call", "gratis", "plain")]
        await rival.execute("COMMIT")

        assert near["success"]
        assert all(answer["success"] for answer in more)
        assert await warnings(api) == [
            ("user:ada", "call", 600, 86_400),
            ("user:ada", "gratis", 900, 3_600),
        ]
        assert api.system.engine.limit_events.dropped == 0


async def test_a_stopping_service_writes_the_warnings_of_its_last_commits(
    tmp_path: Path, policy: Path, clock: Clock
) -> None:
    url = sqlite_url(tmp_path)
    settings = load(database_url=url, policy_file=policy)
    async with AsyncExitStack() as stack:
        api = Api(await stack.enter_async_context(build(settings, clock=clock)), stack)
        await consume(api, "call", 600)

    async with AsyncExitStack() as stack:
        api = Api(await stack.enter_async_context(build(settings, clock=clock)), stack)

        assert await warnings(api) == [("user:ada", "call", 600, 86_400)]


async def test_a_stricter_policy_does_not_repeat_a_warning(api: Api, clock: Clock) -> None:
    await consume(api, "call", 600)
    first = await warnings(api)
    stricter = POLICY.replace("1000/day, warn: 50%", "900/day, warn: 10%")
    assert (await api.post("/v1/admin/policies", {"content": stricter})).status_code == 201
    await consume(api, "call", 1)
    soon = await warnings(api)
    clock.advance(days=1)
    await consume(api, "call", 1)

    assert (first, soon) == ([("user:ada", "call", 600, 86_400)], [])
    assert await warnings(api) == [("user:ada", "call", 602, 86_400)]


async def test_without_limits_nothing_warns(tmp_path: Path, policy: Path, clock: Clock) -> None:
    settings = load(database_url=sqlite_url(tmp_path), policy_file=policy, rate_limit_enabled=False)
    async with AsyncExitStack() as stack:
        system = await stack.enter_async_context(build(settings, clock=clock))
        api = Api(system, stack)
        await consume(api, "call", 5_000)

        assert await events(api) == []
