"""The explanation of a check's decision, built from the inputs of the decision."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Literal

from msgspec import Struct

from entitlements.core.check import Decision, Question, payers
from entitlements.core.ledger.book import Draft
from entitlements.core.ledger.posting import draw_from
from entitlements.core.model import NEVER, Draw, Grant, Subject, Wallet, WalletKey
from entitlements.core.reasons import DenialReason
from entitlements.core.windows import WindowState


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
    owing: Mapping[WalletKey, int],
) -> Explanation:
    """Explain a decision that was made with these standings and the draft's wallets.

    Everything due must already be applied to the draft. Raise NeedMore if grants that were not
    loaded would pay.
    """
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
        passes_at=_passes_at(draft, question, states, decision, owing),
    )


def wallet_in(draft: Draft, key: WalletKey) -> Wallet:
    """Return the draft's wallet, or an empty one if it does not exist."""
    if key in draft.book.wallets:
        return draft.wallet(key)
    return Wallet(key=key, updated_at=draft.now)


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
    draft: Draft,
    question: Question,
    states: Sequence[WindowState],
    decision: Decision,
    owing: Mapping[WalletKey, int],
) -> datetime | None:
    """Return the first instant at which the limits pass and a candidate covers everything.

    It does not predict that debts are paid.
    """
    if decision.reason is None:
        return draft.now
    if decision.reason is _POLICY:
        return None
    waits_ms = [state.passes_in_ms for state in states]
    if any(wait_ms is None for wait_ms in waits_ms):
        return None
    longest = max((wait_ms for wait_ms in waits_ms if wait_ms is not None), default=0)
    from_then = draft.now + timedelta(milliseconds=longest)
    if not question.required:
        return from_then
    covered = (_covered_at(draft, question, one, from_then) for one in payers(question, owing))
    return min((at for at in covered if at is not None), default=None)


def lapses_cover_at(
    draft: Draft, question: Question, owing: Mapping[WalletKey, int]
) -> datetime | None:
    """Return when lapsing holds alone let a candidate cover everything, or None if they never do.

    Only candidates that pass the debt gate count. Grants that start later are ignored.
    """
    covered = (
        _covered_at(draft, question, one, draft.now, with_starts=False)
        for one in payers(question, owing)
    )
    return min((at for at in covered if at is not None), default=None)


def _covered_at(
    draft: Draft,
    question: Question,
    subject: Subject,
    from_then: datetime,
    *,
    with_starts: bool = True,
) -> datetime | None:
    """Return when the subject's known grants cover everything, no earlier than ``from_then``."""
    changes: list[tuple[datetime, WalletKey, int]] = []
    available: dict[WalletKey, int] = {}
    for key, _ in _wallets(subject, question):
        available[key] = wallet_in(draft, key).available
        changes += _changes_ahead(draft, key, with_starts=with_starts)

    def is_covered() -> bool:
        return all(available[key] >= credits for key, credits in _wallets(subject, question))

    at = from_then
    for when, key, credits in sorted(changes):
        if when > from_then and is_covered():
            return at
        available[key] += credits
        at = max(from_then, when)
    return at if is_covered() else None


def _changes_ahead(
    draft: Draft, key: WalletKey, *, with_starts: bool
) -> Iterator[tuple[datetime, WalletKey, int]]:
    """Yield future starts, expiries and lapses as changes of the available credits.

    The caller sorts them; at the same instant expiries come first, as they do when applied.
    """
    for grant in draft.grants_of(key):
        if grant.ended_at is not None or not (grant.started or with_starts):
            continue
        free = grant.remaining - grant.held
        if not grant.started:
            yield grant.granted_at, key, free
        if grant.expires_at is not None:
            yield grant.expires_at, key, -free
    for hold in draft.holds_of(key):
        if hold.due_at is None:
            continue
        for grant_id, quantity in hold.backing:
            ends_at = _ends_at(draft.grant(key, grant_id))
            if ends_at > hold.due_at:
                yield hold.due_at, key, quantity
                yield ends_at, key, -quantity


def _ends_at(grant: Grant) -> datetime:
    return grant.ended_at or grant.expires_at or NEVER


_POLICY = DenialReason.POLICY_DENIED
_INSUFFICIENT = DenialReason.INSUFFICIENT_CREDITS
