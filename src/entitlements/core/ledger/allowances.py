"""Units that allowances pay: drawn before the rest is priced, and recorded with the work."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from entitlements.core.allowances import allowance_wallets
from entitlements.core.burndown import Draws
from entitlements.core.commands import Command
from entitlements.core.ledger.book import Draft
from entitlements.core.ledger.members import is_member
from entitlements.core.ledger.posting import draw_from, post
from entitlements.core.model import Operation, WalletKey
from entitlements.core.reasons import OperationKind


class Paid(NamedTuple):
    """The units that the allowances of one wallet pay."""

    wallet: WalletKey
    units: int
    drawn: Draws


class Split(NamedTuple):
    """Units of a metric: what allowances pay, and the rest, which is priced."""

    paid: tuple[Paid, ...]
    rest: int


def live_allowances(
    draft: Draft, metric: str, user_id: str, org_id: str | None
) -> tuple[WalletKey, ...]:
    """Return the wallets whose allowances pay for the metric; an org's only for its members."""
    keys = allowance_wallets(draft.book.policy, metric, user_id, org_id)
    if keys and not is_member(draft, user_id, org_id):
        return tuple(key for key in keys if key.subject_type != "org")
    return keys


def draw_allowances(draft: Draft, keys: Iterable[WalletKey], units: int) -> Split:
    """Draw up to ``units`` from the wallets in order; the caller posts the payments."""
    paid: list[Paid] = []
    rest = units
    for key in keys:
        drawn = draw_from(draft, key, rest)
        if used := rest - drawn.unpaid:
            paid.append(Paid(key, used, drawn))
            rest = drawn.unpaid
    return Split(tuple(paid), rest)


def post_allowances(
    draft: Draft,
    command: Command,
    work: Operation,
    paid: Iterable[Paid],
    *,
    reason: str | None = None,
) -> None:
    """Write the payments of allowances for the work, whose operation is the first of the group."""
    for one in paid:
        post(
            draft,
            command,
            one.wallet,
            OperationKind.CONSUME,
            operation_id=draft.book.new_id(),
            delta=one.drawn.uncounted - one.units,
            amount=one.units,
            draws=one.drawn.draws,
            consumed_from=one.wallet.subject_type,
            user_id=work.user_id,
            org_id=work.org_id,
            metric=work.metric,
            batch_id=work.batch_id,
            hold_id=work.hold_id,
            reason=reason,
            group_id=work.group_id,
        )
