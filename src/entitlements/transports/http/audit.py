"""The route of the audit log."""

from typing import Final

from entitlements.app.access.keys import Role
from entitlements.app.operations import audit
from entitlements.contracts import http
from entitlements.transports.http.request import HttpRequest, Reply
from entitlements.transports.http.routes import Content, Route, roles


async def list_audit(request: HttpRequest, _: None) -> Reply:
    return Reply(await audit.audit(request, request.query(http.AuditFilter)))


ROUTES: Final = (
    Route(
        method="GET",
        path="/v1/admin/audit",
        handler=list_audit,
        rule=roles(Role.READER, Role.OPERATOR),
        tag="administration",
        summary="List administrative acts, newest first.",
        query=http.AuditFilter,
        responses={
            200: Content(
                http.AuditResponse,
                {
                    "entries": [
                        {
                            "id": "0198c1f2-8a52-7c1e-9d5e-2f6a4c1b7e90",
                            "at": "2026-09-01T08:00:00Z",
                            "actor": "cli:ada",
                            "client": "cli",
                            "action": "policy.activate",
                            "subject_type": None,
                            "subject_id": None,
                            "reason": "prices of the autumn term",
                            "detail": {"source": "cli", "name": "policy.yaml"},
                            "correlation_id": "policy-review-7",
                        }
                    ],
                    "count": 1,
                    "next_cursor": None,
                    "correlation_id": "support-12",
                },
            )
        },
    ),
)
