"""Dead letters: storage, replay and drop."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final, Protocol

from msgspec.structs import replace

from entitlements.app.access.keys import Act
from entitlements.app.inbox.intake import EventProcessor, RetryLater
from entitlements.app.inbox.records import ConsumerRecord, DeadLettered, IngestResult
from entitlements.app.inbox.store import DeadLetter, Inbox, LetterState
from entitlements.app.ports import Acts, StoreUnavailable
from entitlements.contracts.events.topics import USER_REGISTERED
from entitlements.core.model import Receipt
from entitlements.core.outcomes import AccountOpened

REPLAY: Final = "dead_letter.replay"
DROP: Final = "dead_letter.drop"


class DeadLetterStore(Protocol):
    """Stores the letters, and receipts and audit entries."""

    @property
    def inbox(self) -> Inbox: ...

    @property
    def acts(self) -> Acts: ...


class LetterClosed(Exception):
    """The letter was replayed or dropped before."""


def kept(letter: DeadLetter) -> DeadLetter:
    """Return the letter without the e-mail address of a registration, which is never stored. A
    value that is not JSON is removed: it may contain an address, and can never be parsed.
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


ReceiptOf = Callable[[IngestResult], Receipt | None]
"""Returns the receipt of a replay with this result."""


async def replay(
    intake: EventProcessor,
    store: DeadLetterStore,
    letter: DeadLetter,
    act: Act,
    receipt: ReceiptOf = lambda _: None,
) -> IngestResult:
    """Process the letter's event again. The result is audited; a letter that fails again stays open
    with the new reason.

    Raises LetterClosed; StoreUnavailable if it was not decided, in which case it can be retried
    safely.
    """
    if letter.state is not LetterState.OPEN:
        raise LetterClosed
    batch = intake.pending([_record(letter)])
    try:
        (result,) = await intake.process(batch)
    except RetryLater as error:
        raise StoreUnavailable(str(error)) from error
    intake.log_results(batch)
    kept = receipt(result)
    detail: dict[str, Any] = {"dead_letter_id": letter.id, "result": result_of(result)}
    if isinstance(result, DeadLettered):
        await store.inbox.note_replay(letter.id, result.reason, result.detail)
        await store.acts.add_audit(act.entry(REPLAY, detail))
        if kept is not None:
            await store.acts.add_receipt(kept)
        return result
    entry = act.entry(REPLAY, detail)
    if not await store.inbox.close_dead_letter(
        letter.id, LetterState.REPLAYED, act.at, entry, kept
    ):
        # Another replay closed it, but this one processed the event.
        await store.acts.add_audit(entry)
        if kept is not None:
            await store.acts.add_receipt(kept)
    return result


async def drop(
    store: DeadLetterStore, letter: DeadLetter, act: Act, receipt: Receipt | None = None
) -> None:
    """Drop the letter, for the reason in ``act``. Raises LetterClosed."""
    entry = act.entry(DROP, {"dead_letter_id": letter.id})
    if not await store.inbox.close_dead_letter(
        letter.id, LetterState.DROPPED, act.at, entry, receipt
    ):
        raise LetterClosed


def result_of(result: IngestResult) -> str:
    """Return the result as one word."""
    if isinstance(result, DeadLettered):
        return result.reason.value
    if isinstance(result, AccountOpened):
        return "opened" if result.created else "repeated"
    return result.result.value


def _record(letter: DeadLetter) -> ConsumerRecord:
    return ConsumerRecord(
        topic=letter.topic,
        partition=letter.partition,
        offset=letter.offset,
        key=letter.key,
        value=letter.value,
        headers=letter.headers,
    )
