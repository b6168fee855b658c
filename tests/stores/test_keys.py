"""The contract of `ApiKeys` and `Acts`, on every engine."""

from __future__ import annotations

from datetime import timedelta

from msgspec.structs import replace

from entitlements.app.ports import (
    ApiKey,
)
from entitlements.ids import uuid7
from tests.audit import audited
from tests.stores.clerk import (
    NOON,
    TEACHER,
    Clerk,
    Store,
    an_entry,
    consume,
    give,
)


async def test_api_keys_are_found_by_their_secret_and_revoked_once(store: Store) -> None:
    key = ApiKey(
        id=uuid7(),
        name="grader",
        role="service",
        prefix="ent_1234",
        secret_sha256="5" * 64,
        created_at=NOON,
    )
    added, revoked = an_entry("key.add", 0), an_entry("key.revoke", 1)

    await store.keys.add(key, added)
    found = await store.keys.find("5" * 64)
    await store.keys.touch({key.id: NOON + timedelta(seconds=9)})
    await store.keys.touch({key.id: NOON})
    first = await store.keys.revoke(key.id, NOON, revoked)
    second = await store.keys.revoke(key.id, NOON, an_entry("key.revoke", 2))

    assert found == key
    assert await store.keys.find("6" * 64) is None
    assert (first, second) == (True, False)
    assert await store.keys.all() == [
        replace(key, revoked_at=NOON, last_used_at=NOON + timedelta(seconds=9))
    ]
    assert await audited(store, 10) == [revoked, added]
    assert await audited(store, 1) == [revoked]


async def test_administrative_acts_and_their_audit_are_one_transaction(
    store: Store, clerk: Clerk
) -> None:
    granted = give(10, TEACHER)

    await clerk.do(granted, consume(1))

    entry, _ = await audited(store, 10)
    assert (entry.id, entry.action, entry.subject) == (granted.id, "grant", TEACHER.subject)
    assert entry.detail == {"entitlement_type": "credit_grant", "quantity": 10}
