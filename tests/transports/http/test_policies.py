"""Policies over HTTP: checked, applied with immediate effect, listed, compared."""

import asyncio
from typing import Any

import pytest

from entitlements.app.access.keys import Role
from entitlements.app.policy.document import default_policy_text
from tests.audit import audited
from tests.transports.http.api import Api

POLICIES = "/v1/admin/policies"
SHIPPED = default_policy_text().replace("credit_adjustment: 10/hour", "")
"""The policy that the service starts with."""
DEARER = SHIPPED.replace("ai_feedback_generation: 5\n", "ai_feedback_generation: 6\n")


async def applied(api: Api, content: str = DEARER, **more: Any) -> str:
    answer = await api.post(POLICIES, {"content": content} | more)
    assert answer.status_code in (200, 201), answer.text
    version: str = answer.json()["version"]
    return version


async def required(api: Api) -> int:
    """Return the credits required for one feedback."""
    body = {"user_id": "ada", "metric": "ai_feedback_generation"}
    answer = await api.post("/v1/entitlements/check-credits", body)
    credits_: int = answer.json()["required_credits"]
    return credits_


async def test_a_document_is_checked_and_changes_nothing(api: Api) -> None:
    right = await api.post(f"{POLICIES}/check", {"content": DEARER})
    wrong = await api.post(f"{POLICIES}/check", {"content": "costs:\n  essay: -1\nnews: 1\n"})

    assert right.json()["valid"] is True
    assert right.json()["problems"] == []
    assert len(right.json()["version"]) == 64
    assert (wrong.status_code, wrong.json()["valid"], wrong.json()["version"]) == (200, False, None)
    assert [(each["line"], each["path"]) for each in wrong.json()["problems"]] == [
        (2, "costs.essay"),
        (3, "news"),
    ]
    assert (await api.call("GET", POLICIES)).json()["count"] == 1
    assert await required(api) == 5


async def test_an_applied_policy_is_active_once_the_response_arrives(api: Api) -> None:
    answer = await api.post(POLICIES, {"content": DEARER, "reason": "spring"}, x_correlation_id="c")

    assert answer.status_code == 201
    assert answer.json()["changed"] is answer.json()["active"] is True
    assert await required(api) == 6
    entry, *_ = await audited(api.system.engine.store, 10)
    keys = {key.name: key.id for key in await api.system.engine.store.keys.all()}
    assert (entry.action, entry.actor, entry.client) == (
        "policy.activate",
        keys["admin-client"],
        "admin-client",
    )
    assert (entry.reason, entry.correlation_id) == ("spring", "c")
    assert entry.detail == {"version": answer.json()["version"], "source": "api"}


async def test_applying_an_active_or_superseded_policy_changes_nothing(api: Api) -> None:
    version = await applied(api)

    again = await api.post(POLICIES, {"content": DEARER})
    back = await api.post(POLICIES, {"content": SHIPPED})
    changed = await api.post(POLICIES, {"content": SHIPPED + "# again\n"})

    assert (again.status_code, again.json()["changed"], again.json()["version"]) == (
        200,
        False,
        version,
    )
    assert (back.status_code, back.json()["code"]) == (409, "policy_superseded")
    assert "a comment suffices" in back.json()["detail"]
    assert changed.status_code == 201
    assert await required(api) == 5
    assert len(await audited(api.system.engine.store, 10)) == 4  # three activations, one new key


async def test_an_invalid_document_is_refused_with_line_numbers(api: Api) -> None:
    answer = await api.post(POLICIES, {"content": "costs:\n  essay: -1\n"})

    assert (answer.status_code, answer.json()["code"]) == (400, "validation_failed")
    assert answer.json()["detail"].startswith("content:2: costs.essay")
    (error,) = answer.json()["errors"]
    assert error["field"] == "content"
    assert error["message"].startswith("line 2: costs.essay: must be a whole number")
    assert await required(api) == 5


async def test_history_is_paged_newest_first(api: Api) -> None:
    versions = [await applied(api, f"costs: {{essay: {n}}}") for n in range(4)]

    first = (await api.call("GET", POLICIES, params={"limit": 3})).json()
    page = {"limit": 3, "before": first["next_before"]}
    second = (await api.call("GET", POLICIES, params=page)).json()

    assert [each["version"] for each in first["policies"]] == versions[:0:-1]
    assert [each["active"] for each in first["policies"]] == [True, False, False]
    assert second["policies"][0]["version"] == versions[0]
    assert (second["count"], second["next_before"]) == (2, None)


async def test_a_version_is_shown_by_its_first_digits(api: Api) -> None:
    version = await applied(api)

    active = (await api.call("GET", f"{POLICIES}/active")).json()
    named = (await api.call("GET", f"{POLICIES}/{version[:12]}")).json()
    missing = await api.call("GET", f"{POLICIES}/{'f' * 63}g")

    assert active["content"] == DEARER
    assert active["version"] == version
    assert {**active, "correlation_id": ""} == {**named, "correlation_id": ""}
    assert (missing.status_code, missing.json()["code"]) == (404, "not_found")


async def test_a_difference_lists_changed_rules(api: Api) -> None:
    nothing_before = await api.call("GET", f"{POLICIES}/diff")
    (shipped,) = (await api.call("GET", POLICIES)).json()["policies"]
    version = await applied(api)

    usual = (await api.call("GET", f"{POLICIES}/diff")).json()
    back = (await api.call("GET", f"{POLICIES}/diff?from=active&to={shipped['version']}")).json()

    assert nothing_before.status_code == 404
    assert (usual["from"], usual["to"]) == (shipped["version"], version)
    change = {"path": "costs.ai_feedback_generation", "before": "5", "after": "6"}
    assert usual["changes"] == [change]
    assert back["changes"] == [change | {"before": "6", "after": "5"}]


async def test_an_ambiguous_version_prefix_is_not_found(api: Api) -> None:
    seen: dict[str, str] = {}
    for n in range(17):  # two of 17 hashes have the same first digit
        version = await applied(api, f"costs: {{essay: {n}}}")
        if version[0] in seen:
            answer = await api.call("GET", f"{POLICIES}/{version[0]}")
            assert answer.status_code == 404
            assert "more than one" in answer.json()["detail"]
            return
        seen[version[0]] = version
    pytest.fail("17 hashes have 17 different first digits")


async def test_a_long_document_fits_and_a_longer_one_is_refused(api: Api) -> None:
    metrics = "".join(f"  metric-{n}: {n}\n" for n in range(1_000))
    assert len(await applied(api, "costs:\n" + metrics)) == 64

    too_long = await api.post(POLICIES, {"content": "#" * 1_000_001 + "\n" + SHIPPED})
    assert too_long.status_code == 400


async def test_while_the_policy_cannot_be_read_nothing_is_decided(api: Api) -> None:
    store = api.system.engine.store
    entry = api.act().entry("policy.activate", {})
    await store.policies.activate("2" * 64, "news: of a later program", entry)

    consumption = {"user_id": "ada", "metric": "spellcheck", "amount": 1, "correlation_id": "c"}
    consumed = await api.post("/v1/entitlements/consume-credits", consumption)
    check = {"user_id": "ada", "metric": "spellcheck"}
    checked = await api.post("/v1/entitlements/check-credits", check)
    health = await api.call("GET", "/healthz")

    for answer in (consumed, checked):
        assert (answer.status_code, answer.json()["code"]) == (503, "policy_unusable")
        assert "news: unknown key" in answer.json()["detail"]
    assert (health.status_code, health.json()["checks"]["policy"]["status"]) == (200, "warning")
    assert "news" not in health.text
    reader = await api.as_role(Role.READER)
    problems = (await reader.get(f"{POLICIES}/active")).json()["problems"]
    assert "news: unknown key" in problems["database"]

    await applied(api)
    assert await required(api) == 6
    consumed = await api.post("/v1/entitlements/consume-credits", consumption)
    assert consumed.json()["success"] is True


async def test_of_two_concurrent_activations_the_later_is_active(api: Api) -> None:
    texts = [f"costs: {{ai_feedback_generation: {n}}}" for n in (8, 9)]
    versions = await asyncio.gather(*(applied(api, text) for text in texts))

    active = (await api.call("GET", f"{POLICIES}/active")).json()
    assert active["version"] in versions
    assert await required(api) == 8 + versions.index(active["version"])


async def test_a_reader_can_check_but_not_apply(api: Api) -> None:
    reader = await api.as_role(Role.READER)

    assert (await reader.post(POLICIES, json={"content": DEARER})).status_code == 403
    assert (await reader.post(f"{POLICIES}/check", json={"content": DEARER})).status_code == 200
    assert await required(api) == 5
