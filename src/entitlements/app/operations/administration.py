"""Adjustments, set balances and the opening of accounts."""

from collections.abc import Sequence
from typing import Final

from msgspec.structs import asdict

from entitlements.app.operations import bulk, operator_limit
from entitlements.app.operations.naming import item_origin
from entitlements.app.operations.refusals import refused
from entitlements.app.operations.request import Request, UseCases, done
from entitlements.contracts import http
from entitlements.contracts.errors import invalid
from entitlements.core.commands import Adjust, OpenAccount, SetBalance
from entitlements.core.model import Subject, WalletKey
from entitlements.core.outcomes import AccountOpened, Adjusted, Refusal


async def open_account(request: Request, body: http.AccountRequest) -> http.AccountResponse:
    """Open an account, which grants the signup bonus once."""
    command = _opening(request, body, request.key)
    _log_subjects(request, [command])
    return _opened(command, await request.submitted(command, AccountOpened))


async def open_accounts(
    request: Request, body: http.BulkAccountRequest
) -> http.BulkAccountResponse:
    commands = [
        _opening(request, item, bulk.item_key(request, number, item.idempotency_key), number)
        for number, item in enumerate(body.items)
    ]
    _log_subjects(request, commands)
    outcomes = await bulk.submit(request, commands, AccountOpened, atomic=body.atomic)
    if isinstance(outcomes, Refusal):
        raise refused(outcomes)
    results = [_open_result(*pair) for pair in zip(commands, outcomes, strict=True)]
    return http.BulkAccountResponse(
        success=all(result.success for result in results),
        results=results,
        correlation_id=request.correlation_id,
    )


def _opening(
    request: Request, body: http.AccountRequest, key: str | None, number: int | None = None
) -> OpenAccount:
    subject = Subject(body.subject_type, str(body.subject_id))
    return OpenAccount(
        id=request.engine.new_id(),
        origin=item_origin(
            request,
            subject,
            bulk.given(request, number),
            path=http.OPEN_ACCOUNT.path,
            key=key,
            correlation_id=body.correlation_id or request.correlation_id,
        ),
        subject=subject,
    )


def _opened(command: OpenAccount, outcome: AccountOpened) -> http.AccountResponse:
    return http.AccountResponse(
        success=True,
        created=outcome.created,
        bonus=outcome.bonus,
        new_balance=outcome.new_balance,
        subject_type=command.subject.type,
        subject_id=command.subject.id,
        operation_id=outcome.operation_id,
        correlation_id=command.origin.correlation_id,
        replayed=outcome.replayed,
    )


def _open_result(command: OpenAccount, outcome: AccountOpened | Refusal) -> http.AccountResult:
    if not isinstance(outcome, Refusal):
        return http.AccountResult(**asdict(_opened(command, outcome)))
    return http.AccountResult(
        created=False,
        bonus=0,
        new_balance=None,
        subject_type=command.subject.type,
        subject_id=command.subject.id,
        correlation_id=command.origin.correlation_id,
        **bulk.refusal(outcome),
    )


async def adjust(request: Request, body: http.AdjustRequest) -> http.AdjustResponse:
    command = await _adjustment(request, body, request.key)
    return _adjusted(command, await _submitted(request, command))


async def adjust_all(request: Request, body: http.BulkAdjustRequest) -> http.BulkAdjustResponse:
    commands = [
        await _adjustment(
            request, item, bulk.item_key(request, number, item.idempotency_key), number
        )
        for number, item in enumerate(body.items)
    ]
    outcomes = await _submitted_all(request, commands, atomic=body.atomic)
    results = [_adjust_result(*pair) for pair in zip(commands, outcomes, strict=True)]
    return http.BulkAdjustResponse(
        success=all(result.success for result in results),
        results=results,
        correlation_id=request.correlation_id,
    )


async def _adjustment(
    request: Request, body: http.AdjustRequest, key: str | None, number: int | None = None
) -> Adjust:
    where = bulk.where(number)
    wallet = await _wallet(request, body, where)
    if body.amount == 0:
        raise invalid(f"{where}amount", "must not be 0")
    if body.expires_at is not None and body.amount < 0:
        raise invalid(f"{where}expires_at", "requires a positive amount")
    return Adjust(
        id=request.engine.new_id(),
        origin=item_origin(
            request,
            wallet,
            bulk.given(request, number),
            path=http.ADJUST.path,
            key=key,
            correlation_id=body.correlation_id or request.correlation_id,
        ),
        wallet=wallet,
        amount=body.amount,
        reason=body.reason,
        expires_at=body.expires_at,
    )


def _adjusted(command: Adjust, outcome: Adjusted) -> http.AdjustResponse:
    return http.AdjustResponse(
        success=True,
        new_balance=outcome.new_balance,
        subject_type=command.wallet.subject_type,
        subject_id=command.wallet.subject_id,
        credit_type=command.wallet.credit_type,
        operation_id=outcome.operation_id,
        correlation_id=command.origin.correlation_id,
        replayed=outcome.replayed,
    )


def _adjust_result(command: Adjust, outcome: Adjusted | Refusal) -> http.AdjustResult:
    if not isinstance(outcome, Refusal):
        return http.AdjustResult(**asdict(_adjusted(command, outcome)))
    return http.AdjustResult(
        new_balance=None,
        subject_type=command.wallet.subject_type,
        subject_id=command.wallet.subject_id,
        credit_type=command.wallet.credit_type,
        correlation_id=command.origin.correlation_id,
        **bulk.refusal(outcome),
    )


async def set_balance(request: Request, body: http.SetRequest) -> http.SetResponse:
    command = await _setting(request, body, request.key)
    return _set(command, await _submitted(request, command))


async def set_balances(request: Request, body: http.BulkSetRequest) -> http.BulkSetResponse:
    commands = [
        await _setting(request, item, bulk.item_key(request, number, item.idempotency_key), number)
        for number, item in enumerate(body.items)
    ]
    outcomes = await _submitted_all(request, commands, atomic=body.atomic)
    results = [_set_result(*pair) for pair in zip(commands, outcomes, strict=True)]
    return http.BulkSetResponse(
        success=all(result.success for result in results),
        results=results,
        correlation_id=request.correlation_id,
    )


async def _setting(
    request: Request, body: http.SetRequest, key: str | None, number: int | None = None
) -> SetBalance:
    wallet = await _wallet(request, body, bulk.where(number))
    return SetBalance(
        id=request.engine.new_id(),
        origin=item_origin(
            request,
            wallet,
            bulk.given(request, number),
            path=http.SET_BALANCE.path,
            key=key,
            correlation_id=body.correlation_id or request.correlation_id,
        ),
        wallet=wallet,
        balance=body.balance,
        reason=body.reason,
    )


def _set(command: SetBalance, outcome: Adjusted) -> http.SetResponse:
    return http.SetResponse(
        success=True,
        balance=outcome.new_balance,
        subject_type=command.wallet.subject_type,
        subject_id=command.wallet.subject_id,
        credit_type=command.wallet.credit_type,
        delta=outcome.delta,
        operation_id=outcome.operation_id,
        correlation_id=command.origin.correlation_id,
        replayed=outcome.replayed,
    )


def _set_result(command: SetBalance, outcome: Adjusted | Refusal) -> http.SetResult:
    if not isinstance(outcome, Refusal):
        return http.SetResult(**asdict(_set(command, outcome)))
    return http.SetResult(
        balance=None,
        subject_type=command.wallet.subject_type,
        subject_id=command.wallet.subject_id,
        credit_type=command.wallet.credit_type,
        delta=0,
        correlation_id=command.origin.correlation_id,
        **bulk.refusal(outcome),
    )


async def _submitted(request: Request, command: Adjust | SetBalance) -> Adjusted:
    (outcome,) = await _submitted_all(request, [command], atomic=False)
    return done(outcome, Adjusted)


async def _submitted_all(
    request: Request, commands: Sequence[Adjust | SetBalance], *, atomic: bool
) -> list[Adjusted | Refusal]:
    """Return the outcomes; they count towards the operator's limit. Raises Refused."""
    _log_subjects(request, commands)
    outcomes = await operator_limit.submit(request, commands, atomic=atomic)
    if isinstance(outcomes, Refusal):
        raise refused(outcomes)
    return outcomes


async def _wallet(
    request: Request, body: http.AdjustRequest | http.SetRequest, where: str
) -> WalletKey:
    subject = await request.known_subject(f"{where}subject_id", body.subject_type, body.subject_id)
    return WalletKey(*subject, body.credit_type)


def _log_subjects(request: Request, commands: Sequence[Adjust | SetBalance | OpenAccount]) -> None:
    subjects = {command.wallet.subject for command in commands}
    bulk.log_subjects(
        request,
        {one.id if one.type == "user" else None for one in subjects},
        {one.id if one.type == "org" else None for one in subjects},
    )


USE_CASES: Final[UseCases] = {
    http.OPEN_ACCOUNT: open_account,
    http.OPEN_ACCOUNTS: open_accounts,
    http.ADJUST: adjust,
    http.ADJUST_ALL: adjust_all,
    http.SET_BALANCE: set_balance,
    http.SET_BALANCES: set_balances,
}
