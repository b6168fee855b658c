"""Commands on grants: grant, revoke, list, show; access checks and summaries."""

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from cyclopts import Parameter

from entitlements.app.operations import access
from entitlements.app.operations import grants as requests
from entitlements.app.operations.request import Request
from entitlements.app.ports import GrantsQuery
from entitlements.app.process.clock import utc_now
from entitlements.contracts import http
from entitlements.core.reasons import EntitlementType, GrantStatus
from entitlements.transports.cli.asking import Actor, Key, asking, full_id, text_filter
from entitlements.transports.cli.ledger import Injected, SubjectName, aware, subject_of
from entitlements.transports.cli.listings import listed
from entitlements.transports.cli.output import (
    AsJson,
    Database,
    Failed,
    Id,
    LongLimit,
    Misused,
    Whole,
    say,
    show_json,
    show_table,
    shown_time,
)

GrantId = Annotated[str, Parameter(help="The id of the grant, or its start.")]
TypeName = Annotated[http.EntitlementType, Parameter(help="What is granted.")]
StatusName = Literal["scheduled", "active", "exhausted", "expired", "revoked", "all"]
COLUMNS = ("status", "subject", "type", "of", "quantity", "used", "left", "expires", "reason", "id")


async def grant(
    subject: SubjectName,
    type_: TypeName,
    *,
    actor: Actor,
    program: Injected,
    credit_type: str | None = None,
    metric: str | None = None,
    feature: str | None = None,
    product: str | None = None,
    tier: str | None = None,
    subscription: str | None = None,
    quantity: Whole | None = None,
    unlimited: Annotated[bool, Parameter(negative="")] = False,
    consumption: http.ConsumptionType | None = None,
    priority: Whole = 50,
    starts_at: datetime | None = None,
    expires_at: datetime | None = None,
    reason: http.GrantReason = "manual",
    reference: str | None = None,
    notes: str | None = None,
    metadata: str | None = None,
    key: Key = None,
    database: Database = None,
    json: AsJson = False,
) -> None:
    """Grant an entitlement to an org or a user.

    Parameters
    ----------
    credit_type
        The credit type of a credit_grant.
    metric
        The metric of a usage_allowance.
    feature
        The feature of a feature_unlock.
    product
        The product of a product_access.
    tier
        The tier of a tier_access.
    subscription
        The subscription of a subscription.
    quantity
        Whole credits or units, at least 1.
    unlimited
        Credits or units without a limit.
    consumption
        How it is used; renewable and accumulative grants have periods, by the metadata.
    priority
        0 to 100; grants with lower numbers are used first.
    starts_at
        The start; default: now. UTC unless it has a time zone.
    expires_at
        The end; UTC unless it has a time zone.
    reason
        Why it is granted.
    reference
        An id of another system, such as that of a payment, to revoke by.
    notes
        A note for people.
    metadata
        A JSON object, such as limits of the feature.
    """
    is_consumable = EntitlementType(type_).is_consumable
    if is_consumable and (quantity is None) is not unlimited:
        raise Misused(f"a {type_} needs either --quantity or --unlimited")
    if unlimited and not is_consumable:
        raise Misused(f"--unlimited does not belong to a {type_}")
    holder = subject_of(subject)
    fields = {
        "subject_type": holder.type,
        "subject_id": holder.id,
        "entitlement_type": type_,
        "grant_reason": reason,
        "credit_type": credit_type,
        "metric": metric,
        "feature": feature,
        "product_id": product,
        "tier_id": tier,
        "subscription_id": subscription,
        "quantity_granted": quantity,
        "consumption_type": consumption,
        "priority": priority,
        "granted_at": aware(starts_at),
        "expires_at": aware(expires_at),
        "reference_id": reference,
        "notes": notes,
        "metadata": _json_object(metadata),
    }
    async with asking(program, database, actor, http.GRANT, key, may_create=True) as request:
        body = request.converted(http.GrantRequest, fields)
        answer = await requests.grant(request, body)
    if json:
        show_json(answer)
    else:
        again = " (replayed)" if answer.replayed else ""
        say(f"{holder} has {_what(answer)}, {answer.status}{again}: {answer.id}")


def _json_object(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise Misused(f"--metadata must be a JSON object: {error}") from None


async def revoke(
    grant: Annotated[str | None, Parameter(help="The id of the grant, or its start.")] = None,
    *,
    actor: Actor,
    program: Injected,
    reference: str | None = None,
    reason: Annotated[str | None, Parameter(help="The reason, kept with the grant.")] = None,
    key: Key = None,
    database: Database = None,
    json: AsJson = False,
) -> None:
    """Revoke a grant, or every grant of a reference; what has ended does not change.

    Parameters
    ----------
    reference
        The reference of the grants, such as the id of a payment, instead of GRANT.
    """
    if (grant is None) is (reference is None):
        raise Misused("give either GRANT or --reference")
    if grant is not None:
        async with asking(program, database, actor, http.REVOKE) as request:
            await _name(request, grant)
            revoked = [
                await requests.revoke(
                    request, request.converted(http.RevokeQuery, {"reason": reason})
                )
            ]
    else:
        async with asking(program, database, actor, http.REVOKE_REFERENCE, key) as request:
            fields = {"reference_id": reference, "reason": reason}
            body = request.converted(http.RevokeReferenceRequest, fields)
            revoked = (await requests.revoke_reference(request, body)).revoked
    if json:
        show_json(revoked)
    else:
        show_table(COLUMNS, map(_row, revoked), empty="no grant was revoked")


async def list_grants(
    *,
    program: Injected,
    subject: Annotated[str | None, Parameter(help="org:ID or user:ID")] = None,
    type_: Annotated[http.EntitlementType | None, Parameter(name="--type")] = None,
    status: StatusName = "all",
    reference: str | None = None,
    limit: LongLimit = 100,
    database: Database = None,
    json: AsJson = False,
) -> None:
    """List grants, newest first; omitted filters match all.

    Parameters
    ----------
    type_
        The type of the grants.
    status
        Their status now.
    reference
        Their reference.
    """
    holder = subject_of(subject) if subject is not None else None
    query = GrantsQuery(
        subject_type=holder.type if holder else None,
        subject_id=holder.id if holder else None,
        entitlement_type=EntitlementType(type_) if type_ else None,
        status=None if status == "all" else GrantStatus(status),
        reference_id=text_filter("--reference", reference),
        now=utc_now(),
        limit=limit,
    )
    async with asking(program, database, "", http.ENTITLEMENTS) as request:
        found = await listed(request.engine.store.reads.grants, query)
        shown = [requests.item(one) for one in await request.engine.reader.grants(found)]
    if json:
        show_json(shown)
    else:
        show_table(COLUMNS, map(_row, shown), empty="no grants")


async def show_grant(
    grant: GrantId, *, program: Injected, database: Database = None, json: AsJson = False
) -> None:
    """Show a grant as it is now."""
    async with asking(program, database, "", http.ENTITLEMENT) as request:
        await _name(request, grant)
        answer = await requests.show(request, None)
    if json:
        show_json(answer)
    else:
        fields = msgspec.to_builtins(answer, builtin_types=(datetime,))
        for name, value in fields.items():
            if value not in (None, {}):
                say(f"{name}: {shown_time(value) if isinstance(value, datetime) else value}")


async def check_access(
    user: str,
    type_: Annotated[http.EntitlementType, Parameter(help="What to check.")],
    *,
    program: Injected,
    org: str | None = None,
    credit_type: str | None = None,
    metric: str | None = None,
    feature: str | None = None,
    product: str | None = None,
    tier: str | None = None,
    subscription: str | None = None,
    quantity: Whole | None = None,
    database: Database = None,
    json: AsJson = False,
) -> None:
    """Check whether a user has an entitlement; exit code 1 if not.

    Parameters
    ----------
    user
        The user.
    org
        The org that may have it for the user.
    credit_type
        The credit type of a credit_grant.
    metric
        The metric of a usage_allowance.
    feature
        The feature of a feature_unlock.
    product
        The product of a product_access.
    tier
        The tier of a tier_access.
    subscription
        The subscription of a subscription.
    quantity
        Credits or units that are needed; default: 1.
    """
    fields = {
        "user_id": user,
        "org_id": org,
        "entitlement_type": type_,
        "credit_type": credit_type,
        "metric": metric,
        "feature": feature,
        "product_id": product,
        "tier_id": tier,
        "subscription_id": subscription,
        "required_quantity": quantity,
    }
    async with asking(program, database, "", http.ACCESS) as request:
        answer = await access.check(request, request.converted(http.AccessRequest, fields))
    if json:
        show_json(answer)
    elif answer.has_access:
        until = f" until {shown_time(answer.expires_at)}" if answer.expires_at else ""
        left = answer.total_available_quantity
        say(f"{user} has access{until}" + ("" if left is None else f"; {left} are available"))
    if not answer.has_access:
        available = answer.total_available_quantity or 0
        raise Failed(f"{user} has no such {type_}" + (f": {available} left" if available else ""))


async def summary(
    subject: SubjectName, *, program: Injected, database: Database = None, json: AsJson = False
) -> None:
    """Show what a subject has: subscription, tier, features, credits, allowances."""
    holder = subject_of(subject)
    async with asking(program, database, "", http.SUMMARY) as request:
        request.params = {"subject_type": holder.type, "subject_id": holder.id}
        answer = await access.summary(request, None)
    if json:
        show_json(answer)
        return
    say(f"{holder}: {answer.active_entitlements} active entitlements")
    say(f"subscription: {'yes' if answer.has_active_subscription else 'no'}")
    say(f"tier: {answer.tier or 'none'}")
    say(f"features: {', '.join(answer.features) or 'none'}")
    rows = [
        (name, _left(answer.total_credits_available[name]), used)
        for name, used in answer.total_credits_used.items()
    ]
    rows += [
        (f"{metric or 'any metric'} (allowance)", _left(one.available), one.used)
        for metric, one in answer.allowances.items()
    ]
    show_table(("credits", "available", "used"), rows, empty="no credits were granted")
    for one in answer.next_expiries:
        left = "" if one.remaining is None else f" with {one.remaining} left"
        say(f"expires {shown_time(one.at)}: {one.entitlement_type}{left}, {one.grant_id}")


async def _name(request: Request, start: str) -> None:
    """Set the grant of the request's path by the start of its id. Raises Failed."""
    found = await full_id(request.engine.store.reads.grant_ids, "grant", start)
    request.params = {"entitlement_id": found}


def _left(available: int | None) -> int | str:
    return "unlimited" if available is None else available


def _what(one: http.GrantItem) -> str:
    amount = f"{one.quantity_granted} " if one.quantity_granted is not None else ""
    return f"{amount}{_of(one) or one.entitlement_type}"


def _of(one: http.GrantItem) -> str | None:
    """Return what exactly the grant gives."""
    return (
        one.credit_type
        or one.metric
        or one.feature
        or one.product_id
        or one.tier_id
        or one.subscription_id
    )


def _row(one: http.GrantItem) -> tuple[Any, ...]:
    is_consumable = EntitlementType(one.entitlement_type).is_consumable
    return (
        one.status,
        f"{one.subject_type}:{one.subject_id}",
        one.entitlement_type,
        _of(one),
        _left(one.quantity_granted) if is_consumable else None,
        one.quantity_used if is_consumable else None,
        _left(one.remaining) if is_consumable else None,
        one.expires_at,
        one.grant_reason,
        Id(one.id),
    )
