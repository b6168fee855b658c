"""Reads the audit log for tests."""

from typing import Protocol

from entitlements.app.ports import Acts, AuditQuery
from entitlements.core.model import AuditEntry


class Audited(Protocol):
    @property
    def acts(self) -> Acts: ...


async def audited(store: Audited, newest: int = 100) -> list[AuditEntry]:
    """Return the newest entries, newest first."""
    return (await store.acts.audit(AuditQuery(limit=newest))).rows
