"""A copy of the active policy for other services to read; this service never decides by it."""

from __future__ import annotations

from time import monotonic
from typing import Final, Protocol

from entitlements.app.policy.active import Policies, document
from entitlements.app.ports import PolicyVersions
from entitlements.app.process.log import EventLog

RETRY_S: Final = 5.0

log = EventLog(__name__)


class CopyFailed(Exception):
    """The copy could not be written; the service does not depend on it."""


class PolicyCopy(Protocol):
    """The store of the copy."""

    async def put(self, version: str, content: str, *, ttl_s: int) -> None:
        """Store the document for ``ttl_s`` seconds; 0 keeps no copy. Raises CopyFailed."""


class PolicyCopier:
    """Keeps the copy fresh: writes it after each change, and again at half its lifetime."""

    def __init__(
        self, versions: PolicyVersions, policies: Policies, copy: PolicyCopy, ttl_s: int | None
    ) -> None:
        """Without ``ttl_s`` the policy's ``cache_ttl`` applies."""
        self._versions = versions
        self._policies = policies
        self._copy = copy
        self._ttl_s = ttl_s
        self._version = ""
        self._due_at = 0.0
        self._failing = False

    async def follow(self) -> None:
        """Write the copy if it is due. Raises StoreUnavailable if the policy cannot be read; a
        failed write of the copy is logged and retried later.
        """
        policy = self._policies.active
        if monotonic() < self._due_at and policy.version == self._version:
            return
        ttl_s = policy.cache_ttl_s if self._ttl_s is None else self._ttl_s
        content = await document(self._versions, policy.version)
        try:
            await self._copy.put(policy.version, content, ttl_s=ttl_s)
        except CopyFailed as error:
            if not self._failing:
                log.warning("policy.copy_failed", reason=str(error))
            self._failing, self._due_at = True, monotonic() + RETRY_S
        else:
            self._failing, self._due_at = False, monotonic() + ttl_s / 2
        self._version = policy.version
