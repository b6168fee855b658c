"""Settlement of a hold: actual usage is charged, first to the held credits."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from itertools import chain, repeat
from typing import Final, Literal, NamedTuple

from msgspec.structs import replace

from entitlements.core.attribution import Shares, candidates, take_from
from entitlements.core.commands import SettleHold
from entitlements.core.ledger.allowances import (
    Paid,
    draw_allowances,
    live_allowances,
    post_allowances,
)
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
    charge_all,
    debtor,
    file_failed,
    post_paid,
    shares_under,
    wallet_of,
)
from entitlements.core.ledger.holds import add_parts, wallets_for, wallets_in
from entitlements.core.ledger.members import org_most
from entitlements.core.ledger.rule import Rule, Rules, Wallets
from entitlements.core.model import (
    Billed,
    Hold,
    Operation,
    Subject,
    WalletKey,
    allowance_type,
    is_units,
)
from entitlements.core.outcomes import HoldChanged, HoldNumbers, Refusal
from entitlements.core.policy import DEFAULT_CREDIT_TYPE, Attribution, Policy
from entitlements.core.pricing import (
    FREE,
    AmountTooLarge,
    Price,
    bounded,
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

    Without a price, the metric is unknown. ``price`` is that of the units that allowances do not
    pay; ``billed`` is the metric's total so far, including this line. ``policy_version`` is the
    version that priced it if that is not the active one.
    """

    metric: str | None
    units: int
    price: Price | None
    billed: Billed | None = None
    policy_version: str | None = None
    held: tuple[Paid, ...] = ()
    """Units that the hold's allowances pay."""
    more: tuple[Paid, ...] = ()
    """Units that other allowances pay."""


def wallets_of(command: SettleHold, policy: Policy) -> Wallets:
    """Return the hold's wallets, and those of all candidates to pay an excess over the hold."""
    hold = command.hold
    types = {wallet.credit_type for wallet in hold.wallets if not wallet.is_of_allowances}
    types.add(DEFAULT_CREDIT_TYPE)
    if command.credit_type is not None:
        types.add(command.credit_type)
    asked = command.requirements or {}
    return {
        *hold.wallets,
        *wallets_in(types, hold.user_id, hold.org_id),
        *wallets_for(policy, asked, hold.user_id, hold.org_id),
    }


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
        lines = _lines(draft, parts, by, asked)
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


def _lines(draft: Draft, parts: list[Hold], by: str, asked: dict[str, int]) -> list[PricedLine]:
    """Return the priced lines; a metric or credits at 0 get no line. Raise AmountTooLarge."""
    if by == "requirements":
        return [_less_allowances(draft, parts, metric, units) for metric, units in asked.items()]
    return [PricedLine(None, 0, Price(bounded(n), name)) for name, n in asked.items() if n]


def _less_allowances(draft: Draft, parts: list[Hold], metric: str, units: int) -> PricedLine:
    """Let the hold's allowances pay, then others, and price the rest.

    A metric without a price is recorded as it is.
    """
    policy, first = draft.book.policy, parts[0]
    line = _line(policy, first, metric, bounded(units))
    if line.price is None:
        return line
    held: list[Paid] = []
    rest = units
    for part in parts:
        if part.wallet.credit_type == allowance_type(metric) and (paid := min(rest, part.held)):
            held.append(Paid(part.wallet, paid, pay(draft, part, paid)))
            rest -= paid
    keys = live_allowances(draft, metric, first.user_id, first.org_id)
    more = draw_allowances(draft, keys, rest)
    if more.rest < units:
        line = _line(policy, first, metric, more.rest)
    return line._replace(units=units, held=tuple(held), more=more.paid)


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
        self._wallets = [part.wallet for part in parts]
        self._ids = chain([command.id], (draft.book.new_id() for _ in repeat(None)))
        self._posted = False
        self._paid: set[WalletKey] = set()
        """The wallets whose held part has paid for something."""
        self._numbers: dict[str, HoldNumbers] = {}
        self._settled = dict(parts[0].settled)
        self._billed = dict(parts[0].billed)
        self._counted: dict[str, int] = {}
        self._unpriced: list[str] = []
        self._holders = tuple(
            dict.fromkeys(
                part.wallet.subject for part in parts if part.taken and part.is_of_credits
            )
        )
        self._payers = self._who_pays_excess()
        shares = (self._payers or {}).values()
        self._payer = next((who for parts in shares for who in parts), None)

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
                self._charge(line, {user: 0}, line.price.credit_type, self._count(line))
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
        return [self._draft.hold(key, self._first.id) for key in self._wallets]

    def _return_rest(self) -> None:
        """Release the rest of each part.

        A part that has paid needs no release operation: the charge's operation implies it. If
        nothing was charged, a release operation closes the hold.
        """
        parts = self._now_parts()
        rest = [part for part in parts if part.held]
        for part in rest if rest or self._posted else parts[:1]:
            operation_id = None if part.wallet in self._paid else next(self._ids)
            give_back(
                self._draft,
                self._command,
                part,
                OperationKind.RELEASE,
                operation_id=operation_id,
            )
            self._add(part.wallet.credit_type, returned=part.held)

    def _who_pays_excess(self) -> Shares | None:
        """Return each payer's share of the excess, or None if it is not covered.

        The payers are the hold's; after the lapse, or for a free hold, they are any candidates.
        """
        required: dict[str, int] = {}
        for line in self._lines:
            if line.price is not None and line.price.credits:
                name = line.price.credit_type
                required[name] = bounded(required.get(name, 0) + line.price.credits)
        over = {name: n - self._held(name) for name, n in required.items() if n > self._held(name)}
        policy = self._draft.book.policy
        order = candidates(policy.attribution, self._first.user_id, self._first.org_id)
        if self._holders and not self._is_late and policy.attribution is not Attribution.SPLIT:
            order = self._holders
        most = org_most(self._draft, self._first.user_id, self._first.org_id)
        return shares_under(policy, order, over, self._available, most)

    def _available(self, subject: Subject, credit_type: str) -> int:
        return self._draft.wallet(wallet_of(subject, credit_type)).available

    def _held_in(self, credit_type: str) -> list[Hold]:
        """Return the parts that still hold credits of the type, in the order in which they pay."""
        parts = self._now_parts()
        return [part for part in parts if part.wallet.credit_type == credit_type and part.held]

    def _held(self, credit_type: str) -> int:
        return sum(part.held for part in self._held_in(credit_type))

    def _charge_priced(self, line: PricedLine, cost: Price) -> None:
        """Charge the held credits first, then the payers of the excess."""
        held = min(cost.credits, self._held(cost.credit_type))
        excess = cost.credits - held
        if not excess:
            self._charge_held(line, cost.credit_type, held, self._count(line))
            return
        counted = self._count(line) if self._payers is not None else 0
        if held:
            units = line.units * held // cost.credits
            self._charge_held(line._replace(units=units), cost.credit_type, held, counted)
            line, counted = line._replace(units=line.units - units, held=(), more=()), 0
        if self._payers is None:
            self._fail(line, cost.credit_type, DenialReason.INSUFFICIENT_CREDITS, owed=excess)
        else:
            parts = take_from(self._payers[cost.credit_type], excess)
            self._charge(line, parts, cost.credit_type, counted)

    def _charge_held(self, line: PricedLine, credit_type: str, credits: int, counted: int) -> None:
        """Charge the parts that hold credits of the type, in their order."""
        parts = self._held_in(credit_type)
        shares = take_from({part.wallet: part.held for part in parts}, credits)
        work = self._work(line)
        group_id = work.id if len(shares) > 1 or line.held or line.more else None
        first: Operation | None = None
        for key, share in shares.items():
            part = self._draft.hold(key, self._first.id)
            drawn = pay(self._draft, part, share)
            made = post_paid(
                self._draft,
                work if first is None else replace(work, id=next(self._ids), units=0),
                key,
                share,
                drawn,
                consumed_from=key.subject_type,
                hold_id=self._first.id,
                counted=counted if line.metric and first is None else None,
                policy_version=line.policy_version,
                group_id=group_id,
                member_month=part.member_month,
            )
            first = first or made
            self._paid.add(key)
        assert first is not None, line
        self._post_allowances(line, first)
        self._add(credit_type, charged=credits)

    def _charge(
        self, line: PricedLine, parts: Mapping[Subject, int], credit_type: str, counted: int
    ) -> None:
        credits = sum(parts.values())
        reason = EXCESS if credits else None
        made = charge_all(
            self._draft,
            self._work(line),
            credit_type,
            parts,
            is_grouped=bool(line.held or line.more),
            hold_id=self._first.id,
            counted=counted if line.metric else None,
            policy_version=line.policy_version,
            reason=LATE if self._is_late else reason,
        )
        self._post_allowances(line, made[0])
        self._add(credit_type, charged=credits)

    def _fail(
        self, line: PricedLine, credit_type: str, reason: DenialReason, owed: int = 0
    ) -> None:
        subject = debtor(self._draft, self._first.user_id, self._first.org_id)
        work = self._work(line)
        made = file_failed(
            self._draft,
            work,
            wallet_of(subject, credit_type),
            reason=reason,
            owed=owed,
            hold_id=self._first.id,
            policy_version=line.policy_version,
            group_id=work.id if line.held or line.more else None,
        )
        self._post_allowances(line, made)
        if owed:
            self._add(credit_type, owed=owed)

    def _post_allowances(self, line: PricedLine, work: Operation) -> None:
        post_allowances(self._draft, self._command, work, line.held)
        post_allowances(
            self._draft, self._command, work, line.more, reason=LATE if self._is_late else EXCESS
        )
        for paid in line.held:
            self._paid.add(paid.wallet)
        for paid in (*line.held, *line.more):
            self._add(paid.wallet.credit_type, charged=paid.units)

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
        if self._holders and not self._paid.isdisjoint(
            wallet for wallet in self._wallets if not wallet.is_of_allowances
        ):
            return self._holders[0]
        user = Subject("user", self._first.user_id)
        if not any(one.charged for name, one in self._numbers.items() if not is_units(name)):
            owes = any(one.owed for one in self._numbers.values())
            return user if owes or self._is_late else self._first.wallet.subject
        if self._is_late or not self._holders:
            return self._payer or user
        return self._holders[0]


RULES: Final[Rules] = {
    SettleHold: Rule(decide=settle, wallets=wallets_of, needs=add_parts),
}
