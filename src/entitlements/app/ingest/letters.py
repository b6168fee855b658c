"""Dead letters, kept and worked on again."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final, Protocol

from msgspec.structs import replace

from entitlements.app.access import Act
from entitlements.app.inbox import DeadLetter, Inbox, LetterState
from entitlements.app.ingest.intake import Intake, NotNow
from entitlements.app.ingest.records import Arrived, Fate, Rejected
from entitlements.app.ports import Records, Unavailable
from entitlements.contracts.events.topics import USER_REGISTERED
from entitlements.core.model import Receipt
from entitlements.core.outcomes import AccountOpened

REPLAY: Final = "dead_letter.replay"
DROP: Final = "dead_letter.drop"


class Store(Records, Inbox, Protocol):
    """Keeps the letters, and who did what to them."""


class LetterClosed(Exception):
    """It was replayed or dropped before."""


def kept(letter: DeadLetter) -> DeadLetter:
    """The letter as the database may have it: as it came, but for the address of a registration,
    which we keep nowhere. What is no JSON could hold one anywhere, and can never be read.
    """
    if not letter.topic.endswith(f".{USER_REGISTERED.name}") or letter.value is None:
        return letter
    try:
        told: Any = json.loads(letter.value)
        return replace(letter, value=json.dumps(_without_address(told)).encode())
    except (ValueError, RecursionError):
        return replace(letter, value=None)


def _without_address(told: Any) -> Any:
    if isinstance(told, dict):
        return {
            name: _without_address(value)
            for name, value in told.items()
            if "mail" not in name.lower()
        }
    if isinstance(told, list):
        return [_without_address(value) for value in told]
    return "" if isinstance(told, str) and "@" in told else told


ReceiptOf = Callable[[Fate], Receipt | None]
"""Returns what to keep of a replay that ended so."""


async def replay(
    intake: Intake,
    store: Store,
    letter: DeadLetter,
    act: Act,
    receipt: ReceiptOf = lambda _: None,
) -> Fate:
    """Let the letter go the way of its event once more. What comes of it is audited; a letter that
    fails again stays open with its new reason.

    Raises LetterClosed; Unavailable if it was not decided, and the same again does no harm.
    """
    if letter.state is not LetterState.OPEN:
        raise LetterClosed
    batch = intake.pending([_record(letter)])
    try:
        (fate,) = await intake.take(batch)
    except NotNow as error:
        raise Unavailable(str(error)) from error
    intake.tell(batch)
    kept = receipt(fate)
    detail: dict[str, Any] = {"dead_letter_id": letter.id, "result": result_of(fate)}
    if isinstance(fate, Rejected):
        await store.note_replay(letter.id, fate.reason, fate.detail)
        await store.add_audit(act.entry(REPLAY, detail))
        if kept is not None:
            await store.add_receipt(kept)
        return fate
    entry = act.entry(REPLAY, detail)
    if not await store.close_dead_letter(letter.id, LetterState.REPLAYED, act.at, entry, kept):
        await store.add_audit(entry)  # a rival has closed it; the event was worked on
        if kept is not None:
            await store.add_receipt(kept)
    return fate


async def drop(store: Store, letter: DeadLetter, act: Act, receipt: Receipt | None = None) -> None:
    """Give the letter up, for the reason that the act gives. Raises LetterClosed."""
    entry = act.entry(DROP, {"dead_letter_id": letter.id})
    if not await store.close_dead_letter(letter.id, LetterState.DROPPED, act.at, entry, receipt):
        raise LetterClosed


def result_of(fate: Fate) -> str:
    """One word for what became of it."""
    if isinstance(fate, Rejected):
        return fate.reason.value
    if isinstance(fate, AccountOpened):
        return "opened" if fate.created else "repeated"
    return fate.result.value


def _record(letter: DeadLetter) -> Arrived:
    return Arrived(
        topic=letter.topic,
        partition=letter.partition,
        offset=letter.offset,
        key=letter.key,
        value=letter.value,
        headers=letter.headers,
    )
