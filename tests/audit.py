"""Reads the audit log for tests."""

from entitlements.app.ports import AuditQuery, Records
from entitlements.core.model import AuditEntry


async def audited(records: Records, newest: int = 100) -> list[AuditEntry]:
    """Return the newest entries, newest first."""
    return (await records.audit(AuditQuery(limit=newest))).rows
