"""Isolation of clients: neither learns about the other's requests or changes them."""

from typing import Any

import httpx2
import pytest

from entitlements.app.access.keys import Role
from tests.transports.http.api import Api

CONSUME = "/v1/entitlements/consume-credits"
WORK = {"user_id": "ada", "metric": "cj_comparison", "amount": 1, "correlation_id": "essay-7"}
CANARY = "7Q9canary"
"""A text in every request of the other client."""
CANARY_UNITS = 4_837_261


async def consumed(client: httpx2.AsyncClient, body: dict[str, Any], key: str = "") -> Any:
    answer = await client.post(CONSUME, json=body, headers={"Idempotency-Key": key} if key else {})
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize("key", ["essay-7", ""], ids=["by key", "word for word"])
async def test_requests_of_two_clients_with_the_same_key_or_content_are_separate(
    api: Api, key: str
) -> None:
    await api.give("user:ada", 10)
    first, second = [await api.as_role_service(name) for name in ("first", "second")]

    answers = [await consumed(client, WORK, key) for client in (first, second)]
    again = await consumed(second, WORK, key)

    assert [answer["replayed"] for answer in answers] == [False, False]
    assert [answer["new_balance"] for answer in answers] == [9, 8]
    assert answers[0]["operation_id"] != answers[1]["operation_id"]
    assert (again["replayed"], again["operation_id"]) == (True, answers[1]["operation_id"])


async def test_two_clients_can_use_the_same_key_for_different_requests(api: Api) -> None:
    await api.give("user:ada", 10)
    first, second = [await api.as_role_service(name) for name in ("first", "second")]
    await consumed(first, WORK, "k")

    other = await consumed(second, WORK | {"amount": 3}, "k")
    own = await first.post(CONSUME, json=WORK | {"amount": 3}, headers={"Idempotency-Key": "k"})

    assert (other["replayed"], other["new_balance"]) == (False, 6)
    assert (own.status_code, own.json()["code"]) == (422, "idempotency_key_reused")


async def test_api_keys_of_one_name_share_their_requests(
    api: Api,
) -> None:
    await api.give("user:ada", 10)
    old = await api.as_role_service("grader")
    api._clients.clear()
    new = await api.as_role_service("grader")

    first = await consumed(old, WORK, "k")
    again = await consumed(new, WORK, "k")

    assert old.headers["Authorization"] != new.headers["Authorization"]
    assert (again["replayed"], again["operation_id"]) == (True, first["operation_id"])


async def test_no_error_shows_the_requests_of_another_client(api: Api) -> None:
    rival = await api.as_role_service(f"client-{CANARY}")
    await api.give(f"user:{CANARY}", CANARY_UNITS)
    body = {
        "user_id": CANARY,
        "org_id": f"org-{CANARY}",
        "metric": "cj_comparison",
        "amount": CANARY_UNITS,
        "correlation_id": f"corr-{CANARY}",
    }
    paid = await consumed(rival, body, "k")
    await consumed(rival, body, "of-a-debt")
    operation_id = paid["operation_id"]
    curious = await api.as_role(Role.SERVICE, "curious")
    operator = await api.as_role(Role.OPERATOR, "operator")
    stranger = await api.with_headers({"Authorization": "Bearer ent_" + "x" * 43})
    await consumed(curious, WORK, "k")
    check = {"user_id": "ada", "requirements": {"cj_comparison": 50}}

    answers = {
        "stranger": await stranger.get(f"/v1/entitlements/balance/{CANARY[:2]}"),
        "role": await curious.get("/v1/admin/credits/operations"),
        "reverse": await curious.post(f"/v1/entitlements/operations/{operation_id}/reverse"),
        "key": await curious.post(
            CONSUME, json=WORK | {"amount": 2}, headers={"Idempotency-Key": "k"}
        ),
        "short": await curious.post("/v1/entitlements/check-credits/bulk", json=check),
        "field": await curious.post(CONSUME, json=WORK | {"amount": -1}),
        "debt": await operator.post(f"/v1/admin/credits/debts/{operation_id}/settle", json={}),
        "cursor": await operator.get("/v1/admin/credits/operations?cursor=AAAA"),
        "below": await operator.post(
            "/v1/admin/credits/adjust",
            json={"subject_type": "user", "subject_id": "bo", "amount": -1, "reason": "x"},
        ),
    }

    assert {name: answer.status_code for name, answer in answers.items()} == {
        "stranger": 401,
        "role": 403,
        "reverse": 403,
        "key": 422,
        "short": 402,
        "field": 400,
        "debt": 404,
        "cursor": 400,
        "below": 400,
    }
    for name, answer in answers.items():
        told = f"{answer.headers} {answer.text}"
        assert CANARY not in told, name
        assert str(CANARY_UNITS) not in told, name
        if name not in ("reverse", "debt"):
            assert operation_id not in told, name
