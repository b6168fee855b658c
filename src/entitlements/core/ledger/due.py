"""Due starts, expiries and lapses, applied before a command on the wallet is decided.

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
from entitlements.core.ledger.posting import end_grant, give, post, sooner
from entitlements.core.ledger.rule import Rule, Rules, its_wallet
from entitlements.core.model import NEVER, Draw, Expiry, Grant, Hold, Wallet, WalletKey
from entitlements.core.outcomes import DueApplied
from entitlements.core.policy import AMOUNT_MAX
from entitlements.core.reasons import OperationKind

NOBODY: Final = Origin(actor="", client="", correlation_id="", key="", fingerprint="", lifetime_s=0)
"""The origin of what a read applies; nothing of it is written."""


class MoreDue(Exception):
    """Raised when more is due in a wallet than one batch applies; retry the command."""


EXPIRED = "expired"
EXPIRY, LAPSE, START = range(3)
"""The order of what is due at one instant. Expiries come first because credits that a lapse returns
to a grant that ends at the same instant must not pay for anything.
"""
DUE_PER_BATCH = 256
"""How many due grants, and how many due holds, of a wallet are loaded at a time."""


def due_place(entry: Grant | Hold) -> DuePlace:
    """Return when the entry is due, and its place among what is due at the same instant."""
    kind = LAPSE if isinstance(entry, Hold) else EXPIRY if entry.started else START
    return DuePlace(entry.due_at or NEVER, kind)


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
            apply_due(draft, ApplyDue(id="", origin=NOBODY, wallet=key), key)


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
    """Return the wallet's next expiry, after due entries were applied to the draft."""
    loaded = ((g, g.remaining - g.held) for g in draft.grants_of(key) if g.is_live)
    ahead = [
        Expiry(grant.expires_at, free)
        for grant, free in loaded
        if grant.expires_at is not None and free
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
        # The balance can have grown since the grant was scheduled: give only what still fits.
        given = min(grant.remaining, AMOUNT_MAX - draft.wallet(grant.wallet).balance)
        draws = give(draft, replace(grant, started=True, remaining=0), given)
        kind, delta = OperationKind.ACTIVATION, given
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
    if kind is OperationKind.ACTIVATION:
        settle_oldest(draft, command, grant.wallet, grant.reason, effective_at=at)
    return draft.grant(grant.wallet, grant.id)


def _show(draft: Draft, command: ApplyDue) -> DueApplied:
    """Return the balance after the due entries, which are applied before every decision."""
    return DueApplied(new_balance=draft.wallet(command.wallet).balance)


RULES: Final[Rules] = {
    ApplyDue: Rule(decide=_show, wallets=its_wallet),
}
