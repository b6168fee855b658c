"""A separate engine for each test, on a real database file and with a clock that the test sets."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from msgspec import Struct

from entitlements import embedded
from entitlements.api import Call, Entitlements
from entitlements.contracts.errors import invalid
from entitlements.sync import SyncEntitlements

T = TypeVar("T", bound=Struct)


class Clock:
    """A clock that moves only when the test advances it, and never back."""

    def __init__(self, now: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def advance(self, by: timedelta | None = None, **units: float) -> datetime:
        """Advance by a duration, or by arguments of `timedelta`: ``advance(days=31)``."""
        step = by if by is not None else timedelta(**units)
        if step < timedelta():
            raise ValueError("the clock cannot go back")
        self.now += step
        return self.now


class Authority(Entitlements):
    """An engine for tests. It can be used from any event loop, and without one by `sync`."""

    def __init__(self, sync: SyncEntitlements, clock: Clock) -> None:
        self.sync = sync
        self.clock = clock

    def give(self, subject: str, credits: int, *, credit_type: str = "credits") -> None:
        """Grant credits to ``user:ID`` or ``org:ID``."""
        kind, _, name = subject.partition(":")
        if kind not in ("user", "org"):
            raise invalid("subject", "must begin with user: or org:")
        self.sync.adjust(
            credits,
            subject_type="user" if kind == "user" else "org",
            subject_id=name,
            credit_type=credit_type,
            reason="given for a test",
        )

    async def ask(self, call: Call[T]) -> T:
        return await asyncio.wrap_future(self.sync.started(call))


@contextmanager
def authority(
    *, policy: str | Path | None = None, clock: Clock | None = None, folder: Path | None = None
) -> Iterator[Authority]:
    """Open a new engine with ``policy``, else the default policy.

    Its database file is in ``folder``, else in a temporary folder.
    """
    with TemporaryDirectory() as temporary:
        file = (folder or Path(temporary)) / "entitlements.db"
        time = clock or Clock()
        with embedded.Entitlements.open_sync(
            f"sqlite:///{file}", policy=policy, clock=time, client="test"
        ) as sync:
            yield Authority(sync, time)
