"""Wallets with credits, granted by the committer itself."""

import asyncio
from collections.abc import Callable, Iterable
from datetime import datetime
from itertools import islice

from entitlements.adapters.memory.limiter import Unlimited
from entitlements.adapters.postgres.store import PostgresStore
from entitlements.adapters.sqlite.store import SqliteStore
from entitlements.app.engine import Engine, running
from entitlements.core.commands import Adjust, Origin
from entitlements.core.model import WalletKey

USERS = 10_000
SCHOOL, TEACHER = "school", "teacher"
FEATURE = "export"
CREDITS = 1_000_000_000
AT_ONCE = 1_000
POLICY = """
costs: {cj_comparison: 1, ai_feedback_generation: 5, spellcheck: 0}
rate_limits:
  cj_comparison: 1000000000000/day
  ai_feedback_generation: 1000000000000/day
  spellcheck: 1000000000000/hour
"""
"""The default prices, and limits that are checked and never reached."""


async def open_migrated(
    url: str, *, clock: Callable[[], datetime] | None = None
) -> PostgresStore | SqliteStore:
    """Return the store of the URL, with its tables created."""
    store = (
        await SqliteStore.open(url.removeprefix("sqlite:///"), clock=clock)
        if url.startswith("sqlite:///")
        else await PostgresStore.open(url, clock=clock)
    )
    await store.migrate()
    return store


def school(name: str = SCHOOL) -> WalletKey:
    return WalletKey("org", name, "credits")


def users() -> list[WalletKey]:
    return [WalletKey("user", f"user-{number}", "credits") for number in range(1, USERS + 1)]


def origin(name: str) -> Origin:
    return Origin(
        actor="bench",
        client="bench",
        correlation_id=name,
        key=f"k:{name}",
        fingerprint="6fa9cc7626578ce44089c81e129e9304069cc5b3dd5d5e9007c6c4df8ba0a039",
        lifetime_s=86_400,
    )


async def fill(url: str, wallets: Iterable[WalletKey], *, topic_prefix: str = "huleedu") -> None:
    """Give a wallet one grant for each time it is named, in a new database."""
    store = await open_migrated(url)
    try:
        async with running(
            store,
            local=Unlimited(),
            policy_text=POLICY,
            policy_source="benchmark",
            topic_prefix=topic_prefix,
        ) as engine:
            await _give(engine, wallets)
    finally:
        await store.close()


async def _give(engine: Engine, wallets: Iterable[WalletKey]) -> None:
    async def give(wallet: WalletKey) -> None:
        name = engine.new_id()
        gift = Adjust(
            id=name, origin=origin(name), wallet=wallet, amount=CREDITS, reason="benchmark"
        )
        await engine.committer.submit(gift)

    rest = iter(wallets)
    while part := list(islice(rest, AT_ONCE)):
        await asyncio.gather(*(give(wallet) for wallet in part))
