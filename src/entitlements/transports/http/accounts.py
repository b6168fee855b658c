"""Opening an account gives the signup bonus, once for ever."""

from typing import Final

from entitlements.app.access import Role
from entitlements.contracts.http import AccountRequest, AccountResponse
from entitlements.core.commands import OpenAccount
from entitlements.core.model import Subject
from entitlements.core.outcomes import AccountOpened
from entitlements.transports.http.idempotency import origin
from entitlements.transports.http.request import Reply, Request
from entitlements.transports.http.routes import Route, roles
from entitlements.transports.http.submit import replay_headers, submitted


async def open_account(request: Request, body: AccountRequest) -> Reply:
    correlation_id = request.correlate(body.correlation_id)
    subject = Subject(body.subject_type, request.subject_id("subject_id", body.subject_id))
    request.ids = (subject.id, None) if subject.type == "user" else (None, subject.id)
    command = OpenAccount(
        id=request.service.new_id(), origin=origin(request, subject, body), subject=subject
    )
    outcome = await submitted(request, command, AccountOpened)
    return Reply(
        AccountResponse(
            success=True,
            created=outcome.created,
            bonus=outcome.bonus,
            new_balance=outcome.new_balance,
            subject_type=subject.type,
            subject_id=subject.id,
            operation_id=outcome.operation_id,
            correlation_id=correlation_id,
            replayed=outcome.replayed,
        ),
        201 if outcome.created else 200,
        headers=replay_headers(outcome),
    )


ROUTES: Final = (
    Route(
        method="POST",
        path="/v1/admin/accounts",
        handler=open_account,
        rule=roles(Role.OPERATOR),
        tag="administration",
        summary="Open an account; its signup bonus is given exactly once, ever.",
        request=AccountRequest,
        responses={201: AccountResponse, 200: AccountResponse},
        problems=(422,),
        example={"subject_type": "user", "subject_id": "teacher-7"},
    ),
)
