"""Webhooks over HTTP: managed by admins, seen by readers, retried by operators."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest

from entitlements.adapters.sqlite import rows
from entitlements.adapters.sqlite.store import SqliteStore
from entitlements.adapters.sqlite.webhooks import fill
from entitlements.app.access.keys import Role
from entitlements.app.webhooks.endpoints import ENDPOINTS_MAX
from entitlements.ids import uuid7
from entitlements.service.compose import build
from entitlements.settings import load
from tests.app.webhooks.receiver import Receiver, status
from tests.audit import audited
from tests.transports.http.api import Api
from tests.waiting import until_next_id

HOOKS = "/v1/admin/webhooks"


@pytest.fixture
async def local(tmp_path: Path) -> AsyncIterator[Api]:
    """A service that is allowed to send to loopback."""
    settings = load(
        database_url=f"sqlite:///{tmp_path}/entitlements.db",
        webhook_allow_http=True,
        webhook_allow_private=True,
    )
    async with AsyncExitStack() as stack:
        yield Api(await stack.enter_async_context(build(settings)), stack)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as opened:
        yield opened


async def created(api: Api, url: str, **fields: Any) -> tuple[str, str]:
    """Create a webhook; return its id and secret."""
    reply = await api.post(HOOKS, {"url": url, **fields})
    assert reply.status_code == 201, reply.text
    return reply.json()["webhook"]["id"], reply.json()["secret"]


async def publishes(api: Api, event_type: str = "huleedu.test.v1") -> str:
    """Publish an event and attempt every due delivery once; return the event's id."""
    await until_next_id()
    event = uuid7()
    store, now = api.system.engine.store, rows.to_us(api.system.clock())
    assert isinstance(store, SqliteStore)
    await store.db.write(lambda db: fill(db, [(event, event_type, "{}")], now))
    await api.system.deliverer.round()
    await api.system.deliverer.drained()
    return event


async def test_the_secret_is_shown_once(local: Api, receiver: Receiver) -> None:
    reply = await local.post(
        HOOKS,
        {"url": receiver.url, "events": ["huleedu.*"], "description": "Ada's", "reason": "asked"},
    )

    webhook, secret = reply.json()["webhook"], reply.json()["secret"]
    assert secret.startswith("whsec_")
    assert webhook["events"] == ["huleedu.*"]
    assert (webhook["description"], webhook["active"]) == ("Ada's", True)
    for path in (HOOKS, f"{HOOKS}/{webhook['id']}", f"{HOOKS}/{webhook['id']}/deliveries"):
        shown = await local.call("GET", path)
        assert shown.status_code == 200
        assert secret not in shown.text
    [entry] = [
        e for e in await audited(local.system.engine.store, 9) if e.action == "webhook.create"
    ]
    assert entry.reason == "asked"
    assert secret not in str(entry)


async def test_a_ping_is_sent_immediately_and_its_result_returned(
    local: Api, receiver: Receiver
) -> None:
    webhook, secret = await created(local, receiver.url)

    good = await local.call("POST", f"{HOOKS}/{webhook}/test")
    receiver.answer = lambda _: status(500)
    bad = await local.call("POST", f"{HOOKS}/{webhook}/test")

    assert good.json() | {"event_id": "", "correlation_id": ""} == {
        "delivered": True,
        "status": 200,
        "error": None,
        "event_id": "",
        "correlation_id": "",
    }
    assert (bad.json()["delivered"], bad.json()["error"]) == (False, "HTTP 500")
    assert receiver.got[0].fits(secret)
    assert receiver.got[0].event["event_type"] == "huleedu.entitlements.webhook.ping.v1"
    assert len(receiver.got[0].event) == 9
    assert good.json()["event_id"] == receiver.got[0].id


async def test_deliveries_are_paged_and_filtered(local: Api, receiver: Receiver) -> None:
    webhook, _ = await created(local, receiver.url)
    delivered = [await publishes(local) for _ in range(3)]
    receiver.answer = lambda _: status(503)
    waiting = await publishes(local)
    path = f"{HOOKS}/{webhook}/deliveries"

    first = (await local.call("GET", path, params={"limit": 3})).json()
    last = (
        await local.call("GET", path, params={"limit": 3, "cursor": first["next_cursor"]})
    ).json()
    pending = (await local.call("GET", path, params={"state": "pending"})).json()

    listed = [one["event_id"] for one in first["deliveries"] + last["deliveries"]]
    assert listed == [waiting, *reversed(delivered)]
    assert (last["count"], last["next_cursor"]) == (1, None)
    [only] = pending["deliveries"]
    assert (only["event_id"], only["last_status"], only["last_error"]) == (waiting, 503, "HTTP 503")
    assert only["next_at"]
    assert (await local.call("GET", path, params={"cursor": "x"})).status_code == 400


async def test_an_operator_can_retry_a_delivery(local: Api, receiver: Receiver) -> None:
    webhook, _ = await created(local, receiver.url)
    event = await publishes(local)
    operator = await local.as_role(Role.OPERATOR)
    path = f"{HOOKS}/{webhook}/deliveries/{event}/retry"

    reply = await operator.post(path, json={"reason": "lost it"})
    await local.system.deliverer.round()
    await local.system.deliverer.drained()

    assert reply.json()["delivery"]["state"] == "pending"
    assert [message.id for message in receiver.got] == [event, event]
    entry = (await audited(local.system.engine.store, 1))[0]
    assert (entry.action, entry.reason) == ("webhook.retry", "lost it")


async def test_fields_absent_from_an_update_stay(local: Api, receiver: Receiver) -> None:
    webhook, _ = await created(local, receiver.url, description="first", events=["*.grant.*"])

    async def change(**fields: Any) -> dict[str, Any]:
        reply = await local.call("PATCH", f"{HOOKS}/{webhook}", json=fields)
        assert reply.status_code == 200, reply.text
        answer: dict[str, Any] = reply.json()["webhook"]
        return answer

    assert (await change(active=False))["description"] == "first"
    assert (await change(description=None))["description"] is None
    changed = await change(events=["*.usage.*", "*.credit.*"], url=f"{receiver.url}/new")
    assert (changed["events"], changed["url"]) == (
        ["*.usage.*", "*.credit.*"],
        f"{receiver.url}/new",
    )
    assert changed["active"] is False


async def test_a_rotation_reports_how_long_both_secrets_sign(
    local: Api, receiver: Receiver
) -> None:
    webhook, old = await created(local, receiver.url)
    path = f"{HOOKS}/{webhook}/rotate-secret"

    reply = await local.post(path, {})

    assert reply.json()["secret"] != old
    assert reply.json()["webhook"]["rotating_until"]
    for _ in range(2):
        assert (await local.post(path, {})).status_code == 200
    refused = await local.post(path, {})
    assert (refused.status_code, refused.json()["code"]) == (409, "webhook_secrets")
    ended = await local.post(path, {"overlap_seconds": 0})
    assert ended.json()["webhook"]["rotating_until"] is None


async def test_one_url_is_one_webhook(local: Api, receiver: Receiver) -> None:
    webhook, _ = await created(local, receiver.url)
    other, _ = await created(local, f"{receiver.url}/other")

    again = await local.post(HOOKS, {"url": receiver.url})
    moved = await local.call("PATCH", f"{HOOKS}/{other}", json={"url": receiver.url})

    assert [r.json()["code"] for r in (again, moved)] == ["webhook_exists", "webhook_exists"]
    gone = await local.call("DELETE", f"{HOOKS}/{webhook}", params={"reason": "over"})
    assert gone.status_code == 200
    assert (await local.post(HOOKS, {"url": receiver.url})).status_code == 201


async def test_the_number_of_webhooks_is_limited(local: Api, receiver: Receiver) -> None:
    for n in range(ENDPOINTS_MAX):
        await created(local, f"{receiver.url}/{n}")

    refused = await local.post(HOOKS, {"url": receiver.url})

    assert (refused.status_code, refused.json()["code"]) == (409, "webhook_limit")


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://school.example/", "https"),
        ("https://localhost/", "not on the public internet"),
        ("https://127.0.0.1:8083/", "not on the public internet"),
        ("https://[::ffff:10.0.0.1]/", "not on the public internet"),
        ("https://nowhere.invalid/", "its host is unknown"),
        ("https://ada:secret@school.example/", "credentials"),
    ],
)
async def test_a_url_that_must_not_be_reached_is_refused_immediately(
    api: Api, url: str, why: str
) -> None:
    refused = await api.post(HOOKS, {"url": url})

    assert refused.status_code == 400
    [problem] = refused.json()["errors"]
    assert problem["field"] == "url"
    assert why in problem["message"]
    assert (await api.call("GET", HOOKS)).json()["count"] == 0


@pytest.mark.parametrize(
    "fields", [{"events": []}, {"events": ["a b"]}, {"description": "a\u0007"}, {"events": "*"}]
)
async def test_invalid_fields_are_refused(
    local: Api, receiver: Receiver, fields: dict[str, Any]
) -> None:
    refused = await local.post(HOOKS, {"url": receiver.url, **fields})

    assert (refused.status_code, refused.json()["code"]) == (400, "validation_failed")


@pytest.mark.parametrize("name", ["nothing", "01a1feb0-e503-7c21-95ab-0911d03387de"])
async def test_an_unknown_webhook_is_not_found(local: Api, name: str) -> None:
    one = f"{HOOKS}/{name}"
    replies = [
        await local.call("GET", one),
        await local.call("PATCH", one, json={"active": False}),
        await local.call("DELETE", one),
        await local.post(f"{one}/rotate-secret", {}),
        await local.call("POST", f"{one}/test"),
        await local.call("GET", f"{one}/deliveries"),
        await local.post(f"{one}/deliveries/{name}/retry", {}),
    ]

    assert {reply.status_code for reply in replies} == {404}


@pytest.mark.parametrize(
    ("role", "may"),
    [
        (Role.SERVICE, set()),
        (Role.READER, {"list", "deliveries"}),
        (Role.OPERATOR, {"list", "deliveries", "retry"}),
        (Role.ADMIN, {"list", "deliveries", "retry", "test", "rotate", "change", "create"}),
    ],
)
async def test_each_role_has_its_permissions(
    local: Api, receiver: Receiver, role: Role, may: set[str]
) -> None:
    webhook, _ = await created(local, receiver.url)
    event = await publishes(local)
    client, one = await local.as_role(role), f"{HOOKS}/{webhook}"

    async def allowed(method: str, path: str, body: Any = None) -> bool:
        return (await client.request(method, path, json=body)).status_code != httpx2.codes.FORBIDDEN

    did = {
        "list": await allowed("GET", HOOKS) and await allowed("GET", one),
        "deliveries": await allowed("GET", f"{one}/deliveries"),
        "retry": await allowed("POST", f"{one}/deliveries/{event}/retry", {}),
        "test": await allowed("POST", f"{one}/test"),
        "rotate": await allowed("POST", f"{one}/rotate-secret", {}),
        "change": await allowed("PATCH", one, {"active": True}),
        "create": await allowed("POST", HOOKS, {"url": f"{receiver.url}/2"}),
    }
    assert {what for what, was_allowed in did.items() if was_allowed} == may


async def test_metrics_and_health_cover_webhooks(local: Api, receiver: Receiver) -> None:
    await created(local, receiver.url)
    await publishes(local)
    receiver.answer = lambda _: status(500)
    await publishes(local)
    await local.system.deliverer.clean_up()

    metrics = (await local.call("GET", "/metrics")).text
    checks = (await local.call("GET", "/healthz")).json()["checks"]

    assert 'entitlements_webhook_deliveries_total{result="delivered"} 1.0' in metrics
    assert 'entitlements_webhook_deliveries_total{result="retried"} 1.0' in metrics
    assert "entitlements_webhook_deliveries_pending 1.0" in metrics
    assert "entitlements_webhooks_failing 1.0" in metrics
    assert checks["webhooks"]["status"] == "healthy"
