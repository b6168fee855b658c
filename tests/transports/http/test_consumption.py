"""Consumption over HTTP: charged once, however requests are repeated."""

import asyncio
from typing import Any

import pytest

from tests.transports.http.api import Api

CONSUME = "/v1/entitlements/consume-credits"


def work(**differing: Any) -> dict[str, Any]:
    return {
        "user_id": "ada",
        "org_id": "school",
        "metric": "cj_comparison",
        "amount": 10,
        "correlation_id": "c-1",
    } | differing


async def test_the_org_pays_first(api: Api) -> None:
    await api.give("org:school", 25)

    answer = await api.post(CONSUME, work())

    assert answer.status_code == 200
    body = answer.json()
    assert (body["success"], body["new_balance"], body["consumed_from"]) == (True, 15, "org")
    assert (body["credits"], body["status"], body["owed"]) == (10, "completed", 0)
    assert body["replayed"] is False
    assert (await api.ledger())[0]["id"] == body["operation_id"]


async def test_an_identical_request_is_the_same_operation(api: Api) -> None:
    await api.give("org:school", 25)

    first = await api.post(CONSUME, work())
    again = await api.post(CONSUME, work())

    assert again.json() == first.json() | {"replayed": True}
    assert again.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in first.headers
    assert await api.balance("ada", "school") == (0, 15)


@pytest.mark.parametrize(
    "other",
    [
        {"amount": 11},
        {"correlation_id": "c-2"},
        {"batch_id": "b"},
        {"metric": "ai_editor_revision"},
    ],
)
async def test_a_request_with_one_different_field_is_another_operation(
    api: Api, other: dict[str, Any]
) -> None:
    await api.give("org:school", 100)

    first = await api.post(CONSUME, work())
    second = await api.post(CONSUME, work(**other))

    assert second.json()["replayed"] is False
    assert second.json()["operation_id"] != first.json()["operation_id"]


async def test_a_key_identifies_the_request_whatever_its_content(api: Api) -> None:
    await api.give("org:school", 100)

    first = await api.post(CONSUME, work(), idempotency_key="k-1")
    other = await api.post(CONSUME, work(), idempotency_key="k-2")
    again = await api.post(CONSUME, work(), idempotency_key="k-1")
    misused = await api.post(CONSUME, work(amount=9), idempotency_key="k-1")

    assert other.json()["replayed"] is False
    assert again.json() == first.json() | {"replayed": True}
    assert (misused.status_code, misused.json()["code"]) == (422, "idempotency_key_reused")
    assert await api.balance("ada", "school") == (0, 80)


async def test_spellings_of_one_subject_id_are_one_request(api: Api) -> None:
    await api.give("user:Sk\u00e5ne", 100)

    first = await api.post(CONSUME, work(user_id="Sk\u00e5ne"), idempotency_key="k")
    again = await api.post(CONSUME, work(user_id="Ska\u030ane"), idempotency_key="k")

    assert again.json() == first.json() | {"replayed": True}


async def test_keys_belong_to_the_client_that_used_them(api: Api) -> None:
    await api.give("org:school", 100)
    one = await api.as_role_service("one")
    two = await api.as_role_service("two")

    answers = [
        await client.post(CONSUME, json=work(), headers={"Idempotency-Key": "k"})
        for client in (one, two)
    ]

    assert [answer.json()["replayed"] for answer in answers] == [False, False]


async def test_the_same_key_sixteen_times_at_once_is_one_debit(api: Api) -> None:
    await api.give("org:school", 100)

    answers = await asyncio.gather(
        *(api.post(CONSUME, work(), idempotency_key="k") for _ in range(16))
    )

    bodies = [answer.json() for answer in answers]
    assert sum(not body["replayed"] for body in bodies) == 1
    assert len({body["operation_id"] for body in bodies}) == 1
    assert await api.balance("ada", "school") == (0, 90)


async def test_a_job_is_charged_once_and_another_quantity_is_a_conflict(api: Api) -> None:
    await api.give("org:school", 100)
    job = {"service_name": "assessor", "processing_id": "p-1"}

    first = await api.post(CONSUME, work(**job))
    again = await api.post(CONSUME, work(**job, correlation_id="c-2"))
    keyed = await api.post(CONSUME, work(**job), idempotency_key="k")
    conflict = await api.post(CONSUME, work(**job, amount=11))

    assert again.json()["operation_id"] == first.json()["operation_id"]
    assert keyed.json()["operation_id"] == first.json()["operation_id"]
    assert (conflict.status_code, conflict.json()["code"]) == (409, "job_conflict")
    assert await api.balance("ada", "school") == (0, 90)


async def test_a_job_of_another_batch_is_another_job(api: Api) -> None:
    await api.give("org:school", 100)
    job = {"service_name": "assessor", "processing_id": "p-1"}

    first = await api.post(CONSUME, work(**job, batch_id="batch-a"))
    other = await api.post(CONSUME, work(**job, batch_id="batch-b"))
    again = await api.post(CONSUME, work(**job, batch_id="batch-b", correlation_id="c-2"))

    assert [answer.json()["replayed"] for answer in (first, other, again)] == [False, False, True]
    assert again.json()["operation_id"] == other.json()["operation_id"]
    assert await api.balance("ada", "school") == (0, 80)


async def test_uncovered_work_is_a_debt_of_the_org(api: Api) -> None:
    await api.give("org:school", 5)
    await api.give("user:ada", 9)

    answer = await api.post(CONSUME, work())

    body = answer.json()
    assert (answer.status_code, body["success"], body["consumed_from"]) == (200, False, "user")
    assert (body["new_balance"], body["status"], body["owed"]) == (9, "failed", 10)
    assert await api.balance("ada", "school") == (9, 5)
    (debt,) = (await api.call("GET", "/v1/admin/credits/debts")).json()["debts"]
    assert debt["operation_id"] == body["operation_id"]
    assert (debt["subject_type"], debt["subject_id"], debt["owed"]) == ("org", "school", 10)


async def test_a_failed_consumption_shows_the_balance_of_each_candidate(api: Api) -> None:
    await api.give("org:school", 30)
    await api.give("user:ada", 4)
    hold = {"user_id": "ada", "org_id": "school", "credits": 25}
    await api.post("/v1/entitlements/holds", hold)

    failed = (await api.post(CONSUME, work())).json()
    alone = (await api.post(CONSUME, work(org_id=None))).json()
    again = (await api.post(CONSUME, work())).json()

    org = {"balance": 30, "held": 25, "available": 5, "missing": 5}
    user = {"balance": 4, "held": 0, "available": 4, "missing": 6}
    assert failed["candidates"] == again["candidates"] == {"org": org, "user": user}
    assert (failed["owed"], again["replayed"]) == (10, True)
    assert alone["candidates"] == {"org": None, "user": user}
    paid = (await api.post(CONSUME, work(amount=1))).json()
    assert "candidates" not in paid


async def test_free_and_unknown_metrics_charge_nothing(api: Api) -> None:
    free = await api.post(CONSUME, work(metric="spellcheck"))
    unknown = await api.post(CONSUME, work(metric="unheard"))

    assert (free.json()["success"], free.json()["consumed_from"]) == (True, "none")
    assert unknown.status_code == 200
    body = unknown.json()
    assert (body["success"], body["consumed_from"], body["owed"]) == (False, "none", 0)
    assert body["reason"] == "policy_denied"


async def test_a_correlation_id_is_required_in_body_or_header(api: Api) -> None:
    await api.give("org:school", 100)
    nameless = work()
    del nameless["correlation_id"]

    refused = await api.post(CONSUME, nameless)
    accepted = await api.post(CONSUME, nameless, x_correlation_id="h-1")

    assert refused.status_code == 400
    assert refused.json()["errors"][0]["field"] == "correlation_id"
    assert accepted.json()["correlation_id"] == "h-1"


async def test_a_reversal_gives_back_up_to_the_amount(api: Api) -> None:
    await api.give("org:school", 25)
    consumed = (await api.post(CONSUME, work())).json()["operation_id"]
    path = f"/v1/entitlements/operations/{consumed}/reverse"

    part = await api.post(path, {"reason": "half was empty", "amount": 4})
    rest = await api.post(path, {"reason": "all of it"})
    more = await api.post(path, {"reason": "again"})

    assert (part.json()["credits"], part.json()["new_balance"]) == (4, 19)
    assert (rest.json()["credits"], rest.json()["total_reversed"]) == (6, 10)
    assert (more.status_code, more.json()["code"]) == (409, "reversed_already")
    assert await api.balance("ada", "school") == (0, 25)


async def test_a_mistaken_grant_or_adjustment_is_reversed_up_to_its_remaining_credits(
    api: Api,
) -> None:
    await api.give("org:school", 25)
    await api.post(CONSUME, work())
    given = (await api.ledger())[-1]["id"]
    path = f"/v1/entitlements/operations/{given}/reverse"

    taken = await api.post(path, {"reason": "typed twice"})
    nothing = await api.post(path, {"reason": "again"})
    reversal = taken.json()["operation_id"]
    refused = await api.post(f"/v1/entitlements/operations/{reversal}/reverse", {"reason": "x"})
    missing = await api.post("/v1/entitlements/operations/none/reverse", {"reason": "x"})

    assert (taken.json()["credits"], taken.json()["new_balance"]) == (15, 0)
    assert (nothing.status_code, nothing.json()["code"]) == (409, "nothing_left")
    assert (refused.status_code, refused.json()["code"]) == (409, "not_reversible")
    assert missing.status_code == 404
