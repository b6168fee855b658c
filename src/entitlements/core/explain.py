"""The explanation of a check's decision, built from the inputs of the decision."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Literal

from msgspec import Struct
from msgspec.structs import replace

from entitlements.core.attribution import Shares
from entitlements.core.check import Decision, Question, less_allowances, payers, shares_of
from entitlements.core.ledger.book import Draft
from entitlements.core.ledger.due import look_ahead, wallet_in
from entitlements.core.ledger.posting import draw_from
from entitlements.core.model import Draw, Grant, Subject, Wallet, WalletKey
from entitlements.core.policy import AMOUNT_MAX, Attribution
from entitlements.core.reasons import ConsumptionType, DenialReason
from entitlements.core.windows import WindowState

STEPS_MAX = 256
"""How many due times a prediction looks ahead: renewals have no end."""


class Verdict(StrEnum):
    """The result of a gate; ``skipped``: it was not reached, or had nothing to evaluate."""

    PASS = "pass"  # noqa: S105 - a word
    FAIL = "fail"
    SKIPPED = "skipped"


class Gate(Struct, frozen=True, gc=False, kw_only=True):
    """One step of a decision, with its inputs."""

    gate: Literal["policy", "limit", "allowance", "debt_gate", "member", "payer"]
    metric: str | None = None
    verdict: Verdict
    inputs: dict[str, Any]
    """JSON values."""


class WalletDraw(Struct, frozen=True, gc=False):
    """The credits that one grant of a wallet would pay."""

    wallet: WalletKey
    draw: Draw


class Explanation(Struct, frozen=True, gc=False, kw_only=True):
    """The gates, wallets and draws of a decision.

    ``binding`` is the gate that denied the request. ``passes_at`` is when the same request would
    be allowed if nothing else happens; None if that is never or cannot be predicted.
    """

    policy_version: str
    at: datetime
    gates: list[Gate]
    wallets: list[Wallet]
    draws: list[WalletDraw]
    binding: Gate | None
    passes_at: datetime | None


def explain(
    draft: Draft,
    question: Question,
    states: Sequence[WindowState],
    decision: Decision,
) -> Explanation:
    """Explain a decision that was made with these states of limits and the draft's wallets.

    Everything due must already be applied to the draft. Raise NeedMore if grants that were not
    loaded would pay.
    """
    owing = {key: draft.owing(key) for key in question.gated}
    gates = [*_policy_gates(draft, question), *_limit_gates(question, states, decision)]
    gates += _allowance_gates(draft, question, decision)
    gates += [*_debt_gates(question, decision, owing), *_member_gates(question, decision)]
    gates += _payer_gates(question, decision)
    return Explanation(
        policy_version=draft.book.policy.version,
        at=draft.now,
        gates=gates,
        wallets=[wallet_in(draft, key) for key in question.wallets],
        draws=_draws(draft, question, decision),
        binding=next((gate for gate in gates if gate.verdict is Verdict.FAIL), None)
        if decision.reason
        else None,
        passes_at=_passes_at(draft, question, states, decision),
    )


def _policy_gates(draft: Draft, question: Question) -> Iterator[Gate]:
    policy = draft.book.policy
    for metric, price in question.prices.items():
        cost = policy.costs.get(metric)
        inputs: dict[str, Any] = {"units": question.units[metric], "known": price is not None}
        if cost is not None:
            inputs |= {"cost": cost.credits, "per": cost.per}
        if price is not None:
            inputs |= {"credits": price.credits, "credit_type": price.credit_type}
        if (needed := policy.requires.get(metric)) is not None:
            inputs["requires"] = (
                {"feature": needed.feature} if needed.feature else {"tier": needed.tier}
            )
            inputs["entitled"] = metric not in question.lacking
        is_denied = price is None or metric in question.lacking
        verdict = Verdict.FAIL if is_denied else Verdict.PASS
        yield Gate(gate="policy", metric=metric, verdict=verdict, inputs=inputs)


def _limit_gates(
    question: Question, states: Sequence[WindowState], decision: Decision
) -> Iterator[Gate]:
    for query, state in zip(question.queries, states, strict=True):
        verdict = Verdict.PASS if state.passes else Verdict.FAIL
        yield Gate(
            gate="limit",
            metric=query.window.metric,
            verdict=Verdict.SKIPPED if decision.reason is _POLICY else verdict,
            inputs={
                "subject": str(query.window.subject),
                "limit": query.limit,
                "window_seconds": query.window.window_s,
                "used": state.used,
                "requested": query.amount,
            },
        )


def _allowance_gates(draft: Draft, question: Question, decision: Decision) -> Iterator[Gate]:
    """Yield a gate for each metric that can have allowances; one that is left over is priced."""
    is_reached = decision.reason in (None, _INSUFFICIENT)
    for metric, keys in question.allowances.items():
        units = sum(question.covered.get(metric, {}).values())
        yield Gate(
            gate="allowance",
            metric=metric,
            verdict=Verdict.PASS if is_reached and units else Verdict.SKIPPED,
            inputs={
                "units": question.units[metric],
                "available": {str(key.subject): wallet_in(draft, key).available for key in keys},
                "covered": units,
            },
        )


def _asks_payers(question: Question, decision: Decision) -> bool:
    return bool(question.required) and decision.reason in (None, _INSUFFICIENT)


def _debt_gates(
    question: Question, decision: Decision, owing: Mapping[WalletKey, int]
) -> Iterator[Gate]:
    """Yield a gate with each candidate's open debts, if the policy has a debt gate."""
    if question.debt_gate is None:
        return
    passing = payers(question, owing)
    for subject in question.candidates:
        yield Gate(
            gate="debt_gate",
            verdict=(Verdict.PASS if subject in passing else Verdict.FAIL)
            if _asks_payers(question, decision)
            else Verdict.SKIPPED,
            inputs={
                "subject": str(subject),
                "debt_gate": question.debt_gate,
                "owed": {
                    name: owing.get(WalletKey(*subject, name), 0) for name in question.required
                },
            },
        )


def _member_gates(question: Question, decision: Decision) -> Iterator[Gate]:
    """Yield a gate if the org pays for members alone, and for this one up to a cap."""
    if question.org_id is None or question.org_most is None:
        return
    fits = sum(question.required.values()) <= question.org_most
    reached = _asks_payers(question, decision)
    yield Gate(
        gate="member",
        verdict=(Verdict.PASS if fits else Verdict.FAIL) if reached else Verdict.SKIPPED,
        inputs={
            "subject": f"user:{question.user_id}",
            "is_member": question.is_member,
            "left": question.org_most,
            "required": question.required,
            "reason": None if fits else "member_cap" if question.is_member else "not_member",
        },
    )


def _payer_gates(question: Question, decision: Decision) -> Iterator[Gate]:
    is_reached = _asks_payers(question, decision)
    is_shared = question.attribution is Attribution.SPLIT and decision.allowed
    has_payer = False
    for subject in question.candidates:
        pays = is_shared or subject.type == decision.source
        verdict = Verdict.PASS if pays else Verdict.FAIL
        yield Gate(
            gate="payer",
            verdict=verdict if is_reached and not has_payer else Verdict.SKIPPED,
            inputs={
                "subject": str(subject),
                "required": question.required,
                "available": {
                    name: decision.needs[name].has(subject.type) for name in question.required
                },
            },
        )
        has_payer |= pays and not is_shared


def _draws(draft: Draft, question: Question, decision: Decision) -> list[WalletDraw]:
    """Return the draws that a consumption of the same would make now, by the same rule."""
    if not decision.allowed:
        return []
    paid = [one for parts in question.covered.values() for one in parts.items()]
    owing = {key: draft.owing(key) for key in question.gated}
    for credit_type, parts in (_shares(draft, question, owing) or {}).items():
        paid += [(WalletKey(*subject, credit_type), credits) for subject, credits in parts.items()]
    return [
        WalletDraw(key, draw)
        for key, quantity in paid
        for draw in draw_from(draft, key, quantity).draws
    ]


def _shares(draft: Draft, question: Question, owing: Mapping[WalletKey, int]) -> Shares | None:
    def available(subject: Subject, credit_type: str) -> int:
        return wallet_in(draft, WalletKey(*subject, credit_type)).available

    return shares_of(question, available, owing)


def _passes_at(
    draft: Draft, question: Question, states: Sequence[WindowState], decision: Decision
) -> datetime | None:
    """Return the first instant at which the limits pass and a candidate covers everything."""
    if decision.reason is None:
        return draft.now
    if decision.reason is _POLICY:
        return None
    waits_ms = [state.passes_in_ms for state in states]
    if any(wait_ms is None for wait_ms in waits_ms):
        return None
    longest = max((wait_ms for wait_ms in waits_ms if wait_ms is not None), default=0)
    from_then = draft.now + timedelta(milliseconds=longest)
    return _covered_at(Draft(draft.book), question, from_then)


def lapses_cover_at(draft: Draft, question: Question) -> datetime | None:
    """Return when lapsing holds alone let a candidate cover everything, or None if they never do.

    Grants that start later are ignored.
    """
    ahead = Draft(draft.book)
    look_ahead(ahead, question.to_read)
    for key in question.to_read:
        for grant in ahead.grants_of(key):
            if not grant.started:
                ahead.grants[grant.id] = replace(grant, ended_at=draft.now)
    return _covered_at(ahead, question, draft.now)


def _can_be_covered(ahead: Draft, question: Question) -> bool:
    """Return whether everything is covered once all known grants have started or been renewed and
    all known holds have ended, if no credits end before.
    """
    most = {key: _most(ahead, key) for key in question.to_read}
    then = less_allowances(question, ahead.book.policy.costs, most)

    def available(subject: Subject, credit_type: str) -> int:
        return most[WalletKey(*subject, credit_type)].available

    return shares_of(then, available, {}) is not None


def _most(ahead: Draft, key: WalletKey) -> Wallet:
    coming = (
        one
        for one in ahead.grants_of(key)
        if one.ended_at is None and (not one.started or one.renews_at is not None)
    )
    wallet = wallet_in(ahead, key)
    more = sum(map(_given, coming)) + sum(one.held for one in ahead.holds_of(key))
    return replace(wallet, balance=wallet.balance + more)


def _given(grant: Grant) -> int:
    """Return the most that the grant can still add."""
    is_accumulative = grant.consumption is ConsumptionType.ACCUMULATIVE
    return AMOUNT_MAX if grant.unlimited or is_accumulative else grant.quantity


def _covered_at(ahead: Draft, question: Question, from_then: datetime) -> datetime | None:
    """Return when a candidate covers everything, no earlier than ``from_then``.

    What is known to come is applied by the rule that applies it when it is due. The draft is used
    up.
    """
    if not _can_be_covered(ahead, question):
        return None
    at: datetime | None = from_then
    costs = ahead.book.policy.costs
    for _ in range(STEPS_MAX):
        if at is None:
            break
        ahead.now = at
        look_ahead(ahead, question.to_read)
        wallets = {key: wallet_in(ahead, key) for key in question.to_read}
        then = less_allowances(question, costs, wallets)
        owing = {key: ahead.owing(key) for key in question.gated}
        if _shares(ahead, then, owing) is not None:
            return at
        comes = (wallet.next_due_at for wallet in wallets.values())
        at = min(
            (next_at for next_at in comes if next_at is not None and next_at > at), default=None
        )
    return None


_POLICY = DenialReason.POLICY_DENIED
_INSUFFICIENT = DenialReason.INSUFFICIENT_CREDITS
