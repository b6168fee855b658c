"""The explanation of a check's decision, built from the inputs of the decision."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Literal

from msgspec import Struct
from msgspec.structs import replace

from entitlements.core.check import Decision, Question, payers
from entitlements.core.ledger.book import Draft
from entitlements.core.ledger.due import look_ahead, wallet_in
from entitlements.core.ledger.posting import draw_from
from entitlements.core.model import Draw, Grant, Subject, Wallet, WalletKey
from entitlements.core.policy import AMOUNT_MAX
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

    gate: Literal["policy", "limit", "debt_gate", "payer"]
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
    gates += [*_debt_gates(question, decision, owing), *_payer_gates(question, decision)]
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
        verdict = Verdict.FAIL if price is None else Verdict.PASS
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


def _payer_gates(question: Question, decision: Decision) -> Iterator[Gate]:
    is_reached = _asks_payers(question, decision)
    has_payer = False
    for subject in question.candidates:
        pays = subject.type == decision.source
        verdict = Verdict.PASS if pays else Verdict.FAIL
        yield Gate(
            gate="payer",
            verdict=verdict if is_reached and not has_payer else Verdict.SKIPPED,
            inputs={
                "subject": str(subject),
                "required": question.required,
                "available": {
                    name: decision.needs[name].of(subject.type) for name in question.required
                },
            },
        )
        has_payer |= pays


def _draws(draft: Draft, question: Question, decision: Decision) -> list[WalletDraw]:
    """Return the draws that a consumption of the same would make now, by the same rule."""
    if decision.source is None:
        return []
    payer = next(one for one in question.candidates if one.type == decision.source)
    return [
        WalletDraw(key, draw)
        for key, credits in _wallets(payer, question)
        for draw in draw_from(draft, key, credits).draws
    ]


def _wallets(subject: Subject, question: Question) -> Iterator[tuple[WalletKey, int]]:
    for credit_type, credits in question.required.items():
        yield WalletKey(subject.type, subject.id, credit_type), credits


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
    look_ahead(ahead, question.wallets)
    for key in question.wallets:
        for grant in ahead.grants_of(key):
            if not grant.started:
                ahead.grants[grant.id] = replace(grant, ended_at=draft.now)
    return _covered_at(ahead, question, draft.now)


def _can_cover(ahead: Draft, question: Question, subject: Subject) -> bool:
    """Return whether the subject covers everything once all known grants have started or been
    renewed and all known holds have ended, if no credits end before.
    """
    for key, credits in _wallets(subject, question):
        coming = (
            one
            for one in ahead.grants_of(key)
            if one.ended_at is None and (not one.started or one.renews_at is not None)
        )
        most = wallet_in(ahead, key).available + sum(map(_given, coming))
        if most + sum(one.held for one in ahead.holds_of(key)) < credits:
            return False
    return True


def _given(grant: Grant) -> int:
    """Return the most that the grant can still add."""
    is_accumulative = grant.consumption is ConsumptionType.ACCUMULATIVE
    return AMOUNT_MAX if grant.unlimited or is_accumulative else grant.quantity


def _covered_at(ahead: Draft, question: Question, from_then: datetime) -> datetime | None:
    """Return when a candidate covers everything, no earlier than ``from_then``.

    What is known to come is applied by the rule that applies it when it is due. The draft is used
    up.
    """
    if not any(_can_cover(ahead, question, subject) for subject in question.candidates):
        return None
    at: datetime | None = from_then
    for _ in range(STEPS_MAX):
        if at is None:
            break
        ahead.now = at
        look_ahead(ahead, question.wallets)
        owing = {key: ahead.owing(key) for key in question.gated}
        for subject in payers(question, owing):
            needed = _wallets(subject, question)
            if all(wallet_in(ahead, key).available >= credits for key, credits in needed):
                return at
        comes = (wallet_in(ahead, key).next_due_at for key in question.wallets)
        at = min(
            (next_at for next_at in comes if next_at is not None and next_at > at), default=None
        )
    return None


_POLICY = DenialReason.POLICY_DENIED
_INSUFFICIENT = DenialReason.INSUFFICIENT_CREDITS
