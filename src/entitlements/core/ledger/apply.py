"""The entry point of the ledger: apply one command to a loaded book."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from msgspec.structs import replace

from entitlements.core import commands as c
from entitlements.core.ledger import (
    accounts,
    adjustments,
    consume,
    debts,
    due,
    grants,
    holds,
    members,
    reversals,
    settlement,
    spending,
    subscriptions,
    unpriced,
    usage,
)
from entitlements.core.ledger.answers import store_answer, stored_answer
from entitlements.core.ledger.book import Book, Draft, Needs, ReceiptKey
from entitlements.core.ledger.due import MoreDue, apply_all_due
from entitlements.core.ledger.rule import Audit, Rule, Rules, Wallets
from entitlements.core.model import AuditEntry, JobKey, Subject, WalletKey
from entitlements.core.outcomes import (
    AnyOutcome,
    DoneTogether,
    DueApplied,
    Refusal,
    StoredOutcome,
    UsageIngested,
)
from entitlements.core.policy import Policy


def apply(book: Book, command: c.AnyCommand, wallets: Wallets) -> AnyOutcome | Refusal:
    """Decide one command after all earlier ones, and merge its changes into the book.

    ``wallets`` are those of `wallets_of` under the book's policy. A repeat of a key or job gets the
    first answer unchanged; for work that was recorded without a price, it gets the current state of
    that work. Raise NeedMore if the loaded state does not suffice, MoreDue if the command must wait
    for another batch. If it raises, the command itself has changed nothing.
    """
    draft = Draft(book)
    rule = RULES[type(command)]
    try:
        if earlier := (rule.earlier or stored_answer)(draft, command):
            book.merge(draft)
            return earlier
        apply_all_due(draft, command, wallets)
        # A rule that finds more wallets applies what is due in them before it changes anything.
        outcome = rule.decide(draft, command)
    except MoreDue:
        book.merge(draft)
        raise
    if isinstance(outcome, Refusal):
        return outcome
    if not isinstance(outcome, DoneTogether | UsageIngested | DueApplied):
        _store(draft, command, rule, outcome)
    book.merge(draft)
    return outcome


def wallets_of(command: c.AnyCommand, policy: Policy) -> Wallets:
    """Return every wallet that a command can change or include in its answer."""
    return RULES[type(command)].wallets(command, policy)


def add_needs(needs: Needs, command: c.AnyCommand, wallets: Wallets, policy: Policy) -> None:
    """Add the rows that the command needs, its ``wallets`` included."""
    needs.wallets |= wallets
    _add_rows(needs, command, policy)


def _add_rows(needs: Needs, command: c.AnyCommand, policy: Policy) -> None:
    rule = RULES[type(command)]
    if rule.earlier is None:
        needs.receipts.add((command.origin.client, command.origin.key))
    rule.needs(needs, command, policy)


def _store(draft: Draft, command: c.AnyCommand, rule: Rule[Any], outcome: StoredOutcome) -> None:
    """Store a new answer, and write the audit entry of an administrative act."""
    if outcome.replayed:
        return
    store_answer(draft, command, outcome)
    if rule.audit and command.by_operator:
        draft.audits.append(_audit_entry(draft, command, rule.audit))


def _audit_entry(draft: Draft, command: c.AnyCommand, audit: Audit) -> AuditEntry:
    return AuditEntry(
        id=command.id,
        at=draft.now,
        actor=command.origin.actor,
        client=command.origin.client,
        action=audit.action,
        subject=_subject_of(command, draft.book.policy),
        reason=command.reason,
        detail={name: getattr(command, name) for name in audit.fields},
        correlation_id=command.origin.correlation_id,
    )


def _subject_of(command: c.AnyCommand, policy: Policy) -> Subject:
    """Return the subject whose wallet the command names, or else the first that it can touch."""
    wallet: WalletKey = getattr(command, "wallet", None) or min(wallets_of(command, policy))
    return wallet.subject


def _wallets_together(command: c.Together, policy: Policy) -> Wallets:
    return {key for item in command.items for key in wallets_of(item, policy)}


def _needs_together(needs: Needs, command: c.Together, policy: Policy) -> None:
    for item in command.items:
        _add_rows(needs, item, policy)


def _together(draft: Draft, command: c.Together) -> DoneTogether | Refusal:
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
        outcome = stored_answer(draft, item) or _decide_item(draft, item)
        if isinstance(outcome, Refusal):
            return _refused_at(number, outcome)
        results.append(outcome)
    return _done_together(results)


def _decide_item(draft: Draft, item: c.Item) -> StoredOutcome | Refusal:
    rule = RULES[type(item)]
    outcome = rule.decide(draft, item)
    assert not isinstance(outcome, DoneTogether | UsageIngested), item
    if not isinstance(outcome, Refusal):
        _store(draft, item, rule, outcome)
    return outcome


def _consume_together(draft: Draft, items: Sequence[c.Consume]) -> Refusal | None:
    """Charge the items that are new; among items with the same key or job, only the first is."""
    new: list[c.Consume] = []
    named: set[ReceiptKey | JobKey] = set()
    for item in items:
        names: set[ReceiptKey | JobKey] = {(item.origin.client, item.origin.key)}
        if item.job is not None:
            names.add(item.job)
        if named.isdisjoint(names) and stored_answer(draft, item) is None:
            new.append(item)
            named |= names
    outcomes = consume.consume(draft, new)
    if isinstance(outcomes, Refusal):
        return outcomes
    for item, outcome in zip(new, outcomes, strict=True):
        store_answer(draft, item, outcome)
    return None


def _answered_together(draft: Draft, command: c.Together) -> DoneTogether | Refusal | None:
    """Return the stored answers of all items or the first refusal; None if an answer is missing."""
    results: list[StoredOutcome] = []
    for number, item in enumerate(command.items):
        answer = stored_answer(draft, item)
        if isinstance(answer, Refusal):
            return _refused_at(number, answer)
        if answer is not None:
            results.append(answer)
    return _done_together(results) if len(results) == len(command.items) else None


def _refused_at(number: int, refused: Refusal) -> Refusal:
    """Return an item's refusal as the refusal of the whole command."""
    return replace(refused, data={"item": number, **refused.data})


def _done_together(results: Sequence[StoredOutcome]) -> DoneTogether:
    return DoneTogether(results=tuple(results), replayed=all(result.replayed for result in results))


RULES: Final[Rules] = {
    **consume.RULES,
    **usage.RULES,
    **holds.RULES,
    **settlement.RULES,
    **spending.RULES,
    **grants.RULES,
    **adjustments.RULES,
    **reversals.RULES,
    **debts.RULES,
    **unpriced.RULES,
    **accounts.RULES,
    **members.RULES,
    **subscriptions.RULES,
    **due.RULES,
    c.Together: Rule(
        decide=_together,
        wallets=_wallets_together,
        needs=_needs_together,
        earlier=_answered_together,
    ),
}
"""How commands of each kind are decided. Each module has the rules of its commands."""
