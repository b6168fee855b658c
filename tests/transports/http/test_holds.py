"""Holds over HTTP: taken or denied like a check, settled, extended, released and listed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import apsw
import httpx2
import msgspec
import pytest

from entitlements.app.access.keys import Role
from entitlements.service.compose import build
from entitlements.settings import load
from tests.audit import audited
from tests.books import assert_books_balance
from tests.surfaces.scene import Clock
from tests.tables import sqlite_url
from tests.transports.http.api import Api

HOLDS = "/v1/entitlements/holds"
BULK = "/v1/entitlements/check-credits/bulk"
ADMIN = "/v1/admin/holds"
POLICY = """
costs: {essay: 5, call: 1, gratis: 0, token: {cost: 1, credit_type: tokens}}
rate_limits: {essay: 10/minute, gratis: 3/minute}
"""
ESSAYS = {"user_id": "ada", "requirements": {"essay": 4}}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def api(tmp_path: Path, clock: Clock) -> AsyncIterator[Api]:
    (tmp_path / "policy.yaml").write_text(POLICY)
    async with AsyncExitStack() as stack:
        api = await opened(tmp_path, clock, stack)
        await api.give("user:ada", 100)
        yield api
    await assert_books_balance(f"sqlite:///{tmp_path}/books.db")


async def opened(folder: Path, clock: Clock, stack: AsyncExitStack, **given: Any) -> Api:
    url, policy = sqlite_url(folder), folder / "policy.yaml"
    settings = load(database_url=url, policy_file=policy, **given)
    return Api(await stack.enter_async_context(build(settings, clock=clock)), stack)


async def take(api: Api, body: dict[str, Any] = ESSAYS, **fields: Any) -> str:
    answer = await api.post(HOLDS, body | fields)
    assert answer.status_code == 201, answer.text
    hold_id: str = answer.json()["hold_id"]
    return hold_id


async def act(
    api: Api, hold_id: str, verb: str, body: dict[str, Any], **headers: str
) -> httpx2.Response:
    return await api.post(f"{HOLDS}/{hold_id}/{verb}", body, **headers)


async def shown(api: Api, hold_id: str) -> dict[str, Any]:
    found: dict[str, Any] = (await api.call("GET", f"{HOLDS}/{hold_id}")).json()
    return found


async def held(api: Api) -> int:
    answer = await api.call("GET", f"{ADMIN}?subject_id=ada")
    return sum(one["by_credit_type"]["credits"]["held"] for one in answer.json()["holds"])


def events(folder: Path, topic: str) -> list[dict[str, Any]]:
    db = apsw.Connection(str(folder / "books.db"))
    rows = db.execute(
        "SELECT payload FROM event_outbox WHERE event_type = ? ORDER BY seq, n",
        (f"huleedu.entitlements.{topic}",),
    ).fetchall()
    return [msgspec.json.decode(str(payload))["data"] for (payload,) in rows]


async def test_a_hold_shows_its_credits_and_its_expiry(
    api: Api, clock: Clock, tmp_path: Path
) -> None:
    answer = await api.post(HOLDS, ESSAYS | {"ttl_seconds": 90, "correlation_id": "chat-1"})

    assert answer.status_code == 201
    body = answer.json()
    assert body == {
        "hold_id": body["hold_id"],
        "credits": 20,
        "credit_type": "credits",
        "source": "user",
        "expires_at": (clock.now + timedelta(seconds=90)).isoformat().replace("+00:00", "Z"),
        "by_credit_type": {"credits": 20},
        "correlation_id": "chat-1",
        "replayed": False,
    }
    assert await api.balance("ada") == (100, None)
    assert events(tmp_path, "usage.authorized.v1") == [
        {
            "subject": {"type": "user", "id": "ada"},
            "metric": "essay",
            "amount": 4,
            "authorization_id": body["hold_id"],
            "expires_at": body["expires_at"],
            "correlation_id": "chat-1",
        }
    ]


async def test_the_default_time_to_live_is_five_minutes(api: Api, clock: Clock) -> None:
    hold_id = await take(api)

    clock.advance(seconds=299)
    assert (await shown(api, hold_id))["status"] == "open"
    clock.advance(seconds=1)
    assert (await shown(api, hold_id))["status"] == "lapsed"


@pytest.mark.parametrize(
    ("requirements", "reason"),
    [
        ({"call": 101, "gratis": 1}, "insufficient_credits"),
        ({"odd": 1, "essay": 99}, "policy_denied"),
        ({"gratis": 4, "call": 101}, "rate_limit_exceeded"),
    ],
)
async def test_a_denied_hold_has_the_response_of_a_bulk_check(
    api: Api, requirements: dict[str, int], reason: str
) -> None:
    asked = {"user_id": "ada", "org_id": "school", "requirements": requirements}
    asked |= {"correlation_id": "c"}
    before = await api.ledger()

    denied = await api.post(HOLDS, asked)
    checked = await api.post(BULK, asked)

    assert denied.status_code == checked.status_code
    assert denied.json() == checked.json()
    assert denied.json()["denial_reason"] == reason
    assert await api.ledger() == before


async def test_units_count_against_limits_when_they_are_held(api: Api) -> None:
    await take(api)
    await take(api)

    denied = await api.post(HOLDS, ESSAYS)

    assert denied.status_code == 429
    (limit,) = denied.json()["limits"]
    assert (limit["used"], limit["remaining"]) == (8, 2)
    assert int(denied.headers["retry-after"]) == limit["passes_in_seconds"]
    assert "ratelimit-policy" in denied.headers


async def test_a_limit_is_never_exceeded_by_concurrent_holds(api: Api) -> None:
    one = {"user_id": "ada", "requirements": {"essay": 1}}

    answers = await asyncio.gather(*(api.post(HOLDS, one) for _ in range(30)))

    statuses = [answer.status_code for answer in answers]
    assert (statuses.count(201), statuses.count(429)) == (10, 20)
    assert all("retry-after" in answer.headers for answer in answers if answer.status_code == 429)


async def test_without_limits_all_concurrent_holds_are_taken(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "policy.yaml").write_text(POLICY)
    one = {"user_id": "ada", "requirements": {"gratis": 2}}
    async with AsyncExitStack() as stack:
        api = await opened(tmp_path, clock, stack, rate_limit_enabled=False)
        answers = await asyncio.gather(*(api.post(HOLDS, one) for _ in range(20)))

    assert {answer.status_code for answer in answers} == {201}


async def test_a_denied_hold_uses_nothing_of_a_limit(api: Api) -> None:
    ten = {"user_id": "bo", "requirements": {"essay": 10}}
    for _ in range(5):
        assert (await api.post(HOLDS, ten)).status_code == 402
    await api.give("user:bo", 50)

    assert await take(api, ten)


async def test_settling_counts_only_uncounted_units_even_after_a_restart(
    api: Api, clock: Clock, tmp_path: Path
) -> None:
    await act(api, await take(api), "settle", {"requirements": {"essay": 7}})
    await act(api, await take(api, requirements={"essay": 2}), "release", {})
    held = await take(api, {"user_id": "ada", "credits": 5})
    async with AsyncExitStack() as stack:
        second = await opened(tmp_path, clock, stack)
        assert (await act(second, held, "settle", {"credits": 5})).json()["charged"] == 5
        for one in (api, second):
            used = await one.call("GET", "/v1/admin/rate-limits/ada")

            assert [(limit["metric"], limit["used"]) for limit in used.json()["limits"]] == [
                ("essay", 9),
                ("gratis", 0),
            ]


async def test_the_actual_use_is_charged_and_the_rest_returned(api: Api, tmp_path: Path) -> None:
    hold_id = await take(api, correlation_id="chat-1")

    answer = await act(api, hold_id, "settle", {"requirements": {"essay": 3}})

    assert answer.status_code == 200
    body = answer.json()
    assert body == {
        "hold_id": hold_id,
        "status": "settled",
        "credit_type": "credits",
        "charged": 15,
        "returned": 5,
        "held": 0,
        "owed": 0,
        "consumed_from": "user",
        "new_balance": 85,
        "operation_id": body["operation_id"],
        "expires_at": body["expires_at"],
        "lapsed": False,
        "by_credit_type": {"credits": {"charged": 15, "returned": 5, "held": 0, "owed": 0}},
        "correlation_id": "chat-1",
        "replayed": False,
    }
    ours = [line for line in await api.ledger() if line["hold_id"] == hold_id]
    assert sorted(line["kind"] for line in ours) == ["consume", "hold"]
    assert {line["correlation_id"] for line in ours} == {"chat-1"}
    changed = events(tmp_path, "credit.balance.changed.v1")[-1]
    assert (changed["delta"], changed["reason"]) == (-15, "settlement")
    (used,) = events(tmp_path, "usage.recorded.v1")
    assert (used["metric"], used["amount"]) == ("essay", 3)


async def test_events_name_the_credit_type_where_credits_have_no_metric(
    api: Api, tmp_path: Path
) -> None:
    hold_id = await take(api, {"user_id": "ada", "credits": 30})

    await act(api, hold_id, "settle", {"credits": 112})

    (authorized,) = events(tmp_path, "usage.authorized.v1")
    (used,) = events(tmp_path, "usage.recorded.v1")
    (short,) = events(tmp_path, "credit.shortfall.recorded.v1")
    assert (authorized["metric"], authorized["amount"]) == ("credits", 30)
    assert (used["metric"], used["amount"]) == ("credits", 30)
    assert (short["metric"], short["amount"], short["owed"]) == ("credits", 82, 82)


async def test_a_repeated_final_settlement_or_release_is_replayed_and_a_different_one_refused(
    api: Api,
) -> None:
    settled, released = await take(api), await take(api, {"user_id": "ada", "credits": 9})
    first = await act(api, settled, "settle", {"requirements": {"essay": 3}})
    await act(api, released, "release", {})

    again = await act(api, settled, "settle", {"requirements": {"essay": 3}})
    other = await act(api, settled, "settle", {"requirements": {"essay": 4}})
    gone = await act(api, released, "release", {})
    late = await act(api, released, "settle", {"credits": 1})

    assert again.json() == first.json() | {"replayed": True}
    assert again.headers["idempotency-replayed"] == "true"
    assert (other.status_code, other.json()["code"]) == (409, "hold_closed")
    assert (gone.status_code, gone.json()["replayed"]) == (200, True)
    assert (late.status_code, late.json()["data"]["status"]) == (409, "released")


async def test_with_a_key_holds_and_partial_settlements_happen_once(api: Api) -> None:
    keyed = [await api.post(HOLDS, ESSAYS, idempotency_key="take") for _ in range(2)]
    hold_id = keyed[0].json()["hold_id"]
    part = {"requirements": {"essay": 1}, "final": False}

    parts = [await act(api, hold_id, "settle", part, idempotency_key="part") for _ in range(2)]
    unkeyed = await act(api, hold_id, "settle", part)
    reused = await api.post(HOLDS, ESSAYS | {"ttl_seconds": 9}, idempotency_key="take")

    assert [one.status_code for one in keyed] == [201, 201]
    assert keyed[1].json() == keyed[0].json() | {
        "replayed": True,
        "correlation_id": keyed[1].json()["correlation_id"],
    }
    assert [one.json()["held"] for one in parts] == [15, 15]
    assert unkeyed.json()["held"] == 10
    assert reused.status_code == 422


async def test_a_keyed_hold_is_replayed_even_if_the_limit_is_exhausted(api: Api) -> None:
    ten = {"user_id": "ada", "requirements": {"essay": 10}, "correlation_id": "c"}
    first = await api.post(HOLDS, ten, idempotency_key="k")

    again = await api.post(HOLDS, ten, idempotency_key="k")

    assert again.status_code == 201
    assert again.json() == first.json() | {"replayed": True}


async def test_an_extension_counts_from_now(api: Api, clock: Clock) -> None:
    hold_id = await take(api, ttl_seconds=60)
    clock.advance(seconds=50)

    extended = await act(api, hold_id, "extend", {"ttl_seconds": 30})
    clock.advance(seconds=29)
    before = await held(api)
    clock.advance(seconds=1)

    assert (extended.json()["status"], extended.json()["held"]) == ("open", 20)
    assert (before, await held(api)) == (20, 0)
    assert (await act(api, hold_id, "extend", {"ttl_seconds": 30})).status_code == 409


async def test_a_late_settlement_is_marked_as_lapsed(api: Api, clock: Clock) -> None:
    hold_id = await take(api, ttl_seconds=1)
    clock.advance(hours=24)

    late = (await act(api, hold_id, "settle", {"requirements": {"essay": 3}})).json()

    assert (late["lapsed"], late["charged"], late["status"]) == (True, 15, "settled")
    seen = await shown(api, hold_id)
    assert seen["settlement"] == {
        "charged": 15,
        "owed": 0,
        "lapsed": True,
        "operation_id": late["operation_id"],
        "credit_type": "credits",
    }
    part = seen["by_credit_type"]["credits"]
    assert part["held"] + part["charged"] + part["returned"] == part["taken"]


async def test_a_hold_settled_in_time_shows_no_late_settlement(api: Api) -> None:
    hold_id = await take(api)
    await act(api, hold_id, "settle", {"requirements": {"essay": 3}})

    assert (await shown(api, hold_id))["settlement"] is None


async def test_an_adjustment_takes_no_held_credits(api: Api) -> None:
    await take(api)
    adjust = {"subject_type": "user", "subject_id": "ada", "reason": "test"}

    refused = await api.post("/v1/admin/credits/adjust", adjust | {"amount": -81})
    below = await api.post("/v1/admin/credits/adjust", adjust | {"amount": -101})

    assert (refused.status_code, refused.json()["code"]) == (400, "held")
    assert (below.status_code, below.json()["code"]) == (400, "below_zero")


async def test_a_hold_is_shown_with_the_grants_that_back_it(api: Api) -> None:
    hold_id = await take(api, requirements={"essay": 2})
    await act(api, hold_id, "settle", {"requirements": {"essay": 1}, "final": False})

    found = await shown(api, hold_id)

    part = found["by_credit_type"]["credits"]
    assert (part["taken"], part["held"], part["charged"], part["returned"]) == (10, 5, 5, 0)
    assert [draw["quantity"] for draw in part["backing"]] == [5]
    assert (found["requirements"], found["settled"]) == ({"essay": 2}, {"essay": 1})
    assert (found["subject_type"], found["subject_id"]) == ("user", "ada")


@pytest.mark.parametrize(("missing", "waits_s"), [(1, 30), (45, 90)])
async def test_an_explanation_takes_future_lapses_into_account(
    api: Api, clock: Clock, missing: int, waits_s: int
) -> None:
    await take(api, {"user_id": "ada", "credits": 40}, ttl_seconds=30)
    await take(api, {"user_id": "ada", "credits": 50}, ttl_seconds=90)

    asked = {"user_id": "ada", "requirements": {"call": 10 + missing}}
    explained = (await api.post(f"{BULK}?explain=true", asked)).json()["explain"]

    passes_at = clock.now + timedelta(seconds=waits_s)
    assert explained["passes_at"] == passes_at.isoformat().replace("+00:00", "Z")
    assert explained["wallets"][0]["held"] == 90


async def test_operators_see_open_holds_page_by_page(api: Api, clock: Clock) -> None:
    ids = [await take(api, {"user_id": "ada", "credits": n}) for n in (1, 2, 3)]
    await act(api, ids[0], "release", {})
    await take(api, {"user_id": "ada", "credits": 4}, ttl_seconds=1)
    clock.advance(seconds=1)

    first = (await api.call("GET", f"{ADMIN}?limit=2")).json()
    second = (await api.call("GET", f"{ADMIN}?limit=2&cursor={first['next_cursor']}")).json()
    released = (await api.call("GET", f"{ADMIN}?status=released&subject_id=ada")).json()
    everything = (await api.call("GET", f"{ADMIN}?status=all")).json()

    found = [one["hold_id"] for one in first["holds"] + second["holds"]]
    assert found == sorted(ids[1:], reverse=True)
    assert [one["hold_id"] for one in released["holds"]] == [ids[0]]
    assert (everything["count"], everything["next_cursor"]) == (4, None)
    assert (await api.call("GET", f"{ADMIN}?cursor=odd")).status_code == 400


async def test_a_hold_of_two_credit_types_is_never_split_over_pages(api: Api) -> None:
    gift = {"subject_type": "user", "subject_id": "ada", "credit_type": "tokens", "amount": 9}
    await api.post("/v1/admin/credits/adjust", gift | {"reason": "test"})
    hold_id = await take(api, requirements={"token": 2, "call": 3})

    page = (await api.call("GET", f"{ADMIN}?limit=1")).json()

    assert [one["hold_id"] for one in page["holds"]] == [hold_id]
    assert list(page["holds"][0]["by_credit_type"]) == ["credits", "tokens"]


async def test_an_operator_can_release_a_hold_and_it_is_audited(api: Api) -> None:
    mine, theirs = await take(api), await take(api)
    operator, service = await api.as_role(Role.OPERATOR), await api.as_role(Role.SERVICE)

    released = await operator.post(f"{HOLDS}/{mine}/release", json={"reason": "stuck"})
    await service.post(f"{HOLDS}/{theirs}/release", json={})

    assert released.status_code == 200
    acts = [e for e in await audited(api.system.engine.store, 50) if e.action == "hold.release"]
    assert [(e.detail["hold_id"], e.reason) for e in acts] == [(mine, "stuck")]
    assert (await operator.post(HOLDS, json=ESSAYS)).status_code == 403


@pytest.mark.parametrize(
    "body",
    [
        {"user_id": "ada"},
        {"user_id": "ada", "requirements": {}},
        {"user_id": "ada", "requirements": {"essay": 1}, "credits": 1},
        {"user_id": "ada", "requirements": {"essay": 1}, "credit_type": "tokens"},
        {"user_id": "ada", "requirements": {"essay": -1}},
        {"user_id": "ada", "requirements": {"essay": True}},
        {"user_id": "ada", "requirements": {"es\nsay": 1}},
        {"user_id": "ada", "credits": 0},
        {"user_id": "ada", "credits": 1, "ttl_seconds": 0},
        {"user_id": "ada", "credits": 1, "ttl_seconds": 86_401},
        {"user_id": " ", "credits": 1},
    ],
)
async def test_an_invalid_request_is_refused_and_changes_nothing(
    api: Api, body: dict[str, Any]
) -> None:
    before = await api.ledger()

    answer = await api.post(HOLDS, body)

    assert answer.status_code == 400, answer.text
    assert await api.ledger() == before


@pytest.mark.parametrize("hold_id", ["odd", "00000000-0000-7000-8000-000000000000"])
async def test_an_unknown_hold_is_not_found(api: Api, hold_id: str) -> None:
    for verb, body in (("settle", {"credits": 1}), ("extend", {"ttl_seconds": 1}), ("release", {})):
        assert (await act(api, hold_id, verb, body)).status_code == 404
    assert (await api.call("GET", f"{HOLDS}/{hold_id}")).status_code == 404


async def test_a_settlement_names_units_or_credits_and_not_both(api: Api) -> None:
    hold_id = await take(api)

    for body in ({}, {"credits": 1, "requirements": {"essay": 1}}):
        assert (await act(api, hold_id, "settle", body)).status_code == 400
    assert (await shown(api, hold_id))["status"] == "open"


async def test_a_settlement_is_reversed_like_any_consumption(api: Api) -> None:
    hold_id = await take(api)
    settled = await act(api, hold_id, "settle", {"requirements": {"essay": 3}})
    operation = settled.json()["operation_id"]

    answer = await api.post(f"/v1/entitlements/operations/{operation}/reverse", {"reason": "empty"})

    assert (answer.json()["credits"], answer.json()["new_balance"]) == (15, 100)


async def test_holds_are_counted_by_their_outcome(api: Api) -> None:
    await act(api, await take(api), "settle", {"requirements": {"essay": 1}})
    await api.post(HOLDS, {"user_id": "ada", "credits": 10_000})

    text = (await api.call("GET", "/metrics")).text

    assert 'entitlements_holds_total{result="taken"} 1.0' in text
    assert 'entitlements_holds_total{result="settled"} 1.0' in text
    assert 'entitlements_holds_total{result="insufficient_credits"} 1.0' in text
    assert 'entitlements_credit_consumption_total{metric="essay",source="user"} 1.0' in text
