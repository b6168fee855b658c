"""A check's decision: ordered gates over prices and wallets, for one metric or many at once.

First `ask`, which says what wallets must be read; then `decide`, which knows them.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Literal

from msgspec import Struct

from entitlements.core.attribution import candidates, payer
from entitlements.core.model import CREDITS, Subject, SubjectType, Wallet, WalletKey
from entitlements.core.policy import Attribution, Policy
from entitlements.core.pricing import Price, price_all, total


class DenialReason(StrEnum):
    """Why a check is denied, in descending precedence: the caller gets the first that applies."""

    POLICY_DENIED = "policy_denied"
    INSUFFICIENT_CREDITS = "insufficient_credits"


class Question(Struct, frozen=True, gc=False, kw_only=True):
    """What a check asks, priced. ``required`` are the credits per type that are to be paid."""

    user_id: str
    org_id: str | None
    attribution: Attribution
    prices: dict[str, Price | None]
    required: dict[str, int]

    @property
    def credit_types(self) -> tuple[str, ...]:
        """Every type an answer may speak of, ``credits`` first."""
        types = dict.fromkeys(self.required)
        types.update((line.credit_type, None) for line in self.prices.values() if line is not None)
        return tuple(types) or (CREDITS,)

    @property
    def wallets(self) -> list[WalletKey]:
        """What must be read, even where all is free: without the wallets nothing is allowed."""
        types = self.credit_types
        keys = [WalletKey("user", self.user_id, credit_type) for credit_type in types]
        if self.org_id is not None:
            keys += [WalletKey("org", self.org_id, credit_type) for credit_type in types]
        return keys


class MetricLine(Struct, frozen=True, gc=False, kw_only=True):
    """One metric's part of a decision, in credits of its own type."""

    required: int
    available: int
    allowed: bool
    source: SubjectType | None
    reason: DenialReason | None = None
    detail: Literal["unknown_metric"] | None = None


class Need(Struct, frozen=True, gc=False):
    """Credits of one type: required, and available to each candidate; ``org`` none if unnamed."""

    required: int
    org: int | None
    user: int

    @property
    def is_covered(self) -> bool:
        """Whether some candidate has them all, whoever will pay."""
        return self.missing == 0

    @property
    def missing(self) -> int:
        """What the candidate closest to covering them lacks."""
        most = self.user if self.org is None else max(self.user, self.org)
        return max(0, self.required - most)


class Decision(Struct, frozen=True, gc=False, kw_only=True):
    """Allowed, or denied with a reason. Top-level numbers speak of ``credit_type`` alone."""

    reason: DenialReason | None
    required: int
    available: int
    source: SubjectType | None
    credit_type: str
    lines: dict[str, MetricLine]
    needs: dict[str, Need]

    @property
    def allowed(self) -> bool:
        return self.reason is None


def ask(
    policy: Policy, requirements: Mapping[str, int], *, user_id: str, org_id: str | None
) -> Question:
    """Price the ``requirements``, units by metric. Raises `pricing.AmountTooLarge`."""
    prices = price_all(policy, requirements)
    return Question(
        user_id=user_id,
        org_id=org_id,
        attribution=policy.attribution,
        prices=prices,
        required=total(prices.values()),
    )


def decide(question: Question, wallets: Mapping[WalletKey, Wallet]) -> Decision:
    """Pass the gates in the order of `DenialReason`; a wallet that is not there has nothing."""

    def available(key: WalletKey) -> int:
        wallet = wallets.get(key)
        return wallet.available if wallet is not None else 0

    user_id, org_id = question.user_id, question.org_id
    needs = {
        credit_type: Need(
            question.required.get(credit_type, 0),
            available(WalletKey("org", org_id, credit_type)) if org_id is not None else None,
            available(WalletKey("user", user_id, credit_type)),
        )
        for credit_type in question.credit_types
    }
    if None in question.prices.values():
        return _policy_denied(question, needs)

    if not question.required:
        return _allowed(question, needs, None)

    order = candidates(question.attribution, user_id, org_id)
    subject = payer(order, question.required, available)
    if subject is None:
        return _insufficient(question, needs)
    return _allowed(question, needs, subject)


def _allowed(question: Question, needs: dict[str, Need], subject: Subject | None) -> Decision:
    source = subject.type if subject is not None else None

    def payable(need: Need) -> int:
        if source is None:
            return 0
        return (need.org or 0) if source == "org" else need.user

    first, need = next(iter(needs.items()))
    return Decision(
        reason=None,
        required=need.required,
        available=payable(need),
        source=source,
        credit_type=first,
        lines={
            metric: MetricLine(line.credits, payable(needs[line.credit_type]), True, source)  # noqa: FBT003
            for metric, line in question.prices.items()
            if line is not None
        },
        needs=needs,
    )


def _policy_denied(question: Question, needs: dict[str, Need]) -> Decision:
    first, need = next(iter(needs.items()))
    denied = MetricLine(0, 0, False, None, DenialReason.POLICY_DENIED, "unknown_metric")  # noqa: FBT003
    return Decision(
        reason=DenialReason.POLICY_DENIED,
        required=need.required,
        available=0,
        source=None,
        credit_type=first,
        lines={
            metric: MetricLine(line.credits, 0, True, None) if line is not None else denied  # noqa: FBT003
            for metric, line in question.prices.items()
        },
        needs=needs,
    )


def _insufficient(question: Question, needs: dict[str, Need]) -> Decision:
    """Free metrics are not blamed, nor types that somebody covers, unless all are covered."""
    blamed = [name for name, need in needs.items() if not need.is_covered] or list(question.required)
    first = blamed[0]

    def line(price: Price) -> MetricLine:
        available = needs[price.credit_type].user
        if price.credits and price.credit_type in blamed:
            reason = DenialReason.INSUFFICIENT_CREDITS
            return MetricLine(price.credits, available, False, None, reason)  # noqa: FBT003
        return MetricLine(price.credits, available, True, None)  # noqa: FBT003

    return Decision(
        reason=DenialReason.INSUFFICIENT_CREDITS,
        required=needs[first].required,
        available=needs[first].user,
        source=None,
        credit_type=first,
        lines={
            metric: line(price) for metric, price in question.prices.items() if price is not None
        },
        needs=needs,
    )
