"""Receipts of administrative acts outside the ledger: stored with the act or not at all."""

from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from entitlements.app.inbox.store import LetterState
from entitlements.app.ports import Contended
from entitlements.core.model import Receipt
from entitlements.core.outcomes import Acted
from tests.audit import audited
from tests.stores.clerk import NOON, TEACHER, Clerk, Store, give
from tests.stores.test_inbox import a_letter
from tests.stores.test_outbox import an_entry, hold, refusal, unpublished

ANSWER: dict[str, Any] = {"success": True, "changed": 2, "note": "å", "parts": [1, None]}
RECEIPT = Receipt(
    client="ops",
    key="k:1",
    fingerprint="f",
    outcome=Acted(answer=ANSWER),
    created_at=NOON,
    expires_at=NOON + timedelta(hours=1),
)


async def test_a_receipt_is_read_as_it_was_stored(store: Store) -> None:
    await store.acts.add_receipt(RECEIPT)

    assert await store.acts.receipt("ops", "k:1") == RECEIPT
    assert await store.acts.receipt("ops", "k:2") is None
    assert await store.acts.receipt("other", "k:1") is None


async def test_a_receipt_is_replaced_only_after_it_has_expired(store: Store) -> None:
    early = replace(RECEIPT, fingerprint="g", created_at=NOON + timedelta(minutes=59))
    late = replace(early, created_at=RECEIPT.expires_at, expires_at=NOON + timedelta(hours=2))
    await store.acts.add_receipt(RECEIPT)

    with pytest.raises(Contended):
        await store.acts.add_receipt(early)
    assert await store.acts.receipt("ops", "k:1") == RECEIPT

    await store.acts.add_receipt(late)
    assert await store.acts.receipt("ops", "k:1") == late


async def test_an_act_whose_key_is_already_used_changes_nothing(store: Store, clerk: Clerk) -> None:
    letter = a_letter(1)
    await store.inbox.add_dead_letters([letter])
    await clerk.do(give(1, TEACHER))
    (first, *others) = await unpublished(store)
    await store.outbox.mark_published("a", await hold(store), others, [refusal(first)], keep=True)
    before = await audited(store)
    await store.acts.add_receipt(RECEIPT)

    with pytest.raises(Contended):
        await store.inbox.close_dead_letter(
            letter.id, LetterState.DROPPED, NOON, an_entry(), RECEIPT
        )
    with pytest.raises(Contended):
        await store.outbox.retry(None, an_entry(), lambda _: RECEIPT)
    with pytest.raises(Contended):
        await store.outbox.release_sink(an_entry(), lambda _: RECEIPT)

    found = await store.inbox.dead_letter(letter.id)
    assert found is not None
    assert found.state is LetterState.OPEN
    assert [event.event_id for event in await store.outbox.parked(9)] == [first.event_id]
    assert await audited(store) == before


async def test_an_act_and_its_receipt_are_stored_together(store: Store) -> None:
    letter = a_letter(1)
    await store.inbox.add_dead_letters([letter])
    entry = an_entry()

    closed = await store.inbox.close_dead_letter(
        letter.id, LetterState.DROPPED, NOON, entry, RECEIPT
    )

    assert closed
    assert await store.acts.receipt("ops", "k:1") == RECEIPT
    assert entry in await audited(store)
