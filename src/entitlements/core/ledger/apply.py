"""The entry point of the ledger: apply one command to a loaded book."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final, assert_never

from msgspec.structs import replace

from entitlements.core import commands as c
from entitlements.core.ledger import (
    consume,
    debt,
    grant,
    hold,
    report,
    reverse,
    settle,
    unpriced,
)
from entitlements.core.ledger.book import Book, Draft, Needs, ReceiptKey
from entitlements.core.ledger.due import MoreDue, apply_all_due
from entitlements.core.model import (
    AuditEntry,
    JobKey,
    JobRecord,
    Membership,
    Receipt,
    Subject,
    WalletKey,
)
from entitlements.core.outcomes import (
    AnyOutcome,
    Consumed,
    DoneTogether,
    DueApplied,
    RefusalCode,
    Refused,
    Reported,
    StoredOutcome,
)
from entitlements.core.policy import Policy

AUDITED: dict[type[c.Command], str] = {
    c.GrantCredits: "grant",
    c.Adjust: "credits.adjust",
    c.SetBalance: "credits.set",
    c.Revoke: "grant.revoke",
    c.Reverse: "operation.reverse",
    c.SettleDebt: "debt.settle",
    c.WriteOffDebt: "debt.write_off",
    c.PriceDebt: "debt.price",
    c.OpenAccount: "account.open",
    c.ReleaseHold: "hold.release",
}
"""Administrative acts and their names in the audit log.

A release of a hold, the opening of an account and the pricing of a debt count only if an operator
does it.
"""


def apply(book: Book, command: c.AnyCommand) -> AnyOutcome | Refused:
    """Decide one command after all earlier ones, and merge its changes into the book.

    A repeat of a key or job gets the first answer unchanged; for work that was recorded without a
    price, it gets the current state of that work. Raise NeedMore if the loaded state does not
    suffice, MoreDue if the command must wait for another batch. If it raises, the command itself
    has changed nothing.
    """
    draft = Draft(book)
    try:
        if earlier := _earlier_answer(draft, command):
            book.merge(draft)
            return earlier
        apply_all_due(draft, command, wallets_of(command, book.policy))
    except MoreDue:
        book.merge(draft)
        raise
    if isinstance(command, c.ApplyDue):
        book.merge(draft)
        return DueApplied(new_balance=draft.wallet(command.wallet).balance)
    outcome = _decide(draft, command)
    if isinstance(outcome, Refused):
        return outcome
    if not isinstance(outcome, DoneTogether | Reported) and not outcome.replayed:
        _record_answer(draft, command, outcome)
    book.merge(draft)
    return outcome


def wallets_of(  # noqa: PLR0911 - one case per command
    command: c.AnyCommand, policy: Policy
) -> set[WalletKey]:
    """Return every wallet that a command can change or include in its answer."""
    match command:
        case c.Consume():
            return consume.wallets_of(command, policy)
        case c.Together(items=items):
            return {key for item in items for key in wallets_of(item, policy)}
        case c.ReportUse():
            return report.wallets_of(command, policy)
        case c.TakeHold():
            return hold.wallets_of(command, policy)
        case c.SettleHold():
            return settle.wallets_of(command, policy)
        case c.PriceDebt():
            return unpriced.wallets_of(command, policy)
        case c.ExtendHold(hold=found) | c.ReleaseHold(hold=found):
            return set(found.wallets)
        case _:
            return {command.wallet}


def add_needs(  # noqa: C901, PLR0912 - one case per command
    needs: Needs, command: c.AnyCommand, policy: Policy
) -> None:
    """Add the rows that the command needs."""
    needs.wallets |= wallets_of(command, policy)
    if isinstance(command, c.ReportUse):
        report.add_needs(needs, command)
        return
    needs.receipts.add((command.origin.client, command.origin.key))
    match command:
        case c.Together(items=items):
            for item in items:
                add_needs(needs, item, policy)
        case c.Consume(job=job) if job is not None:
            needs.jobs.add(job)
        case c.TakeHold() if policy.debt_gate is not None:
            needs.owing |= hold.wallets_of(command, policy)
        case c.SettleHold(hold=found) | c.ExtendHold(hold=found) | c.ReleaseHold(hold=found):
            needs.holds |= {(wallet, found.id) for wallet in found.wallets}
        case c.Revoke(wallet=wallet, grant_id=grant_id):
            needs.grants.add((wallet, grant_id))
        case c.Reverse(operation=operation):
            needs.reversals.add((operation.wallet, operation.id))
            needs.grants |= {(operation.wallet, draw.grant_id) for draw in operation.draws}
            if reverse.overdrawn(operation):
                needs.repayments[operation.wallet, operation.seq] = operation.id
        case c.SettleDebt(wallet=wallet, debt_id=debt_id):
            needs.debts.add((wallet, debt_id))
        case c.WriteOffDebt(wallet=wallet, debt_id=debt_id):
            needs.debts.add((wallet, debt_id))
        case c.PriceDebt(operation=operation):
            needs.unpriced.add(operation.id)
        case c.OpenAccount(subject=subject, org_id=org_id):
            needs.accounts.add(subject)
            if org_id is not None:
                needs.members.add(Membership(org_id, subject.id))
        case c.GrantCredits(wallet=wallet) | c.Adjust(wallet=wallet):
            if policy.settle_debts:
                needs.oldest_debts.add(wallet)
        case _:
            pass


def _decide(  # noqa: C901, PLR0911, PLR0912 - one case per command
    draft: Draft, command: c.AnyCommand
) -> AnyOutcome | Refused:
    match command:
        case c.Consume():
            outcomes = consume.consume(draft, (command,))
            return outcomes if isinstance(outcomes, Refused) else outcomes[0]
        case c.Together():
            return _decide_together(draft, command)
        case c.GrantCredits():
            return grant.grant(draft, command)
        case c.Adjust():
            return grant.adjust(draft, command)
        case c.SetBalance():
            return grant.set_balance(draft, command)
        case c.Revoke():
            return grant.revoke(draft, command)
        case c.Reverse():
            return reverse.reverse(draft, command)
        case c.SettleDebt():
            return debt.settle(draft, command)
        case c.WriteOffDebt():
            return debt.write_off(draft, command)
        case c.PriceDebt():
            return unpriced.price_debt(draft, command)
        case c.TakeHold():
            return hold.take(draft, command)
        case c.SettleHold():
            return settle.settle(draft, command)
        case c.ExtendHold():
            return hold.extend(draft, command)
        case c.ReleaseHold():
            return hold.release(draft, command)
        case c.ReportUse():
            return report.report(draft, command)
        case c.OpenAccount():
            return grant.open_account(draft, command)
        case c.ApplyDue():
            raise AssertionError(command)
        case _:
            assert_never(command)


def _decide_together(draft: Draft, command: c.Together) -> DoneTogether | Refused:
    """Decide every item.

    The payers of consumptions are chosen together. Other commands are decided in order, each on
    the state that the earlier ones left.
    """
    if consumptions := [item for item in command.items if isinstance(item, c.Consume)]:
        if refused := _consume_together(draft, consumptions):
            return refused
        answer = _answered_together(draft, command)
        assert answer is not None, command
        return answer
    results: list[StoredOutcome] = []
    for number, item in enumerate(command.items):
        outcome = _answer_of_name(draft, item)
        if outcome is None:
            outcome = _decide_item(draft, item)
        if isinstance(outcome, Refused):
            return _refused_at(number, outcome)
        results.append(outcome)
    return _done_together(results)


def _decide_item(draft: Draft, item: c.Item) -> StoredOutcome | Refused:
    outcome = _decide(draft, item)
    assert not isinstance(outcome, DoneTogether | Reported), item
    if not isinstance(outcome, Refused):
        _record_answer(draft, item, outcome)
    return outcome


def _consume_together(draft: Draft, items: Sequence[c.Consume]) -> Refused | None:
    """Charge the items that are new; among items with the same key or job, only the first is."""
    new: list[c.Consume] = []
    named: set[ReceiptKey | JobKey] = set()
    for item in items:
        names: set[ReceiptKey | JobKey] = {(item.origin.client, item.origin.key)}
        if item.job is not None:
            names.add(item.job)
        if named.isdisjoint(names) and _answer_of_name(draft, item) is None:
            new.append(item)
            named |= names
    outcomes = consume.consume(draft, new)
    if isinstance(outcomes, Refused):
        return outcomes
    for item, outcome in zip(new, outcomes, strict=True):
        _record_answer(draft, item, outcome)
    return None


def _answered_together(draft: Draft, command: c.Together) -> DoneTogether | Refused | None:
    """Return the stored answers of all items or the first refusal; None if an answer is missing."""
    results: list[StoredOutcome] = []
    for number, item in enumerate(command.items):
        answer = _answer_of_name(draft, item)
        if isinstance(answer, Refused):
            return _refused_at(number, answer)
        if answer is not None:
            results.append(answer)
    return _done_together(results) if len(results) == len(command.items) else None


def _refused_at(number: int, refused: Refused) -> Refused:
    """Return an item's refusal as the refusal of the whole command."""
    return replace(refused, data={"item": number, **refused.data})


def _done_together(results: Sequence[StoredOutcome]) -> DoneTogether:
    return DoneTogether(results=tuple(results), replayed=all(result.replayed for result in results))


def _earlier_answer(draft: Draft, command: c.AnyCommand) -> AnyOutcome | Refused | None:
    """Return the stored answer of the command's key, else of its job."""
    if isinstance(command, c.Together):
        return _answered_together(draft, command)
    if isinstance(command, c.ReportUse):
        return report.earlier(draft, command)
    return _answer_of_name(draft, command)


def _answer_of_name(draft: Draft, command: c.AnyCommand) -> StoredOutcome | Refused | None:
    return _answer_of_key(draft, command) or _answer_of_job(draft, command)


KEY_REUSED: Final = Refused(
    code=RefusalCode.KEY_REUSED, detail="this idempotency key was used for another request"
)


def _answer_of_key(draft: Draft, command: c.AnyCommand) -> StoredOutcome | Refused | None:
    origin = command.origin
    receipt = draft.receipt((origin.client, origin.key))
    if receipt is not None and receipt.expires_at > draft.now:
        if receipt.fingerprint != origin.fingerprint:
            return KEY_REUSED
        return _again(draft, receipt.outcome, command)
    return None


def _answer_of_job(draft: Draft, command: c.AnyCommand) -> StoredOutcome | Refused | None:
    if not isinstance(command, c.Consume) or command.job is None:
        return None
    job = draft.job(command.job)
    if job is None:
        return None
    if job.units == command.units:
        return _again(draft, job.outcome, command)
    return Refused(
        code=RefusalCode.JOB_CONFLICT,
        detail=f"this job was consumed before with {job.units} units",
        data={"units": job.units, "operation_id": job.outcome.operation_id},
    )


def _again(draft: Draft, outcome: StoredOutcome, command: c.AnyCommand) -> StoredOutcome:
    """Return the stored answer as a replay.

    An answer with the command's own id is not a replay: it is the first answer, of an attempt
    whose commit was not acknowledged.
    """
    if outcome.operation_id == command.id:
        return outcome
    if isinstance(outcome, Consumed) and outcome.is_unpriced:
        outcome = unpriced.repeated(draft, command, outcome)
    return replace(outcome, replayed=True)


def _record_answer(draft: Draft, command: c.AnyCommand, outcome: StoredOutcome) -> None:
    origin = command.origin
    draft.receipts[origin.client, origin.key] = Receipt(
        client=origin.client,
        key=origin.key,
        fingerprint=origin.fingerprint,
        outcome=outcome,
        created_at=draft.now,
        expires_at=draft.now + timedelta(seconds=origin.lifetime_s),
    )
    if isinstance(command, c.Consume) and command.job is not None:
        assert isinstance(outcome, Consumed), outcome
        draft.jobs[command.job] = JobRecord(key=command.job, units=command.units, outcome=outcome)
    action = AUDITED.get(type(command))
    if action is not None and getattr(command, "by_operator", True):
        draft.audits.append(_audit(draft, command, action))


def _audit(draft: Draft, command: c.AnyCommand, action: str) -> AuditEntry:
    wallet = min(wallets_of(command, draft.book.policy))
    asked: dict[str, Any] = {
        name: getattr(command, name)
        for name in ("amount", "balance", "quantity", "grant_id", "debt_id", "hold_id")
        if hasattr(command, name)
    }
    if isinstance(command, c.Reverse | c.PriceDebt):
        asked["operation_id"] = command.operation.id
    return AuditEntry(
        id=command.id,
        at=draft.now,
        actor=command.origin.actor,
        client=command.origin.client,
        action=action,
        subject=Subject(wallet.subject_type, wallet.subject_id),
        reason=getattr(command, "reason", None),
        detail=asked,
        correlation_id=command.origin.correlation_id,
    )
