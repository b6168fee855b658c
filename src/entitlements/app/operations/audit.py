"""The audit log: administrative acts on credits, keys, policies and events."""

from entitlements.app.operations.cursors import cursor_text, read_cursor
from entitlements.app.operations.request import Request
from entitlements.app.ports import AuditQuery
from entitlements.contracts import http
from entitlements.core.model import AuditEntry


async def audit(request: Request, wanted: http.AuditFilter) -> http.AuditResponse:
    found = await request.engine.store.acts.audit(
        AuditQuery(
            actor=wanted.actor,
            client=wanted.client,
            action=wanted.action,
            subject_type=wanted.subject_type,
            subject_id=wanted.subject_id,
            correlation_id=wanted.correlation_id,
            since=wanted.since,
            until=wanted.until,
            limit=wanted.limit,
            after=read_cursor(wanted.cursor),
        )
    )
    return http.AuditResponse(
        entries=[audit_item(entry) for entry in found.rows],
        count=len(found.rows),
        next_cursor=cursor_text(found.next),
        correlation_id=request.correlation_id,
    )


def audit_item(entry: AuditEntry) -> http.AuditItem:
    subject_type, subject_id = entry.subject or (None, None)
    return http.AuditItem(
        id=entry.id,
        at=entry.at,
        actor=entry.actor,
        client=entry.client,
        action=entry.action,
        subject_type=subject_type,
        subject_id=subject_id,
        reason=entry.reason,
        detail=entry.detail,
        correlation_id=entry.correlation_id,
    )
