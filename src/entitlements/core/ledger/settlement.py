"""Settlement of a hold: actual usage is charged, first to the held credits."""

from __future__ import annotations

from datetime import timedelta
from itertools import chain, repeat
from typing import Final, Literal, NamedTuple

from msgspec.structs import replace

from entitlements.core.attribution import candidates, root_subject
from entitlements.core.commands import SettleHold
from entitlements.core.ledger.backing import give_back, pay
from entitlements.core.ledger.book import Draft
from entitlements.core.ledger.closings import (
    ClosingFields,
    clock_of,
    close,
    hold_outcome,
    parts_of,
    refuse_closed,
    replay,
)
from entitlements.core.ledger.consume import (
    HeldWork,
    charge,
    file_failed,
    payer_under,
    post_paid,
    wallet_of,
)
from entitlements.core.ledger.holds import add_parts, wallets_in
from entitlements.core.ledger.rule import Rule, Rules, Wallets
from entitlements.core.model import Billed, Hold, Subject
from entitlements.core.outcomes import HoldChanged, HoldNumbers, Refusal
from entitlements.core.policy import DEFAULT_CREDIT_TYPE, Policy
from entitlements.core.pricing import (
    FREE,
    AmountTooLarge,
    Price,
    bounded,
    credit_types,
    price,
    price_at,
)
from entitlements.core.reasons import DenialReason, HoldStatus, OperationKind, RefusalCode

LATE_MAX: Final = timedelta(hours=24)
"""How long after its lapse a hold can still be settled, once."""

LATE = "lapsed"
EXCESS = "excess"
"""Reasons of a hold's operations that were not paid from the held credits."""


class PricedLine(NamedTuple):
    """One metric of a settlement, or credits without a metric.

    Without a price, the metric is unknown. ``billed`` is the metric's total so far, including this
    line. ``policy_version`` is the version that priced it if that is not the active one.
    """

    metric: str | None
    units: int
    price: Price | None
    billed: Billed | None = None
    policy_version: str | None = None


def wallets_of(command: SettleHold, policy: Policy) -> Wallets:
    """Return the hold's wallets, and those of all candidates to pay an excess over the hold."""
    hold = command.hold
    types = {wallet.credit_type for wallet in hold.wallets}
    types.add(DEFAULT_CREDIT_TYPE)
    if command.requirements is not None:
        types |= credit_types(policy, command.requirements)
    elif command.credit_type is not None:
        types.add(command.credit_type)
    return wallets_in(types, hold.user_id, hold.org_id)


def settle(draft: Draft, command: SettleHold) -> HoldChanged | Refusal:
    """Charge actual usage to the hold, in full or in part.

    An excess over the hold is charged separately to the same payer, or recorded as a shortfall.
    After the hold has lapsed, all of the usage is charged that way, to any candidate.
    """
    parts = parts_of(draft, command)
    first = parts[0]
    by, asked = _content(command)
    if first.closing is not None:
        is_same = command.final and (first.closing.by, first.closing.asked) == (by, asked)
        return replay(first) if is_same else refuse_closed(first)
    is_late = first.status is HoldStatus.LAPSED
    if is_late and clock_of(draft, parts) - first.expires_at > LATE_MAX:
        return refuse_closed(first)
    try:
        lines = _lines(draft.book.policy, first, by, asked)
        settlement = _Settlement(draft, command, parts, lines)
    except AmountTooLarge as error:
        return Refusal(code=RefusalCode.AMOUNT_TOO_LARGE, detail=str(error))
    settlement.charge_lines()
    return settlement.end(by, asked)


def _content(command: SettleHold) -> tuple[Literal["requirements", "credits"], dict[str, int]]:
    """Return the content that decides whether a later settlement is a repeat."""
    if command.requirements is None:
        return "credits", {_credit_type(command): command.credits}
    return "requirements", {m: units for m, units in command.requirements.items() if units}


def _credit_type(command: SettleHold) -> str:
    return command.credit_type or command.wallet.credit_type


def _lines(policy: Policy, hold: Hold, by: str, asked: dict[str, int]) -> list[PricedLine]:
    """Return the priced lines; a metric or credits at 0 get no line. Raise AmountTooLarge."""
    if by == "requirements":
        return [_line(policy, hold, metric, units) for metric, units in asked.items()]
    return [PricedLine(None, 0, Price(bounded(n), name)) for name, n in asked.items() if n]


def _line(policy: Policy, hold: Hold, metric: str, units: int) -> PricedLine:
    """Price units as the next part of one line: the cost of all units so far, less the charges.

    If the metric is no longer in the policy, use its cost when the hold was taken. Raise
    AmountTooLarge.
    """

    def price_of(count: int) -> Price | None:
        found = price(policy, metric, count)
        cost = hold.costs.get(metric)
        if found is None and cost is not None:
            found = price_at(cost, count) if cost.credits else FREE
        return found

    part = price_of(units)
    if part is None:
        return PricedLine(metric, units, None)
    name = part.credit_type
    before = hold.billed.get(metric) or Billed(name, hold.settled.get(metric, 0), -1)
    if before.credit_type != name:
        before = Billed(name, 0, 0)
    if before.credits < 0:  # settled by an earlier version that did not store the charges
        earlier = price_of(before.units)
        before = before._replace(credits=earlier.credits if earlier else 0)
    whole = price_of(bounded(before.units + units))
    assert whole is not None, metric
    credits = max(0, whole.credits - before.credits)
    return PricedLine(
        metric,
        units,
        Price(credits, name),
        billed=Billed(name, before.units + units, before.credits + credits),
        policy_version=None if policy.knows(metric) else hold.policy_version,
    )


class _Settlement:
    """A settlement in progress. The payer of its excess is chosen before anything is charged."""

    def __init__(
        self, draft: Draft, command: SettleHold, parts: list[Hold], lines: list[PricedLine]
    ) -> None:
        self._draft = draft
        self._command = command
        self._first = parts[0]
        self._is_late = parts[0].status is HoldStatus.LAPSED
        self._lines = lines
        self._parts = {part.wallet.credit_type: part.wallet for part in parts}
        self._ids = chain([command.id], (draft.book.new_id() for _ in repeat(None)))
        self._posted = False
        self._paid: set[str] = set()
        """The credit types whose held part has paid for something."""
        self._numbers: dict[str, HoldNumbers] = {}
        self._settled = dict(parts[0].settled)
        self._billed = dict(parts[0].billed)
        self._counted: dict[str, int] = {}
        self._unpriced: list[str] = []
        self._holder = parts[0].wallet.subject if any(part.taken for part in parts) else None
        self._payer = self._who_pays_excess()

    def charge_lines(self) -> None:
        for line in self._lines:
            if line.metric is not None and line.billed is not None:
                self._billed[line.metric] = line.billed
            if line.price is None:
                assert line.metric is not None, line
                self._unpriced.append(line.metric)
                self._fail(line, DEFAULT_CREDIT_TYPE, DenialReason.POLICY_DENIED)
            elif line.price.credits == 0:
                user = Subject("user", self._first.user_id)
                self._charge(line, user, line.price, self._count(line))
            else:
                self._charge_priced(line, line.price)

    def end(self, by: Literal["requirements", "credits"], asked: dict[str, int]) -> HoldChanged:
        """Release the rest and close the hold if the settlement is final or the hold has lapsed."""
        draft, command = self._draft, self._command
        answered: ClosingFields = {
            "payer": self._shown_payer(),
            "lapsed": self._is_late,
            "counted": self._counted,
            "unpriced": tuple(self._unpriced),
        }
        if not command.final and not self._is_late:
            parts = [
                replace(part, settled=self._settled, billed=self._billed)
                for part in self._now_parts()
            ]
            for part in parts:
                draft.put_hold(part)
            operation_id = command.id if self._posted else None
            return hold_outcome(draft, parts, self._numbers, operation_id=operation_id, **answered)
        self._return_rest()
        return close(
            draft,
            command,
            HoldStatus.SETTLED,
            self._numbers,
            by=by,
            asked=asked,
            settled=self._settled,
            billed=self._billed,
            operation_id=command.id,
            **answered,
        )

    def _now_parts(self) -> list[Hold]:
        return [self._draft.hold(key, self._first.id) for key in self._parts.values()]

    def _return_rest(self) -> None:
        """Release the rest of each part.

        A part that has paid needs no release operation: the charge's operation implies it. If
        nothing was charged, a release operation closes the hold.
        """
        parts = self._now_parts()
        rest = [part for part in parts if part.held]
        for part in rest if rest or self._posted else parts[:1]:
            name = part.wallet.credit_type
            operation_id = None if name in self._paid else next(self._ids)
            give_back(
                self._draft,
                self._command,
                part,
                OperationKind.RELEASE,
                operation_id=operation_id,
            )
            self._add(name, returned=part.held)

    def _who_pays_excess(self) -> Subject | None:
        """Return the payer of the excess, or None if no candidate covers it.

        The payer is the hold's; after the lapse, or for a free hold, it is any candidate.
        """
        required: dict[str, int] = {}
        for line in self._lines:
            if line.price is not None and line.price.credits:
                name = line.price.credit_type
                required[name] = bounded(required.get(name, 0) + line.price.credits)
        over = {name: n - self._held(name) for name, n in required.items() if n > self._held(name)}
        if not over:
            return self._holder
        policy = self._draft.book.policy
        order = candidates(policy.attribution, self._first.user_id, self._first.org_id)
        if self._holder is not None and not self._is_late:
            order = (self._holder,)
        return payer_under(policy, order, over, self._available)

    def _available(self, subject: Subject, credit_type: str) -> int:
        return self._draft.wallet(wallet_of(subject, credit_type)).available

    def _held(self, credit_type: str) -> int:
        key = self._parts.get(credit_type)
        return self._draft.hold(key, self._first.id).held if key is not None else 0

    def _charge_priced(self, line: PricedLine, cost: Price) -> None:
        """Charge the held credits first, then the payer of the excess."""
        held = min(cost.credits, self._held(cost.credit_type))
        excess = cost.credits - held
        if not excess:
            self._charge_held(line, cost.credit_type, held, self._count(line))
            return
        counted = self._count(line) if self._payer is not None else 0
        if held:
            units = line.units * held // cost.credits
            self._charge_held(line._replace(units=units), cost.credit_type, held, counted)
            line, counted = line._replace(units=line.units - units), 0
        over = Price(excess, cost.credit_type)
        if self._payer is None:
            self._fail(line, cost.credit_type, DenialReason.INSUFFICIENT_CREDITS, owed=excess)
        else:
            self._charge(line, self._payer, over, counted)

    def _charge_held(self, line: PricedLine, credit_type: str, credits: int, counted: int) -> None:
        key = self._parts[credit_type]
        drawn = pay(self._draft, self._draft.hold(key, self._first.id), credits)
        post_paid(
            self._draft,
            self._work(line),
            key,
            credits,
            drawn,
            consumed_from=key.subject_type,
            hold_id=self._first.id,
            counted=counted if line.metric else None,
            policy_version=line.policy_version,
        )
        self._paid.add(credit_type)
        self._add(credit_type, charged=credits)

    def _charge(self, line: PricedLine, subject: Subject, cost: Price, counted: int) -> None:
        reason = EXCESS if cost.credits else None
        charge(
            self._draft,
            self._work(line),
            wallet_of(subject, cost.credit_type),
            cost.credits,
            consumed_from=subject.type if cost.credits else "none",
            hold_id=self._first.id,
            counted=counted if line.metric else None,
            policy_version=line.policy_version,
            reason=LATE if self._is_late else reason,
        )
        self._add(cost.credit_type, charged=cost.credits)

    def _fail(
        self, line: PricedLine, credit_type: str, reason: DenialReason, owed: int = 0
    ) -> None:
        debtor = root_subject(self._first.user_id, self._first.org_id)
        file_failed(
            self._draft,
            self._work(line),
            wallet_of(debtor, credit_type),
            reason=reason,
            owed=owed,
            hold_id=self._first.id,
            policy_version=line.policy_version,
        )
        if owed:
            self._add(credit_type, owed=owed)

    def _work(self, line: PricedLine) -> HeldWork:
        self._posted = True
        return HeldWork(
            id=next(self._ids),
            origin=self._command.origin,
            user_id=self._first.user_id,
            org_id=self._first.org_id,
            metric=line.metric,
            units=line.units,
        )

    def _count(self, line: PricedLine) -> int:
        """Add the units to the settled ones, and return those not yet counted against limits."""
        if line.metric is None:
            return 0
        taken = (self._first.requirements or {}).get(line.metric, 0)
        before = self._settled.get(line.metric, 0)
        after = before + line.units
        self._settled[line.metric] = after
        if new := max(after, taken) - max(before, taken):
            self._counted[line.metric] = new
        return new

    def _add(self, credit_type: str, *, charged: int = 0, returned: int = 0, owed: int = 0) -> None:
        known = self._numbers.get(credit_type, HoldNumbers())
        self._numbers[credit_type] = HoldNumbers(
            charged=known.charged + charged,
            returned=known.returned + returned,
            owed=known.owed + owed,
        )

    def _shown_payer(self) -> Subject:
        """Return the subject whose balance the answer shows: the payer, else the user."""
        if self._paid and self._holder is not None:
            return self._holder
        user = Subject("user", self._first.user_id)
        if not any(one.charged for one in self._numbers.values()):
            owes = any(one.owed for one in self._numbers.values())
            return user if owes or self._is_late else self._first.wallet.subject
        if self._is_late or self._holder is None:
            return self._payer or user
        return self._holder


RULES: Final[Rules] = {
    SettleHold: Rule(decide=settle, wallets=wallets_of, needs=add_parts),
}
