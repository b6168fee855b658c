"""The decision of a check: ordered gates over prices, limits and wallets, for one or more metrics.

Call `ask` first; it returns the wallets to read. Then pass them to `less_allowances` and `decide`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from entitlements.core import limits
from entitlements.core.allowances import Parts, allowance_wallets, covered
from entitlements.core.attribution import Available, Shares, candidates, shares, shortage, source_of
from entitlements.core.model import Subject, Wallet, WalletKey
from entitlements.core.outcomes import Candidates
from entitlements.core.policy import AMOUNT_MAX, DEFAULT_CREDIT_TYPE, Attribution, Cost, Policy
from entitlements.core.pricing import Price, price_all, price_at, total
from entitlements.core.reasons import DenialReason, SubjectType
from entitlements.core.windows import LimitQuery, WindowState


class Question(Struct, frozen=True, gc=False, kw_only=True):
    """A priced check.

    ``required`` is the credits to pay per type; ``credit_types`` every type that the answer can
    contain. ``wallets`` must be read even if everything is free: if they cannot be read, nothing
    is allowed. ``queries`` are the rate limits to check. A candidate that owes more than
    ``debt_gate`` cannot pay.
    """

    user_id: str
    org_id: str | None
    attribution: Attribution
    candidates: tuple[Subject, ...]
    """The subjects that can pay, in the order in which they are tried."""
    units: Mapping[str, int]
    prices: dict[str, Price | None]
    required: dict[str, int]
    credit_types: tuple[str, ...]
    wallets: tuple[WalletKey, ...]
    queries: tuple[LimitQuery, ...]
    debt_gate: int | None = None
    allowances: dict[str, tuple[WalletKey, ...]] = {}
    """The wallets that can have allowances, by metric, in the order in which they pay."""
    org_most: int | None = None
    """The most credits that the org pays for the user, of all types; None if nothing limits it."""
    is_member: bool = True
    """Whether the org pays for the user at all."""
    lacking: frozenset[str] = frozenset()
    """The metrics that require an entitlement which neither the user nor the org has."""
    covered: dict[str, Parts] = {}
    """The units that allowances pay, by metric; they are not priced."""

    @property
    def to_read(self) -> tuple[WalletKey, ...]:
        """Return every wallet that the decision depends on."""
        if not self.allowances:
            return self.wallets
        return (*self.wallets, *[key for keys in self.allowances.values() for key in keys])

    @property
    def is_permitted(self) -> bool:
        """Return whether the policy knows every metric and its required entitlement is there."""
        return None not in self.prices.values() and not self.lacking

    @property
    def gated(self) -> tuple[WalletKey, ...]:
        """Return the wallets whose open debts must be loaded."""
        if self.debt_gate is None:
            return ()
        if self.allowances:  # the required credits depend on them
            return self.wallets
        return tuple(key for key in self.wallets if key.credit_type in self.required)


Detail = Literal["unknown_metric", "entitlement_required", "debt_gate", "not_member", "member_cap"]
"""The gate that denies a metric, if it is not the credits themselves."""


class MetricLine(Struct, frozen=True, gc=False, kw_only=True):
    """One metric's part of a decision, in credits of the metric's type."""

    required: int
    available: int
    source: SubjectType | None = None
    reason: DenialReason | None = None
    detail: Detail | None = None
    allowance_units: int = 0
    """The units that allowances pay."""

    @property
    def allowed(self) -> bool:
        return self.reason is None


class Need(Struct, frozen=True, gc=False, kw_only=True):
    """Credits of one type: required, and available to each candidate.

    ``org``: None if the request names no org. ``missing`` is the gap of the candidate with the
    most available credits, or of all candidates together if they share.
    """

    required: int
    org: int | None
    user: int
    missing: int
    shared: bool = False

    def of(self, source: SubjectType | None) -> int:
        """Return the available credits of the payers; 0 without a payer."""
        if source is None:
            return 0
        if self.shared:
            return min(AMOUNT_MAX, (self.org or 0) + self.user)
        return self.has(source)

    def has(self, subject_type: SubjectType) -> int:
        """Return the candidate's available credits."""
        return self.user if subject_type == "user" else self.org or 0


class Exceeded(NamedTuple):
    """A limit that the request would exceed, and the state of its window."""

    query: LimitQuery
    state: WindowState


class Decision(Struct, frozen=True, gc=False, kw_only=True):
    """Allowed, or denied with a reason. The top-level numbers are those of ``credit_type``.

    ``exceeded`` are the limits that deny the request; it is empty if another reason comes first.
    """

    reason: DenialReason | None
    required: int
    available: int
    source: SubjectType | None
    credit_type: str
    lines: dict[str, MetricLine]
    needs: dict[str, Need]
    exceeded: tuple[Exceeded, ...] = ()
    candidates: Candidates | None = None
    """Their credits of ``credit_type``; only set for `POLICY_DENIED` and `INSUFFICIENT_CREDITS`."""

    @property
    def allowed(self) -> bool:
        return self.reason is None


def ask(
    policy: Policy, requirements: Mapping[str, int], *, user_id: str, org_id: str | None
) -> Question:
    """Price the ``requirements``, units by metric. Raise `pricing.AmountTooLarge`."""
    queries = limits.limit_queries(policy, requirements, user_id=user_id, org_id=org_id)
    return ask_unlimited(policy, requirements, user_id=user_id, org_id=org_id, queries=queries)


def ask_unlimited(
    policy: Policy,
    requirements: Mapping[str, int],
    *,
    user_id: str,
    org_id: str | None,
    queries: tuple[LimitQuery, ...] = (),
) -> Question:
    """Price the ``requirements`` as `ask` does, but check only the limits in ``queries``."""
    prices = price_all(policy, requirements)
    required = total(prices.values())
    credit_types = _credit_types(required, prices)
    return Question(
        user_id=user_id,
        org_id=org_id,
        attribution=policy.attribution,
        allowances=_allowances(policy, prices, user_id, org_id),
        candidates=candidates(policy.attribution, user_id, org_id),
        units=requirements,
        prices=prices,
        required=required,
        credit_types=credit_types,
        wallets=_wallets(credit_types, user_id, org_id),
        queries=queries,
        debt_gate=policy.debt_gate,
    )


def ask_credits(
    policy: Policy, credits: int, credit_type: str, *, user_id: str, org_id: str | None
) -> Question:
    """Return the question whether a number of credits, without a metric, is covered."""
    return Question(
        user_id=user_id,
        org_id=org_id,
        attribution=policy.attribution,
        candidates=candidates(policy.attribution, user_id, org_id),
        units={},
        prices={},
        required={credit_type: credits},
        credit_types=(credit_type,),
        wallets=_wallets((credit_type,), user_id, org_id),
        queries=(),
        debt_gate=policy.debt_gate,
    )


def _allowances(
    policy: Policy, prices: Mapping[str, Price | None], user_id: str, org_id: str | None
) -> dict[str, tuple[WalletKey, ...]]:
    if policy.allowances.isdisjoint(prices):
        return {}
    return {
        metric: keys
        for metric, price in prices.items()
        if price is not None and (keys := allowance_wallets(policy, metric, user_id, org_id))
    }


def as_member(question: Question, is_member: bool, org_most: int | None) -> Question:  # noqa: FBT001 - the two belong together
    """Return the question for a user for whom the org pays at most ``org_most`` credits; its
    allowances pay for members alone.
    """
    if is_member and org_most is None:
        return question
    allowances = question.allowances
    if not is_member:
        allowances = {
            metric: tuple(key for key in keys if key.subject_type != "org")
            for metric, keys in allowances.items()
        }
    return replace(question, is_member=is_member, org_most=org_most, allowances=allowances)


def less_allowances(
    question: Question, costs: Mapping[str, Cost], wallets: Mapping[WalletKey, Wallet]
) -> Question:
    """Return the question with the prices of what allowances do not pay, at the policy's costs."""
    if not question.allowances:
        return question
    paid = {
        metric: covered(question.units[metric], keys, wallets)
        for metric, keys in question.allowances.items()
    }
    prices = dict(question.prices)
    for metric, parts in paid.items():
        if metric in costs:
            rest = question.units[metric] - sum(parts.values())
            prices[metric] = price_at(costs[metric], rest)
    required = total(prices.values())
    return replace(
        question,
        covered={metric: parts for metric, parts in paid.items() if parts},
        prices=prices,
        required=required,
        credit_types=_credit_types(required, prices),
    )


def _wallets(
    credit_types: tuple[str, ...], user_id: str, org_id: str | None
) -> tuple[WalletKey, ...]:
    """Return the user's wallets in the order of ``credit_types``, then the org's."""
    users = [WalletKey("user", user_id, name) for name in credit_types]
    if org_id is None:
        return tuple(users)
    return (*users, *[WalletKey("org", org_id, name) for name in credit_types])


def _credit_types(
    required: Mapping[str, int], prices: Mapping[str, Price | None]
) -> tuple[str, ...]:
    """Return the types to pay in, in their order; then those of free metrics."""
    types = dict.fromkeys(required)
    for line in prices.values():
        if line is not None and line.credit_type not in types:
            types[line.credit_type] = None
    return tuple(types) or (DEFAULT_CREDIT_TYPE,)


def payers(question: Question, owing: Mapping[WalletKey, int]) -> tuple[Subject, ...]:
    """Return the candidates that owe at most ``debt_gate`` of each credit type to be paid."""
    gate = question.debt_gate
    if gate is None:
        return question.candidates
    return tuple(
        subject
        for subject in question.candidates
        if all(owing.get(WalletKey(*subject, name), 0) <= gate for name in question.required)
    )


def shares_of(
    question: Question, available: Available, owing: Mapping[WalletKey, int]
) -> Shares | None:
    """Return each payer's share, or None if it is not covered."""
    order = payers(question, owing)
    most = question.org_most
    return shares(question.attribution, order, question.required, available, most)


def decide(
    question: Question,
    wallets: Mapping[WalletKey, Wallet],
    states: Sequence[WindowState],
    owing: Mapping[WalletKey, int],
) -> Decision:
    """Evaluate the gates in the order of `DenialReason`; a missing wallet has 0 credits.

    ``states`` is the state of each window of ``question.queries``; ``owing`` the open debts of
    the wallets of ``question.gated``.
    """
    have: dict[SubjectType, dict[str, int]] = {"user": {}, "org": {}}
    for key in question.wallets:
        wallet = wallets.get(key)
        have[key.subject_type][key.credit_type] = wallet.available if wallet is not None else 0

    def available(subject: Subject, credit_type: str) -> int:
        return have[subject.type][credit_type]

    needs = {name: _need(question, name, have) for name in question.credit_types}
    if not question.is_permitted:
        return _unpaid(question, wallets, _policy_denied(question, needs))

    exceeded = tuple(
        [
            Exceeded(query, state)
            for query, state in zip(question.queries, states, strict=True)
            if not state.passes
        ]
    )
    if exceeded:
        return _rate_limited(question, needs, exceeded)

    if not question.required:
        return _allowed(question, needs, None)

    paid = shares_of(question, available, owing)
    if paid is None:
        denied = _insufficient(question, needs, _gate(question, available, owing))
        return _unpaid(question, wallets, denied)
    return _allowed(question, needs, source_of(paid))


def _gate(
    question: Question, available: Available, owing: Mapping[WalletKey, int]
) -> Detail | None:
    """Return the gate without which the request would be covered, if there is one."""
    if owing and shares_of(question, available, {}) is not None:
        return "debt_gate"
    if question.org_most is None:
        return None
    if shares_of(replace(question, org_most=None), available, {}) is None:
        return None
    return "member_cap" if question.is_member else "not_member"


def _unpaid(
    question: Question, wallets: Mapping[WalletKey, Wallet], decision: Decision
) -> Decision:
    """Return the denial with each candidate's credits."""
    who = (question.user_id, question.org_id)
    found = shortage(decision.credit_type, decision.required, *who, wallets.get)
    return replace(decision, candidates=found)


def _need(
    question: Question,
    credit_type: str,
    have: Mapping[SubjectType, Mapping[str, int]],
) -> Need:
    required = question.required.get(credit_type, 0)
    is_shared = question.attribution is Attribution.SPLIT
    most = (sum if is_shared else max)([have[one.type][credit_type] for one in question.candidates])
    return Need(
        required=required,
        org=have["org"].get(credit_type),
        user=have["user"][credit_type],
        missing=max(0, required - most),
        shared=is_shared,
    )


def _allowed(question: Question, needs: dict[str, Need], source: SubjectType | None) -> Decision:
    lines = {
        metric: MetricLine(
            required=price.credits,
            available=needs[price.credit_type].of(source),
            source=source,
            allowance_units=_covered(question, metric),
        )
        for metric, price in question.prices.items()
        if price is not None
    }
    first, need = next(iter(needs.items()))
    return Decision(
        reason=None,
        required=need.required,
        available=need.of(source),
        source=source,
        credit_type=first,
        lines=lines,
        needs=needs,
    )


def _policy_denied(question: Question, needs: dict[str, Need]) -> Decision:
    first, need = next(iter(needs.items()))
    return Decision(
        reason=DenialReason.POLICY_DENIED,
        required=need.required,
        available=0,
        source=None,
        credit_type=first,
        lines={
            metric: MetricLine(
                required=price.credits,
                available=0,
                reason=DenialReason.POLICY_DENIED if metric in question.lacking else None,
                detail="entitlement_required" if metric in question.lacking else None,
                allowance_units=_covered(question, metric),
            )
            if price
            else _UNKNOWN
            for metric, price in question.prices.items()
        },
        needs=needs,
    )


def _rate_limited(
    question: Question, needs: dict[str, Need], exceeded: tuple[Exceeded, ...]
) -> Decision:
    """Return the denial with the offending metrics marked; available credits play no part."""
    blamed = {query.window.metric for query, _ in exceeded}
    first, need = next(iter(needs.items()))
    return Decision(
        reason=DenialReason.RATE_LIMIT_EXCEEDED,
        required=need.required,
        available=0,
        source=None,
        credit_type=first,
        lines={
            metric: MetricLine(
                required=price.credits,
                available=0,
                reason=DenialReason.RATE_LIMIT_EXCEEDED if metric in blamed else None,
                allowance_units=_covered(question, metric),
            )
            for metric, price in question.prices.items()
            if price is not None
        },
        needs=needs,
        exceeded=exceeded,
    )


def _insufficient(question: Question, needs: dict[str, Need], detail: Detail | None) -> Decision:
    """Return the denial with the metrics marked that cause it.

    Free metrics are not marked, nor are credit types that some candidate covers, unless each type
    is covered by some candidate. ``detail`` names the gate that excludes a candidate that would
    cover everything.
    """
    uncovered = [name for name, need in needs.items() if need.missing]
    blamed = uncovered or list(question.required)

    def line(metric: str, price: Price) -> MetricLine:
        is_blamed = price.credits > 0 and price.credit_type in blamed
        return MetricLine(
            required=price.credits,
            available=needs[price.credit_type].user,
            reason=DenialReason.INSUFFICIENT_CREDITS if is_blamed else None,
            detail=detail if is_blamed else None,
            allowance_units=_covered(question, metric),
        )

    first = blamed[0]
    return Decision(
        reason=DenialReason.INSUFFICIENT_CREDITS,
        required=needs[first].required,
        available=needs[first].user,
        source=None,
        credit_type=first,
        lines={metric: line(metric, price) for metric, price in question.prices.items() if price},
        needs=needs,
    )


def _covered(question: Question, metric: str) -> int:
    return sum(question.covered[metric].values()) if metric in question.covered else 0


_UNKNOWN: Final = MetricLine(
    required=0, available=0, reason=DenialReason.POLICY_DENIED, detail="unknown_metric"
)
