"""Commands on ingested events: dead letters, conflicts, and the consumer group."""

from typing import Any, Literal

import msgspec

from entitlements.app.inbox import dead_letters as letters
from entitlements.app.inbox.dead_letters import LetterClosed
from entitlements.app.inbox.records import DeadLettered
from entitlements.app.inbox.store import DeadLetter, LettersQuery, LetterState, RecordsQuery
from entitlements.app.inbox.store import Reason as Rejection
from entitlements.core.model import ConsumptionRecord
from entitlements.core.reasons import ConsumptionOutcome
from entitlements.transports.cli.asking import Actor, Reason, act_of
from entitlements.transports.cli.ledger import Injected, subject_of
from entitlements.transports.cli.listings import listed
from entitlements.transports.cli.output import (
    AsJson,
    Database,
    Failed,
    LongLimit,
    say,
    show_json,
    show_table,
)
from entitlements.transports.cli.program import LocalSystem

LETTERS = ("id", "died", "place", "reason", "detail", "state")
CONFLICTS = ("recorded", "user", "metric", "units", "job", "event", "operation", "reason")


async def list_letters(
    *,
    program: Injected,
    state: Literal["open", "replayed", "dropped", "all"] = "open",
    topic: str | None = None,
    reason: Literal["malformed", "unpriceable", "failed"] | None = None,
    limit: LongLimit = 100,
    database: Database = None,
    json: AsJson = False,
) -> None:
    """List dead-lettered events, newest first."""
    query = LettersQuery(
        state=None if state == "all" else LetterState(state),
        topic=topic,
        reason=Rejection(reason) if reason is not None else None,
        limit=limit,
    )
    async with program.open(database) as system:
        found = await listed(system.engine.store.inbox.dead_letters, query)
    if json:
        from entitlements.app.operations.events import letter_item

        show_json([letter_item(letter) for letter in found])
        return
    show_table(LETTERS, map(_line, found), empty="no dead letters")


async def show_letter(
    letter: str, *, program: Injected, database: Database = None, json: AsJson = False
) -> None:
    """Show a dead-lettered event with its headers, key and value."""
    async with program.open(database) as system:
        found = await _letter(system, letter)
    if json:
        from entitlements.app.operations.events import letter_shown

        show_json(letter_shown(found, ""))
        return
    show_table(LETTERS, [_line(found)], empty="")
    for name, value in found.headers:
        say(f"{_visible(name)}: {_readable(value)}")
    say(f"key: {_readable(found.key)}")
    say(_readable(found.value))


async def replay(
    letter: str,
    *,
    actor: Actor,
    program: Injected,
    reason: Reason = None,
    database: Database = None,
    json: AsJson = False,
) -> None:
    """Process a dead-lettered event again; exit code 1 if it is rejected again."""
    async with program.open(database, limited=True) as system:
        found = await _letter(system, letter)
        act = act_of(actor, reason)
        engine = system.engine
        try:
            fate = await letters.replay(engine.intake, engine.store, found, act)
        except LetterClosed:
            raise Failed(f"{letter} was replayed or dropped before") from None
    result = letters.result_of(fate)
    if json:
        from entitlements.app.operations.events import replayed

        show_json(replayed(found, fate, act.correlation_id))
    if isinstance(fate, DeadLettered):
        raise Failed(f"{letter} is still {result}: {fate.detail}")
    if not json:
        say(f"{letter}: {result}")


async def drop(
    letter: str,
    *,
    reason: str,
    actor: Actor,
    program: Injected,
    database: Database = None,
    json: AsJson = False,
) -> None:
    """Drop a dead-lettered event.

    Parameters
    ----------
    reason
        The reason, for the audit log.
    """
    async with program.open(database) as system:
        found = await _letter(system, letter)
        act = act_of(actor, reason)
        try:
            await letters.drop(system.engine.store, found, act)
        except LetterClosed:
            raise Failed(f"{letter} was replayed or dropped before") from None
    if json:
        show_json({"dead_letter_id": letter, "state": "dropped"})
        return
    say(f"{letter} is dropped")


async def conflicts(
    *,
    program: Injected,
    user: str | None = None,
    org: str | None = None,
    limit: LongLimit = 100,
    database: Database = None,
    json: AsJson = False,
) -> None:
    """List jobs that were reported with different quantities, newest first; only the first report
    is charged.
    """
    query = RecordsQuery(
        user_id=subject_of(f"user:{user}").id if user is not None else None,
        org_id=subject_of(f"org:{org}").id if org is not None else None,
        result=ConsumptionOutcome.CONFLICT,
        limit=limit,
    )
    async with program.open(database) as system:
        found = await listed(system.engine.store.inbox.use_records, query)
    if json:
        from entitlements.app.operations.events import record_item

        show_json([record_item(record) for record in found])
        return
    show_table(CONFLICTS, map(_conflict, found), empty="no conflicts")


async def consumer_status(*, program: Injected, json: AsJson = False) -> None:
    """Show the consumer group as the broker sees it; exit code 1 if it has no member."""
    group = await program.consumer_group()
    if json:
        show_json(msgspec.to_builtins(group))
    else:
        show_table(
            ("topic", "partition", "position", "behind", "read by"),
            [(p.topic, p.partition, p.position, p.lag, p.member) for p in group.partitions],
            empty="no topics yet",
        )
        say(f"{group.name} is {group.lag} events behind")
    if not any(one.member for one in group.partitions):
        raise Failed(f"the consumer group {group.name} has no member")


async def _letter(system: LocalSystem, letter_id: str) -> DeadLetter:
    found = await system.engine.store.inbox.dead_letter(letter_id)
    if found is None:
        raise Failed(f"no such dead letter: {letter_id}")
    return found


def _line(letter: DeadLetter) -> tuple[Any, ...]:
    return (
        letter.id,
        letter.died_at,
        f"{letter.topic}/{letter.partition}/{letter.offset}",
        letter.reason.value,
        letter.detail,
        letter.state.value,
    )


def _conflict(record: ConsumptionRecord) -> tuple[Any, ...]:
    told = record.report
    return (
        record.recorded_at,
        told.user_id,
        told.metric,
        told.units,
        f"{told.service_name}/{told.processing_id}",
        told.event_id,
        record.operation_id,
        record.reason,
    )


def _readable(value: bytes | None) -> str:
    return "none" if value is None else _visible(value.decode(errors="backslashreplace"))


def _visible(text: str) -> str:
    """Escape unprintable characters: an event must not send commands to the terminal."""
    return "".join(
        letter if letter.isprintable() or letter in "\n\t" else ascii(letter)[1:-1]
        for letter in text
    )
