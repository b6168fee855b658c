"""Several consumptions in one request, independent or atomic."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest

from entitlements.app.policy.document import default_policy_text
from entitlements.service.compose import build
from entitlements.settings import load
from tests.transports.http.api import Api

CONSUME = "/v1/entitlements/consume-credits"
BULK = f"{CONSUME}/bulk"
CHECK = "/v1/entitlements/check-credits/bulk"
PRICED = """
price_book:
  small: {input: 3, output: 15, per: 1000}
  other: {input: 2, output: 4, per: 1000, credit_type: ai_tokens}
"""
WITHOUT_WORDS = default_policy_text().replace("implicit_idempotency: 24h", "")


@pytest.fixture
async def priced(tmp_path: Path) -> AsyncIterator[Api]:
    """The shipped policy with two models and without implicit idempotency."""
    file = tmp_path / "policy.yaml"
    file.write_text(f"{WITHOUT_WORDS}\nimplicit_idempotency: off\n{PRICED}", "utf-8")
    settings = load(database_url=f"sqlite:///{tmp_path}/priced.db", policy_file=file)
    async with AsyncExitStack() as stack:
        yield Api(await stack.enter_async_context(build(settings)), stack)


def work(**differing: Any) -> dict[str, Any]:
    return {
        "user_id": "ada",
        "org_id": "school",
        "metric": "cj_comparison",
        "amount": 10,
        "correlation_id": "c-1",
    } | differing


def numbered(number: int, **fields: Any) -> list[dict[str, Any]]:
    return [work(correlation_id=f"c-{n}", **fields) for n in range(number)]


async def consume(
    api: Api, *items: dict[str, Any], atomic: bool = False, **headers: str
) -> httpx2.Response:
    return await api.post(BULK, {"items": list(items), "atomic": atomic}, **headers)


def shown(answer: httpx2.Response, *fields: str) -> list[Any]:
    assert answer.status_code == 200, answer.text
    results = [tuple(result[name] for name in fields) for result in answer.json()["results"]]
    return [result[0] for result in results] if len(fields) == 1 else results


@pytest.mark.parametrize("atomic", [False, True])
async def test_every_item_gets_the_result_of_a_single_request(api: Api, *, atomic: bool) -> None:
    await api.give("org:school", 25)

    answer = await consume(api, *numbered(2), atomic=atomic, x_correlation_id="whole")

    body = answer.json()
    written = {line["correlation_id"]: line["id"] for line in await api.ledger()}
    assert (body["success"], body["correlation_id"]) == (True, "whole")
    assert body["results"][1] == {
        "success": True,
        "new_balance": 5,
        "consumed_from": "org",
        "operation_id": written["c-1"],
        "credits": 10,
        "status": "completed",
        "owed": 0,
        "reason": None,
        "correlation_id": "c-1",
        "replayed": False,
    }
    assert shown(answer, "new_balance") == [15, 5]


async def test_independent_items_are_paid_as_far_as_credits_suffice(api: Api) -> None:
    await api.give("org:school", 25)

    answer = await consume(api, *numbered(3), work(metric="spellcheck"), work(metric="unheard"))

    assert answer.json()["success"] is False
    assert shown(answer, "success", "owed", "reason") == [
        (True, 0, None),
        (True, 0, None),
        (False, 10, "insufficient_credits"),
        (True, 0, None),
        (False, 0, "policy_denied"),
    ]
    assert await api.balance("ada", "school") == (0, 5)


async def test_atomic_items_are_all_paid_or_none(api: Api) -> None:
    await api.give("org:school", 25)

    short = await consume(api, *numbered(3), atomic=True)
    unknown = await consume(api, work(batch_id="a"), work(metric="unheard"), atomic=True)
    paid = await consume(api, *numbered(2, batch_id="b"), atomic=True)

    assert short.json()["success"] is False
    assert shown(short, "success", "owed", "credits") == [(False, 10, 0)] * 3
    assert shown(unknown, "owed", "reason") == [(10, "policy_denied"), (0, "policy_denied")]
    assert shown(paid, "success", "consumed_from") == [(True, "org")] * 2
    assert await api.balance("ada", "school") == (0, 5)
    debts = (await api.call("GET", "/v1/admin/credits/debts")).json()["debts"]
    assert sorted(debt["owed"] or 0 for debt in debts) == [0, 10, 10, 10, 10]


async def test_each_pair_of_user_and_org_has_its_own_payer(api: Api) -> None:
    await api.give("org:school", 19)
    await api.give("user:ada", 9)
    await api.give("user:bo", 21)
    ada, bo = work(amount=5), work(user_id="bo")

    answer = await consume(
        api,
        ada | {"batch_id": "1"},
        bo | {"org_id": None},
        ada | {"batch_id": "2"},
        bo,
        atomic=True,
    )

    assert shown(answer, "consumed_from", "new_balance") == [
        ("org", 14),
        ("user", 11),
        ("org", 9),
        ("user", 1),
    ]


@pytest.mark.parametrize("atomic", [False, True])
async def test_the_key_of_an_item_is_the_header_key_with_its_position(
    api: Api, *, atomic: bool
) -> None:
    await api.give("org:school", 100)
    twice_the_same = (work(), work())

    first = await consume(api, *twice_the_same, atomic=atomic, idempotency_key="k")
    again = await consume(api, *twice_the_same, atomic=atomic, idempotency_key="k")
    longer = await consume(api, *twice_the_same, work(), atomic=atomic, idempotency_key="k")

    assert shown(first, "replayed") == [False, False]
    assert shown(again, "replayed") == [True, True]
    assert shown(again, "operation_id") == shown(first, "operation_id")
    assert again.headers["idempotency-replayed"] == "true"
    assert shown(longer, "replayed") == [True, True, False]
    assert "idempotency-replayed" not in longer.headers
    assert await api.balance("ada", "school") == (0, 70)


@pytest.mark.parametrize("atomic", [False, True])
async def test_an_items_own_key_overrides_the_header_and_equals_that_of_a_single_request(
    api: Api, *, atomic: bool
) -> None:
    await api.give("org:school", 100)

    alone = await api.post(CONSUME, work(), idempotency_key="mine")
    bulk = await consume(
        api, work(idempotency_key="mine"), work(), atomic=atomic, idempotency_key="k"
    )
    second = await api.post(CONSUME, work(), idempotency_key="k#1")

    assert shown(bulk, "replayed") == [True, False]
    assert shown(bulk, "operation_id")[0] == alone.json()["operation_id"]
    assert second.json()["operation_id"] == shown(bulk, "operation_id")[1]
    assert await api.balance("ada", "school") == (0, 80)


@pytest.mark.parametrize("atomic", [False, True])
async def test_items_without_keys_are_identified_by_job_or_content(
    api: Api, *, atomic: bool
) -> None:
    await api.give("org:school", 100)
    job = {"service_name": "assessor", "processing_id": "p-1"}

    first = await consume(api, work(), work(**job, correlation_id="x"), atomic=atomic)
    alone = await api.post(CONSUME, work())
    again = await consume(api, work(**job, correlation_id="y"), work(), atomic=atomic)

    assert shown(first, "replayed") == [False, False]
    assert alone.json()["replayed"] is True
    assert shown(again, "replayed") == [True, True]
    assert await api.balance("ada", "school") == (0, 80)


@pytest.mark.parametrize("atomic", [False, True])
async def test_equal_items_are_charged_each_and_a_repeat_replays_them(
    api: Api, *, atomic: bool
) -> None:
    await api.give("org:school", 100)

    first = await consume(api, *[work(amount=2)] * 5, atomic=atomic)
    again = await consume(api, *[work(amount=2)] * 5, atomic=atomic)
    more = await consume(api, *[work(amount=2)] * 6, atomic=atomic)
    alone = await api.post(CONSUME, work(amount=2))

    assert shown(first, "replayed") == [False] * 5
    assert shown(again, "replayed") == [True] * 5
    assert shown(again, "operation_id") == shown(first, "operation_id")
    assert len(set(shown(first, "operation_id"))) == 5
    assert shown(more, "replayed") == [True] * 5 + [False]
    assert alone.json()["operation_id"] == shown(first, "operation_id")[0]
    assert await api.balance("ada", "school") == (0, 100 - 6 * 2)


@pytest.mark.parametrize("atomic", [False, True])
async def test_equal_keys_or_jobs_in_one_request_are_charged_once(
    api: Api, *, atomic: bool
) -> None:
    await api.give("org:school", 100)
    keyed = work(idempotency_key="k-1")
    job = work(service_name="assessor", processing_id="p-1")

    first = await consume(api, keyed, keyed, job, job, work(), atomic=atomic)

    assert shown(first, "replayed") == [False, True, False, True, False]
    assert await api.balance("ada", "school") == (0, 70)


async def test_refusals_are_at_the_position_of_their_items(api: Api) -> None:
    await api.give("org:school", 100)
    job = {"service_name": "assessor", "processing_id": "p-1"}
    await api.post(CONSUME, work(**job))
    await api.post(CONSUME, work(), idempotency_key="k")

    answer = await consume(
        api,
        work(amount=11, **job),
        work(amount=9, idempotency_key="k"),
        work(metric="ai_feedback_generation", amount=10**15),
        work(batch_id="b"),
    )

    assert answer.json()["success"] is False
    assert shown(answer, "status", "reason", "new_balance") == [
        ("refused", "job_conflict", None),
        ("refused", "idempotency_key_reused", None),
        ("refused", "amount_too_large", None),
        ("completed", None, 70),
    ]
    refused = answer.json()["results"][0]
    assert (refused["code"], refused["data"]["units"]) == ("job_conflict", 10)
    assert "11" not in refused["detail"]
    assert "detail" not in answer.json()["results"][3]


@pytest.mark.parametrize(
    ("item", "status", "code"),
    [
        ({"amount": 11, "service_name": "assessor", "processing_id": "p-1"}, 409, "job_conflict"),
        ({"amount": 9, "idempotency_key": "k"}, 422, "idempotency_key_reused"),
        ({"metric": "ai_feedback_generation", "amount": 10**15}, 400, "amount_too_large"),
    ],
)
async def test_in_an_atomic_request_one_refusal_refuses_all(
    api: Api, item: dict[str, Any], status: int, code: str
) -> None:
    await api.give("org:school", 100)
    await api.post(CONSUME, work(service_name="assessor", processing_id="p-1"))
    await api.post(CONSUME, work(), idempotency_key="k")

    answer = await consume(api, work(batch_id="b"), work(**item), atomic=True)

    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.json().get("data", {"item": 1})["item"] == 1
    assert await api.balance("ada", "school") == (0, 80)


@pytest.mark.parametrize(
    ("items", "field"),
    [
        ([], "items"),
        (numbered(1_001), "items"),
        ([work(), work(amount=0)], "items[1].amount"),
        ([work(), work(user_id=" ")], "items[1].user_id"),
        ([work(), work(metric="a\nb")], "items[1].metric"),
        ([work(), work(idempotency_key="two words")], "items[1].idempotency_key"),
        ([work(), work(idempotency_key="")], "items[1].idempotency_key"),
        ([work(), work(correlation_id=None)], "items[1].correlation_id"),
        ([work(), work(processing_id="a\x00")], "items[1].processing_id"),
        ([work(), 7], "items[1]"),
    ],
)
async def test_an_invalid_item_is_named_and_nothing_is_charged(
    api: Api, items: list[Any], field: str
) -> None:
    answer = await api.post(BULK, {"items": items})

    assert answer.status_code == 400
    assert answer.json()["errors"][0]["field"] == field
    assert await api.ledger() == []


@pytest.mark.parametrize("atomic", [False, True])
async def test_a_thousand_items_are_charged(api: Api, *, atomic: bool) -> None:
    await api.give("org:school", 1_000)

    answer = await consume(api, *numbered(1_000, amount=1), atomic=atomic)

    assert answer.json()["success"] is True
    assert shown(answer, "new_balance") == list(range(999, -1, -1))


async def test_a_body_can_have_four_megabytes(api: Api) -> None:
    fits = json.dumps({"items": [work(padding="x" * 4_000_000)]}).encode()

    charged = await api.call(
        "POST", BULK, content=fits, headers={"Content-Type": "application/json"}
    )
    refused = await api.call(
        "POST", BULK, content=fits + b" " * 200_000, headers={"Content-Type": "application/json"}
    )

    assert charged.status_code == 200
    assert (refused.status_code, refused.json()["code"]) == (413, "body_too_large")


async def test_twenty_concurrent_pairs_spend_no_more_than_the_balance(api: Api) -> None:
    await api.give("org:school", 100)
    pairs = [
        (work(amount=4, correlation_id=f"p-{n}"), work(amount=6, correlation_id=f"p-{n}"))
        for n in range(20)
    ]

    answers = await asyncio.gather(*(consume(api, *pair, atomic=True) for pair in pairs))

    outcomes = [shown(answer, "success") for answer in answers]
    assert sorted(outcomes) == [[False, False]] * 10 + [[True, True]] * 10
    assert await api.balance("ada", "school") == (0, 0)


async def test_without_implicit_idempotency_equal_items_are_two_unless_the_header_has_a_key(
    priced: Api,
) -> None:
    await priced.give("org:school", 100)

    nameless = await consume(priced, work(), work())
    again = await consume(priced, work(), work(), idempotency_key="k")
    replayed = await consume(priced, work(), work(), idempotency_key="k")

    assert shown(nameless, "replayed") == [False, False]
    assert shown(again, "replayed") == [False, False]
    assert shown(replayed, "replayed") == [True, True]
    assert await priced.balance("ada", "school") == (0, 60)


async def test_a_check_requires_what_the_call_costs(priced: Api) -> None:
    await priced.give("org:school", 35)

    checked = await priced.post(
        CHECK,
        {
            "user_id": "ada",
            "org_id": "school",
            "requirements": {"llm.small.input": 1_001, "llm.small.output": 1_000},
        },
    )
    call = [
        work(metric="llm.small.input", amount=1_001),
        work(metric="llm.small.output", amount=1_000),
    ]
    charged = await consume(priced, *call, atomic=True)

    assert checked.json()["required_credits"] == 4 + 15
    assert shown(charged, "credits") == [4, 15]
    assert await priced.balance("ada", "school") == (0, 16)


async def test_one_payer_covers_every_credit_type_in_checks_and_atomic_requests(
    priced: Api,
) -> None:
    await priced.give("org:school", 100)
    await priced.give("user:ada", 9)
    tokens = {"subject_type": "user", "subject_id": "ada", "amount": 5, "reason": "test"}
    await priced.post("/v1/admin/credits/adjust", tokens | {"credit_type": "ai_tokens"})
    units = {"llm.small.input": 3_000, "llm.other.output": 1_000}

    checked = await priced.post(
        CHECK, {"user_id": "ada", "org_id": "school", "requirements": units}
    )
    items = [work(metric=metric, amount=amount) for metric, amount in units.items()]
    charged = await consume(priced, *items, atomic=True)
    denied = await priced.post(CHECK, {"user_id": "ada", "org_id": "school", "requirements": units})

    body = checked.json()
    assert (body["allowed"], body["required_credits"], body["available_credits"]) == (True, 9, 9)
    assert body["by_credit_type"] == {
        "credits": {"required": 9, "org": 100, "user": 9},
        "ai_tokens": {"required": 4, "org": 0, "user": 5},
    }
    assert {line["source"] for line in body["per_metric"].values()} == {"user"}
    assert body["per_metric"]["llm.other.output"]["available"] == 5
    assert shown(charged, "consumed_from", "credits", "new_balance") == [
        ("user", 9, 0),
        ("user", 4, 1),
    ]
    assert (denied.status_code, denied.json()["by_credit_type"]["ai_tokens"]) == (
        402,
        {"required": 4, "org": 0, "user": 1},
    )


async def test_a_full_queue_is_503_and_a_retry_charges_once(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    await api.give("org:school", 100)
    monkeypatch.setattr("entitlements.app.credits.committer.ROOT_SHARE_MAX", 2)
    items = numbered(4)

    refused = await consume(api, *items)
    taken = await api.balance("ada", "school")
    monkeypatch.undo()
    again = await consume(api, *items)

    assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
    assert int(refused.headers["retry-after"]) >= 1
    assert taken == (0, 80)
    assert shown(again, "replayed") == [True, True, False, False]
    assert await api.balance("ada", "school") == (0, 60)
