"""The contract of `PolicyVersions`, on every engine."""

from __future__ import annotations

from datetime import timedelta

from tests.audit import audited
from tests.stores.clerk import (
    NOON,
    Clock,
    Store,
    an_activation,
)


async def test_a_superseded_policy_is_not_activated_again(store: Store) -> None:
    results = [
        await store.policies.activate(version, f"costs: {{{version}: 1}}", an_activation())
        for version in ("a", "b", "b", "a", "c")
    ]

    assert [result.active for result in results] == ["a", "b", "b", "b", "c"]
    assert [result.changed for result in results] == [True, True, False, False, True]
    assert await store.policies.content("a") == "costs: {a: 1}"
    assert await store.policies.content("z") is None
    assert await store.policies.active() == "c"
    assert len(await audited(store, 10)) == 3


async def test_policies_are_listed_newest_first_even_if_the_clock_steps_back(
    store: Store, clock: Clock
) -> None:
    for version in ("ab", "ac", "b"):
        await store.policies.activate(
            version, "costs: {}", an_activation(actor=f"who gave {version}")
        )
        clock.now = NOON - timedelta(hours=1)

    newest, *older = await store.policies.versions(limit=10)
    (between,) = await store.policies.versions(prefix="a", before=newest.activated_at, limit=1)

    assert (newest.version, newest.actor, newest.active) == ("b", "who gave b", True)
    assert [(policy.version, policy.active) for policy in older] == [("ac", False), ("ab", False)]
    assert newest.activated_at > older[0].activated_at > older[1].activated_at == NOON
    assert between == older[0]
    assert await store.policies.versions(prefix="a%", limit=10) == []
