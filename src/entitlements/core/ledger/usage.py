"""Usage reports: charged like any consumption, at most once per event and per job."""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from entitlements.core.commands import Consume, IngestUsage, SettleHold
from entitlements.core.ledger import consume, settlement, unpriced
from entitlements.core.ledger.book import Draft, Needs
from entitlements.core.ledger.members import add_member
from entitlements.core.ledger.rule import Rule, Rules, Wallets
from entitlements.core.model import ConsumptionRecord, HoldFacts, StoredJob, WalletKey
from entitlements.core.outcomes import Consumed, HoldChanged, Refusal, UsageIngested
from entitlements.core.policy import Policy
from entitlements.core.pricing import AmountTooLarge, credit_type_of, price
from entitlements.core.reasons import (
    ConsumptionOutcome,
    DenialReason,
    HoldStatus,
    OperationStatus,
    RefusalCode,
)


def _wallets(command: IngestUsage, policy: Policy) -> Wallets:
    """Return the wallets of the consumption and of the hold that it settles.

    The set is empty if nothing is charged.
    """
    if not command.is_charged:
        return set()
    wallets = consume.wallets_of(_consumption(command), policy)
    if command.hold:
        wallets |= settlement.wallets_of(_settlement(command), policy)
    return wallets


def _needs(needs: Needs, command: IngestUsage, policy: Policy) -> None:
    needs.reports.add(command.report.key)
    if command.is_charged:
        add_member(needs, policy, command.report.user_id, command.report.org_id)
    if command.is_charged and command.report.job is not None:
        needs.jobs.add(command.report.job)
    if command.hold is not None:
        needs.holds |= {(wallet, command.hold.id) for wallet in command.hold.wallets}


def _earlier(draft: Draft, command: IngestUsage) -> UsageIngested | None:
    """Return the stored result of the event, even if the event now has other content.

    For work that it recorded without a price, return the current state of that work. A record with
    the command's own id is not a replay: it is the first answer, of an attempt whose commit was
    not acknowledged.
    """
    known = draft.record(command.report.key)
    if known is None:
        return None
    if known.is_unpriced and known.id != command.id:
        answer = _repeated_unpriced(draft, command, known)
        return replace(_reported(answer, _result(answer), counted={}), replayed=True)
    return UsageIngested(
        operation_id=known.operation_id,
        replayed=known.id != command.id,
        result=known.result,
        credits=known.credits,
        owed=known.owed,
        reason=known.reason,
        counted=_counted(command, known.result),
    )


def ingest(draft: Draft, command: IngestUsage) -> UsageIngested | Refusal:
    """Charge the usage or settle its hold, or find it a duplicate or conflict; record the result.

    Usage that cannot be charged is refused and not recorded: an amount that is too large, or a
    hold of another user or org. Work of an unknown metric is recorded without a price.
    """
    if not command.is_charged:
        return _record(draft, command, UsageIngested(result=ConsumptionOutcome.FREE))
    job = draft.job(command.report.job) if command.report.job is not None else None
    if job is not None:
        return _record(draft, command, _repeated(draft, command, job))
    if command.hold:
        return _unpriceable(draft, command, command.hold) or _settled(draft, command)
    if command.report.units == 0:
        return _charged(draft, command, _nothing(draft, command))
    outcomes = consume.consume(draft, (_consumption(command),))
    return outcomes if isinstance(outcomes, Refusal) else _charged(draft, command, outcomes[0])


def _consumption(command: IngestUsage) -> Consume:
    report = command.report
    return Consume(
        id=command.id,
        origin=command.origin,
        user_id=report.user_id,
        org_id=report.org_id,
        metric=report.metric,
        units=report.units,
        batch_id=report.batch_id,
    )


def _settlement(command: IngestUsage) -> SettleHold:
    report = command.report
    assert command.hold is not None, command
    return SettleHold(
        id=command.id,
        origin=command.origin,
        hold=command.hold,
        requirements={report.metric: report.units},
    )


def _repeated_unpriced(draft: Draft, command: IngestUsage, known: ConsumptionRecord) -> Consumed:
    answer = Consumed(
        operation_id=known.operation_id,
        success=False,
        new_balance=0,
        consumed_from="none",
        credits=0,
        status=OperationStatus.FAILED,
        reason=DenialReason.POLICY_DENIED,
    )
    return unpriced.repeated(draft, command, answer)


def _repeated(draft: Draft, command: IngestUsage, job: StoredJob) -> UsageIngested:
    """Return a duplicate or conflict for a job that another event or a request has consumed.

    If the job was recorded without a price and has one now, charge it.
    """
    is_same = job.units == command.report.units
    if is_same and isinstance(job.outcome, Consumed) and job.outcome.is_unpriced:
        unpriced.repeated(draft, command, job.outcome)
    return UsageIngested(
        operation_id=job.outcome.operation_id,
        result=ConsumptionOutcome.DUPLICATE if is_same else ConsumptionOutcome.CONFLICT,
        reason=None if is_same else f"this job was reported before with {job.units} units",
    )


def _unpriceable(draft: Draft, command: IngestUsage, hold: HoldFacts) -> Refusal | None:
    """Return a refusal if the usage is too large, or if the hold belongs to another user or org."""
    report = command.report
    try:
        price(draft.book.policy, report.metric, report.units)
    except AmountTooLarge as error:
        return Refusal(code=RefusalCode.AMOUNT_TOO_LARGE, detail=str(error))
    if hold.user_id != report.user_id or report.org_id not in (None, hold.org_id):
        return Refusal(
            code=RefusalCode.HOLD_UNKNOWN, detail="the hold belongs to another user or org"
        )
    return None


def _settled(draft: Draft, command: IngestUsage) -> UsageIngested | Refusal:
    """Settle the hold; if it was closed differently, record a conflict: the work is unpaid."""
    outcome = settlement.settle(draft, _settlement(command))
    if isinstance(outcome, Refusal):
        if outcome.code is not RefusalCode.HOLD_CLOSED:
            return outcome
        became = UsageIngested(result=ConsumptionOutcome.CONFLICT, reason=_how_closed(outcome))
        return _record(draft, command, became)
    answer = _as_consumed(outcome)
    if outcome.replayed:
        _remember(draft, command, answer)  # a repeat without the hold must not be charged
        became = UsageIngested(
            result=ConsumptionOutcome.DUPLICATE, operation_id=outcome.operation_id
        )
        return _record(draft, command, became)
    return _charged(draft, command, answer, settled=outcome)


def _how_closed(refused: Refusal) -> str:
    match refused.data["status"]:
        case HoldStatus.SETTLED:
            return "the hold was settled with other usage"
        case HoldStatus.RELEASED:
            return "the hold was released"
        case _:
            return "the hold lapsed too long ago"


def _as_consumed(outcome: HoldChanged) -> Consumed:
    """Return the answer for later requests with the same job."""
    owed = sum(numbers.owed for numbers in outcome.by_credit_type.values())
    reason = None
    if owed:
        reason = DenialReason.INSUFFICIENT_CREDITS
    elif outcome.unpriced:
        reason = DenialReason.POLICY_DENIED
    return Consumed(
        operation_id=outcome.operation_id,
        success=reason is None,
        new_balance=outcome.new_balance,
        consumed_from=outcome.consumed_from,
        credits=sum(numbers.charged for numbers in outcome.by_credit_type.values()),
        status=OperationStatus.COMPLETED if reason is None else OperationStatus.FAILED,
        owed=owed,
        reason=reason,
        allowance_units=sum(units.charged for units in outcome.allowances.values()),
    )


def _nothing(draft: Draft, command: IngestUsage) -> Consumed:
    """Return the answer for 0 units: no operation is written, but the job is stored."""
    credit_type = credit_type_of(draft.book.policy, command.report.metric)
    wallet = WalletKey("user", command.report.user_id, credit_type)
    return Consumed(
        success=True,
        new_balance=draft.wallet(wallet).balance,
        consumed_from="none",
        credits=0,
        status=OperationStatus.COMPLETED,
    )


def _charged(
    draft: Draft, command: IngestUsage, answer: Consumed, settled: HoldChanged | None = None
) -> UsageIngested:
    """Record the result and the job, so that a request with the same job is not charged again."""
    _remember(draft, command, answer)
    if settled is not None:
        became = _reported(answer, ConsumptionOutcome.SETTLED, settled.counted)
    else:
        result = _result(answer)
        became = _reported(answer, result, _counted(command, result))
    return _record(draft, command, became)


def _reported(
    answer: Consumed, result: ConsumptionOutcome, counted: dict[str, int]
) -> UsageIngested:
    return UsageIngested(
        operation_id=answer.operation_id,
        result=result,
        credits=answer.credits,
        owed=answer.owed,
        reason=answer.reason,
        counted=counted,
        consumed_from=answer.consumed_from if answer.success else "none",
    )


def _remember(draft: Draft, command: IngestUsage, answer: Consumed) -> None:
    job = command.report.job
    if job is not None:
        draft.jobs[job] = StoredJob(key=job, units=command.report.units, outcome=answer)


def _result(answer: Consumed) -> ConsumptionOutcome:
    if not answer.success:
        return ConsumptionOutcome.FAILED
    return ConsumptionOutcome.CHARGED if answer.credits else ConsumptionOutcome.FREE


def _counted(command: IngestUsage, result: ConsumptionOutcome) -> dict[str, int]:
    """Return the units that count against limits: those of charged or free work without a hold.

    Usage that is only recorded does not count.
    """
    report = command.report
    is_counted = (
        result in (ConsumptionOutcome.CHARGED, ConsumptionOutcome.FREE) and command.is_charged
    )
    return {report.metric: report.units} if is_counted and report.units else {}


def _record(draft: Draft, command: IngestUsage, outcome: UsageIngested) -> UsageIngested:
    draft.records[command.report.key] = ConsumptionRecord(
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


RULES: Final[Rules] = {
    IngestUsage: Rule(decide=ingest, wallets=_wallets, needs=_needs, earlier=_earlier),
}
