"""Due starts, renewals, expiries and lapses, applied before a command on the wallet is decided.

Reads apply them too and discard the draft, so that they show what the next command will find.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable
from typing import Final

from msgspec.structs import replace

from entitlements.core.commands import ApplyDue, Command, Origin
from entitlements.core.ledger.backing import lapse
from entitlements.core.ledger.book import Book, Draft, DuePlace
from entitlements.core.ledger.debts import PAID_FOR, settle_oldest
from entitlements.core.ledger.posting import end_grant, give, post, sooner, start
from entitlements.core.ledger.rule import Rule, Rules, its_wallet
from entitlements.core.ledger.subscribing import end_with_grant
from entitlements.core.model import EXPIRED, NEVER, Draw, Expiry, Grant, Hold, Wallet, WalletKey
from entitlements.core.outcomes import DueApplied
from entitlements.core.policy import AMOUNT_MAX
from entitlements.core.reasons import ConsumptionType, OperationKind
from entitlements.core.renewals import refilled, renewal, renewals_until

NOBODY: Final = Origin(actor="", client="", correlation_id="", key="", fingerprint="", lifetime_s=0)
"""The origin of what a read applies; nothing of it is written."""


class MoreDue(Exception):
    """Raised when more is due in a wallet than one batch applies; retry the command."""


EXPIRY, LAPSE, RENEWAL, START = range(4)
"""The order of what is due at one instant. Expiries come first because credits that a lapse returns
to a grant that ends at the same instant must not pay for anything; starts come last because they
can settle debts.
"""
DUE_PER_WALLET, DUE_PER_BATCH = 256, 2048
"""How many due grants, and how many due holds, of a wallet and of all wallets are loaded at a time.
Nothing else is decided while a batch applies them.
"""


def due_depth(wallets: int) -> int:
    """Return how many due grants, and how many due holds, to load of each of the due wallets."""
    return max(1, min(DUE_PER_WALLET, DUE_PER_BATCH // wallets))


def due_place(entry: Grant | Hold) -> DuePlace:
    """Return when the entry is due, and its place among what is due at the same instant."""
    at = entry.due_at or NEVER
    if isinstance(entry, Hold):
        return DuePlace(at, LAPSE)
    return DuePlace(at, kind_of_due(is_started=entry.started, is_expiry=entry.expires_at == at))


def kind_of_due(*, is_started: bool, is_expiry: bool) -> int:
    """Return the kind of a grant's next due effect."""
    if not is_started:
        return START
    return EXPIRY if is_expiry else RENEWAL


def apply_due(draft: Draft, command: Command, key: WalletKey) -> bool:
    """Record due entries in the order of their times.

    Return false if more is due than was loaded.
    """
    wallet = draft.wallet(key)
    now = max(draft.now, wallet.updated_at)
    if not wallet.is_due(now):
        return True
    cut = draft.book.due_after.get(key)
    next_due_at = None if cut is None else cut.at
    until = DuePlace(now, START) if cut is None else min(DuePlace(now, START), cut)
    entries: list[Grant | Hold] = [*draft.grants_of(key), *draft.holds_of(key)]
    due = [entry for entry in entries if _is_due(entry, until)]
    due.sort(key=_due_order)
    while due:
        first = due.pop(0)
        if isinstance(first, Hold):
            lapse(draft, command, first)
            continue
        grant = draft.grant(key, first.id)
        if not _is_due(grant, until):  # an earlier start has settled debts and emptied this grant
            continue
        if due_place(grant).kind == RENEWAL:
            others = (place for place in map(due_place, due) if place.kind != RENEWAL)
            applied = renew(draft, command, grant, min(until, next(others, until)))
        else:
            applied = _apply(draft, command, grant)
        if _is_due(applied, until):  # it has started, and its expiry is due too
            insort(due, applied, key=_due_order)
    entries = [*draft.grants_of(key), *draft.holds_of(key)]
    for entry in entries:
        next_due_at = sooner(next_due_at, entry.due_at)
    draft.wallets[key] = replace(draft.wallet(key), next_due_at=next_due_at)
    return next_due_at is None or next_due_at > now


def look_ahead(draft: Draft, keys: Iterable[WalletKey]) -> None:
    """Apply what is due, for a read, to the wallets that are in the book. Raise NeedMore."""
    for key in sorted(key for key in keys if key in draft.book.wallets):
        if draft.wallet(key).is_due(draft.now):
            if key not in draft.wallets:
                _leave_expired(draft, key)
            apply_due(draft, ApplyDue(id="", origin=NOBODY, wallet=key), key)


def _leave_expired(draft: Draft, key: WalletKey) -> None:
    """Take the credits of expiries that are known as a sum alone from the balance, once."""
    wallet = draft.wallet(key)
    credits = draft.book.expired.get(key, 0)
    draft.wallets[key] = replace(wallet, balance=wallet.balance - credits)


def wallet_in(draft: Draft, key: WalletKey) -> Wallet:
    """Return the draft's wallet, or an empty one if it does not exist."""
    if key in draft.book.wallets:
        return draft.wallet(key)
    return Wallet(key=key, updated_at=draft.now)


def starts_pay_debts(book: Book, key: WalletKey) -> bool:
    """Return whether a due start can settle debts, so that a read needs them and the grants."""
    if not book.policy.settle_debts or not book.wallets[key].is_due(book.now):
        return False
    return any(not g.started and g.reason in PAID_FOR for g in book.grants.get(key, {}).values())


def apply_all_due(draft: Draft, command: Command, keys: Iterable[WalletKey]) -> None:
    """Record due entries of the wallets. Raise MoreDue if more is due than was loaded."""
    is_complete = True
    for key in sorted(keys):
        is_complete &= apply_due(draft, command, key)
    if not is_complete:
        raise MoreDue


def soonest_expiry(draft: Draft, key: WalletKey) -> Expiry | None:
    """Return the wallet's next expiry, after due entries were applied to the draft.

    Before a grant is renewed, it does not expire.
    """
    loaded = ((g, g.remaining - g.held) for g in draft.grants_of(key) if g.is_live)
    ahead = [
        Expiry(grant.expires_at, free)
        for grant, free in loaded
        if grant.expires_at is not None and free and grant.expires_at == grant.due_at
    ]
    if key in draft.book.expiring:
        ahead.append(draft.book.expiring[key])
    if not ahead:
        return None
    first = min(expiry.at for expiry in ahead)
    return Expiry(first, sum(expiry.credits for expiry in ahead if expiry.at == first))


def _is_due(entry: Grant | Hold, until: DuePlace) -> bool:
    return due_place(entry) <= until


def _due_order(entry: Grant | Hold) -> tuple[DuePlace, str]:
    return due_place(entry), entry.id


def _apply(draft: Draft, command: Command, grant: Grant) -> Grant:
    """Record the grant's start or expiry, and return the changed grant."""
    at = grant.due_at
    assert at is not None, grant
    draws: tuple[Draw, ...]
    if grant.started:
        lost = end_grant(draft, grant, at, EXPIRED)
        kind, delta, draws = OperationKind.EXPIRY, -lost, (Draw(grant.id, lost),)
    else:
        draws = start(draft, grant, grant.remaining)
        kind, delta = OperationKind.ACTIVATION, grant.remaining
    post(
        draft,
        command,
        grant.wallet,
        kind,
        operation_id=draft.book.new_id(),
        delta=delta,
        amount=abs(delta),
        draws=draws,
        reason=grant.reason,
        effective_at=at,
    )
    if kind is OperationKind.EXPIRY:
        end_with_grant(draft, command, grant, at)
    if kind is OperationKind.ACTIVATION:
        settle_oldest(draft, command, grant.wallet, grant.reason, effective_at=at)
    return draft.grant(grant.wallet, grant.id)


def renew(draft: Draft, command: Command, grant: Grant, until: DuePlace) -> Grant:
    """Record the renewals of a grant up to a place as one operation; return the changed grant.

    Nothing else is due between them. A new period repays an overdraft before it gives credits.
    """
    period, start = grant.period, grant.granted_at
    assert period is not None, grant
    assert grant.renews_at is not None, grant
    ends = grant.expires_at or NEVER
    first = renewals_until(period, start, grant.renews_at)
    last = renewals_until(period, start, min(until.at, ends))
    while last > first and DuePlace(renewal(period, start, last) or NEVER, RENEWAL) > until:
        last -= 1
    while last > first and (renewal(period, start, last) or NEVER) >= ends:
        last -= 1
    at = renewal(period, start, last) or grant.renews_at
    grant = replace(grant, renews_at=renewal(period, start, last + 1))
    draft.renewed.add((grant.wallet, grant.id))
    draws: list[Draw] = []
    given, left = 0, last - first + 1
    while left:
        # With an overdraft each period repays a part; without one, all the others are one step.
        periods = 1 if draft.wallet(grant.wallet).overdraft else left
        gain = _gain(draft, grant, periods)
        draws += give(draft, replace(grant, used_before=grant.spent), gain)
        given, left, grant = given + gain, left - periods, draft.grant(grant.wallet, grant.id)
    post(
        draft,
        command,
        grant.wallet,
        OperationKind.RENEWAL,
        operation_id=draft.book.new_id(),
        delta=given,
        amount=given,
        quantity=last - first + 1,
        draws=merged(draws),
        reason=grant.reason,
        effective_at=at,
    )
    return grant


def _gain(draft: Draft, grant: Grant, periods: int) -> int:
    """Return the gain of a grant by its next periods, as far as it fits into a balance."""
    assert grant.period is not None, grant
    after = refilled(
        grant.period,
        grant.quantity,
        grant.remaining,
        periods,
        accumulates=grant.consumption is ConsumptionType.ACCUMULATIVE,
        held=grant.held,
        most=AMOUNT_MAX,
    )
    wallet = draft.wallet(grant.wallet)
    return max(0, min(after - grant.remaining, AMOUNT_MAX - wallet.balance - wallet.promised))


def merged(draws: Iterable[Draw]) -> tuple[Draw, ...]:
    """Return one draw for all that was put into a grant, and one for all that was taken."""
    put: dict[str, int] = {}
    taken: dict[str, int] = {}
    for draw in draws:
        sums = put if draw.quantity <= 0 else taken
        sums[draw.grant_id] = sums.get(draw.grant_id, 0) + draw.quantity
    return tuple(Draw(*one) for one in (*put.items(), *taken.items()))


def _show(draft: Draft, command: ApplyDue) -> DueApplied:
    """Return the balance after the due entries, which are applied before every decision."""
    return DueApplied(new_balance=draft.wallet(command.wallet).balance)


RULES: Final[Rules] = {
    ApplyDue: Rule(decide=_show, wallets=its_wallet),
}
