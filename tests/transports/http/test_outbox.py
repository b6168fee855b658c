"""The outbox as operators see and manage it."""

from typing import Any

from entitlements.app.access.keys import Role
from entitlements.app.engine import _keep_up
from entitlements.app.outbox.store import BUCKETS, Event, Unpublishable
from entitlements.ids import uuid7
from tests.audit import audited
from tests.transports.http.api import Api


async def events(api: Api) -> list[Event]:
    return await api.system.engine.store.outbox.unpublished(range(BUCKETS), each=100, at_most=100)


async def park_all(api: Api) -> list[Event]:
    outbox = api.system.engine.store.outbox
    found = await events(api)
    epochs = (await outbox.heartbeat("a", sink="kafka", lease_s=30)).epochs
    refused = [Unpublishable(event=event, reason="too large", attempts=2) for event in found]
    await outbox.mark_published("a", epochs, [], refused, keep=True)
    return found


async def get(api: Api, path: str, **query: Any) -> dict[str, Any]:
    answer = await api.call("GET", f"/v1/admin/outbox{path}", params=query)
    assert answer.status_code == 200
    body: dict[str, Any] = answer.json()
    return body


async def test_the_state_shows_waiting_events_and_relays(api: Api) -> None:
    await api.announce("ada")
    before = await get(api, "")
    await api.system.engine.store.outbox.heartbeat("a", sink="kafka", lease_s=30)

    after = await get(api, "")

    assert (before["waiting"], before["parked"]) == (1, 0)
    assert before["oldest_at"] is not None
    assert before["relays"] == [{"relay": None, "sink": None, "buckets": 64, "expires_at": None}]
    (line,) = after["relays"]
    assert (line["relay"], line["sink"], line["buckets"]) == ("a", "kafka", 64)


async def test_parked_events_are_paged(api: Api) -> None:
    for user in ("ada", "bo", "cy"):
        await api.announce(user)
    found = await park_all(api)

    first = await get(api, "/parked", limit=2)
    second = await get(api, "/parked", limit=2, cursor=first["next_cursor"])

    listed = first["events"] + second["events"]
    assert {one["event_id"] for one in listed} == {event.event_id for event in found}
    assert {(one["reason"], one["attempts"], one["seq"]) for one in listed} == {("too large", 2, 1)}
    assert second["next_cursor"] is None


async def test_metrics_show_waiting_and_parked_events(api: Api) -> None:
    await api.announce("ada")
    await park_all(api)
    await api.announce("bo")

    await _keep_up(api.system.engine)

    text = (await api.call("GET", "/metrics")).text
    assert "\nentitlements_outbox_depth 1.0\n" in text
    assert "\nentitlements_outbox_parked 1.0\n" in text


async def test_retrying_a_parked_event_is_audited(api: Api) -> None:
    await api.announce("ada")
    await api.announce("bo")
    one, other = await park_all(api)

    answer = await api.post(f"/v1/admin/outbox/{one.event_id}/retry", {"reason": "fixed"})
    again = await api.post(f"/v1/admin/outbox/{one.event_id}/retry", {})

    assert (answer.status_code, answer.json()["changed"]) == (200, 1)
    assert (again.status_code, again.json()["code"]) == (404, "not_found")
    assert await events(api) == [one]
    entry = (await audited(api.system.engine.store, 1))[0]
    assert (entry.action, entry.reason, entry.client) == ("outbox.retry", "fixed", "admin-client")
    assert entry.detail == {"event_id": one.event_id}
    everything = await api.post("/v1/admin/outbox/retry", {})
    assert everything.json()["changed"] == 1
    assert {event.event_id for event in await events(api)} == {one.event_id, other.event_id}


async def test_only_parked_events_can_be_retried(api: Api) -> None:
    await api.announce("ada")
    (waiting,) = await events(api)

    for event_id in (uuid7(), "nothing", waiting.event_id, uuid7().upper()):
        answer = await api.post(f"/v1/admin/outbox/{event_id}/retry", {})
        assert answer.status_code == 404
    assert (await api.post("/v1/admin/outbox/retry", {})).json()["changed"] == 0


async def test_only_admins_can_hand_the_outbox_over(api: Api) -> None:
    await park_all(api)
    operator = await api.as_role(Role.OPERATOR)

    refused = await operator.post("/v1/admin/outbox/hand-over", json={})
    done = await api.post("/v1/admin/outbox/hand-over", {"reason": "no Kafka any more"})

    assert refused.status_code == 403
    assert done.json()["changed"] == 64
