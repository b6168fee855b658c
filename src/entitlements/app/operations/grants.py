"""Grants: create, show, list, revoke."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec import Struct
from msgspec.structs import asdict, astuple, replace

from entitlements.app.credits.reader import GrantView
from entitlements.app.operations import acts, bulk
from entitlements.app.operations.cursors import read_id
from entitlements.app.operations.naming import item_origin, origin
from entitlements.app.operations.refusals import refused
from entitlements.app.operations.request import Request, UseCases, done, id_text
from entitlements.app.ports import GrantsQuery
from entitlements.contracts import http
from entitlements.contracts.errors import NotFound, invalid
from entitlements.core.commands import CreateGrant, Origin, Revoke
from entitlements.core.model import (
    Grant,
    GrantDetails,
    StoredGrant,
    Subject,
    WalletKey,
    allowance_type,
)
from entitlements.core.outcomes import Granted, Refusal, Revoked
from entitlements.core.policy import AMOUNT_MAX, DEFAULT_CREDIT_TYPE
from entitlements.core.reasons import ConsumptionType, EntitlementType, GrantReason, GrantStatus
from entitlements.core.renewals import Interval, Period, zones

REVOKED_AT_ONCE: Final = 1_000
"""How many grants of one reference are revoked in one transaction."""

_OWN_FIELDS: Final[Mapping[EntitlementType, str]] = {
    EntitlementType.SUBSCRIPTION: "subscription_id",
    EntitlementType.PRODUCT_ACCESS: "product_id",
    EntitlementType.CREDIT_GRANT: "credit_type",
    EntitlementType.FEATURE_UNLOCK: "feature",
    EntitlementType.TIER_ACCESS: "tier_id",
    EntitlementType.USAGE_ALLOWANCE: "metric",
}
"""The field that says what exactly a type gives."""
_RENEWED: Final = frozenset((ConsumptionType.RENEWABLE, ConsumptionType.ACCUMULATIVE))
_PERIOD: Final = ("reset_interval", "reset_day", "timezone", "rollover_cap")
"""The keys of the metadata that say when a grant is renewed."""
_OPTIONAL: Final = frozenset((EntitlementType.FEATURE_UNLOCK, EntitlementType.USAGE_ALLOWANCE))


async def grant(request: Request, body: http.GrantRequest) -> http.GrantResponse:
    """Create a grant."""
    subject = _subject(body)
    request.ids = (subject.id, None) if subject.type == "user" else (None, subject.id)
    command = creation(request, body, subject, origin(request, subject))
    outcome = await request.submitted(command, Granted)
    assert outcome.operation_id is not None, outcome
    return http.GrantResponse(
        **asdict(item(_created(command, outcome))),
        operation_id=outcome.operation_id,
        correlation_id=request.correlation_id,
        replayed=outcome.replayed,
    )


def creation(
    request: Request, body: http.GrantRequest, subject: Subject, made_by: Origin
) -> CreateGrant:
    """Return the command that creates the grant. Raise InvalidRequest."""
    kind = EntitlementType(body.entitlement_type)
    _require_own_fields(kind, body)
    consumption = _consumption(kind, body)
    metadata = _metadata(body)
    return CreateGrant(
        id=request.engine.new_id(),
        origin=made_by,
        wallet=wallet_of(subject, kind, body.credit_type, body.metric),
        quantity=body.quantity_granted or 0,
        entitlement_type=kind,
        consumption=consumption,
        period=_period(consumption, metadata),
        unlimited=kind.is_consumable and body.quantity_granted is None,
        reason=GrantReason(body.grant_reason),
        priority=body.priority,
        granted_at=body.granted_at,
        expires_at=body.expires_at,
        details=GrantDetails(
            granted_by=request.act().actor,
            metric=body.metric,
            feature=body.feature,
            product_id=id_text(body.product_id),
            tier_id=id_text(body.tier_id),
            subscription_id=id_text(body.subscription_id),
            reference_id=body.reference_id,
            cost_microcents=body.cost_microcents,
            notes=body.notes,
            metadata=json_text(metadata) or "{}",
        ),
    )


def _created(command: CreateGrant, outcome: Granted) -> GrantView:
    """Return the grant as it was right after its creation."""
    made = Grant(
        id=outcome.grant_id,
        wallet=command.wallet,
        quantity=command.quantity,
        remaining=outcome.remaining,
        priority=command.priority,
        granted_at=outcome.granted_at,
        expires_at=command.expires_at,
        reason=command.reason,
        started=not outcome.scheduled,
        entitlement_type=command.entitlement_type,
        consumption=command.consumption,
        unlimited=command.unlimited,
        used=outcome.used,
        period=command.period,
        renews_at=outcome.renews_at,
    )
    stored = StoredGrant(grant=made, details=command.details, created_at=outcome.created_at)
    return GrantView(stored, made.status(outcome.created_at))


def _subject(body: http.GrantRequest) -> Subject:
    if body.user_id is not None:
        if body.subject_type is not None or body.subject_id is not None:
            raise invalid("user_id", "cannot be combined with subject_type and subject_id")
        return Subject("user", str(body.user_id))
    if body.subject_id is None:
        raise invalid("user_id", "is required, or subject_type and subject_id")
    if body.subject_type is None:
        raise invalid("subject_type", "is required with subject_id")
    return Subject(body.subject_type, str(body.subject_id))


def refuse_foreign_fields(kind: EntitlementType, body: Struct, where: str = "") -> None:
    """Raise InvalidRequest for a field that belongs to another type."""
    own = _OWN_FIELDS.get(kind)
    for field in _OWN_FIELDS.values():
        if field != own and getattr(body, field, None) is not None:
            raise invalid(f"{where}{field}", f"does not belong to a {kind}")


def _require_own_fields(kind: EntitlementType, body: http.GrantRequest) -> None:
    """Raise InvalidRequest for a missing field of the type, or one of another type."""
    refuse_foreign_fields(kind, body)
    own = _OWN_FIELDS.get(kind)
    if own is not None and kind not in _OPTIONAL and getattr(body, own) is None:
        raise invalid(own, f"is required for a {kind}")
    if not kind.is_consumable and body.quantity_granted is not None:
        raise invalid("quantity_granted", f"a {kind} cannot be consumed, so it has no quantity")


def _consumption(kind: EntitlementType, body: http.GrantRequest) -> ConsumptionType:
    usual = ConsumptionType.DECREMENTAL if kind.is_consumable else ConsumptionType.NONE
    given = ConsumptionType(body.consumption_type) if body.consumption_type else usual
    if kind.is_consumable == (given is ConsumptionType.NONE):
        raise invalid("consumption_type", f"does not fit a {kind}, which is usually {usual}")
    if given in _RENEWED and body.quantity_granted is None:
        raise invalid("quantity_granted", f"is required for a {given} grant")
    return given


def _period(consumption: ConsumptionType, metadata: Mapping[str, Any]) -> Period | None:
    """Return when the grant is renewed, from its metadata. Raise InvalidRequest."""
    if consumption not in _RENEWED:
        return None
    given = {name: metadata[name] for name in _PERIOD if name in metadata}
    interval = given.get("reset_interval", Interval.MONTH.value)
    if interval not in list(Interval):
        raise invalid("metadata.reset_interval", f"must be one of {', '.join(Interval)}")
    reset_day = given.get("reset_day")
    if reset_day is not None and not _is_whole(reset_day, 1, 31):
        raise invalid("metadata.reset_day", "must be a day of the month, 1 to 31")
    if reset_day is not None and interval not in (Interval.MONTH, Interval.YEAR):
        raise invalid("metadata.reset_day", "belongs to a reset_interval of month or year")
    zone = given.get("timezone", "UTC")
    if not isinstance(zone, str) or zone not in zones():
        raise invalid("metadata.timezone", "must be an IANA time zone, such as Europe/Stockholm")
    cap = given.get("rollover_cap")
    if cap is not None and consumption is not ConsumptionType.ACCUMULATIVE:
        raise invalid("metadata.rollover_cap", "belongs to an accumulative grant")
    if cap is not None and not _is_whole(cap, 0, AMOUNT_MAX):
        raise invalid("metadata.rollover_cap", f"must be a whole number, 0 to {AMOUNT_MAX}")
    return Period(interval=Interval(interval), reset_day=reset_day, timezone=zone, rollover_cap=cap)


def _is_whole(given: Any, least: int, most: int) -> bool:
    return isinstance(given, int) and not isinstance(given, bool) and least <= given <= most


def wallet_of(
    subject: Subject, kind: EntitlementType, credit_type: str | None, metric: str | None
) -> WalletKey:
    """Return the wallet that keeps grants of this type."""
    if kind is EntitlementType.USAGE_ALLOWANCE:
        return WalletKey(*subject, allowance_type(metric))
    return WalletKey(*subject, credit_type or DEFAULT_CREDIT_TYPE)


def _metadata(body: http.GrantRequest) -> dict[str, Any]:
    given = body.metadata if body.metadata is not None else body.entitlement_metadata
    if body.entitlement_metadata is not None and given != body.entitlement_metadata:
        raise invalid("entitlement_metadata", "is another name of metadata, and differs from it")
    return given or {}


def json_text(given: dict[str, Any] | None) -> str | None:
    return None if given is None else msgspec.json.encode(given).decode()


async def show(request: Request, _: None) -> http.GrantItem:
    """Return the grant as of now. Raises NotFound."""
    (shown,) = await request.engine.reader.grants([await _stored(request)])
    return item(shown)


async def _stored(request: Request) -> StoredGrant:
    found = await request.engine.store.reads.grant(request.params["entitlement_id"])
    if found is None:
        raise NotFound("not_found", "no such entitlement")
    return found


async def entitlements(
    request: Request, wanted: http.EntitlementsQuery
) -> http.EntitlementsResponse:
    kind = wanted.entitlement_type
    query = GrantsQuery(
        subject_type=wanted.subject_type,
        subject_id=wanted.subject_id,
        entitlement_type=None if kind is None else EntitlementType(kind),
        status=None if wanted.status == "all" else GrantStatus(wanted.status),
        reference_id=wanted.reference_id,
        now=request.engine.clock(),
        limit=wanted.limit,
        after=read_id(wanted.cursor),
    )
    page = await request.engine.store.reads.grants(query)
    shown = await request.engine.reader.grants(page.rows)
    items = [item(one) for one in shown if query.status in (None, one.status)]
    return http.EntitlementsResponse(
        entitlements=items,
        count=len(items),
        next_cursor=page.next,
        correlation_id=request.correlation_id,
    )


async def entitlements_of_user(
    request: Request, wanted: http.UserEntitlementsQuery
) -> http.EntitlementsResponse:
    query = http.EntitlementsQuery(
        subject_type="user", subject_id=request.params["user_id"], **asdict(wanted)
    )
    return await entitlements(request, query)


async def revoke(request: Request, wanted: http.RevokeQuery) -> http.GrantItem:
    """Revoke the grant; one that has ended does not change. Raises NotFound."""
    command = _revocation(request, await _stored(request), wanted.reason)
    await request.submitted(command, Revoked)
    return await show(request, None)


def _revocation(request: Request, found: StoredGrant, reason: str | None) -> Revoke:
    return Revoke(
        id=request.engine.new_id(),
        origin=item_origin(request, (), request.given, path=request.path, key=None),
        wallet=found.grant.wallet,
        grant_id=found.grant.id,
        reason=reason,
    )


async def revoke_reference(
    request: Request, body: http.RevokeReferenceRequest
) -> http.RevokedResponse:
    """Revoke every grant of the reference. The receipt is written last, so that an interrupted
    request is continued by its repeat.
    """

    async def act(receipt_of: acts.ReceiptOf[http.RevokedResponse]) -> http.RevokedResponse:
        revoked = [item(one) for one in await _revoke_all(request, body)]
        answer = http.RevokedResponse(
            revoked=revoked,
            count=len(revoked),
            correlation_id=request.correlation_id,
            replayed=False,
        )
        if (receipt := receipt_of(answer)) is not None:
            await request.engine.store.acts.add_receipt(receipt)
        return answer

    return await acts.once(request, http.RevokedResponse, act)


async def _revoke_all(request: Request, body: http.RevokeReferenceRequest) -> list[GrantView]:
    """Revoke the grants of the reference, up to a page in one transaction."""
    engine = request.engine
    query = GrantsQuery(reference_id=body.reference_id, now=engine.clock(), limit=REVOKED_AT_ONCE)
    revoked: list[GrantView] = []
    while True:
        page = await engine.store.reads.grants(query)
        current = [one for one in page.rows if one.grant.ended_at is None]
        if commands := [_revocation(request, one, body.reason) for one in current]:
            outcomes = await bulk.submit(request, commands, Revoked, atomic=True)
            if isinstance(outcomes, Refusal):
                raise refused(outcomes)
            changed = [done(one, Revoked) for one in outcomes]
            names = [one.grant_id for one in changed if one.operation_id is not None]
            ended = [await engine.store.reads.grant(name) for name in names]
            revoked += await engine.reader.grants([one for one in ended if one is not None])
        if page.next is None:
            return revoked
        query = replace(query, after=page.next)


def item(view: GrantView) -> http.GrantItem:
    (grant, details, created_at, revoke_reason), status = astuple(view.stored), view.status
    is_credits = grant.entitlement_type is EntitlementType.CREDIT_GRANT
    return http.GrantItem(
        id=grant.id,
        subject_type=grant.wallet.subject_type,
        subject_id=grant.wallet.subject_id,
        user_id=grant.wallet.subject_id if grant.wallet.subject_type == "user" else None,
        entitlement_type=grant.entitlement_type.value,
        grant_reason=grant.reason.value,
        status=status.value,
        credit_type=grant.wallet.credit_type if is_credits else None,
        metric=details.metric,
        feature=details.feature,
        product_id=details.product_id,
        tier_id=details.tier_id,
        subscription_id=details.subscription_id,
        quantity_granted=grant.quantity if grant.has_quantity else None,
        quantity_used=grant.spent - grant.used_before,
        remaining=grant.remaining if grant.has_quantity else None,
        consumption_type=grant.consumption.value,
        priority=grant.priority,
        granted_at=grant.granted_at,
        expires_at=grant.expires_at,
        renews_at=grant.renews_at if grant.ended_at is None else None,
        revoked_at=grant.ended_at if status is GrantStatus.REVOKED else None,
        revoke_reason=revoke_reason,
        reference_id=details.reference_id,
        cost_microcents=details.cost_microcents,
        notes=details.notes,
        metadata=msgspec.json.decode(details.metadata),
        granted_by=details.granted_by,
        created_at=created_at,
    )


USE_CASES: Final[UseCases] = {
    http.GRANT: grant,
    http.ENTITLEMENT: show,
    http.ENTITLEMENTS: entitlements,
    http.ENTITLEMENTS_OF_USER: entitlements_of_user,
    http.REVOKE: revoke,
    http.REVOKE_REFERENCE: revoke_reference,
}
