"""A copy of the active policy for others to read; nothing here is ever decided by it."""

from __future__ import annotations

from time import monotonic
from typing import Final, Protocol

from entitlements.app.log import EventLog
from entitlements.app.policies import Policies, document
from entitlements.app.ports import Records

RETRY_S: Final = 5.0

log = EventLog(__name__)


class CopyFailed(Exception):
    """The copy could not be written; nobody here depends on it."""


class PolicyCopy(Protocol):
    """Where the copy is kept."""

    async def put(self, version: str, content: str, *, ttl_s: int) -> None:
        """Keep it for so long; 0 is not at all. Raises CopyFailed."""


class PolicyCopier:
    """Keeps the copy fresh: written with each change, and again at half its life."""

    def __init__(
        self, records: Records, policies: Policies, copy: PolicyCopy, ttl_s: int | None
    ) -> None:
        """``ttl_s`` none: as the policy's ``cache_ttl`` says."""
        self._records = records
        self._policies = policies
        self._copy = copy
        self._ttl_s = ttl_s
        self._version = ""
        self._due_at = 0.0
        self._failing = False

    async def follow(self) -> None:
        """Write the copy if it is time. Raises Unavailable, but never for the copy's sake."""
        policy = self._policies.active
        if monotonic() < self._due_at and policy.version == self._version:
            return
        ttl_s = policy.cache_ttl_s if self._ttl_s is None else self._ttl_s
        content = await document(self._records, policy.version)
        try:
            await self._copy.put(policy.version, content, ttl_s=ttl_s)
        except CopyFailed as error:
            if not self._failing:
                log.warning("policy.copy_failed", reason=str(error))
            self._failing, self._due_at = True, monotonic() + RETRY_S
        else:
            self._failing, self._due_at = False, monotonic() + ttl_s / 2
        self._version = policy.version
