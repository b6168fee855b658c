"""The port of the calls of lifecycle handlers. Both engines implement it."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Final, Protocol

from entitlements.core.subscription import LifecycleCall

RETRY_MAX_S: Final = 3_600


class WaitingCall(LifecycleCall, frozen=True, gc=False, kw_only=True):
    """A call that is not made yet, after ``attempts``, with its next one and the last error."""

    attempts: int
    next_at: datetime
    last_error: str | None

    @property
    def attempt(self) -> tuple[str, int, int]:
        """Return the key of the call and the number of the attempt."""
        return (self.subscription_id, self.version, self.attempts)


class LifecycleCalls(Protocol):
    """Calls are written in the transaction of the change, and deleted once they are made."""

    async def claim(
        self, handlers: Collection[str], limit: int, *, lease_s: int
    ) -> list[WaitingCall]:
        """Begin an attempt of due calls of these handlers, at most one for each subscription, its
        first; no other process gets them within the lease.
        """

    async def made(self, call: WaitingCall) -> None:
        """Delete the call, unless its lease has ended and another attempt has begun."""

    async def failed(self, call: WaitingCall, error: str, *, retry_in_s: int) -> None:
        """Store the error of the attempt, unless another one has begun."""

    async def waiting(self, limit: int) -> list[WaitingCall]:
        """Return calls that are not made yet, the oldest first."""
