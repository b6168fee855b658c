"""Bodies of the audit log."""

from datetime import datetime
from typing import Any

from msgspec import Struct

from entitlements.contracts.http.fields import (
    AwareTime,
    IdFilter,
    PageLimit,
    SubjectType,
    TextFilter,
)


class AuditFilter(Struct, frozen=True, kw_only=True):
    """Omitted filters match everything. ``since`` is inclusive, ``until`` exclusive."""

    actor: TextFilter | None = None
    client: TextFilter | None = None
    action: TextFilter | None = None
    subject_type: SubjectType | None = None
    subject_id: IdFilter | None = None
    correlation_id: TextFilter | None = None
    since: AwareTime | None = None
    until: AwareTime | None = None
    limit: PageLimit = 100
    cursor: str | None = None


class AuditItem(Struct, frozen=True, gc=False, kw_only=True):
    """One administrative act; the subject is null if it concerns no user or org."""

    id: str
    at: datetime
    actor: str
    client: str
    action: str
    subject_type: SubjectType | None
    subject_id: str | None
    reason: str | None
    detail: dict[str, Any]
    correlation_id: str


class AuditResponse(Struct, frozen=True, gc=False, kw_only=True):
    """Audit entries, newest first. ``next_cursor`` is null on the last page."""

    entries: list[AuditItem]
    count: int
    next_cursor: str | None
    correlation_id: str
