"""A reported use: charged like any consumption, at most once for its event and for its job."""

from __future__ import annotations

from msgspec.structs import replace

from entitlements.core.commands import Consume, ReportUse, SettleHold
from entitlements.core.ledger import consume, settle, unpriced
from entitlements.core.ledger.book import Draft, Needs
from entitlements.core.model import (
    HoldStatus,
    JobRecord,
    OperationStatus,
    UseRecord,
    WalletKey,
)
from entitlements.core.outcomes import (
    UNPRICED,
    Consumed,
    HoldChanged,
    RefusalCode,
    Refused,
    Reported,
    UseResult,
)
from entitlements.core.policy import Policy
from entitlements.core.pricing import AmountTooLarge, price


def wallets_of(command: ReportUse, policy: Policy) -> set[WalletKey]:
    """Those of a consumption, and of the hold it would settle; none if nothing is charged."""
    if not command.is_charged:
        return set()
    wallets = consume.wallets_of(_consumption(command), policy)
    if command.hold:
        wallets |= settle.wallets_of(_settlement(command), policy)
    return wallets


def add_needs(needs: Needs, command: ReportUse) -> None:
    """Name what else must be loaded: what is known of the event, the job and the hold."""
    needs.reports.add(command.report.key)
    if command.is_charged and command.report.job is not None:
        needs.jobs.add(command.report.job)
    if command.hold is not None:
        needs.holds |= {(wallet, command.hold.id) for wallet in command.hold.wallets}


def earlier(draft: Draft, command: ReportUse) -> Reported | None:
    """What the event ended in before, whatever it says now; or what became since of work that it
    filed without a price.

    A record under the command's own id is its first answer, of an attempt whose commit was not
    acknowledged.
    """
    known = draft.record(command.report.key)
    if known is None:
        return None
    if known.is_unpriced and known.id != command.id:
        return replace(_reported(_repeated_unpriced(draft, command, known)), replayed=True)
    return Reported(
        operation_id=known.operation_id,
        replayed=known.id != command.id,
        result=known.result,
        credits=known.credits,
        owed=known.owed,
        reason=known.reason,
        counted=_counted(command, known.result),
    )


def report(draft: Draft, command: ReportUse) -> Reported | Refused:
    """Charge the use, settle its hold, or say why neither is right; in any case on record.

    Refused is what cannot be charged: too large a sum, a hold of somebody else. An unknown metric
    is filed without a price.
    """
    if not command.is_charged:
        return _record(draft, command, Reported(result=UseResult.FREE))
    job = draft.job(command.report.job) if command.report.job is not None else None
    if job is not None:
        return _record(draft, command, _repeated(draft, command, job))
    if refused := _unpriceable(draft, command):
        return refused
    if command.hold:
        return _settled(draft, command)
    if command.report.units == 0:
        return _charged(draft, command, _nothing(draft, command))
    outcomes = consume.consume(draft, (_consumption(command),))
    return outcomes if isinstance(outcomes, Refused) else _charged(draft, command, outcomes[0])


def _consumption(command: ReportUse) -> Consume:
    told = command.report
    return Consume(
        id=command.id,
        origin=command.origin,
        user_id=told.user_id,
        org_id=told.org_id,
        metric=told.metric,
        units=told.units,
        batch_id=told.batch_id,
    )


def _settlement(command: ReportUse) -> SettleHold:
    told = command.report
    assert command.hold is not None, command
    return SettleHold(
        id=command.id,
        origin=command.origin,
        hold=command.hold,
        requirements={told.metric: told.units},
    )


def _repeated_unpriced(draft: Draft, command: ReportUse, known: UseRecord) -> Consumed:
    answer = Consumed(
        operation_id=known.operation_id,
        success=False,
        new_balance=0,
        consumed_from="none",
        credits=0,
        status=OperationStatus.FAILED,
        reason=known.reason,
    )
    return unpriced.repeated(draft, command, answer)


def _repeated(draft: Draft, command: ReportUse, job: JobRecord) -> Reported:
    """The job is known under another event, or from a request; it may have a price by now."""
    is_same = job.units == command.report.units
    if is_same and isinstance(job.outcome, Consumed) and job.outcome.is_unpriced:
        unpriced.repeated(draft, command, job.outcome)
    return Reported(
        operation_id=job.outcome.operation_id,
        result=UseResult.DUPLICATE if is_same else UseResult.CONFLICT,
        reason=None if is_same else f"this job was reported before with {job.units} units",
    )


def _unpriceable(draft: Draft, command: ReportUse) -> Refused | None:
    told = command.report
    try:
        price(draft.book.policy, told.metric, told.units)
    except AmountTooLarge as error:
        return Refused(code=RefusalCode.AMOUNT_TOO_LARGE, detail=str(error))
    if command.hold and not _is_theirs(command):
        return Refused(code=RefusalCode.HOLD_UNKNOWN, detail="the hold is somebody else's")
    return None


def _is_theirs(command: ReportUse) -> bool:
    """Whether the hold is the user's, for the org if the report names one."""
    told, hold = command.report, command.hold
    assert hold is not None, command
    return hold.user_id == told.user_id and told.org_id in (None, hold.org_id)


def _settled(draft: Draft, command: ReportUse) -> Reported | Refused:
    """A hold that was closed otherwise leaves work that is done and that nobody has paid."""
    outcome = settle.settle(draft, _settlement(command))
    if isinstance(outcome, Refused):
        if outcome.code is not RefusalCode.HOLD_CLOSED:
            return outcome
        became = Reported(result=UseResult.CONFLICT, reason=_how_closed(outcome))
        return _record(draft, command, became)
    answer = _as_consumed(outcome)
    if outcome.replayed:
        _remember(draft, command, answer)  # reported again without the hold it is not charged
        became = Reported(result=UseResult.DUPLICATE, operation_id=outcome.operation_id)
        return _record(draft, command, became)
    return _charged(draft, command, answer, settled=outcome)


def _how_closed(refused: Refused) -> str:
    match refused.data["status"]:
        case HoldStatus.SETTLED:
            return "the hold was settled with something else"
        case HoldStatus.RELEASED:
            return "the hold was released"
        case _:
            return "the hold lapsed too long ago"


def _as_consumed(outcome: HoldChanged) -> Consumed:
    """What a request that names the same job is answered."""
    owed = sum(numbers.owed for numbers in outcome.by_credit_type.values())
    reason = consume.INSUFFICIENT_CREDITS if owed else UNPRICED if outcome.unpriced else None
    return Consumed(
        operation_id=outcome.operation_id,
        success=reason is None,
        new_balance=outcome.new_balance,
        consumed_from=outcome.consumed_from,
        credits=sum(numbers.charged for numbers in outcome.by_credit_type.values()),
        status=OperationStatus.COMPLETED if reason is None else OperationStatus.FAILED,
        owed=owed,
        reason=reason,
    )


def _nothing(draft: Draft, command: ReportUse) -> Consumed:
    """No units, no operation; the job is known all the same."""
    wallet = min(consume.wallets_of(_consumption(command), draft.book.policy))
    wallet = wallet._replace(subject_type="user", subject_id=command.report.user_id)
    return Consumed(
        success=True,
        new_balance=draft.wallet(wallet).balance,
        consumed_from="none",
        credits=0,
        status=OperationStatus.COMPLETED,
    )


def _charged(
    draft: Draft, command: ReportUse, answer: Consumed, settled: HoldChanged | None = None
) -> Reported:
    """On record with the job, which a request may name as well."""
    _remember(draft, command, answer)
    became = _reported(answer)
    if settled is not None:
        became = replace(became, result=UseResult.SETTLED, counted=settled.counted)
    else:
        became = replace(became, counted=_counted(command, became.result))
    return _record(draft, command, became)


def _reported(answer: Consumed) -> Reported:
    return Reported(
        operation_id=answer.operation_id,
        result=_result(answer),
        credits=answer.credits,
        owed=answer.owed,
        reason=answer.reason,
        consumed_from=answer.consumed_from if answer.success else "none",
    )


def _remember(draft: Draft, command: ReportUse, answer: Consumed) -> None:
    job = command.report.job
    if job is not None:
        draft.jobs[job] = JobRecord(key=job, units=command.report.units, outcome=answer)


def _result(answer: Consumed) -> UseResult:
    if not answer.success:
        return UseResult.FAILED
    return UseResult.CHARGED if answer.credits else UseResult.FREE


def _counted(command: ReportUse, result: UseResult) -> dict[str, int]:
    """Work that was done under no hold counts against limits; what no service charged does not."""
    told = command.report
    is_counted = result in (UseResult.CHARGED, UseResult.FREE) and command.is_charged
    return {told.metric: told.units} if is_counted and told.units else {}


def _record(draft: Draft, command: ReportUse, outcome: Reported) -> Reported:
    draft.records[command.report.key] = UseRecord(
        id=command.id,
        report=command.report,
        result=outcome.result,
        operation_id=outcome.operation_id,
        credits=outcome.credits,
        owed=outcome.owed,
        reason=outcome.reason,
        correlation_id=command.origin.correlation_id,
        recorded_at=draft.now,
    )
    return outcome
