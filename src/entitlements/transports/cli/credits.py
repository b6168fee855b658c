"""Commands on credits: consume, set, reverse; debts and rate limits."""

from typing import Annotated, Any, Literal

from cyclopts import Parameter
from msgspec.structs import asdict

from entitlements.app.operations import administration, consumption, rate_limits
from entitlements.app.operations import debts as requests
from entitlements.contracts import http, names
from entitlements.core.policy import DEFAULT_CREDIT_TYPE
from entitlements.transports.cli.asking import Actor, Key, Reason, asking, kept, name_operation
from entitlements.transports.cli.check import requirement
from entitlements.transports.cli.ledger import CreditType, Injected, SubjectName, subject_of
from entitlements.transports.cli.listings import warn_of_more
from entitlements.transports.cli.output import (
    AsJson,
    Database,
    Failed,
    Id,
    Limit,
    Whole,
    say,
    show_json,
    show_table,
)

OperationId = Annotated[str, Parameter(help="The id of the operation, or its start.")]
DebtId = Annotated[str, Parameter(help="The id of the failed operation, or its start.")]
NOT_SHARED = (
    "without ENTITLEMENTS_REDIS_URL each service counts in its own memory: "
    "reset the limit there, with POST /v1/admin/credits/reset-rate-limit"
)


async def consume(
    user: str,
    work: Annotated[str, Parameter(help="METRIC=UNITS, or METRIC for one unit.")],
    *,
    actor: Actor,
    program: Injected,
    org: str | None = None,
    batch: str | None = None,
    correlation_id: str | None = None,
    key: Key = None,
    database: Database = None,
    json: AsJson = False,
) -> None:
    """Charge finished work; exit code 1 if neither the org nor the user can pay.

    Parameters
    ----------
    user
        The user that the work was for.
    org
        The org that may pay.
    batch
        The batch that the work belongs to.
    correlation_id
        The correlation id in the ledger; default: the key, or a new id.
    """
    metric, units = requirement(work)
    async with asking(program, database, actor, http.CONSUME, key) as request:
        body = http.ConsumeRequest(
            user_id=user,
            org_id=org,
            metric=metric,
            amount=units,
            batch_id=batch,
            correlation_id=correlation_id or key or request.correlation_id,
        )
        answer = await consumption.consume(request, request.read(body))
    if json:
        show_json(answer)
    elif answer.success:
        payer = "free of charge," if not answer.credits else f"the {answer.consumed_from} paid"
        covered = (
            f"allowances paid {answer.allowance_units} units, " if answer.allowance_units else ""
        )
        say(f"{metric}: {covered}{payer} {answer.credits} credits; {answer.new_balance} are left")
    if not answer.success:
        owed = f"{answer.owed} are owed" if answer.owed else "it has no price yet"
        raise Failed(f"{answer.reason}: the work is debt {answer.operation_id}, {owed}")


async def set_balance(
    subject: SubjectName,
    balance: Whole,
    *,
    actor: Actor,
    program: Injected,
    credit_type: CreditType = DEFAULT_CREDIT_TYPE,
    reason: Reason = None,
    key: Key = None,
    database: Database = None,
    json: AsJson = False,
) -> None:
    """Set a balance to a target in one step.

    Parameters
    ----------
    balance
        The target balance in credits, 0 or more.
    """
    holder = subject_of(subject)
    async with asking(program, database, actor, http.SET_BALANCE, key, may_create=True) as request:
        body = http.SetRequest(
            subject_type=holder.type,
            subject_id=holder.id,
            balance=balance,
            reason=reason,
            credit_type=credit_type,
        )
        answer = await administration.set_balance(request, request.read(body))
    if json:
        show_json(answer)
    else:
        say(f"{holder} has {answer.balance} {credit_type} ({answer.delta:+})")


async def reverse(
    operation: OperationId,
    *,
    reason: str,
    actor: Actor,
    program: Injected,
    amount: Whole | None = None,
    key: Key = None,
    database: Database = None,
    json: AsJson = False,
) -> None:
    """Reverse an operation, in full or in part.

    The credits of a consumption return to the grants that paid; a grant is taken back.

    Parameters
    ----------
    reason
        The reason, for the ledger and the audit log.
    amount
        Credits to reverse; default: all that are not reversed yet.
    """
    async with asking(program, database, actor, http.REVERSE, key) as request:
        await name_operation(request, operation)
        body = http.ReverseRequest(reason=reason, amount=amount)
        answer = await consumption.reverse(request, request.read(body))
    if json:
        show_json(answer)
    else:
        units = f" and {answer.allowance_units} units" if answer.allowance_units else ""
        say(f"{answer.credits} credits{units} are back; the balance is {answer.new_balance}")


async def list_debts(
    *,
    program: Injected,
    status: Literal["open", "all"] = "open",
    limit: Limit = 100,
    database: Database = None,
    json: AsJson = False,
) -> None:
    """List work that could not be paid, oldest first."""
    async with asking(program, database, "", http.DEBTS) as request:
        answer = await requests.debts(request, http.DebtsQuery(status=status, limit=limit))
    if answer.next_cursor is not None:
        warn_of_more(limit)
    if json:
        show_json(answer.debts)
    else:
        columns = ("at", "wallet", "metric", "owed", "closed_by", "debt")
        show_table(columns, map(_debt, answer.debts), empty="no debts")


async def settle_debt(
    debt: DebtId,
    *,
    actor: Actor,
    program: Injected,
    amount: Whole | None = None,
    reason: Reason = None,
    key: Key = None,
    database: Database = None,
    json: AsJson = False,
) -> None:
    """Settle a debt, or a part of it, from the debtor's wallet.

    Parameters
    ----------
    amount
        Credits to settle; default: as many as are available.
    """
    async with asking(program, database, actor, http.SETTLE_DEBT, key) as request:
        await name_operation(request, debt)
        body = request.read(http.SettleDebtRequest(reason=reason, amount=amount))
        _tell(await requests.settle(request, body), as_json=json)


async def write_off_debt(
    debt: DebtId,
    *,
    actor: Actor,
    program: Injected,
    reason: Reason = None,
    key: Key = None,
    database: Database = None,
    json: AsJson = False,
) -> None:
    """Write off a debt."""
    async with asking(program, database, actor, http.WRITE_OFF_DEBT, key) as request:
        await name_operation(request, debt)
        body = request.read(http.DebtRequest(reason=reason))
        _tell(await requests.write_off(request, body), as_json=json)


async def price_debt(
    debt: DebtId,
    *,
    actor: Actor,
    program: Injected,
    reason: Reason = None,
    key: Key = None,
    database: Database = None,
    json: AsJson = False,
) -> None:
    """Charge work that was filed without a price, by the active policy."""
    async with asking(program, database, actor, http.PRICE_DEBT, key) as request:
        await name_operation(request, debt)
        body = request.read(http.DebtRequest(reason=reason))
        _tell(await requests.price(request, body), as_json=json)


async def show_limits(
    subject: Annotated[str, Parameter(help="The id of a user or org.")],
    *,
    program: Injected,
    database: Database = None,
    json: AsJson = False,
) -> None:
    """Show the usage of each rate limit of a user or org."""
    subject_id = kept("SUBJECT", names.stored_id, subject)
    async with asking(program, database, "", http.RATE_LIMITS, limited=True) as request:
        request.params = {"subject_id": subject_id}
        answer = await rate_limits.usage(request, None)
    if json:
        show_json(answer.limits)
    else:
        columns = ("metric", "per", "limit", "window_seconds", "used", "remaining", "warn_at")
        rows = [[asdict(one)[name] for name in columns] for one in answer.limits]
        show_table(columns, rows, empty="no limits")


async def reset_limit(
    subject: Annotated[str, Parameter(help="The id of a user or org.")],
    metric: str,
    *,
    actor: Actor,
    program: Injected,
    reason: Reason = None,
    database: Database = None,
    json: AsJson = False,
) -> None:
    """Reset the usage of a metric's rate limits for a user or org, in the configured Redis.

    Parameters
    ----------
    metric
        The metric of the limits.
    """
    async with asking(program, database, actor, http.RESET_RATE_LIMIT, limited=True) as request:
        if not request.engine.limits.is_shared:
            raise Failed(NOT_SHARED)
        body = http.ResetRateLimitRequest(subject_id=subject, metric=metric, reason=reason)
        answer = await rate_limits.reset(request, request.read(body))
    if json:
        show_json(answer)
    else:
        say(answer.message)


def _debt(debt: http.DebtItem) -> tuple[Any, ...]:
    return (
        debt.created_at,
        f"{debt.subject_type}:{debt.subject_id}/{debt.credit_type}",
        debt.metric,
        "no price" if debt.owed is None else debt.owed,
        None if debt.closed_by is None else Id(debt.closed_by),
        Id(debt.operation_id),
    )


def _tell(answer: http.DebtResponse | http.DebtPricedResponse, *, as_json: bool) -> None:
    if as_json:
        show_json(answer)
        return
    how = answer.how.replace("_", " ") if isinstance(answer, http.DebtResponse) else "charged"
    say(f"{answer.credits} credits {how}, {answer.owed} owed; the balance is {answer.new_balance}")
