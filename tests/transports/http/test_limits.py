"""Rate limits over HTTP: denials, counting and resets."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import apsw
import httpx2
import pytest

from entitlements.app.access.keys import Role
from entitlements.service.compose import build
from entitlements.settings import load
from tests.audit import audited
from tests.surfaces.scene import Clock
from tests.transports.http.api import Api

CHECK = "/v1/entitlements/check-credits"
BULK = "/v1/entitlements/check-credits/bulk"
CONSUME = "/v1/entitlements/consume-credits"
CONSUME_BULK = "/v1/entitlements/consume-credits/bulk"
ADJUST = "/v1/admin/credits/adjust"
RESET = "/v1/admin/credits/reset-rate-limit"
POLICY = """
costs: {essay: 1, gratis: 0, tokens: {cost: 1, per: 1000}}
rate_limits:
  essay: [10/minute, {limit: 100/day, per: org}]
  gratis: 3/hour
  credit_adjustment: 4/hour
"""
ADA = {"user_id": "ada"}
GIVE = {"subject_type": "user", "subject_id": "ada", "amount": 50, "reason": "test"}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def api(tmp_path: Path, clock: Clock) -> AsyncIterator[Api]:
    policy = tmp_path / "policy.yaml"
    policy.write_text(POLICY)
    settings = load(database_url=f"sqlite:///{tmp_path}/e.db", policy_file=policy)
    async with AsyncExitStack() as stack:
        system = await stack.enter_async_context(build(settings, clock=clock))
        api = Api(system, stack)
        await api.give("user:ada", 500)
        yield api


async def consume(api: Api, metric: str, amount: int, **fields: str) -> httpx2.Response:
    api_id = api.system.engine.new_id()
    body = ADA | {"metric": metric, "amount": amount, "correlation_id": api_id} | fields
    answer = await api.post(CONSUME, body)
    assert answer.status_code == 200, answer.text
    return answer


async def used(api: Api, subject_id: str = "ada") -> dict[tuple[str, str], int]:
    answer = await api.call("GET", f"/v1/admin/rate-limits/{subject_id}")
    assert answer.status_code == 200, answer.text
    return {(limit["per"], limit["metric"]): limit["used"] for limit in answer.json()["limits"]}


async def test_a_check_above_a_limit_is_429_with_the_limit_and_the_time_to_retry(
    api: Api, clock: Clock
) -> None:
    await consume(api, "essay", 8)
    clock.advance(seconds=20)

    answer = await api.post(BULK, ADA | {"requirements": {"essay": 3, "gratis": 1}})

    assert answer.status_code == 429
    body = answer.json()
    assert (body["allowed"], body["denial_reason"]) == (False, "rate_limit_exceeded")
    assert (body["required_credits"], body["available_credits"]) == (3, 0)
    assert body["per_metric"] == {
        "essay": {
            "required": 3,
            "available": 0,
            "allowed": False,
            "source": None,
            "reason": "rate_limit_exceeded",
        },
        "gratis": {"required": 0, "available": 0, "allowed": True, "source": None, "reason": None},
    }
    assert body["limits"] == [
        {
            "metric": "essay",
            "per": "user",
            "limit": 10,
            "window_seconds": 60,
            "used": 8,
            "remaining": 2,
            "passes_in_seconds": 41,
        }
    ]
    assert answer.headers["Retry-After"] == "41"
    assert answer.headers["RateLimit-Policy"] == '"essay/user/60";q=10;w=60'
    assert answer.headers["RateLimit"] == '"essay/user/60";r=2;t=41'


async def test_a_retry_after_the_retry_after_time_passes(api: Api, clock: Clock) -> None:
    await consume(api, "essay", 10)
    denied = await api.post(BULK, ADA | {"requirements": {"essay": 1}})

    clock.advance(seconds=int(denied.headers["Retry-After"]) - 2)
    early = await api.post(BULK, ADA | {"requirements": {"essay": 1}})
    clock.advance(seconds=2)
    after = await api.post(BULK, ADA | {"requirements": {"essay": 1}})

    assert [answer.status_code for answer in (denied, early, after)] == [429, 429, 200]


async def test_a_request_above_the_limit_by_itself_has_no_retry_after(api: Api) -> None:
    answer = await api.post(BULK, ADA | {"requirements": {"essay": 11}})

    assert answer.status_code == 429
    assert "Retry-After" not in answer.headers
    assert answer.json()["limits"][0]["passes_in_seconds"] is None


async def test_a_check_of_one_metric_is_200_with_the_reason(api: Api) -> None:
    await consume(api, "gratis", 3)

    answer = await api.post(CHECK, ADA | {"metric": "gratis"})

    assert answer.status_code == 200
    body = answer.json()
    assert (body["allowed"], body["reason"]) == (False, "rate_limit_exceeded")
    assert (body["available_credits"], body["source"]) == (0, None)
    assert answer.headers["Retry-After"]


async def test_checks_count_nothing_and_consumption_is_never_refused(api: Api) -> None:
    for _ in range(5):
        assert (await api.post(BULK, ADA | {"requirements": {"essay": 9}})).status_code == 200
    await consume(api, "essay", 9)
    await consume(api, "essay", 9)

    assert (await used(api))["user", "essay"] == 18


async def test_replays_failures_and_reversals_do_not_count(api: Api) -> None:
    body = ADA | {"metric": "essay", "amount": 2, "correlation_id": "c"}
    first = await api.post(CONSUME, body)
    assert (await api.post(CONSUME, body)).json()["replayed"]
    failed = await consume(api, "essay", 1, user_id="poor")
    assert not failed.json()["success"]
    reverse = f"/v1/entitlements/operations/{first.json()['operation_id']}/reverse"
    assert (await api.post(reverse, {"reason": "x"})).status_code == 200

    assert (await used(api))["user", "essay"] == 2
    assert (await used(api, "poor"))["user", "essay"] == 0


async def test_items_charged_together_count_one_by_one(api: Api) -> None:
    items = [
        {"user_id": "ada", "metric": "essay", "amount": n, "correlation_id": f"c{n}"}
        for n in (1, 2, 3)
    ]
    for atomic in (True, False, True):
        answer = await api.post(CONSUME_BULK, {"items": items, "atomic": atomic})
        assert answer.status_code == 200, answer.text

    assert (await used(api))["user", "essay"] == 6


async def test_a_limit_per_org_counts_the_use_of_all_its_users(api: Api) -> None:
    await api.give("org:school", 500)
    for name in ("u1", "u2", "u3"):
        await consume(api, "essay", 33, user_id=name, org_id="school")

    denied = await api.post(
        BULK, {"user_id": "u4", "org_id": "school", "requirements": {"essay": 2}}
    )
    alone = await api.post(BULK, ADA | {"requirements": {"essay": 2}})

    assert denied.status_code == 429
    assert denied.json()["limits"][0]["per"] == "org"
    assert alone.status_code == 200
    assert (await used(api, "school"))["org", "essay"] == 99


async def test_a_reset_clears_the_windows_and_is_audited(api: Api) -> None:
    await consume(api, "essay", 10)
    await consume(api, "gratis", 3)

    answer = await api.post(RESET, {"subject_id": "ada", "metric": "essay", "reason": "a loop"})

    assert answer.status_code == 200
    assert answer.json().keys() == {"success", "message", "correlation_id", "replayed"}
    assert answer.json()["success"] is True
    assert await used(api) == {
        ("user", "essay"): 0,
        ("org", "essay"): 0,
        ("user", "gratis"): 3,
        ("user", "credit_adjustment"): 0,
    }
    last = (await audited(api.system.engine.store, 1))[0]
    assert (last.action, last.reason, last.detail) == (
        "rate_limit.reset",
        "a loop",
        {"metric": "essay"},
    )


async def test_a_metric_without_a_limit_cannot_be_reset_by_a_typo(api: Api) -> None:
    answer = await api.post(RESET, {"subject_id": "ada", "metric": "essai"})

    assert answer.status_code == 400
    assert answer.json()["errors"][0]["field"] == "metric"


async def test_an_operator_who_adjusts_too_often_is_429_until_the_window_has_passed(
    api: Api, clock: Clock
) -> None:
    operator = await api.as_role(Role.OPERATOR)
    other = await api.as_role(Role.OPERATOR, "other")
    answers = [await operator.post(ADJUST, json=GIVE) for _ in range(5)]
    balance = await api.balance("ada")

    assert [answer.status_code for answer in answers] == [200] * 4 + [429]
    assert answers[4].json()["code"] == "rate_limit_exceeded"
    assert int(answers[4].headers["Retry-After"]) > 3500
    assert balance == (700, None)
    assert (await other.post(ADJUST, json=GIVE)).status_code == 200
    clock.advance(hours=1, minutes=2)
    assert (await operator.post(ADJUST, json=GIVE)).status_code == 200


async def test_an_adjustment_denied_by_its_limit_is_counted_and_publishes_an_event(
    api: Api, tmp_path: Path
) -> None:
    operator = await api.as_role(Role.OPERATOR)
    *_, last = [await operator.post(ADJUST, json=GIVE) for _ in range(5)]
    await api.system.engine.limit_events.flush()

    (key,) = [one for one in await api.system.engine.store.keys.all() if one.role == "operator"]
    connection = apsw.Connection(str(tmp_path / "e.db"), flags=apsw.SQLITE_OPEN_READONLY)
    rows = connection.execute("SELECT subject_id, payload FROM limit_exceeded").fetchall()
    connection.close()
    assert last.status_code == 429
    assert [subject for subject, _ in rows] == [key.id]
    event = json.loads(str(rows[0][1]))
    assert event["data"]["subject"] == {"type": "user", "id": key.id}
    assert event["data"]["metric"] == "credit_adjustment"
    assert event["metadata"] == {}
    text = (await api.call("GET", "/metrics")).text
    assert 'entitlements_rate_limit_violations_total{metric="credit_adjustment"} 1.0' in text


async def test_concurrent_adjustments_do_not_exceed_the_limit(api: Api) -> None:
    operator = await api.as_role(Role.OPERATOR)
    answers = await asyncio.gather(*(operator.post(ADJUST, json=GIVE) for _ in range(12)))

    statuses = sorted(answer.status_code for answer in answers)
    assert statuses == [200] * 4 + [429] * 8
    assert await api.balance("ada") == (700, None)


async def test_a_repeated_adjustment_is_replayed_even_if_the_limit_is_exhausted(
    api: Api,
) -> None:
    operator = await api.as_role(Role.OPERATOR)
    keyed = {"Idempotency-Key": "last"}
    for _ in range(3):
        await operator.post(ADJUST, json=GIVE)
    first = await operator.post(ADJUST, json=GIVE, headers=keyed)
    again = await operator.post(ADJUST, json=GIVE, headers=keyed)
    new = await operator.post(ADJUST, json=GIVE, headers={"Idempotency-Key": "new"})

    assert first.status_code == again.status_code == 200
    assert again.json() == first.json() | {
        "replayed": True,
        "correlation_id": again.json()["correlation_id"],
    }
    assert new.status_code == 429


async def test_a_denial_publishes_one_event_per_subject_metric_and_minute(
    api: Api, clock: Clock, tmp_path: Path
) -> None:
    for _ in range(5):
        await api.post(BULK, ADA | {"requirements": {"essay": 11}})
    clock.advance(minutes=1)
    await api.post(CHECK, ADA | {"metric": "essay", "amount": 11})
    await api.system.engine.limit_events.flush()

    connection = apsw.Connection(str(tmp_path / "e.db"), flags=apsw.SQLITE_OPEN_READONLY)
    rows = connection.execute("SELECT subject_id, metric FROM limit_exceeded").fetchall()
    connection.close()
    assert rows == [("ada", "essay")] * 2


async def test_limit_metrics_change(api: Api) -> None:
    await api.post(BULK, ADA | {"requirements": {"essay": 1, "tokens": 1}})
    await api.post(BULK, ADA | {"requirements": {"essay": 11, "gratis": 1}})

    text = (await api.call("GET", "/metrics")).text
    for line in (
        'entitlements_rate_limit_checks_total{metric="essay",result="allowed"} 1.0',
        'entitlements_rate_limit_checks_total{metric="essay",result="blocked"} 1.0',
        'entitlements_rate_limit_checks_total{metric="gratis",result="allowed"} 1.0',
        'entitlements_rate_limit_violations_total{metric="essay"} 1.0',
        'entitlements_credit_checks_total{result="rate_limit_exceeded",source="none"} 1.0',
    ):
        assert line in text


async def test_a_check_after_a_consumption_counts_it(api: Api) -> None:
    async def worker(n: int) -> int:
        done = 0
        while (
            await api.post(BULK, {"user_id": f"w{n}", "requirements": {"gratis": 1}})
        ).status_code == 200:
            await consume(api, "gratis", 1, user_id=f"w{n}")
            done += 1
        return done

    assert await asyncio.gather(*(worker(n) for n in range(8))) == [3] * 8
