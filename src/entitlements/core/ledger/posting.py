"""Posting: every change of a balance is one operation on one wallet.

Invariants: the balance is the sum of ``remaining`` over the started grants, less the overdraft (an
ended grant keeps only its held credits). While a wallet has an overdraft, no grant has remaining
credits that are not held. Unlimited grants are in no sum: what they pay or hold is only counted in
what they ``used``, and a wallet knows how many of them are live.
"""

from __future__ import annotations

from datetime import datetime
from typing import TypedDict, Unpack

from msgspec.structs import replace

from entitlements.core.burndown import Draws, burn_key, draw
from entitlements.core.commands import Command
from entitlements.core.ledger.book import Draft, NeedMore
from entitlements.core.model import (
    NEVER,
    Draw,
    Grant,
    GrantDetails,
    Operation,
    WalletKey,
    metric_of,
)
from entitlements.core.outcomes import Refusal
from entitlements.core.policy import AMOUNT_MAX
from entitlements.core.reasons import (
    ConsumedFrom,
    ConsumptionType,
    EntitlementType,
    GrantReason,
    OperationKind,
    OperationStatus,
    RefusalCode,
)
from entitlements.core.renewals import Period, renewal, renewals_until
from entitlements.core.thresholds import GRANTING, at_grant, crossings

DEPTH_FIRST = 4
"""How many live grants are loaded initially."""


class OperationFields(TypedDict, total=False):
    """The fields of `Operation` that the caller of `post` decides; the others have defaults."""

    user_id: str | None
    org_id: str | None
    metric: str | None
    quantity: int
    amount: int
    owed: int
    draws: tuple[Draw, ...]
    batch_id: str | None
    consumed_from: ConsumedFrom
    status: OperationStatus
    reason: str | None
    reverses: str | None
    reverses_seq: int | None
    hold_id: str | None
    counted: int | None
    context: str | None
    group_id: str | None
    member_month: str | None


def post(
    draft: Draft,
    command: Command,
    key: WalletKey,
    kind: OperationKind,
    *,
    operation_id: str,
    delta: int = 0,
    effective_at: datetime | None = None,
    policy_version: str | None = None,
    **fields: Unpack[OperationFields],
) -> Operation:
    """Write the wallet's next operation and change its balance by ``delta``.

    ``policy_version`` is the version that priced it; the default is the active one.
    """
    wallet = draft.wallet(key)
    now = max(draft.now, wallet.updated_at)
    after = replace(
        wallet, balance=wallet.balance + delta, version=wallet.version + 1, updated_at=now
    )
    if delta > 0 and kind in GRANTING:
        after = replace(after, balance_at_grant=at_grant(after.balance))
        draft.granted.add(key)
    thresholds = draft.book.policy.thresholds
    has_moved = key in draft.overdraft_moved
    draft.overdraft_moved.discard(key)
    operation = Operation(
        id=operation_id,
        seq=after.version,
        kind=kind,
        wallet=key,
        delta=delta,
        balance_after=after.balance,
        correlation_id=command.origin.correlation_id,
        policy_version=policy_version or draft.book.policy_version,
        actor=command.origin.actor,
        client=command.origin.client,
        created_at=now,
        effective_at=effective_at or now,
        overdraft_after=after.overdraft if has_moved else None,
        traceparent=command.origin.traceparent,
        crossings=crossings(thresholds, wallet, after) if thresholds else (),
        **fields,
    )
    draft.wallets[key] = after
    draft.operations.append(operation)
    return operation


def draw_from(draft: Draft, key: WalletKey, amount: int, *, counted: bool = False) -> Draws:
    """Take up to ``amount`` from the wallet's live grants in burn order.

    ``counted``: leave unlimited grants out. Raise NeedMore as `draws_from` does.
    """
    drawn = draws_from(draft, key, amount, counted=counted)
    for taken in drawn.draws:
        grant = draft.grant(key, taken.grant_id)
        left = grant.remaining if grant.unlimited else grant.remaining - taken.quantity
        draft.grants[grant.id] = replace(grant, remaining=left, used=grant.spent + taken.quantity)
    return drawn


def draws_from(draft: Draft, key: WalletKey, amount: int, *, counted: bool = False) -> Draws:
    """Return the draws that would pay ``amount`` from the wallet's live grants, in burn order.

    ``counted``: leave unlimited grants out. Raise NeedMore if grants that were not loaded could
    still pay.
    """
    order = draft.book.policy.burn_order
    live = [grant for grant in draft.grants_of(key) if grant.is_live]
    if counted:
        live = [grant for grant in live if not grant.unlimited]
    if len(live) > 1:
        live.sort(key=lambda grant: burn_key(grant, order))
    horizon = draft.book.horizon.get(key)
    if horizon is not None:
        live = [grant for grant in live if burn_key(grant, order) <= horizon]
    drawn = draw(amount, live)
    if drawn.unpaid and horizon is not None:
        raise NeedMore(depth={key: max(64, draft.book.depth.get(key, DEPTH_FIRST) * 4)})
    return drawn


def overdraw(draft: Draft, key: WalletKey, credits: int) -> None:
    """Raise the wallet's overdraft by ``credits``; the caller has checked that it may."""
    if credits:
        wallet = draft.wallet(key)
        draft.wallets[key] = replace(wallet, overdraft=wallet.overdraft + credits)
        draft.overdraft_moved.add(key)


def repay(draft: Draft, key: WalletKey, credits: int) -> int:
    """Lower the wallet's overdraft by up to ``credits``, and return by how much."""
    wallet = draft.wallet(key)
    repaid = min(wallet.overdraft, credits)
    if repaid:
        draft.wallets[key] = replace(wallet, overdraft=wallet.overdraft - repaid)
        draft.overdraft_moved.add(key)
    return repaid


def give(draft: Draft, grant: Grant, credits: int) -> tuple[Draw, ...]:
    """Put ``credits`` into a grant; they repay an overdraft immediately.

    Return the draws for the operation.
    """
    key = grant.wallet
    repaid = repay(draft, key, credits)
    draft.grants[grant.id] = grown = replace(
        grant, remaining=grant.remaining + credits - repaid, used=grant.spent + repaid
    )
    wallet = draft.wallet(key)
    draft.wallets[key] = replace(wallet, next_due_at=sooner(wallet.next_due_at, grown.due_at))
    given = Draw(grant.id, -credits)
    return (given, Draw(grant.id, repaid)) if repaid else (given,)


def take_back(draft: Draft, grant: Grant, credits: int) -> tuple[Draw, ...]:
    """Take credits that are not held from a grant; the caller posts the operation."""
    draft.grants[grant.id] = replace(grant, remaining=grant.remaining - credits)
    return (Draw(grant.id, credits),)


def create_grant(
    draft: Draft,
    command: Command,
    key: WalletKey,
    credits: int,
    *,
    grant_id: str,
    reason: GrantReason,
    priority: int = 50,
    granted_at: datetime | None = None,
    expires_at: datetime | None = None,
    details: GrantDetails | None = None,
    entitlement_type: EntitlementType = EntitlementType.CREDIT_GRANT,
    consumption: ConsumptionType = ConsumptionType.DECREMENTAL,
    unlimited: bool = False,
    period: Period | None = None,
    used: int = 0,
) -> tuple[Draw, ...]:
    """Add a grant to the wallet and return its draws. It starts now, or at ``granted_at``.

    ``used`` counts as used in its first period. The caller posts the operation.
    """
    now = max(draft.now, draft.wallet(key).updated_at)
    starts_later = granted_at is not None and granted_at > now
    grant = Grant(
        id=grant_id,
        wallet=key,
        quantity=credits,
        remaining=credits if starts_later else 0,
        used_before=-used,
        priority=priority,
        granted_at=granted_at or now,
        expires_at=expires_at,
        reason=reason,
        started=False,
        entitlement_type=entitlement_type,
        consumption=consumption,
        unlimited=unlimited,
        period=period,
        renews_at=_next_renewal(period, granted_at or now, now) if period else None,
    )
    draft.details[key, grant_id] = details or GrantDetails(granted_by=command.origin.actor)
    metric = metric_of(key.credit_type) if key.is_of_allowances else ""
    if metric and metric not in draft.book.policy.allowances:
        draft.allowances.add(metric)
    if not starts_later:
        return start(draft, grant, max(0, credits - used))
    draft.grants[grant_id] = grant
    wallet = draft.wallet(key)
    draft.wallets[key] = replace(
        wallet,
        next_due_at=sooner(wallet.next_due_at, grant.due_at),
        promised=wallet.promised + credits,
    )
    draft.granted.add(key)
    return (Draw(grant_id, 0),)


def _next_renewal(period: Period, start: datetime, now: datetime) -> datetime | None:
    return renewal(period, start, renewals_until(period, start, max(now, start)) + 1)


def start(draft: Draft, grant: Grant, credits: int) -> tuple[Draw, ...]:
    """Let a new or scheduled grant pay from now on, and return its draws."""
    wallet = draft.wallet(grant.wallet)
    promised, unlimited = wallet.promised - grant.remaining, wallet.unlimited + grant.unlimited
    if (promised, unlimited) != (wallet.promised, wallet.unlimited):
        draft.wallets[wallet.key] = replace(wallet, promised=promised, unlimited=unlimited)
        draft.granted.add(wallet.key)
    return give(draft, replace(grant, started=True, remaining=0), credits)


def too_large(draft: Draft, key: WalletKey, credits: int) -> Refusal | None:
    """Return a refusal if the amount or the new balance would exceed ``AMOUNT_MAX``, else None.

    Scheduled grants count towards the balance, so that there is room when they start.
    """
    wallet = draft.wallet(key)
    if credits <= AMOUNT_MAX and wallet.balance + wallet.promised + credits <= AMOUNT_MAX:
        return None
    return Refusal(
        code=RefusalCode.AMOUNT_TOO_LARGE, detail=f"a balance is at most {AMOUNT_MAX} credits"
    )


def invalid_expiry(
    draft: Draft, key: WalletKey, expires_at: datetime | None, granted_at: datetime | None = None
) -> Refusal | None:
    """Return a refusal if a grant would end before it pays, else None."""
    now = max(draft.now, draft.wallet(key).updated_at)
    if expires_at is None or expires_at > max(now, granted_at or now):
        return None
    return Refusal(
        code=RefusalCode.INVALID_GRANT,
        detail="must be later than now and than granted_at",
        field="expires_at",
    )


def end_grant(draft: Draft, grant: Grant, at: datetime, reason: str) -> int:
    """End a grant, and return the credits that leave the balance."""
    draft.grants[grant.id] = replace(grant, remaining=grant.held, ended_at=at, end_reason=reason)
    wallet = draft.wallet(grant.wallet)
    if not grant.started:
        draft.wallets[wallet.key] = replace(wallet, promised=wallet.promised - grant.remaining)
        draft.granted.add(wallet.key)
        return 0
    if grant.unlimited:
        draft.wallets[wallet.key] = replace(wallet, unlimited=wallet.unlimited - 1)
        draft.granted.add(wallet.key)
    return grant.remaining - grant.held


def has_ended(grant: Grant, now: datetime) -> bool:
    """Return whether the grant can never pay again.

    The expiry of an exhausted grant is not recorded, so its time decides.
    """
    return grant.ended_at is not None or (grant.expires_at or NEVER) <= now


def sooner(a: datetime | None, b: datetime | None) -> datetime | None:
    """Return the earlier of two times; None means never."""
    if a is None or b is None:
        return a or b
    return min(a, b)
