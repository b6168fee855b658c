"""Commands on the outbox."""

from typing import Annotated, Any

from cyclopts import Parameter

from entitlements.app.outbox.store import ParkedEvent
from entitlements.ids import is_uuid
from entitlements.transports.cli.asking import Actor, Reason, act_of
from entitlements.transports.cli.ledger import Injected
from entitlements.transports.cli.output import (
    AsJson,
    Database,
    Failed,
    Limit,
    Misused,
    say,
    show_json,
    show_table,
    shown_time,
)


async def status(*, program: Injected, database: Database = None, json: AsJson = False) -> None:
    """Show how many events wait or are parked, and which relays publish them."""
    async with program.store(database) as store:
        backlog = await store.outbox.backlog()
        lines = await store.outbox.leases()
    counts: dict[tuple[str | None, str | None], int] = {}
    for line in lines:
        counts[line.holder, line.sink] = counts.get((line.holder, line.sink), 0) + 1
    if json:
        relays = [
            {"relay": holder, "sink": sink, "buckets": count}
            for (holder, sink), count in counts.items()
        ]
        show_json(
            {
                "waiting": backlog.events,
                "oldest_at": backlog.oldest_at,
                "parked": backlog.parked,
                "relays": relays,
            }
        )
        return
    since = f", since {shown_time(backlog.oldest_at)}" if backlog.oldest_at else ""
    say(f"{backlog.events} events wait{since}; {backlog.parked} are parked")
    rows = [(holder or "nobody", sink, count) for (holder, sink), count in counts.items()]
    show_table(("relay", "sink", "buckets"), rows, empty="")


async def parked(
    *, program: Injected, limit: Limit = 100, database: Database = None, json: AsJson = False
) -> None:
    """List parked events, the longest parked first."""
    async with program.store(database) as store:
        rows = [_row(event) for event in await store.outbox.parked(limit)]
    if json:
        show_json(rows)
        return
    shown = ("event_id", "event_type", "subject", "seq", "attempts", "parked_at", "reason")
    show_table(shown, [[row[name] for name in shown] for row in rows], empty="no parked events")


async def retry(
    event_id: str | None = None,
    *,
    actor: Actor,
    program: Injected,
    everything: Annotated[bool, Parameter(negative="")] = False,
    reason: Reason = None,
    database: Database = None,
    json: AsJson = False,
) -> None:
    """Retry a parked event, or all of them."""
    if (event_id is None) != everything:
        raise Misused("give one EVENT_ID, or --everything")
    async with program.store(database) as store:
        audit = act_of(actor, reason).entry(
            "outbox.retry", {"event_id": event_id} if event_id else {}
        )
        is_one = event_id is None or is_uuid(event_id)
        retried = await store.outbox.retry(event_id, audit) if is_one else 0
    if event_id is not None and not retried:
        raise Failed(f"no event {event_id} is parked")
    if json:
        show_json({"changed": retried})
    else:
        say(f"{retried} events will be retried")


async def hand_over(
    *,
    actor: Actor,
    program: Injected,
    reason: Reason = None,
    database: Database = None,
    json: AsJson = False,
) -> None:
    """Let processes without Kafka publish the events that Kafka relays published before."""
    async with program.store(database) as store:
        changed = await store.outbox.release_sink(
            act_of(actor, reason).entry("outbox.hand_over", {})
        )
    if json:
        show_json({"changed": changed})
    else:
        say(f"{changed} of 64 buckets released: processes without Kafka can publish them now")


def _row(event: ParkedEvent) -> dict[str, Any]:
    return {
        "event_id": event.event_id,
        "event_type": event.event_type,
        "subject": f"{event.wallet.subject}/{event.wallet.credit_type}",
        "seq": event.seq,
        "attempts": event.attempts,
        "created_at": event.created_at.isoformat(),
        "parked_at": event.parked_at.isoformat(),
        "reason": event.reason,
    }
