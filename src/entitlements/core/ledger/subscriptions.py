"""Subscriptions: activated, changed, past due, canceled and expired.

Everything that a command does to the grants of a subscription is in its transaction, and exact to
the instant: a cancellation at the end of the period lets the grants expire then, and schedules
those of the lifecycle.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final, assert_never

from msgspec.structs import replace

from entitlements.core.commands import (
    Activate,
    CancelSubscription,
    ChangePlan,
    CreateGrant,
    ExpireSubscription,
    MarkPastDue,
    OfSubscription,
    Revoke,
)
from entitlements.core.ledger.book import Draft, NeedMore, Needs
from entitlements.core.ledger.due import apply_all_due
from entitlements.core.ledger.grants import grant, revoke
from entitlements.core.ledger.posting import has_ended, sooner
from entitlements.core.ledger.rule import Audit, Rule, Rules, Wallets, its_wallet
from entitlements.core.ledger.subscribing import put, record
from entitlements.core.model import Grant, GrantDetails, Subject, WalletKey, wallet_of_grant
from entitlements.core.outcomes import Refusal, Subscribed
from entitlements.core.plans import LifecycleRule, Plan, Terms
from entitlements.core.policy import Policy
from entitlements.core.reasons import EntitlementType, GrantReason, RefusalCode
from entitlements.core.renewals import Period, renewal, renewals_until
from entitlements.core.subscription import (
    GivenGrant,
    Subscription,
    SubscriptionChange,
    SubscriptionStatus,
    as_ended,
)

UNKNOWN_PLAN: Final = Refusal(
    code=RefusalCode.UNKNOWN_PLAN, detail="the policy has no such plan", field="plan_id"
)
NO_FREE_PLAN: Final = Refusal(
    code=RefusalCode.UNKNOWN_PLAN, detail="the policy has no free_plan", field="lifecycle"
)
_MODES: Final[Mapping[LifecycleRule, str]] = {
    LifecycleRule.GRACE_PERIOD: "{}",
    LifecycleRule.READ_ONLY: '{"mode":"read_only"}',
    LifecycleRule.KEEP_DATA: '{"mode":"data_only"}',
}
"""The metadata of the temporary access that a rule gives."""


def activate(draft: Draft, command: Activate) -> Subscribed | Refusal:
    """Begin a subscription, or the next period of one that is open.

    The grants of lifecycles of the subject's ended subscriptions are revoked.
    """
    found = draft.subscription(command.subscription_id)
    plan = draft.book.policy.plans.get(command.plan_id)
    if refused := _not_activated(draft, command, found, plan):
        return refused
    assert plan is not None, command
    if found is not None and found.is_open:
        return _continue(draft, command, found, plan)
    now = _now(draft, command)
    ended = [
        one for one in draft.subscriptions_of(command.wallet) if one.follow_up and not one.is_open
    ]
    _open_wallets(draft, command, ended)
    revoked = [
        grant_id for one in ended for grant_id in _revoke_all(draft, command, one, one.follow_up)
    ]
    for one in ended:
        put(draft, replace(one, follow_up=()))
    own = Terms(
        entitlement_type=EntitlementType.SUBSCRIPTION, subscription_id=command.subscription_id
    )
    given = _grant_all(draft, command, (own, *plan.grants))
    if isinstance(given, Refusal):
        return given
    begun = Subscription(
        subscription_id=command.subscription_id,
        subject_type=command.wallet.subject_type,
        subject_id=command.wallet.subject_id,
        plan_id=command.plan_id,
        policy_version=draft.book.policy_version,
        lifecycle=plan.lifecycle,
        activated_at=now,
        current_period_end=command.current_period_end or _period_end(plan, now, now),
        grant_id=given[0].grant_id,
        given=given[1:],
    )
    return _done(
        draft,
        command,
        begun,
        SubscriptionChange.ACTIVATED,
        created=True,
        granted=_ids(given),
        revoked=tuple(revoked),
    )


def _not_activated(
    draft: Draft, command: Activate, found: Subscription | None, plan: Plan | None
) -> Refusal | None:
    """Return the reason why the subscription cannot begin or go on with the plan, else None."""
    if found is not None and found.subject != command.wallet.subject:
        return _exists("belongs to another subject")
    if found is not None and found.is_open and found.plan_id != command.plan_id:
        return _exists(f"has the plan {found.plan_id}; change it instead")
    if plan is None:
        return UNKNOWN_PLAN
    ends = command.current_period_end
    if ends is None or ends > _now(draft, command):
        return None
    return Refusal(
        code=RefusalCode.INVALID_PERIOD, detail="must be later than now", field="current_period_end"
    )


def _continue(
    draft: Draft, command: Activate, found: Subscription, plan: Plan
) -> Subscribed | Refusal:
    """Begin the next period of an open subscription; end its past due or canceling state."""
    kept, revoked = _keep(draft, command, found)
    after = max(found.current_period_end, _now(draft, command))
    ends = command.current_period_end or _period_end(plan, found.activated_at, after)
    kept = replace(kept, status=SubscriptionStatus.ACTIVE, current_period_end=ends)
    return _done(draft, command, kept, SubscriptionChange.ACTIVATED, revoked=revoked)


def change(draft: Draft, command: ChangePlan) -> Subscribed | Refusal:
    """Replace the plan: revoke the grants of the old one, and create those of the new one.

    Units used or held in the current period count as used of the new grants in the same wallets,
    which continue the periods of the grants that they replace. If a plan has no grant in a wallet,
    the next plan with one counts them. A cancellation that has not taken effect is withdrawn.
    """
    found = draft.subscription(command.subscription_id)
    assert found is not None, command
    if command.is_migration and not _is_outdated(draft, command, found):
        return Subscribed(subscription=found)
    if not found.is_open:
        return _ended(found)
    plan = draft.book.policy.plans.get(command.plan_id)
    if plan is None:
        return UNKNOWN_PLAN
    kept, revoked = _keep(draft, command, found)
    now = _now(draft, command)
    former = _grants(draft, kept, (*kept.given, *kept.replaced))
    replaced = [one for one in former if _has_use(one, now)]
    revoked += _revoke_all(draft, command, kept, kept.given)
    given = _grant_all(draft, command, plan.grants, replaced=replaced)
    if isinstance(given, Refusal):
        return given
    successors = {
        _wallet_of(command.wallet.subject, each)
        for each in plan.grants
        if each.entitlement_type.is_consumable
    }
    changed = replace(
        kept,
        plan_id=command.plan_id,
        policy_version=draft.book.policy_version,
        lifecycle=plan.lifecycle,
        given=given,
        replaced=tuple(
            GivenGrant(one.wallet.credit_type, one.id)
            for one in replaced
            if one.wallet not in successors
        ),
    )
    return _done(
        draft,
        command,
        changed,
        SubscriptionChange.CHANGED,
        old_plan_id=found.plan_id,
        granted=_ids(given),
        revoked=revoked,
    )


def _has_use(grant: Grant, now: datetime) -> bool:
    """Return whether its use counts in a change: it can be used, and its period is the current."""
    is_current = grant.renews_at is None or grant.renews_at > now
    return grant.entitlement_type.is_consumable and is_current


def _is_outdated(draft: Draft, command: ChangePlan, found: Subscription) -> bool:
    """Return whether a migration concerns the subscription."""
    is_kept = found.is_open and found.cancels_at is None and found.plan_id == command.plan_id
    return is_kept and found.policy_version != draft.book.policy_version


def cancel(draft: Draft, command: CancelSubscription) -> Subscribed | Refusal:
    """End the subscription now or at the end of its period; one that has ended does not change."""
    found = draft.subscription(command.subscription_id)
    assert found is not None, command
    is_later = command.at_period_end and found.current_period_end > _now(draft, command)
    is_known = found.cancels_at == found.current_period_end and command.lifecycle is None
    if not found.is_open or (is_later and is_known):
        return Subscribed(subscription=found)
    if is_later:
        return _schedule_end(draft, command, found)
    return _end(draft, command, found, SubscriptionStatus.CANCELED, SubscriptionChange.CANCELLED)


def expire(draft: Draft, command: ExpireSubscription) -> Subscribed | Refusal:
    """End a subscription that was not paid; one that has ended does not change."""
    found = draft.subscription(command.subscription_id)
    assert found is not None, command
    if not found.is_open:
        return Subscribed(subscription=found)
    return _end(draft, command, found, SubscriptionStatus.EXPIRED, SubscriptionChange.EXPIRED)


def mark_past_due(draft: Draft, command: MarkPastDue) -> Subscribed | Refusal:
    """Record that a payment is late; no grant changes."""
    found = draft.subscription(command.subscription_id)
    assert found is not None, command
    if not found.is_open:
        return _ended(found)
    if found.status is SubscriptionStatus.PAST_DUE:
        return Subscribed(subscription=found)
    late = replace(found, status=SubscriptionStatus.PAST_DUE)
    return _done(draft, command, late, SubscriptionChange.PAST_DUE)


def _end(
    draft: Draft,
    command: CancelSubscription | ExpireSubscription,
    found: Subscription,
    status: SubscriptionStatus,
    change: SubscriptionChange,
) -> Subscribed | Refusal:
    kept, revoked = _keep(draft, command, found)
    ended = as_ended(kept, _now(draft, command), status)
    ended = replace(ended, lifecycle=command.lifecycle or kept.lifecycle)
    put(draft, ended)  # its own grant then ends as any other
    revoked += _revoke_all(draft, command, kept, (kept.own, *kept.given))
    left = _leave(draft, command, kept, None)
    if isinstance(left, Refusal):
        return left
    return _done(
        draft,
        command,
        replace(ended, follow_up=left),
        change,
        granted=_ids(left),
        revoked=revoked,
    )


def _schedule_end(
    draft: Draft, command: CancelSubscription, found: Subscription
) -> Subscribed | Refusal:
    """Let the grants expire at the end of the period, and schedule those of the lifecycle."""
    kept, revoked = _keep(draft, command, found)
    at = kept.current_period_end
    _set_expiry(draft, kept, at)
    left = _leave(draft, command, kept, at)
    if isinstance(left, Refusal):
        return left
    canceling = replace(kept, cancels_at=at, follow_up=left)
    return _done(
        draft,
        command,
        canceling,
        SubscriptionChange.CANCELING,
        granted=_ids(left),
        revoked=revoked,
    )


def _keep(
    draft: Draft, command: OfSubscription, found: Subscription
) -> tuple[Subscription, tuple[str, ...]]:
    """Return the open subscription without a cancellation, and the grants revoked for that.

    Its wallets are then up to date. Raise NeedMore.
    """
    _open_wallets(draft, command, [found])
    if found.cancels_at is None:
        return found, ()
    _set_expiry(draft, found, None)
    revoked = _revoke_all(draft, command, found, found.follow_up)
    return replace(found, cancels_at=None, follow_up=()), revoked


def _set_expiry(draft: Draft, subscription: Subscription, at: datetime | None) -> None:
    """Let the subscription and what its plan gave expire at a time, or not at all."""
    for one in _grants(draft, subscription, (subscription.own, *subscription.given)):
        if has_ended(one, max(draft.now, draft.wallet(one.wallet).updated_at)):
            continue
        draft.grants[one.id] = changed = replace(one, expires_at=at)
        draft.renewed.add((one.wallet, one.id))
        wallet = draft.wallet(one.wallet)
        draft.wallets[one.wallet] = replace(
            wallet, next_due_at=sooner(wallet.next_due_at, changed.due_at)
        )


def _leave(
    draft: Draft,
    command: CancelSubscription | ExpireSubscription,
    subscription: Subscription,
    at: datetime | None,
) -> tuple[GivenGrant, ...] | Refusal:
    """Create the grants of the lifecycle, from ``at`` on or from now."""
    lifecycle = command.lifecycle or subscription.lifecycle
    match lifecycle.rule:
        case LifecycleRule.DEFAULT:
            return ()
        case LifecycleRule.FREEMIUM:
            free = draft.book.policy.plans.get(draft.book.policy.free_plan or "")
            if free is None and command.lifecycle is not None:
                return NO_FREE_PLAN
            terms: tuple[Terms, ...] = () if free is None else free.grants
            ends = None
        case LifecycleRule.GRACE_PERIOD | LifecycleRule.READ_ONLY | LifecycleRule.KEEP_DATA:
            access = EntitlementType.TEMPORARY_ACCESS
            terms = (Terms(entitlement_type=access, metadata=_MODES[lifecycle.rule]),)
            starts = at or _now(draft, command)
            days = lifecycle.days
            ends = None if days is None else starts + timedelta(days=days)
        case _:
            assert_never(lifecycle.rule)
    return _grant_all(
        draft,
        command,
        terms,
        reason=GrantReason.SUBSCRIPTION_CANCELLED,
        starts_at=at,
        ends_at=ends,
    )


def _grant_all(
    draft: Draft,
    command: OfSubscription,
    terms: Sequence[Terms],
    *,
    reason: GrantReason = GrantReason.SUBSCRIPTION,
    starts_at: datetime | None = None,
    ends_at: datetime | None = None,
    replaced: Iterable[Grant] = (),
) -> tuple[GivenGrant, ...] | Refusal:
    """Grant the terms, in place of the ``replaced`` grants, or return the first refusal."""
    used = Counter[WalletKey]()
    before: dict[WalletKey, Grant] = {}
    for one in replaced:
        used[one.wallet] += max(0, one.spent - one.used_before) + one.held
        before.setdefault(one.wallet, one)
    given: list[GivenGrant] = []
    wallets = [_wallet_of(command.wallet.subject, each) for each in terms]
    for each, wallet, part in zip(terms, wallets, _parts(terms, wallets, used), strict=True):
        made = grant(
            draft,
            CreateGrant(
                id=draft.book.new_id(),
                origin=command.origin,
                wallet=wallet,
                quantity=each.quantity,
                entitlement_type=each.entitlement_type,
                consumption=each.consumption,
                unlimited=each.unlimited,
                period=each.period,
                reason=reason,
                priority=each.priority,
                granted_at=starts_at or _period_start(each, before.get(wallet)),
                expires_at=ends_at,
                used=part,
                details=_details(command, each),
            ),
        )
        if isinstance(made, Refusal):
            return made
        given.append(GivenGrant(wallet.credit_type, made.grant_id))
    return tuple(given)


def _parts(
    terms: Sequence[Terms], wallets: Sequence[WalletKey], used: Counter[WalletKey]
) -> list[int]:
    """Return what counts as used of each grant; the last one of a wallet has all that is left."""
    parts = [0] * len(terms)
    last: dict[WalletKey, int] = {}
    for number, (each, wallet) in enumerate(zip(terms, wallets, strict=True)):
        if each.entitlement_type.is_consumable:
            last[wallet] = number
            parts[number] = min(used[wallet], each.quantity)
            used[wallet] -= parts[number]
    for wallet, number in last.items():
        parts[number] += used[wallet]
    return parts


def _period_start(terms: Terms, replaced: Grant | None) -> datetime | None:
    """Return the start from which a grant has the periods of the one that it replaces."""
    if terms.period is None or replaced is None or replaced.period is None:
        return None
    same = replace(replaced.period, rollover_cap=terms.period.rollover_cap)
    return replaced.granted_at if same == terms.period else replaced.period_starts


def _revoke_all(
    draft: Draft,
    command: OfSubscription,
    subscription: Subscription,
    given: Iterable[GivenGrant],
) -> tuple[str, ...]:
    """Revoke the grants, and return the ids of those that had not ended."""
    revoked: list[str] = []
    for one in given:
        outcome = revoke(
            draft,
            Revoke(
                id=draft.book.new_id(),
                origin=command.origin,
                wallet=WalletKey(*subscription.subject, one.credit_type),
                grant_id=one.grant_id,
                reason=command.reason,
            ),
        )
        if outcome.operation_id is not None:
            revoked.append(one.grant_id)
    return tuple(revoked)


def _details(command: OfSubscription, terms: Terms) -> GrantDetails:
    return GrantDetails(
        granted_by=command.origin.actor,
        metric=terms.metric,
        feature=terms.feature,
        product_id=terms.product_id,
        tier_id=terms.tier_id,
        subscription_id=terms.subscription_id,
        reference_id=command.subscription_id,
        cost_microcents=terms.cost_microcents,
        notes=terms.notes,
        metadata=terms.metadata,
    )


def _done(
    draft: Draft,
    command: OfSubscription,
    subscription: Subscription,
    change: SubscriptionChange,
    *,
    old_plan_id: str | None = None,
    created: bool = False,
    granted: tuple[str, ...] = (),
    revoked: tuple[str, ...] = (),
) -> Subscribed:
    """Record the change as the command's operation, and return its outcome."""
    operation = record(
        draft,
        command,
        subscription,
        change,
        operation_id=command.id,
        old_plan_id=old_plan_id,
    )
    return Subscribed(
        operation_id=operation.id,
        subscription=subscription,
        created=created,
        granted=granted,
        revoked=revoked,
    )


def _ended(found: Subscription) -> Refusal:
    return Refusal(
        code=RefusalCode.SUBSCRIPTION_ENDED,
        detail=f"the subscription is {found.status}; activate it again",
    )


def _exists(detail: str) -> Refusal:
    return Refusal(code=RefusalCode.SUBSCRIPTION_EXISTS, detail=f"the subscription {detail}")


def _open_wallets(
    draft: Draft, command: OfSubscription, subscriptions: Iterable[Subscription]
) -> None:
    """Apply what is due in the wallets of the subscriptions' grants. Raise NeedMore, MoreDue."""
    wallets = {
        WalletKey(*each.subject, one.credit_type)
        for each in subscriptions
        for one in (*each.given, *each.follow_up, *each.replaced)
    }
    if missing := wallets - draft.book.wallets.keys():
        raise NeedMore(wallets=missing)
    apply_all_due(draft, command, wallets)


def _grants(draft: Draft, subscription: Subscription, given: Iterable[GivenGrant]) -> list[Grant]:
    wallets = ((WalletKey(*subscription.subject, one.credit_type), one.grant_id) for one in given)
    return [draft.grant(*named) for named in wallets]


def _period_end(plan: Plan, start: datetime, after: datetime) -> datetime:
    """Return the end of the plan's period in which ``after`` lies; periods run from ``start``."""
    period = Period(interval=plan.period)
    ends = renewal(period, start, renewals_until(period, start, after) + 1)
    assert ends is not None, plan
    return ends


def _now(draft: Draft, command: OfSubscription) -> datetime:
    return max(draft.now, draft.wallet(command.wallet).updated_at)


def _ids(given: Iterable[GivenGrant]) -> tuple[str, ...]:
    return tuple(one.grant_id for one in given)


def _wallet_of(subject: Subject, terms: Terms) -> WalletKey:
    kind, metric = terms.entitlement_type, terms.metric
    return wallet_of_grant(subject, kind, terms.credit_type, metric)


def _plan_wallets(command: Activate | ChangePlan, policy: Policy) -> Wallets:
    """Return the wallets of the plan's grants; those of the old one are known when it is loaded."""
    return _wallets(command, policy.plans.get(command.plan_id))


def _free_wallets(command: CancelSubscription | ExpireSubscription, policy: Policy) -> Wallets:
    """Return the wallets of the free plan's grants."""
    return _wallets(command, policy.plans.get(policy.free_plan or ""))


def _wallets(command: OfSubscription, plan: Plan | None) -> Wallets:
    terms = plan.grants if plan is not None else ()
    return {command.wallet, *(_wallet_of(command.wallet.subject, each) for each in terms)}


def _needs(needs: Needs, command: OfSubscription, _policy: Policy) -> None:
    needs.subscriptions.add((command.wallet, command.subscription_id))


RULES: Final[Rules] = {
    Activate: Rule(
        decide=activate,
        wallets=_plan_wallets,
        needs=_needs,
        audit=Audit("subscription.activate", ("subscription_id", "plan_id")),
    ),
    ChangePlan: Rule(
        decide=change,
        wallets=_plan_wallets,
        needs=_needs,
        audit=Audit("subscription.change", ("subscription_id", "plan_id")),
    ),
    CancelSubscription: Rule(
        decide=cancel,
        wallets=_free_wallets,
        needs=_needs,
        audit=Audit("subscription.cancel", ("subscription_id", "at_period_end")),
    ),
    MarkPastDue: Rule(
        decide=mark_past_due,
        wallets=its_wallet,
        needs=_needs,
        audit=Audit("subscription.past_due", ("subscription_id",)),
    ),
    ExpireSubscription: Rule(
        decide=expire,
        wallets=_free_wallets,
        needs=_needs,
        audit=Audit("subscription.expire", ("subscription_id",)),
    ),
}
