"""Due starts, expiries and lapses, applied before a command on the wallet is decided.

Reads use the same function and discard its draft. Debts are not loaded for reads, so a read shows
a newly started grant before it settles any debt.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable
from datetime import datetime
from typing import Final

from msgspec.structs import replace

from entitlements.core.commands import ApplyDue, Command
from entitlements.core.ledger.backing import lapse
from entitlements.core.ledger.book import Draft
from entitlements.core.ledger.debts import settle_oldest
from entitlements.core.ledger.posting import end_grant, give, post, sooner
from entitlements.core.ledger.rule import Rule, Rules, its_wallet
from entitlements.core.model import NEVER, Draw, Expiry, Grant, Hold, WalletKey
from entitlements.core.outcomes import DueApplied
from entitlements.core.policy import AMOUNT_MAX
from entitlements.core.reasons import OperationKind


class MoreDue(Exception):
    """Raised when more is due in a wallet than one batch applies; retry the command."""


EXPIRED = "expired"
DUE_PER_BATCH = 256
"""How many due grants, and how many due holds, of a wallet are loaded at a time."""


def apply_due(draft: Draft, command: Command, key: WalletKey) -> bool:
    """Record due entries in the order of their times.

    Return false if more is due than was loaded.
    """
    wallet = draft.wallet(key)
    now = max(draft.now, wallet.updated_at)
    if not wallet.is_due(now):
        return True
    next_due_at = draft.book.due_after.get(key)
    until = now if next_due_at is None else min(now, next_due_at)
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


def apply_all_due(draft: Draft, command: Command, keys: Iterable[WalletKey]) -> None:
    """Record due entries of the wallets. Raise MoreDue if more is due than was loaded."""
    is_complete = True
    for key in sorted(keys):
        is_complete &= apply_due(draft, command, key)
    if not is_complete:
        raise MoreDue


def soonest_expiry(draft: Draft, key: WalletKey) -> Expiry | None:
    """Return the wallet's next expiry, after due entries were applied to the draft."""
    started = (g for g in draft.grants.values() if g.wallet == key and g.is_live)  # just now
    ahead = [
        Expiry(g.expires_at, g.remaining - g.held) for g in started if g.expires_at is not None
    ]
    if key in draft.book.expiring:
        ahead.append(draft.book.expiring[key])
    if not ahead:
        return None
    first = min(expiry.at for expiry in ahead)
    return Expiry(first, sum(expiry.credits for expiry in ahead if expiry.at == first))


def _is_due(entry: Grant | Hold, now: datetime) -> bool:
    return entry.due_at is not None and entry.due_at <= now


def _due_order(entry: Grant | Hold) -> tuple[datetime, int, str]:
    """Return the sort key: time, then expiries before lapses before starts, then id.

    Expiries come first because credits that a lapse returns to a grant that ends at the same
    instant must not pay for anything.
    """
    rank = 1 if isinstance(entry, Hold) else 0 if entry.started else 2
    return (entry.due_at or NEVER, rank, entry.id)


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
