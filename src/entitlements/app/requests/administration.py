"""Credits moved by people, and accounts opened."""

from entitlements.app.requests.ledger import utc
from entitlements.app.requests.naming import origin
from entitlements.app.requests.operator_limit import adjusted
from entitlements.app.requests.request import Request
from entitlements.contracts.errors import invalid
from entitlements.contracts.http import (
    AccountRequest,
    AccountResponse,
    AdjustRequest,
    AdjustResponse,
    SetRequest,
    SetResponse,
)
from entitlements.core.commands import Adjust, OpenAccount, SetBalance
from entitlements.core.model import Subject, WalletKey
from entitlements.core.outcomes import AccountOpened


async def open_account(request: Request, body: AccountRequest) -> AccountResponse:
    """Opening an account gives the signup bonus, once for ever."""
    correlation_id = request.correlate(body.correlation_id)
    subject = Subject(body.subject_type, request.subject_id("subject_id", body.subject_id))
    request.ids = (subject.id, None) if subject.type == "user" else (None, subject.id)
    command = OpenAccount(
        id=request.desk.new_id(), origin=origin(request, subject, body), subject=subject
    )
    outcome = await request.submitted(command, AccountOpened)
    return AccountResponse(
        success=True,
        created=outcome.created,
        bonus=outcome.bonus,
        new_balance=outcome.new_balance,
        subject_type=subject.type,
        subject_id=subject.id,
        operation_id=outcome.operation_id,
        correlation_id=correlation_id,
        replayed=outcome.replayed,
    )


async def adjust(request: Request, body: AdjustRequest) -> AdjustResponse:
    correlation_id = request.correlate(body.correlation_id)
    wallet = await _wallet(request, body)
    if body.amount == 0:
        raise invalid("amount", "must not be 0")
    if body.expires_at is not None and body.amount < 0:
        raise invalid("expires_at", "goes with a positive amount")

    reason = request.reason(body.reason)
    command = Adjust(
        id=request.desk.new_id(),
        origin=origin(request, wallet, body),
        wallet=wallet,
        amount=body.amount,
        reason=reason,
        expires_at=utc("expires_at", body.expires_at),
    )
    outcome = await adjusted(request, command)
    return AdjustResponse(
        success=True,
        new_balance=outcome.new_balance,
        subject_type=wallet.subject_type,
        subject_id=wallet.subject_id,
        credit_type=wallet.credit_type,
        operation_id=outcome.operation_id,
        correlation_id=correlation_id,
        replayed=outcome.replayed,
    )


async def set_balance(request: Request, body: SetRequest) -> SetResponse:
    correlation_id = request.correlate(body.correlation_id)
    wallet = await _wallet(request, body)
    reason = request.optional_reason(body.reason)
    command = SetBalance(
        id=request.desk.new_id(),
        origin=origin(request, wallet, body),
        wallet=wallet,
        balance=body.balance,
        reason=reason,
    )
    outcome = await adjusted(request, command)
    return SetResponse(
        success=True,
        balance=outcome.new_balance,
        subject_type=wallet.subject_type,
        subject_id=wallet.subject_id,
        credit_type=wallet.credit_type,
        delta=outcome.delta,
        operation_id=outcome.operation_id,
        correlation_id=correlation_id,
        replayed=outcome.replayed,
    )


async def _wallet(request: Request, body: AdjustRequest | SetRequest) -> WalletKey:
    subject = await request.known_subject("subject_id", body.subject_type, body.subject_id)
    request.ids = (subject.id, None) if subject.type == "user" else (None, subject.id)
    return WalletKey(*subject, request.metric("credit_type", body.credit_type))
