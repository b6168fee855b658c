"""Permissions of each role, and the forms of credentials."""

import asyncio
import re
from time import monotonic

import pytest

from entitlements.app.access.keys import LOOKS_AT_ONCE, TRUST_S, Role, revoke_key
from entitlements.app.ports import ApiKey
from entitlements.transports.http.app import ROUTES
from entitlements.transports.http.routes import Open
from tests.audit import audited
from tests.transports.http.api import Api
from tests.waiting import PATIENCE_S

# service, reader, operator; the admin has all permissions.
MATRIX = {
    "POST /v1/entitlements/check-credits": "s-o",
    "POST /v1/entitlements/check-credits/bulk": "s-o",
    "POST /v1/entitlements/consume-credits": "s--",
    "POST /v1/entitlements/consume-credits/bulk": "s--",
    "POST /v1/entitlements/operations/{operation_id}/reverse": "--o",
    "POST /v1/entitlements/holds": "s--",
    "GET /v1/entitlements/holds/{hold_id}": "sro",
    "POST /v1/entitlements/holds/{hold_id}/settle": "s--",
    "POST /v1/entitlements/holds/{hold_id}/extend": "s--",
    "POST /v1/entitlements/holds/{hold_id}/release": "s-o",
    "GET /v1/admin/holds": "-ro",
    "GET /v1/entitlements/balance/{user_id}": "sro",
    "POST /v1/admin/accounts": "--o",
    "POST /v1/admin/accounts/bulk": "--o",
    "POST /v1/admin/credits/adjust": "--o",
    "POST /v1/admin/credits/adjust/bulk": "--o",
    "POST /v1/admin/credits/set": "--o",
    "POST /v1/admin/credits/set/bulk": "--o",
    "GET /v1/admin/credits/operations": "-ro",
    "GET /v1/admin/credits/operations/{operation_id}": "-ro",
    "GET /v1/admin/credits/debts": "-ro",
    "POST /v1/admin/credits/debts/{operation_id}/settle": "--o",
    "POST /v1/admin/credits/debts/{operation_id}/write-off": "--o",
    "POST /v1/admin/credits/debts/{operation_id}/price": "--o",
    "POST /api/v1/entitlements/grant": "--o",
    "GET /api/v1/entitlements/users/{user_id}": "-ro",
    "GET /api/v1/entitlements/users/{user_id}/summary": "-ro",
    "GET /api/v1/entitlements/{entitlement_id}": "-ro",
    "DELETE /api/v1/entitlements/{entitlement_id}": "--o",
    "GET /v1/admin/entitlements": "-ro",
    "POST /v1/admin/entitlements/revoke": "--o",
    "GET /v1/admin/entitlements/{subject_type}/{subject_id}/summary": "-ro",
    "GET /v1/admin/credits/imported-operations": "-ro",
    "GET /v1/admin/orgs/{org_id}/members": "-ro",
    "GET /v1/admin/orgs/{org_id}/members/{user_id}": "-ro",
    "PUT /v1/admin/orgs/{org_id}/members/{user_id}": "--o",
    "DELETE /v1/admin/orgs/{org_id}/members/{user_id}": "--o",
    "POST /v1/admin/subscriptions": "--o",
    "GET /v1/admin/subscriptions": "-ro",
    "GET /v1/admin/subscriptions/{subscription_id}": "-ro",
    "POST /v1/admin/subscriptions/{subscription_id}/change": "--o",
    "POST /v1/admin/subscriptions/{subscription_id}/cancel": "--o",
    "POST /v1/admin/subscriptions/{subscription_id}/past-due": "--o",
    "POST /v1/admin/subscriptions/{subscription_id}/expire": "--o",
    "GET /v1/admin/lifecycle-calls": "-ro",
    "POST /v1/entitlements/check": "s-o",
    "POST /v1/entitlements/check/bulk": "s-o",
    "GET /v1/entitlements/features/{feature}": "s-o",
    "POST /v1/entitlements/consume": "s--",
    "GET /v1/admin/audit": "-ro",
    "GET /v1/admin/rate-limits/{subject_id}": "-ro",
    "POST /v1/admin/credits/reset-rate-limit": "--o",
    "GET /v1/admin/outbox": "-ro",
    "GET /v1/admin/outbox/parked": "-ro",
    "POST /v1/admin/outbox/retry": "--o",
    "POST /v1/admin/outbox/{event_id}/retry": "--o",
    "POST /v1/admin/outbox/hand-over": "---",
    "POST /v1/admin/policies/check": "-ro",
    "POST /v1/admin/policies": "---",
    "GET /v1/admin/policies": "-ro",
    "GET /v1/admin/policies/diff": "-ro",
    "GET /v1/admin/policies/{version}": "-ro",
    "POST /v1/admin/webhooks": "---",
    "GET /v1/admin/webhooks": "-ro",
    "GET /v1/admin/webhooks/{webhook_id}": "-ro",
    "PATCH /v1/admin/webhooks/{webhook_id}": "---",
    "DELETE /v1/admin/webhooks/{webhook_id}": "---",
    "POST /v1/admin/webhooks/{webhook_id}/rotate-secret": "---",
    "POST /v1/admin/webhooks/{webhook_id}/test": "---",
    "GET /v1/admin/webhooks/{webhook_id}/deliveries": "-ro",
    "POST /v1/admin/webhooks/{webhook_id}/deliveries/{event_id}/retry": "--o",
    "GET /v1/admin/consumption-records": "-ro",
    "GET /v1/admin/dead-letters": "-ro",
    "GET /v1/admin/dead-letters/{dead_letter_id}": "--o",
    "POST /v1/admin/dead-letters/{dead_letter_id}/replay": "--o",
    "POST /v1/admin/dead-letters/{dead_letter_id}/drop": "--o",
    "GET /v1/admin/consumer": "-ro",
}
OPEN = {"/healthz", "/livez", "/readyz", "/metrics"}


def test_every_route_is_in_the_matrix_or_explicitly_open() -> None:
    guarded = {f"{r.method} {r.path}" for r in ROUTES if not isinstance(r.rule, Open)}
    opened = {r.path for r in ROUTES if isinstance(r.rule, Open)}

    assert guarded == MATRIX.keys()
    assert opened == OPEN


@pytest.mark.parametrize("operation", MATRIX)
async def test_a_route_admits_only_its_roles(api: Api, operation: str) -> None:
    method, path = re.sub(r"{\w+}", "x", operation).split()
    expected = {
        Role.SERVICE: MATRIX[operation][0] != "-",
        Role.READER: MATRIX[operation][1] != "-",
        Role.OPERATOR: MATRIX[operation][2] != "-",
        Role.ADMIN: True,
    }

    for role, is_let_in in expected.items():
        client = await api.as_role(role)
        answer = await client.request(
            method, path, json={} if method in ("POST", "PATCH") else None
        )

        # A permitted role gets an error about the empty body or the id x instead.
        assert (answer.status_code != 403) == is_let_in, (role, answer.text)
        assert answer.status_code != 401


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Basic YTpi"},
        {"Authorization": "Bearer ent_short"},
        {"Authorization": "Bearer ent_" + "x" * 43},
        {"X-API-Key": "ent_" + "å" * 43},
        {"X-API-Key": "ent_" + "x" * 4300},
    ],
    ids=range(8),
)
async def test_a_request_without_a_valid_key_is_refused(api: Api, headers: dict[str, str]) -> None:
    stranger = await api.with_headers({})
    raw = {name.encode(): value.encode() for name, value in headers.items()}

    answer = await stranger.get("/v1/entitlements/balance/ada", headers=raw)

    assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
    assert answer.headers["www-authenticate"].startswith("Bearer")


async def test_both_headers_carry_a_key(api: Api) -> None:
    secret = (await api.as_role(Role.READER)).headers["Authorization"].removeprefix("Bearer ")
    stranger = await api.with_headers({})

    for headers in ({"X-API-Key": secret}, {"Authorization": f"bearer {secret}"}):
        answer = await stranger.get("/v1/admin/credits/debts", headers=headers)
        assert answer.status_code == 200


async def test_a_revoked_key_is_refused_once_its_cache_entry_expires(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await api.as_role(Role.READER)
    path = "/v1/admin/credits/debts"
    assert (await client.get(path)).status_code == 200
    (key,) = await api.system.engine.store.keys.all()

    assert await revoke_key(api.system.engine.store.keys, key.id, api.act())
    later = monotonic() + TRUST_S
    monkeypatch.setattr("entitlements.app.access.keys.monotonic", lambda: later)

    assert (await client.get(path)).status_code == 401
    assert not await revoke_key(api.system.engine.store.keys, key.id, api.act())


async def test_keys_are_stored_hashed_and_their_creation_is_audited(api: Api) -> None:
    secret = (await api.as_role(Role.READER, "console")).headers["Authorization"].split()[1]

    (key,) = await api.system.engine.store.keys.all()
    entry, start = await audited(api.system.engine.store, 10)

    assert len(secret) == 47
    assert key.prefix == secret[:12]
    assert secret not in repr(key)
    assert (start.action, start.actor) == ("policy.activate", "system")
    assert (entry.action, entry.actor) == ("key.create", "test")
    assert entry.detail == {"key_id": key.id, "name": "console", "role": "reader"}


async def test_the_last_use_of_a_key_is_recorded(api: Api) -> None:
    client = await api.as_role(Role.READER)

    await client.get("/v1/admin/credits/debts")

    async with asyncio.timeout(PATIENCE_S):  # recorded in the background
        while (await api.system.engine.store.keys.all())[0].last_used_at is None:
            await client.get("/v1/admin/credits/debts")


async def test_unknown_keys_use_few_connections_and_concurrent_lookups_of_a_key_are_shared(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = await api.as_role(Role.READER)
    look = api.system.engine.store.keys.find
    looking: list[str] = []
    most, looked = 0, 0

    async def counted(digest: str) -> ApiKey | None:
        nonlocal most, looked
        looking.append(digest)
        most, looked = max(most, len(looking)), looked + 1
        try:
            return await look(digest)
        finally:
            looking.remove(digest)

    monkeypatch.setattr(api.system.engine.store.keys, "find", counted)
    path = "/v1/admin/credits/debts"
    strangers = [{"X-API-Key": f"ent_{n:043}"} for n in range(20)]
    stranger = await api.with_headers({})
    refused = await asyncio.gather(*(stranger.get(path, headers=one) for one in strangers))
    assert {answer.status_code for answer in refused} == {401}
    assert (most, looked) == (LOOKS_AT_ONCE, 20)

    answers = await asyncio.gather(*(known.get(path) for _ in range(20)))
    assert {answer.status_code for answer in answers} == {200}
    assert looked <= 20 + LOOKS_AT_ONCE
