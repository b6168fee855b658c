"""Commands on holds: list, show, release."""

from itertools import groupby
from typing import Any, Literal

import msgspec

from entitlements.app.engine import Engine
from entitlements.app.ports import HoldsQuery
from entitlements.contracts import names
from entitlements.core.commands import ReleaseHold
from entitlements.core.model import Hold, facts_of
from entitlements.core.outcomes import HoldChanged
from entitlements.core.reasons import HoldStatus
from entitlements.transports.cli.asking import Actor, Key, kept
from entitlements.transports.cli.ledger import (
    Injected,
    SubjectName,
    origin,
    subject_of,
    submitted,
)
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

COLUMNS = ("hold", "wallet", "status", "taken", "held", "charged", "late", "returned", "until")


async def list_holds(
    *,
    program: Injected,
    subject: SubjectName | None = None,
    status: Literal["open", "settled", "released", "lapsed", "all"] = "open",
    limit: LongLimit = 100,
    database: Database = None,
    json: AsJson = False,
) -> None:
    """List holds, newest first, with one line per credit type."""
    holder = subject_of(subject) if subject is not None else None
    query = HoldsQuery(
        subject_type=holder.type if holder else None,
        subject_id=holder.id if holder else None,
        status=None if status == "all" else HoldStatus(status),
        limit=limit,
    )
    async with program.open(database) as system:
        engine = system.engine
        found = await engine.reader.holds(await listed(engine.store.reads.holds, query))
    if status == "open":
        found = [part for part in found if part.status is HoldStatus.OPEN]
    _tell(found, as_json=json)


async def show(
    hold: str, *, program: Injected, database: Database = None, json: AsJson = False
) -> None:
    """Show a hold."""
    async with program.open(database) as system:
        engine = system.engine
        parts = await engine.reader.holds(await _parts(engine, hold))
    _tell(parts, as_json=json)


async def release(
    hold: str,
    *,
    actor: Actor,
    program: Injected,
    reason: str | None = None,
    key: Key = None,
    database: Database = None,
    json: AsJson = False,
) -> None:
    """Release a hold; its remaining credits are returned.

    Parameters
    ----------
    reason
        The reason, for the ledger and the audit log.
    """
    async with program.open(database) as system:
        engine = system.engine
        command = ReleaseHold(
            id=engine.new_id(),
            origin=origin(engine, actor, key, "release", hold, reason),
            hold=facts_of(await _parts(engine, hold)),
            reason=kept("--reason", names.optional_reason, reason),
            by_operator=True,
        )
        released = await submitted(engine, command, HoldChanged)
    if json:
        show_json(msgspec.to_builtins(released))
        return
    returned = ", ".join(f"{one.returned} {t}" for t, one in released.by_credit_type.items())
    again = " (replayed)" if released.replayed else ""
    say(f"{hold} is {released.status}: {returned} returned{again}")


async def _parts(engine: Engine, hold_id: str) -> list[Hold]:
    parts = await engine.store.reads.hold(hold_id)
    if not parts:
        raise Failed(f"no such hold: {hold_id}")
    return parts


def _tell(parts: list[Hold], *, as_json: bool) -> None:
    if as_json:
        from entitlements.app.operations.holds import hold_item

        by_id = groupby(parts, key=lambda part: part.id)
        show_json([hold_item(list(group)) for _, group in by_id])
        return
    show_table(COLUMNS, map(_line, parts), empty="no holds")


def _line(part: Hold) -> tuple[Any, ...]:
    return (
        part.id,
        f"{part.wallet.subject}/{part.wallet.credit_type}",
        part.status.value,
        part.taken,
        part.held,
        part.charged,
        _charged_late(part),
        part.returned,
        part.expires_at,
    )


def _charged_late(part: Hold) -> int | str:
    """Return the credits of a settlement after the lapse, which the hold did not pay."""
    late = part.settled_late
    if late is None:
        return ""
    numbers = late.by_credit_type.get(part.wallet.credit_type)
    return numbers.charged if numbers else 0
