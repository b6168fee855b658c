"""Holds: take, extend and release credits that are set aside before work."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from datetime import datetime, timedelta
from itertools import chain, repeat
from typing import Final

from msgspec.structs import replace

from entitlements.core import check
from entitlements.core.allowances import allowance_wallets
from entitlements.core.attribution import Shares, source_of, take_from
from entitlements.core.check import Decision, Question
from entitlements.core.commands import Command, ExtendHold, OfHold, ReleaseHold, TakeHold
from entitlements.core.ledger.backing import give_back, set_aside
from entitlements.core.ledger.book import Draft, Needs
from entitlements.core.ledger.closings import (
    clock_of,
    close,
    hold_outcome,
    parts_of,
    refuse_closed,
    replay,
    sort_parts,
)
from entitlements.core.ledger.members import add_member, count_draw, standing_in
from entitlements.core.ledger.posting import post, sooner
from entitlements.core.ledger.rule import Audit, Rule, Rules, Wallets
from entitlements.core.model import Hold, Subject, WalletKey
from entitlements.core.outcomes import HoldChanged, HoldNumbers, HoldTaken, Refusal
from entitlements.core.policy import Cost, Policy
from entitlements.core.pricing import AmountTooLarge, credit_types
from entitlements.core.reasons import DenialReason, HoldStatus, OperationKind, RefusalCode


class HoldDenied(Refusal, frozen=True, gc=False, kw_only=True):
    """A refused hold, with the decision that a check of the same request would give."""

    decision: Decision


def ask(policy: Policy, command: TakeHold) -> Question:
    """Return the question of a check of the same request, without rate limits.

    Raise AmountTooLarge.
    """
    user_id, org_id = command.user_id, command.org_id
    if command.requirements is None:
        return check.ask_credits(
            policy, command.credits, command.credit_type, user_id=user_id, org_id=org_id
        )
    return check.ask_unlimited(policy, command.requirements, user_id=user_id, org_id=org_id)


def _wallets(command: TakeHold, policy: Policy) -> Wallets:
    """Return the wallets of all candidate payers."""
    user_id, org_id = command.user_id, command.org_id
    if command.requirements is None:
        return wallets_in({command.credit_type}, user_id, org_id)
    return wallets_for(policy, command.requirements, user_id, org_id)


def wallets_for(
    policy: Policy, metrics: Collection[str], user_id: str, org_id: str | None
) -> Wallets:
    """Return the wallets that can pay for the metrics: their credits and allowances."""
    keys = wallets_in(credit_types(policy, metrics), user_id, org_id)
    return keys.union(*(allowance_wallets(policy, name, user_id, org_id) for name in metrics))


def wallets_in(types: Iterable[str], user_id: str, org_id: str | None) -> Wallets:
    """Return the user's wallets of these types, and the org's if the request names one."""
    keys = set()
    for name in types:
        keys.add(WalletKey("user", user_id, name))
        if org_id is not None:
            keys.add(WalletKey("org", org_id, name))
    return keys


def take(draft: Draft, command: TakeHold) -> HoldTaken | Refusal:
    """Set aside units of allowances, and credits for the rest of the work; or nothing."""
    try:
        question = ask(draft.book.policy, command)
    except AmountTooLarge as error:
        return Refusal(code=RefusalCode.AMOUNT_TOO_LARGE, detail=str(error))
    wallets = {key: draft.wallet(key) for key in question.to_read}
    question = check.as_member(question, *standing_in(draft, command.user_id, command.org_id))
    question = check.less_allowances(question, draft.book.policy.costs, wallets)
    question = replace(question, lacking=command.lacking)
    if question.is_permitted and command.is_over_limit:
        return Refusal(code=RefusalCode.RATE_LIMIT_EXCEEDED, detail="rate limit exceeded")
    owing = {key: draft.owing(key) for key in question.gated}

    def available(subject: Subject, credit_type: str) -> int:
        return wallets[WalletKey(*subject, credit_type)].available

    paid = check.shares_of(question, available, owing)
    if not question.is_permitted or paid is None:
        return _denied(check.decide(question, wallets, (), owing))

    now = max(draft.now, *(wallet.updated_at for wallet in wallets.values()))
    parts = [
        _part(draft, command, key, quantity, now)
        for key, quantity in _backing(question, paid).items()
    ]
    _record_taking(draft, command, question, paid, parts[0].wallet)
    types = dict.fromkeys(part.wallet.credit_type for part in parts if part.is_of_credits)
    return HoldTaken(
        operation_id=command.id,
        hold_id=command.id,
        credits=question.required.get(question.credit_types[0], 0),
        credit_type=question.credit_types[0],
        source=source_of(paid),
        expires_at=parts[0].expires_at,
        by_credit_type={name: question.required.get(name, 0) for name in types},
        allowance_units={name: sum(units.values()) for name, units in question.covered.items()},
        wallets=tuple(part.wallet for part in sort_parts(parts)),
    )


def _denied(decision: Decision) -> HoldDenied:
    if decision.reason is DenialReason.POLICY_DENIED:
        return HoldDenied(
            code=RefusalCode.POLICY_DENIED,
            detail="the policy does not know one of the metrics, or requires an entitlement",
            decision=decision,
        )
    return HoldDenied(
        code=RefusalCode.INSUFFICIENT_CREDITS,
        detail=f"{decision.required} credits are required, {decision.available} are available",
        data={"required": decision.required, "available": decision.available},
        decision=decision,
    )


def _backing(question: Question, paid: Shares) -> dict[WalletKey, int]:
    """Return the quantity to set aside in each wallet, and at least 0 credits in the user's."""
    backing = {
        WalletKey(*subject, credit_type): credits
        for credit_type, shares in paid.items()
        for subject, credits in shares.items()
    }
    if not backing:
        backing = {WalletKey("user", question.user_id, question.credit_types[0]): 0}
    for units in question.covered.values():
        backing |= units
    return backing


def _part(draft: Draft, command: TakeHold, key: WalletKey, credits: int, now: datetime) -> Hold:
    expires_at = now + timedelta(seconds=command.ttl_s)
    part = Hold(
        id=command.id,
        wallet=key,
        user_id=command.user_id,
        org_id=command.org_id,
        requirements=command.requirements,
        costs=_costs(draft.book.policy, command),
        taken=credits,
        held=credits,
        backing=set_aside(draft, key, credits, until=expires_at),
        expires_at=expires_at,
        correlation_id=command.origin.correlation_id,
        policy_version=draft.book.policy_version,
        actor=command.origin.actor,
        client=command.origin.client,
        created_at=now,
        member_month=count_draw(draft, key, command.user_id, credits),
    )
    draft.put_hold(part)
    return part


def _costs(policy: Policy, command: TakeHold) -> dict[str, Cost]:
    """Return the cost of each requested metric."""
    asked = [metric for metric, units in (command.requirements or {}).items() if units]
    return {metric: policy.costs[metric] for metric in asked if metric in policy.costs}


def _record_taking(
    draft: Draft, command: TakeHold, question: Question, paid: Shares, first: WalletKey
) -> None:
    """Record one operation per metric and wallet; the first of a metric has its quantity."""
    ids = chain([command.id], (draft.book.new_id() for _ in repeat(None)))
    for metric, shares in _lines(command, question, paid, first):
        group_id = None
        for number, (wallet, quantity) in enumerate(shares):
            operation_id = next(ids)
            if number == 0 and len(shares) > 1:
                group_id = operation_id
            post(
                draft,
                command,
                wallet,
                OperationKind.HOLD,
                operation_id=operation_id,
                amount=quantity,
                user_id=command.user_id,
                org_id=command.org_id,
                metric=metric,
                quantity=question.units[metric] if metric is not None and not number else 0,
                hold_id=command.id,
                group_id=group_id,
            )


def _lines(
    command: TakeHold, question: Question, paid: Shares, first: WalletKey
) -> Iterator[tuple[str | None, list[tuple[WalletKey, int]]]]:
    """Yield the part of each wallet for each metric, credits before units.

    A free metric is in the wallet of the others of its credit type, or else in the first one.
    """
    if not question.prices:
        shares = paid.get(command.credit_type, {})
        yield None, [(WalletKey(*who, command.credit_type), n) for who, n in shares.items()]
    left = {name: dict(shares) for name, shares in paid.items()}
    for metric, price in question.prices.items():
        assert price is not None, metric
        name = price.credit_type
        shares = take_from(left[name], price.credits) if price.credits else {}
        free = next((WalletKey(*who, name) for who in paid.get(name, ())), first)
        lines = [(WalletKey(*who, name), n) for who, n in shares.items()] or [(free, 0)]
        yield metric, [*lines, *question.covered.get(metric, {}).items()]


def extend(draft: Draft, command: ExtendHold) -> HoldChanged | Refusal:
    """Set an open hold to lapse ``ttl_s`` seconds from now, later or sooner than before."""
    parts = parts_of(draft, command)
    if parts[0].status is not HoldStatus.OPEN:
        return refuse_closed(parts[0])
    expires_at = clock_of(draft, parts) + timedelta(seconds=command.ttl_s)
    parts = [replace(part, expires_at=expires_at) for part in parts]
    for part in parts:
        draft.put_hold(part)
        wallet = draft.wallet(part.wallet)
        next_due_at = sooner(wallet.next_due_at, expires_at)
        draft.wallets[part.wallet] = replace(wallet, next_due_at=next_due_at)
    _note(draft, command, parts[0], OperationKind.EXTENSION)
    return hold_outcome(draft, parts, {}, operation_id=command.id)


def release(draft: Draft, command: ReleaseHold) -> HoldChanged | Refusal:
    """Release everything that is held; for a lapsed hold, there is nothing left to release."""
    parts = parts_of(draft, command)
    first = parts[0]
    if first.closing is not None:
        return replay(first) if first.closing.by == "release" else refuse_closed(first)
    if first.status is HoldStatus.LAPSED:
        return hold_outcome(draft, parts, {})
    numbers: dict[str, HoldNumbers] = {}
    for part in [part for part in parts if part.held] or parts[:1]:
        give_back(
            draft,
            command,
            part,
            OperationKind.RELEASE,
            operation_id=draft.book.new_id() if numbers else command.id,
            reason=command.reason,
        )
        name = part.wallet.credit_type
        returned = numbers[name].returned if name in numbers else 0
        numbers[name] = HoldNumbers(returned=returned + part.held)
    return close(
        draft, command, HoldStatus.RELEASED, numbers, by="release", operation_id=command.id
    )


def _note(draft: Draft, command: Command, part: Hold, kind: OperationKind) -> None:
    """Record an operation that moves no credits."""
    post(
        draft,
        command,
        part.wallet,
        kind,
        operation_id=command.id,
        user_id=part.user_id,
        org_id=part.org_id,
        hold_id=part.id,
    )


def _needs(needs: Needs, command: TakeHold, policy: Policy) -> None:
    add_member(needs, policy, command.user_id, command.org_id)
    if policy.debt_gate is not None:
        needs.owing |= _wallets(command, policy)


def _wallets_held(command: OfHold, _policy: Policy) -> Wallets:
    return set(command.hold.wallets)


def add_parts(needs: Needs, command: OfHold, policy: Policy) -> None:
    """Add the parts of the command's hold, and the member that it was taken for."""
    add_member(needs, policy, command.hold.user_id, command.hold.org_id)
    needs.holds |= {(wallet, command.hold_id) for wallet in command.hold.wallets}


RULES: Final[Rules] = {
    TakeHold: Rule(decide=take, wallets=_wallets, needs=_needs),
    ExtendHold: Rule(decide=extend, wallets=_wallets_held, needs=add_parts),
    ReleaseHold: Rule(
        decide=release,
        wallets=_wallets_held,
        needs=add_parts,
        audit=Audit("hold.release", ("hold_id",)),
    ),
}
