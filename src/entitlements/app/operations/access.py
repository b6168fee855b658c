"""Access checks, consumption by type, and summaries of subjects."""

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from entitlements.app.operations.naming import origin
from entitlements.app.operations.request import Request, UseCases
from entitlements.app.policy.terms import id_text, json_text, refuse_foreign_fields
from entitlements.contracts import http
from entitlements.contracts.errors import invalid
from entitlements.core import access
from entitlements.core.access import Access, Wanted
from entitlements.core.attribution import candidates
from entitlements.core.commands import Spend
from entitlements.core.model import (
    NEVER,
    UNITS,
    Grant,
    StoredGrant,
    Subject,
    WalletKey,
    wallet_of_grant,
)
from entitlements.core.outcomes import Spent
from entitlements.core.policy import AMOUNT_MAX
from entitlements.core.reasons import EntitlementType, GrantReason, SubjectType

EXPIRIES_SHOWN: Final = 10
_SUBJECT_TYPES: Final[Mapping[str, SubjectType]] = {"org": "org", "user": "user"}


async def check(request: Request, body: http.AccessRequest) -> http.AccessResponse:
    (answer,) = await _checked(request, request.subjects(body), [body])
    return answer


async def check_all(request: Request, body: http.BulkAccessRequest) -> http.BulkAccessResponse:
    results = await _checked(request, request.subjects(body), body.checks)
    return http.BulkAccessResponse(results=results)


async def check_feature(request: Request, wanted: http.FeatureQuery) -> http.AccessResponse:
    asked = http.AccessItem(
        entitlement_type=EntitlementType.FEATURE_UNLOCK.value, feature=request.params["feature"]
    )
    (answer,) = await _checked(request, request.subjects(wanted), [asked])
    return answer


async def _checked(
    request: Request, who: tuple[str, str | None], asked: Sequence[http.AccessItem]
) -> list[http.AccessResponse]:
    """Answer checks of one user and org, which share their reads."""
    wanted = [
        _wanted(one, f"checks[{n}]." if len(asked) > 1 else "") for n, one in enumerate(asked)
    ]
    user_id, org_id = who
    subjects = [Subject("user", user_id)]
    if org_id is not None:
        subjects.insert(0, Subject("org", org_id))
    had = await request.engine.reader.had(subjects, {one.entitlement_type for one in wanted})
    order = candidates(request.engine.policies.active.attribution, user_id, org_id)
    found: list[Access] = []
    for one in wanted:
        if one.entitlement_type.is_consumable:
            available = await _available(request, order, one)
            found.append(access.quantity(one, order, had, available))
        else:
            found.append(access.presence(one, had))
    return [_answer(one) for one in found]


def _wanted(asked: http.AccessItem, where: str) -> Wanted:
    kind = EntitlementType(asked.entitlement_type)
    refuse_foreign_fields(kind, asked, where)
    if asked.required_quantity is not None and not kind.is_consumable:
        raise invalid(f"{where}required_quantity", f"a {kind} has no quantity")
    return Wanted(
        entitlement_type=kind,
        credit_type=asked.credit_type,
        metric=asked.metric,
        feature=asked.feature,
        product_id=id_text(asked.product_id),
        tier_id=id_text(asked.tier_id),
        subscription_id=id_text(asked.subscription_id),
        quantity=asked.required_quantity or 1,
    )


async def _available(
    request: Request, order: Sequence[Subject], wanted: Wanted
) -> dict[Subject, int]:
    """Return what each candidate can spend of the wanted type, or of all its types."""
    kind, is_allowance = wanted.entitlement_type, _is_allowance(wanted.entitlement_type)
    exact = wanted.metric if is_allowance else wanted.credit_type
    keys: dict[Subject, list[WalletKey]] = {}
    for subject in order:
        if exact is not None:
            keys[subject] = [wallet_of_grant(subject, kind, wanted.credit_type, wanted.metric)]
        else:
            known = await request.engine.store.reads.wallet_keys(*subject)
            keys[subject] = [key for key in known if _has_units(key) is is_allowance]
    means = await request.engine.reader.means({key for found in keys.values() for key in found})
    return {
        subject: min(AMOUNT_MAX, sum(means.wallets[key].available for key in found))
        for subject, found in keys.items()
    }


def _is_allowance(kind: EntitlementType) -> bool:
    return kind is EntitlementType.USAGE_ALLOWANCE


def _has_units(key: WalletKey) -> bool:
    return key.credit_type.startswith(UNITS)


def _answer(found: Access) -> http.AccessResponse:
    metadata = [msgspec.json.decode(one.details.metadata) for one in found.sources]
    return http.AccessResponse(
        has_access=found.has_access,
        total_available_quantity=found.available,
        expires_at=found.expires_at,
        limitations=access.merged(metadata),
        sources=[
            http.SourceItem(
                grant_id=one.grant.id,
                subject_type=one.grant.wallet.subject_type,
                subject_id=one.grant.wallet.subject_id,
                grant_reason=one.grant.reason.value,
                remaining=_remaining(one.grant),
                expires_at=one.grant.expires_at,
            )
            for one in found.sources
        ],
    )


def _remaining(grant: Grant) -> int | None:
    return grant.remaining if grant.has_quantity else None


async def spend(request: Request, body: http.SpendRequest) -> http.SpendResponse:
    """Take a quantity from the grants of a type. Raises InsufficientCredits."""
    user_id, org_id = request.subjects(body)
    kind = EntitlementType(body.entitlement_type)
    refuse_foreign_fields(kind, body)
    if not _is_allowance(kind) and body.credit_type is None:
        raise invalid("credit_type", f"is required for a {kind}")
    wallet = wallet_of_grant(Subject("user", user_id), kind, body.credit_type, body.metric)
    command = Spend(
        id=request.engine.new_id(),
        origin=origin(request, (user_id, org_id)),
        user_id=user_id,
        org_id=org_id,
        credit_type=wallet.credit_type,
        metric=body.metric,
        quantity=body.quantity_to_consume,
        context=None if body.usage_context is None else json_text(body.usage_context),
    )
    outcome = await request.submitted(command, Spent)
    assert outcome.operation_id is not None, outcome
    return http.SpendResponse(
        usage_records=[
            http.UsageRecord(grant_id=grant_id, quantity=quantity)
            for grant_id, quantity in outcome.draws
        ],
        remaining=outcome.remaining,
        source=outcome.source,
        operation_id=outcome.operation_id,
        correlation_id=request.correlation_id,
        replayed=outcome.replayed,
    )


async def summary_of_user(request: Request, _: None) -> http.SummaryResponse:
    return await _summary(request, Subject("user", request.params["user_id"]))


async def summary(request: Request, _: None) -> http.SummaryResponse:
    kind = _SUBJECT_TYPES.get(request.params["subject_type"])
    if kind is None:
        raise invalid("subject_type", "must be org or user")
    return await _summary(request, Subject(kind, request.params["subject_id"]))


async def _summary(request: Request, subject: Subject) -> http.SummaryResponse:
    request.ids = (subject.id, None) if subject.type == "user" else (None, subject.id)
    had = (await request.engine.reader.had([subject]))[subject]
    used = await request.engine.store.reads.used_totals(subject)
    keys = [WalletKey(*subject, name) for name in used]
    means = await request.engine.reader.means(keys)
    available = {
        key.credit_type: None if wallet.unlimited else wallet.available
        for key, wallet in means.wallets.items()
    }
    credits = [name for name in used if not name.startswith(UNITS)]
    return http.SummaryResponse(
        subject_type=subject.type,
        subject_id=subject.id,
        active_entitlements=len(had),
        has_active_subscription=await _is_subscribed(request, had),
        tier=_first(had, EntitlementType.TIER_ACCESS, "tier_id"),
        features=_features(had),
        total_credits_available={name: available[name] for name in credits},
        total_credits_used={name: used[name] for name in credits},
        allowances=_allowances(available, used),
        next_expiries=_expiries(had),
        next_renewals=_renewals(had),
    )


async def _is_subscribed(request: Request, had: Sequence[StoredGrant]) -> bool:
    """Return whether a grant is of a subscription that is neither a trial nor to the free plan."""
    subscribed = [
        one
        for one in had
        if one.grant.entitlement_type is EntitlementType.SUBSCRIPTION
        and one.grant.reason is not GrantReason.TRIAL
    ]
    free_plan = request.engine.policies.active.free_plan
    if free_plan is None:
        return bool(subscribed)
    for one in subscribed:
        name = one.details.subscription_id or ""
        found = await request.engine.store.reads.subscription(name)
        if found is None or found.grant_id != one.grant.id or found.plan_id != free_plan:
            return True
    return False


def _first(had: Sequence[StoredGrant], kind: EntitlementType, name: str) -> str | None:
    named = (getattr(one.details, name) for one in had if one.grant.entitlement_type is kind)
    return next(named, None)


def _features(had: Sequence[StoredGrant]) -> list[str]:
    unlocks = (one for one in had if one.grant.entitlement_type is EntitlementType.FEATURE_UNLOCK)
    return sorted({one.details.feature for one in unlocks if one.details.feature is not None})


def _allowances(
    available: Mapping[str, int | None], used: Mapping[str, int]
) -> dict[str, http.AllowanceItem]:
    return {
        name.removeprefix(UNITS): http.AllowanceItem(available=available[name], used=used[name])
        for name in used
        if name.startswith(UNITS)
    }


def _expiries(had: Sequence[StoredGrant]) -> list[http.ExpiryItem]:
    ending = [one.grant for one in had if one.grant.expires_at is not None]
    ending.sort(key=lambda grant: (grant.expires_at or NEVER, grant.id))
    return [
        http.ExpiryItem(
            grant_id=grant.id,
            entitlement_type=grant.entitlement_type.value,
            at=grant.expires_at or NEVER,
            remaining=_remaining(grant),
        )
        for grant in ending[:EXPIRIES_SHOWN]
    ]


def _renewals(had: Sequence[StoredGrant]) -> list[http.RenewalItem]:
    renewing = [one.grant for one in had if one.grant.renews_at is not None]
    renewing.sort(key=lambda grant: (grant.renews_at or NEVER, grant.id))
    return [
        http.RenewalItem(
            grant_id=grant.id,
            entitlement_type=grant.entitlement_type.value,
            at=grant.renews_at or NEVER,
            quantity=grant.quantity,
        )
        for grant in renewing[:EXPIRIES_SHOWN]
    ]


USE_CASES: Final[UseCases] = {
    http.ACCESS: check,
    http.ACCESS_ALL: check_all,
    http.FEATURE: check_feature,
    http.SPEND: spend,
    http.USER_SUMMARY: summary_of_user,
    http.SUMMARY: summary,
}
