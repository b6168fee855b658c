"""The finaliser of tests that leave a database behind: its books must balance, and every announced
event must match the published schemas.
"""

import json
from collections import Counter
from collections.abc import Iterable
from typing import Final

import apsw
import asyncpg

from entitlements.adapters.postgres import verify as postgres
from entitlements.adapters.sqlite import verify as sqlite
from entitlements.app.verify.findings import AHEAD, Finding
from entitlements.contracts.events.topics import TOPICS
from tests.contracts.schemas import faults

_ANNOUNCED: Final = "SELECT event_type, payload FROM event_outbox ORDER BY event_id DESC LIMIT 1000"
_OF_A_TYPE: Final = 20
"""How many of the latest events of each type are checked."""


async def findings(url: str, *, of_clock: bool = False) -> list[Finding]:
    """Return the findings of `entitlements verify`; those about wallets ahead of the clock only
    with ``of_clock``, since tests set clocks.
    """
    if url.startswith("sqlite:///"):
        found = await sqlite.verify(url.removeprefix("sqlite:///"))
    else:
        found = await postgres.verify(url)
    return [one for one in found if of_clock or one.invariant != AHEAD]


async def assert_books_balance(url: str) -> None:
    found = await findings(url)
    assert not found, "\n".join(map(str, found))
    odd = unpublished(await announced(url))
    assert not odd, "\n".join(odd)


async def announced(url: str) -> list[tuple[str, str]]:
    """Return the types and payloads of the latest events in the outbox."""
    if url.startswith("sqlite:///"):
        with_tables = apsw.Connection(url.removeprefix("sqlite:///"))
        try:
            return [(str(row[0]), str(row[1])) for row in with_tables.execute(_ANNOUNCED)]
        finally:
            with_tables.close()
    db = await asyncpg.connect(url)
    try:
        return [(row[0], row[1]) for row in await db.fetch(_ANNOUNCED)]
    finally:
        await db.close()


def unpublished(events: Iterable[tuple[str, str]]) -> list[str]:
    """Return the faults of the events against the published schemas."""
    seen: Counter[str] = Counter()
    found: list[str] = []
    for event_type, payload in events:
        seen[event_type] += 1
        if seen[event_type] <= _OF_A_TYPE:
            topic = next(one.name for one in TOPICS if event_type.endswith(f".{one.name}"))
            found += (f"{event_type}: {fault}" for fault in faults(json.loads(payload), topic))
    return found
