"""The backing of a hold: credits of specific grants, set aside, charged or returned.

Invariant: a wallet's ``held`` equals the sum over its grants, and the sum over its open holds, less
what unlimited grants back.
"""

from __future__ import annotations

from datetime import datetime

from msgspec.structs import replace

from entitlements.core.burndown import Draws
from entitlements.core.commands import Command
from entitlements.core.ledger.book import Draft
from entitlements.core.ledger.members import uncount
from entitlements.core.ledger.posting import draws_from, post, repay, sooner
from entitlements.core.model import REVOKED, Draw, Hold, WalletKey
from entitlements.core.reasons import HoldStatus, OperationKind


def set_aside(draft: Draft, key: WalletKey, credits: int, *, until: datetime) -> tuple[Draw, ...]:
    """Set aside ``credits`` of the wallet's grants in burn order, until ``until``.

    The caller has checked that they are available. Raise NeedMore.
    """
    drawn = draws_from(draft, key, credits)
    assert drawn.unpaid == 0, key
    for taken in drawn.draws:
        grant = draft.grant(key, taken.grant_id)
        if not grant.unlimited:
            draft.grants[grant.id] = replace(grant, held=grant.held + taken.quantity)
    wallet = draft.wallet(key)
    draft.wallets[key] = replace(
        wallet,
        held=wallet.held + credits - drawn.uncounted,
        next_due_at=sooner(wallet.next_due_at, until),
    )
    return drawn.draws


def pay(draft: Draft, part: Hold, credits: int) -> Draws:
    """Charge ``credits`` of the held ones to the backing grants, including ended grants.

    The caller posts the operation.
    """
    assert credits <= part.held, part
    draws: list[Draw] = []
    left: list[Draw] = []
    unpaid, uncounted = credits, 0
    for backed in part.backing:
        paid = min(unpaid, backed.quantity)
        unpaid -= paid
        if paid:
            draws.append(Draw(backed.grant_id, paid))
            grant = draft.grant(part.wallet, backed.grant_id)
            counted = 0 if grant.unlimited else paid
            uncounted += paid - counted
            draft.grants[grant.id] = replace(
                grant,
                remaining=grant.remaining - counted,
                held=grant.held - counted,
                used=grant.spent + paid,
            )
        if paid < backed.quantity:
            left.append(Draw(backed.grant_id, backed.quantity - paid))
    _unhold(draft, part.wallet, credits - uncounted)
    draft.put_hold(
        replace(part, held=part.held - credits, charged=part.charged + credits, backing=tuple(left))
    )
    return Draws(tuple(draws), uncounted=uncounted)


def give_back(
    draft: Draft,
    command: Command,
    part: Hold,
    kind: OperationKind,
    *,
    operation_id: str | None,
    effective_at: datetime | None = None,
    reason: str | None = None,
) -> Hold:
    """Make the still held credits available again, and return the changed part.

    Credits of grants that have ended since leave the balance. The others repay an overdraft first.
    Without ``operation_id``, the caller has just written an operation that implies the return, and
    an operation is written only if an overdraft is repaid.
    """
    key = part.wallet
    uncount(draft, key, part.user_id, part.held, part.member_month)
    counted = [back for back in part.backing if not draft.grant(key, back.grant_id).unlimited]
    _unhold(draft, key, sum(back.quantity for back in counted))
    ended = [back for back in counted if draft.grant(key, back.grant_id).ended_at is not None]
    draws = [draw for back in counted if (draw := _free(draft, key, back)).quantity]
    if operation_id is not None or draws:
        post(
            draft,
            command,
            key,
            kind,
            operation_id=operation_id or draft.book.new_id(),
            amount=part.held,
            draws=tuple(draws),
            user_id=part.user_id,
            org_id=part.org_id,
            hold_id=part.id,
            reason=reason,
            effective_at=effective_at,
        )
    for lost in ended:
        _leave(draft, command, part, lost, effective_at)
    after = replace(part, held=0, returned=part.returned + part.held, backing=())
    draft.put_hold(after)
    return after


def lapse(draft: Draft, command: Command, part: Hold) -> Hold:
    """Lapse a part at exactly its expiry time.

    If another part's wallet has reached that time and this one has not, use this wallet's time.
    """
    now = max(draft.now, draft.wallet(part.wallet).updated_at)
    given = give_back(
        draft,
        command,
        part,
        OperationKind.LAPSE,
        operation_id=draft.book.new_id(),
        effective_at=min(part.expires_at, now),
    )
    lapsed = as_lapsed(given)
    draft.put_hold(lapsed)
    return lapsed


def as_lapsed(part: Hold) -> Hold:
    """Return the part as it is after its lapse; a part that is closed already does not change."""
    if part.status is not HoldStatus.OPEN:
        return part
    return replace(
        part,
        held=0,
        returned=part.returned + part.held,
        backing=(),
        status=HoldStatus.LAPSED,
        closed_at=part.expires_at,
    )


def _unhold(draft: Draft, key: WalletKey, credits: int) -> None:
    wallet = draft.wallet(key)
    draft.wallets[key] = replace(wallet, held=wallet.held - credits)


def _free(draft: Draft, key: WalletKey, back: Draw) -> Draw:
    """Stop holding a grant's credits, and return the part that repays the overdraft."""
    grant = draft.grant(key, back.grant_id)
    repaid = 0 if grant.ended_at is not None else repay(draft, key, back.quantity)
    draft.grants[grant.id] = replace(
        grant,
        held=grant.held - back.quantity,
        remaining=grant.remaining - repaid,
        used=grant.spent + repaid,
    )
    return Draw(grant.id, repaid)


def _leave(
    draft: Draft, command: Command, part: Hold, lost: Draw, effective_at: datetime | None
) -> None:
    """Remove from the balance the credits that an ended grant kept only because they were held."""
    grant = draft.grant(part.wallet, lost.grant_id)
    is_revoked = grant.end_reason == REVOKED
    draft.grants[grant.id] = replace(grant, remaining=grant.remaining - lost.quantity)
    post(
        draft,
        command,
        part.wallet,
        OperationKind.REVOCATION if is_revoked else OperationKind.EXPIRY,
        operation_id=draft.book.new_id(),
        delta=-lost.quantity,
        amount=lost.quantity,
        draws=(lost,),
        hold_id=part.id,
        reason=REVOKED if is_revoked else grant.reason,
        effective_at=effective_at,
    )
