"""Entitlements over HTTP: statuses, headers and paths that a client does not show."""

from __future__ import annotations

from typing import Any

from entitlements.app.access.keys import Role
from tests.audit import audited
from tests.transports.http.api import Api

GRANT = "/api/v1/entitlements/grant"
FEATURE: dict[str, Any] = {
    "user_id": 123,
    "entitlement_type": "feature_unlock",
    "feature": "export/pdf",
    "grant_reason": "promotion",
}
TOKENS: dict[str, Any] = {
    "user_id": 123,
    "entitlement_type": "credit_grant",
    "credit_type": "ai_tokens",
    "quantity_granted": 10,
    "grant_reason": "promotion",
}


async def test_a_grant_is_201_also_when_it_is_repeated(api: Api) -> None:
    first = await api.post(GRANT, FEATURE, Idempotency_Key="k")
    again = await api.post(GRANT, FEATURE, Idempotency_Key="k")
    other = await api.post(GRANT, FEATURE | {"feature": "import"}, Idempotency_Key="k")

    assert (first.status_code, again.status_code, other.status_code) == (201, 201, 422)
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert again.json() | {"replayed": False} == first.json() | {
        "correlation_id": again.json()["correlation_id"]
    }
    assert (first.json()["user_id"], first.json()["feature"]) == ("123", "export/pdf")


async def test_a_misspelt_quantity_is_refused_and_not_unlimited(api: Api) -> None:
    misspelt: dict[str, Any] = {**TOKENS, "quantity": TOKENS["quantity_granted"]}
    del misspelt["quantity_granted"]

    answer = await api.post(GRANT, misspelt)

    assert answer.status_code == 400
    assert "`quantity`" in answer.json()["detail"]
    assert await api.balance("123") == (0, None)


async def test_metadata_has_two_names(api: Api) -> None:
    seats: dict[str, Any] = {"entitlement_metadata": {"seats": 5}}
    named = await api.post(GRANT, FEATURE | seats)
    both = await api.post(GRANT, FEATURE | seats | {"metadata": {"seats": 5}})
    differing = await api.post(GRANT, FEATURE | seats | {"metadata": {"seats": 6}})

    assert named.json()["metadata"] == both.json()["metadata"] == {"seats": 5}
    assert differing.status_code == 400
    assert [one["field"] for one in differing.json()["errors"]] == ["entitlement_metadata"]


async def test_a_feature_is_checked_by_its_path(api: Api) -> None:
    await api.post(GRANT, FEATURE)

    path = "/v1/entitlements/features/export%2Fpdf"
    found = await api.call("GET", path, params={"user_id": "123"})
    missing = await api.call("GET", "/v1/entitlements/features/x", params={"user_id": "123"})
    nobody = await api.call("GET", path)
    unknown = await api.call("GET", path, params={"user_id": "123", "tier": "pro"})

    assert (found.status_code, found.json()["has_access"]) == (200, True)
    assert (missing.status_code, missing.json()["has_access"]) == (200, False)
    assert (nobody.status_code, unknown.status_code) == (400, 400)


async def test_too_little_is_402_with_what_is_there(api: Api) -> None:
    await api.post(GRANT, TOKENS)
    asked = {
        "user_id": 123,
        "entitlement_type": "credit_grant",
        "credit_type": "ai_tokens",
        "quantity_to_consume": 11,
    }

    answer = await api.post("/v1/entitlements/consume", asked)
    paid = await api.post("/v1/entitlements/consume", asked | {"quantity_to_consume": 10})

    assert answer.status_code == 402
    assert answer.headers["content-type"].startswith("application/problem+json")
    assert answer.json()["code"] == "insufficient_credits"
    assert answer.json()["data"] == {"required": 11, "available": 10}
    assert (paid.status_code, paid.json()["remaining"]) == (200, 0)


async def test_a_grant_is_shown_and_revoked_by_its_id_and_by_no_other(api: Api) -> None:
    grant_id = (await api.post(GRANT, TOKENS)).json()["id"]
    path = f"/api/v1/entitlements/{grant_id}"

    shown = await api.call("GET", path)
    revoked = await api.call("DELETE", path, params={"reason": "cancelled"})
    again = await api.call("DELETE", path, params={"reason": "something else"})
    unknown = [
        await api.call(method, f"/api/v1/entitlements/{name}")
        for method in ("GET", "DELETE")
        for name in ("123", "x", grant_id[:-1])
    ]
    wrong = await api.call("PATCH", path)

    assert (shown.status_code, shown.json()["status"]) == (200, "active")
    assert (revoked.status_code, revoked.json()["revoke_reason"]) == (200, "cancelled")
    assert again.json() == revoked.json()
    assert {one.status_code for one in unknown} == {404}
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "DELETE, GET, HEAD")


async def test_grants_and_revocations_are_audited(api: Api) -> None:
    operator = await api.as_role(Role.OPERATOR)
    made = (await operator.post(GRANT, json=TOKENS)).json()
    await operator.delete(f"/api/v1/entitlements/{made['id']}", params={"reason": "refund"})

    revoke, grant = (await audited(api.system.engine.store))[:2]
    assert (grant.action, str(grant.subject), grant.detail) == (
        "grant",
        "user:123",
        {"entitlement_type": "credit_grant", "quantity": 10},
    )
    assert (revoke.action, revoke.reason) == ("grant.revoke", "refund")
    assert revoke.detail == {"grant_id": made["id"]}
    assert made["granted_by"] == grant.actor


async def test_a_users_grants_and_summary_have_their_own_paths(api: Api) -> None:
    await api.post(GRANT, FEATURE)
    await api.post(GRANT, TOKENS)
    base = "/api/v1/entitlements/users/123"

    listed = await api.call("GET", base, params={"entitlement_type": "credit_grant"})
    summary = await api.call("GET", f"{base}/summary")
    same = await api.call("GET", "/v1/admin/entitlements/user/123/summary")
    neither = await api.call("GET", "/v1/admin/entitlements/team/123/summary")

    assert [one["credit_type"] for one in listed.json()["entitlements"]] == ["ai_tokens"]
    assert summary.json()["features"] == ["export/pdf"]
    assert summary.json() == same.json()
    assert (neither.status_code, neither.json()["errors"][0]["field"]) == (400, "subject_type")
