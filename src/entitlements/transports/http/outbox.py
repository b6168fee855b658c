"""Routes for the outbox: waiting events, parked events and their retries."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from entitlements.app.access.keys import Role
from entitlements.app.operations import acts
from entitlements.app.operations.cursors import cursor_text, read_cursor
from entitlements.app.outbox.store import LeaseLine, ParkedCursor, ParkedEvent, ReceiptOf
from entitlements.app.ports import Cursor
from entitlements.contracts import http
from entitlements.core.model import Receipt
from entitlements.ids import is_uuid
from entitlements.transports.http.problems import ProblemResponse
from entitlements.transports.http.request import HttpRequest, Reply, replay_headers
from entitlements.transports.http.routes import Content, Handler, Route, roles


async def outbox_state(request: HttpRequest, _: None) -> Reply:
    store = request.engine.store
    backlog = await store.outbox.backlog()
    return Reply(
        http.OutboxResponse(
            waiting=backlog.events,
            oldest_at=backlog.oldest_at,
            parked=backlog.parked,
            relays=relays(await store.outbox.leases()),
            correlation_id=request.correlation_id,
        )
    )


def relays(lines: list[LeaseLine]) -> list[http.OutboxRelay]:
    """Return the relays with their numbers of buckets, in the order of their first buckets."""
    found: dict[tuple[str | None, str | None], list[LeaseLine]] = {}
    for line in lines:
        found.setdefault((line.holder, line.sink), []).append(line)
    return [
        http.OutboxRelay(relay=holder, sink=sink, buckets=len(held), expires_at=held[0].expires_at)
        for (holder, sink), held in found.items()
    ]


async def parked_events(request: HttpRequest, _: None) -> Reply:
    wanted = request.query(http.ParkedQuery)
    place = read_cursor(wanted.cursor)
    after = ParkedCursor(place.created_at, place.id) if place is not None else None
    found = await request.engine.store.outbox.parked(wanted.limit + 1, after)
    shown = found[: wanted.limit]
    end = Cursor(shown[-1].parked_at, shown[-1].event_id) if len(found) > wanted.limit else None
    return Reply(
        http.ParkedResponse(
            events=[item(event) for event in shown],
            count=len(shown),
            next_cursor=cursor_text(end),
            correlation_id=request.correlation_id,
        )
    )


def item(event: ParkedEvent) -> http.ParkedItem:
    return http.ParkedItem(
        event_id=event.event_id,
        event_type=event.event_type,
        subject_type=event.wallet.subject_type,
        subject_id=event.wallet.subject_id,
        credit_type=event.wallet.credit_type,
        seq=event.seq,
        reason=event.reason,
        attempts=event.attempts,
        created_at=event.created_at,
        parked_at=event.parked_at,
    )


async def retry_event(request: HttpRequest, body: http.OutboxRequest) -> Reply:
    event_id = request.params["event_id"]
    audit = request.act(body.reason).entry("outbox.retry", {"event_id": event_id})

    async def retry(receipt: ReceiptOf) -> int:
        def of_one(changed: int) -> Receipt | None:
            return receipt(changed) if changed else None

        retried = is_uuid(event_id) and await request.engine.store.outbox.retry(
            event_id, audit, of_one
        )
        if not retried:
            raise ProblemResponse("not_found", "no parked event has that id")
        return retried

    return await _changed(request, retry)


async def retry_events(request: HttpRequest, body: http.OutboxRequest) -> Reply:
    audit = request.act(body.reason).entry("outbox.retry", {})
    return await _changed(request, partial(request.engine.store.outbox.retry, None, audit))


async def hand_over_outbox(request: HttpRequest, body: http.OutboxRequest) -> Reply:
    audit = request.act(body.reason).entry("outbox.hand_over", {})
    return await _changed(request, partial(request.engine.store.outbox.release_sink, audit))


async def _changed(request: HttpRequest, act: Callable[[ReceiptOf], Awaitable[int]]) -> Reply:
    def response(changed: int) -> http.OutboxChanged:
        return http.OutboxChanged(
            success=True, changed=changed, correlation_id=request.correlation_id
        )

    async def change(receipt: acts.ReceiptOf[http.OutboxChanged]) -> http.OutboxChanged:
        return response(await act(lambda changed: receipt(response(changed))))

    changed = await acts.once(request, http.OutboxChanged, change)
    return Reply(changed, headers=replay_headers(changed))


def _act(path: str, handler: Handler, role: Role, summary: str, *problems: int) -> Route:
    return Route(
        method="POST",
        path=f"/v1/admin/outbox/{path}",
        handler=handler,
        rule=roles(role),
        tag="administration",
        summary=summary,
        request=Content(http.OutboxRequest, {"reason": "the topic takes larger records now"}),
        responses={
            200: Content(
                http.OutboxChanged, {"success": True, "changed": 1, "correlation_id": "support-12"}
            )
        },
        problems=problems,
    )


ROUTES: Final = (
    Route(
        method="GET",
        path="/v1/admin/outbox",
        handler=outbox_state,
        rule=roles(Role.READER, Role.OPERATOR),
        tag="administration",
        summary="Get the outbox backlog and its relays.",
        responses={
            200: Content(
                http.OutboxResponse,
                {
                    "waiting": 12,
                    "oldest_at": "2026-09-01T08:00:00Z",
                    "parked": 1,
                    "relays": [
                        {
                            "relay": "entitlements-1",
                            "sink": "kafka",
                            "buckets": 64,
                            "expires_at": "2026-09-01T08:00:30Z",
                        }
                    ],
                    "correlation_id": "support-12",
                },
            )
        },
    ),
    Route(
        method="GET",
        path="/v1/admin/outbox/parked",
        handler=parked_events,
        rule=roles(Role.READER, Role.OPERATOR),
        tag="administration",
        summary="List parked events, the earliest parked first.",
        query=http.ParkedQuery,
        responses={
            200: Content(
                http.ParkedResponse,
                {
                    "events": [
                        {
                            "event_id": "0198c1f2-8a52-7c1e-9d5e-2f6a4c1b7e90",
                            "event_type": "huleedu.entitlements.credit.balance.changed.v1",
                            "subject_type": "org",
                            "subject_id": "school-1",
                            "credit_type": "credits",
                            "seq": 2,
                            "reason": "MSG_SIZE_TOO_LARGE",
                            "attempts": 1,
                            "created_at": "2026-09-01T08:00:00Z",
                            "parked_at": "2026-09-01T08:00:01Z",
                        }
                    ],
                    "count": 1,
                    "next_cursor": None,
                    "correlation_id": "support-12",
                },
            )
        },
    ),
    _act("retry", retry_events, Role.OPERATOR, "Retry all parked events."),
    _act("{event_id}/retry", retry_event, Role.OPERATOR, "Retry a parked event.", 404),
    _act(
        "hand-over",
        hand_over_outbox,
        Role.ADMIN,
        "Let processes without Kafka publish events that went to Kafka before.",
    ),
)
