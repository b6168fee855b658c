"""Several adjustments, balances or accounts in one request, independent or atomic."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest

from entitlements.app.policy.document import default_policy_text
from entitlements.service.compose import build
from entitlements.settings import load
from tests.audit import audited
from tests.books import assert_books_balance
from tests.tables import sqlite_url
from tests.transports.http.api import Api

ADJUST = "/v1/admin/credits/adjust"
SET = "/v1/admin/credits/set"
OPEN = "/v1/admin/accounts"


def give(user: str, amount: int, **fields: Any) -> dict[str, Any]:
    return _of(user, amount=amount, reason="migration", **fields)


def target(user: str, balance: int, **fields: Any) -> dict[str, Any]:
    return _of(user, balance=balance, **fields)


def _of(user: str, **fields: Any) -> dict[str, Any]:
    return {"subject_type": "user", "subject_id": user} | fields


async def post(
    api: Api, path: str, *items: dict[str, Any], atomic: bool = False, **headers: str
) -> httpx2.Response:
    return await api.post(f"{path}/bulk", {"items": list(items), "atomic": atomic}, **headers)


def shown(answer: httpx2.Response, *fields: str) -> list[Any]:
    assert answer.status_code == 200, answer.text
    return [tuple(result.get(name) for name in fields) for result in answer.json()["results"]]


async def adjustments(api: Api) -> list[tuple[str, int]]:
    """Return the subject and amount of each adjustment in the audit log."""
    acts = [act for act in await audited(api.system.engine.store) if act.action == "credits.adjust"]
    return sorted((act.subject.id, act.detail["amount"]) for act in acts if act.subject)


@pytest.mark.parametrize("atomic", [False, True])
async def test_every_item_gets_the_result_of_a_single_request(api: Api, *, atomic: bool) -> None:
    adjusted = await post(
        api, ADJUST, give("ada", 5), give("bo", 6, correlation_id="its own"),
        atomic=atomic, x_correlation_id="whole",
    )  # fmt: skip
    moved = await post(api, SET, target("ada", 5), target("bo", 9), atomic=atomic)
    opened = await post(api, OPEN, _of("ada"), _of("cy"), atomic=atomic)

    body = adjusted.json()
    written = {line["id"]: line for line in await api.ledger()}
    assert (body["success"], body["correlation_id"]) == (True, "whole")
    assert shown(adjusted, "correlation_id") == [("whole",), ("its own",)]
    assert body["results"][1] == {
        "success": True,
        "new_balance": 6,
        "subject_type": "user",
        "subject_id": "bo",
        "credit_type": "credits",
        "operation_id": body["results"][1]["operation_id"],
        "correlation_id": "its own",
        "replayed": False,
    }
    assert written[body["results"][1]["operation_id"]]["correlation_id"] == "its own"
    assert shown(moved, "balance", "delta", "replayed") == [(5, 0, False), (9, 3, False)]
    assert moved.json()["results"][0]["operation_id"] is None
    assert shown(opened, "created", "bonus", "new_balance") == [(True, 50, 55), (True, 50, 50)]


async def test_a_refusal_is_the_result_of_its_item(api: Api) -> None:
    answer = await post(api, ADJUST, give("ada", 5), give("ada", -6), give("bo", 7))

    assert answer.json()["success"] is False
    assert shown(answer, "success", "new_balance", "status", "code") == [
        (True, 5, None, None),
        (False, None, 400, "below_zero"),
        (True, 7, None, None),
    ]
    assert answer.json()["results"][1]["data"] == {"required": 6, "available": 5, "held": 0}


async def test_in_an_atomic_request_a_refusal_refuses_all_and_names_the_item(api: Api) -> None:
    answer = await post(api, ADJUST, give("ada", 5), give("ada", -6), atomic=True)

    problem = answer.json()
    assert (answer.status_code, problem["code"], problem["data"]["item"]) == (400, "below_zero", 1)
    assert await api.ledger() == []
    assert await adjustments(api) == []


async def test_every_item_has_an_entry_in_the_audit_log(api: Api) -> None:
    for atomic in (False, True):
        await post(api, ADJUST, give("ada", 5), give("bo", 6), atomic=atomic)

    assert await adjustments(api) == [
        ("ada", 5), ("ada", 5), ("bo", 6), ("bo", 6),
    ]  # fmt: skip


@pytest.mark.parametrize("atomic", [False, True])
@pytest.mark.parametrize(
    ("path", "items"),
    [
        (ADJUST, [give("ada", 5), give("ada", 5)]),
        (SET, [target("ada", 5), target("bo", 6)]),
        (OPEN, [_of("ada"), _of("bo")]),
    ],
)
async def test_a_key_is_the_same_alone_and_in_a_bulk(
    api: Api, path: str, items: list[dict[str, Any]], *, atomic: bool
) -> None:
    first = await post(api, path, *items, idempotency_key="m", atomic=atomic)
    whole = await post(api, path, *items, idempotency_key="m", atomic=not atomic)
    alone = await api.post(path, items[1], idempotency_key="m#1")
    named = await post(api, path, items[0] | {"idempotency_key": "m#0"})
    other = await post(api, path, items[0] | {"subject_id": "x", "idempotency_key": "m#0"})

    ids = shown(first, "operation_id")
    assert shown(first, "replayed") == [(False,), (False,)]
    assert shown(whole, "operation_id") == ids
    assert whole.headers["Idempotency-Replayed"] == "true"
    assert (alone.json()["operation_id"], alone.json()["replayed"]) == (ids[1][0], True)
    assert shown(named, "operation_id", "replayed") == [(ids[0][0], True)]
    assert shown(other, "status", "code") == [(422, "idempotency_key_reused")]


@pytest.mark.parametrize(
    ("path", "item", "field"),
    [
        (ADJUST, give("bo", 0), "items[1].amount"),
        (ADJUST, give("bo ", 1), "items[1].subject_id"),
        (ADJUST, give("bo", 1, credit_type=" x"), "items[1].credit_type"),
        (ADJUST, give("bo", 1) | {"reason": " "}, "items[1].reason"),
        (ADJUST, give("bo", -1, expires_at="2099-01-01T00:00:00Z"), "items[1].expires_at"),
        (ADJUST, give("bo", 1, correlation_id="\x07"), "items[1].correlation_id"),
        (ADJUST, give("bo", 1, idempotency_key="å"), "items[1].idempotency_key"),
        (SET, target("bo", -1), "items[1].balance"),
        (SET, target("bo", 1, reason="\x07"), "items[1].reason"),
        (OPEN, _of(" "), "items[1].subject_id"),
    ],
)
async def test_an_invalid_item_refuses_the_request(
    api: Api, path: str, item: dict[str, Any], field: str
) -> None:
    valid = {ADJUST: give("ada", 1), SET: target("ada", 1), OPEN: _of("ada")}[path]

    answer = await post(api, path, valid, item)

    assert answer.status_code == 400
    assert [one["field"] for one in answer.json()["errors"]] == [field]
    assert await api.ledger() == []


@pytest.mark.parametrize("count", [0, 1_001])
async def test_a_request_has_1_to_1000_items(api: Api, count: int) -> None:
    answer = await post(api, OPEN, *[_of(f"u{number}") for number in range(count)])

    assert answer.status_code == 400


async def test_1000_items_are_one_request(api: Api) -> None:
    items = [target(f"u{number}", number + 1) for number in range(1_000)]

    answer = await post(api, SET, *items)
    again = await post(api, SET, *items, atomic=True)

    assert answer.json()["success"] is True
    assert shown(again, "balance", "delta") == [(number + 1, 0) for number in range(1_000)]


async def test_postgresql_behaves_the_same(postgres_url: str) -> None:
    async with AsyncExitStack() as stack:
        settings = load(database_url=postgres_url)
        api = Api(await stack.enter_async_context(build(settings)), stack)
        opened = await post(api, OPEN, _of("ada"), _of("ada"), atomic=True)
        short = await post(api, ADJUST, give("bo", 5), give("ada", -51), atomic=True)
        moved = await post(
            api, SET, target("ada", 7), target("bo", 0), target("ada", 3), atomic=True
        )
        each = await post(api, ADJUST, give("bo", 5), give("ada", -51))

    assert shown(opened, "created", "new_balance") == [(True, 50), (False, 50)]
    assert (short.status_code, short.json()["code"]) == (400, "below_zero")
    assert shown(moved, "balance", "delta") == [(7, -43), (0, 0), (3, -4)]
    assert shown(each, "new_balance", "code") == [(5, None), (None, "below_zero")]
    await assert_books_balance(postgres_url)


@pytest.fixture
async def limited(tmp_path: Path) -> AsyncIterator[Api]:
    policy = tmp_path / "policy.yaml"
    text = default_policy_text()
    policy.write_text(text.replace("credit_adjustment: 10/hour", "credit_adjustment: 2/hour"))
    settings = load(database_url=sqlite_url(tmp_path), policy_file=policy)
    async with AsyncExitStack() as stack:
        yield Api(await stack.enter_async_context(build(settings)), stack)


async def test_a_request_counts_once_against_the_operators_limit(limited: Api) -> None:
    first = await post(limited, ADJUST, *[give("ada", 1)] * 5, idempotency_key="a")
    again = await post(limited, ADJUST, *[give("ada", 1)] * 5, idempotency_key="a")
    refused = await post(limited, ADJUST, give("ada", -9), give("bo", -9))
    second = await post(limited, SET, target("ada", 1), target("bo", 1), atomic=True)

    third = [
        await post(limited, ADJUST, give("ada", 1), give("bo", 1), atomic=atomic)
        for atomic in (False, True)
    ]
    partly = await post(limited, ADJUST, *[give("ada", 1)] * 6, idempotency_key="a")

    assert [len(shown(answer, "code")) for answer in (first, again, refused, second)] == [
        5,
        5,
        2,
        2,
    ]
    assert [(one.status_code, one.json()["code"]) for one in third] == [
        (429, "rate_limit_exceeded")
    ] * 2
    assert all(int(one.headers["Retry-After"]) > 0 for one in third)
    assert shown(partly, "replayed", "code") == [
        *[(True, None)] * 5,
        (False, "rate_limit_exceeded"),
    ]
