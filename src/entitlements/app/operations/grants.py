"""Grants: create, show, list, revoke."""

from typing import Any, Final

import msgspec
from msgspec.structs import asdict, astuple, replace

from entitlements.app.credits.reader import GrantView
from entitlements.app.operations import acts, bulk
from entitlements.app.operations.cursors import read_id
from entitlements.app.operations.naming import item_origin, origin
from entitlements.app.operations.refusals import refused
from entitlements.app.operations.request import Request, UseCases, done
from entitlements.app.policy.terms import terms_of
from entitlements.app.ports import GrantsQuery
from entitlements.contracts import http
from entitlements.contracts.errors import NotFound, invalid
from entitlements.core.commands import CreateGrant, Origin, Revoke
from entitlements.core.model import (
    Grant,
    GrantDetails,
    StoredGrant,
    Subject,
    wallet_of_grant,
)
from entitlements.core.outcomes import Granted, Refusal, Revoked
from entitlements.core.reasons import EntitlementType, GrantReason, GrantStatus

REVOKED_AT_ONCE: Final = 1_000
"""How many grants of one reference are revoked in one transaction."""


async def grant(request: Request, body: http.GrantRequest) -> http.GrantResponse:
    """Create a grant."""
    subject = named_subject(body)
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
    terms = terms_of(replace(body, metadata=_metadata(body)))
    kind = terms.entitlement_type
    return CreateGrant(
        id=request.engine.new_id(),
        origin=made_by,
        wallet=wallet_of_grant(subject, kind, terms.credit_type, terms.metric),
        quantity=terms.quantity,
        entitlement_type=kind,
        consumption=terms.consumption,
        period=terms.period,
        unlimited=terms.unlimited,
        reason=GrantReason(body.grant_reason),
        priority=terms.priority,
        granted_at=body.granted_at,
        expires_at=body.expires_at,
        details=GrantDetails(
            granted_by=request.act().actor,
            metric=terms.metric,
            feature=terms.feature,
            product_id=terms.product_id,
            tier_id=terms.tier_id,
            subscription_id=terms.subscription_id,
            reference_id=body.reference_id,
            cost_microcents=terms.cost_microcents,
            notes=terms.notes,
            metadata=terms.metadata,
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


def named_subject(body: http.GrantRequest | http.SubscriptionRequest) -> Subject:
    """Return the user or the subject that the body names. Raise InvalidRequest."""
    if body.user_id is not None:
        if body.subject_type is not None or body.subject_id is not None:
            raise invalid("user_id", "cannot be combined with subject_type and subject_id")
        return Subject("user", str(body.user_id))
    if body.subject_id is None:
        raise invalid("user_id", "is required, or subject_type and subject_id")
    if body.subject_type is None:
        raise invalid("subject_type", "is required with subject_id")
    return Subject(body.subject_type, str(body.subject_id))


def _metadata(body: http.GrantRequest) -> dict[str, Any]:
    given = body.metadata if body.metadata is not None else body.entitlement_metadata
    if body.entitlement_metadata is not None and given != body.entitlement_metadata:
        raise invalid("entitlement_metadata", "is another name of metadata, and differs from it")
    return given or {}


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
