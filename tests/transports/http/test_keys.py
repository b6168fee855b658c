"""Idempotency keys of acts outside the ledger, and routes that accept no key."""

import asyncio
from typing import Any

import pytest

from entitlements.app.ports import StoreUnavailable
from entitlements.contracts.verbs import Keying
from entitlements.transports.http.app import ROUTES
from tests.audit import audited
from tests.transports.http.api import Api
from tests.transports.http.test_events import LETTERS, come, listed
from tests.transports.http.test_outbox import park_all

BROKEN = ("resource.consumption.v1", b"{")
RESET = "/v1/admin/credits/reset-rate-limit"


async def parked_events(api: Api) -> str:
    await api.announce("ada")
    (event,) = await park_all(api)
    return event.event_id


async def dead_letter(api: Api) -> str:
    await come(api, BROKEN)
    (letter,) = await listed(api, LETTERS, "dead_letters")
    return str(letter["id"])


async def path_of(api: Api, act: str) -> str:
    match act:
        case "reset":
            return RESET
        case "retry one":
            return f"/v1/admin/outbox/{await parked_events(api)}/retry"
        case "retry all":
            await parked_events(api)
            return "/v1/admin/outbox/retry"
        case "hand over":
            await parked_events(api)
            return "/v1/admin/outbox/hand-over"
        case _:
            return f"{LETTERS}/{await dead_letter(api)}/{act}"


ACTS = ("reset", "retry one", "retry all", "hand over", "replay", "drop")
BODY = {"subject_id": "ada", "metric": "batch_create", "reason": "a test"}


async def acts_on_record(api: Api) -> int:
    actions = [entry.action for entry in await audited(api.system.engine.store)]
    return sum(action.startswith(("rate_limit", "outbox", "dead_letter")) for action in actions)


@pytest.mark.parametrize("act", ACTS)
async def test_an_act_with_a_key_is_done_once(api: Api, act: str) -> None:
    path = await path_of(api, act)

    first = await api.post(path, BODY, Idempotency_Key="k")
    again = await api.post(path, BODY, Idempotency_Key="k")
    other = await api.post(path, BODY | {"reason": "another"}, Idempotency_Key="k")

    assert (first.status_code, again.status_code) == (200, 200)
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    varying = {"correlation_id", "replayed"}
    assert _without(again.json(), varying) == _without(first.json(), varying)
    assert again.json()["correlation_id"] == again.headers["x-correlation-id"]
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    assert await acts_on_record(api) == 1


async def test_concurrent_requests_with_one_key_get_the_same_response(api: Api) -> None:
    path = await path_of(api, "retry one")

    answers = await asyncio.gather(
        *(api.post(path, {}, Idempotency_Key="k") for _ in range(5)),
    )

    assert {(one.status_code, one.json()["changed"]) for one in answers} == {(200, 1)}
    assert await acts_on_record(api) == 1


async def test_an_interrupted_reset_is_repeated(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    async def lost(*_: object) -> Any:
        raise StoreUnavailable("lost")

    with monkeypatch.context() as outage:
        outage.setattr(api.system.engine.store.acts, "add_receipt", lost)
        cut_off = await api.post(RESET, BODY, Idempotency_Key="k")

    again = await api.post(RESET, BODY, Idempotency_Key="k")

    assert (cut_off.status_code, again.status_code) == (503, 200)
    assert "idempotency-replayed" not in again.headers


async def test_routes_that_store_no_receipts_refuse_a_key(api: Api) -> None:
    refusing = [route for route in ROUTES if route.keying is Keying.REFUSED]
    for route in refusing:
        answer = await api.post(route.path, {}, Idempotency_Key="k")

        assert answer.status_code == 400, route.path
        assert answer.json()["code"] == "idempotency_key_not_supported"
    assert {route.tag for route in refusing} == {"policies", "webhooks"}


async def test_a_read_only_route_ignores_even_an_invalid_key(api: Api) -> None:
    work = {"user_id": "ada", "metric": "spellcheck", "amount": 1}

    answer = await api.post("/v1/entitlements/check-credits", work, Idempotency_Key=" " * 300)

    assert answer.status_code == 200


def _without(answer: dict[str, Any], names: set[str]) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name not in names}
