"""Holds: credits reserved before work of unknown cost, and settled by its real use."""

from collections.abc import Iterable
from itertools import groupby
from typing import Final

from msgspec import UNSET

from entitlements.app.access.keys import Role
from entitlements.app.credits.checks import Checked
from entitlements.app.operations.checks import answer_all
from entitlements.app.operations.cursors import read_id
from entitlements.app.operations.naming import origin
from entitlements.app.operations.refusals import refused
from entitlements.app.operations.request import Request, UseCases
from entitlements.app.ports import HoldsQuery
from entitlements.contracts import errors, http
from entitlements.contracts.errors import invalid
from entitlements.core.commands import ExtendHold, ReleaseHold, SettleHold, TakeHold
from entitlements.core.ledger.closings import sort_parts
from entitlements.core.model import Hold, HoldFacts, metric_of
from entitlements.core.outcomes import HoldChanged, Refusal
from entitlements.core.policy import DEFAULT_CREDIT_TYPE
from entitlements.core.reasons import HoldStatus

ONE_OF_TWO: Final = "give either requirements or credits"


async def take(request: Request, body: http.HoldRequest) -> http.HoldResponse:
    """Return the hold. Raises Refused if it is denied."""
    taken = await decide(request, body)
    if isinstance(taken, Checked):
        raise errors.denied(answer_all(taken, request.correlation_id))
    return taken


async def decide(request: Request, body: http.HoldRequest) -> http.HoldResponse | Checked:
    """Return the hold, or the check that denies it."""
    outcome = await request.engine.holds.take(_taking(request, body))
    if isinstance(outcome, Checked):
        return outcome
    if isinstance(outcome, Refusal):
        raise refused(outcome)
    return http.HoldResponse(
        hold_id=outcome.hold_id,
        credits=outcome.credits,
        credit_type=outcome.credit_type,
        source=outcome.source,
        expires_at=outcome.expires_at,
        by_credit_type=outcome.by_credit_type,
        allowance_units=outcome.allowance_units or UNSET,
        correlation_id=request.correlation_id,
        replayed=outcome.replayed,
    )


def _taking(request: Request, body: http.HoldRequest) -> TakeHold:
    if (body.requirements is None) == (body.credits is None):
        raise invalid("requirements", ONE_OF_TWO)
    if body.credit_type is not None and body.credits is None:
        raise invalid("credit_type", "applies to credits only: metrics have their own credit types")
    user_id, org_id = request.subjects(body)
    return TakeHold(
        id=request.engine.new_id(),
        origin=origin(request, (user_id, org_id)),
        user_id=user_id,
        org_id=org_id,
        requirements=body.requirements,
        credits=body.credits or 0,
        credit_type=body.credit_type or DEFAULT_CREDIT_TYPE,
        ttl_s=body.ttl_seconds,
    )


async def settle(request: Request, body: http.SettleHoldRequest) -> http.HoldChangeResponse:
    """Settle the hold by the real use, in full or in part."""
    if (body.requirements is None) == (body.credits is None):
        raise invalid("requirements", ONE_OF_TWO)
    command = SettleHold(
        hold=await _found(request),
        id=request.engine.new_id(),
        origin=origin(request, ()),
        requirements=body.requirements,
        credits=body.credits or 0,
        credit_type=body.credit_type,
        final=body.final,
    )
    return _answer(request, await request.submitted(command, HoldChanged))


async def extend(request: Request, body: http.ExtendHoldRequest) -> http.HoldChangeResponse:
    command = ExtendHold(
        hold=await _found(request),
        id=request.engine.new_id(),
        origin=origin(request, ()),
        ttl_s=body.ttl_seconds,
    )
    return _answer(request, await request.submitted(command, HoldChanged))


async def release(request: Request, body: http.ReleaseHoldRequest) -> http.HoldChangeResponse:
    """Release the hold. This is an administrative act unless the caller is a service."""
    assert request.caller is not None, "changes need an authenticated caller"
    command = ReleaseHold(
        hold=await _found(request),
        id=request.engine.new_id(),
        origin=origin(request, ()),
        reason=body.reason,
        by_operator=Role.SERVICE not in request.caller.roles,
    )
    return _answer(request, await request.submitted(command, HoldChanged))


async def _found(request: Request) -> HoldFacts:
    """Return the facts of the hold that the path names.

    Without a correlation id of its own the request gets the hold's.
    """
    found = await request.engine.holds.find(request.params["hold_id"])
    if found is None:
        raise _no_such_hold()
    request.ids = (found.user_id, found.org_id)
    if request.correlation_header is None:
        request.correlate(found.correlation_id)
    return found


def _no_such_hold() -> errors.NotFound:
    return errors.NotFound("not_found", "no such hold")


def _answer(request: Request, outcome: HoldChanged) -> http.HoldChangeResponse:
    return http.HoldChangeResponse(
        hold_id=outcome.hold_id,
        status=HoldStatus(outcome.status).value,
        credit_type=outcome.credit_type,
        charged=outcome.charged,
        returned=outcome.returned,
        held=outcome.held,
        owed=outcome.owed,
        consumed_from=outcome.consumed_from,
        new_balance=outcome.new_balance,
        operation_id=outcome.operation_id,
        expires_at=outcome.expires_at,
        lapsed=outcome.lapsed,
        by_credit_type={
            name: http.HoldNumbersItem(
                charged=one.charged, returned=one.returned, held=one.held, owed=one.owed
            )
            for name, one in outcome.by_credit_type.items()
        },
        allowances={
            metric: http.AllowanceNumbersItem(
                charged=one.charged, returned=one.returned, held=one.held
            )
            for metric, one in outcome.allowances.items()
        }
        or UNSET,
        correlation_id=request.correlation_id,
        replayed=outcome.replayed,
    )


async def show(request: Request, _: None) -> http.HoldItem:
    """Return the hold as of now."""
    parts = await request.engine.reader.hold(request.params["hold_id"])
    if not parts:
        raise _no_such_hold()
    request.ids = (parts[0].user_id, parts[0].org_id)
    return hold_item(await request.engine.reader.holds(parts))


async def holds(request: Request, wanted: http.HoldsFilter) -> http.HoldsResponse:
    """Return holds, newest first; a listing of open holds omits those whose time is over."""
    query = HoldsQuery(
        subject_type=wanted.subject_type,
        subject_id=wanted.subject_id,
        status=None if wanted.status == "all" else HoldStatus(wanted.status),
        limit=wanted.limit,
        after=read_id(wanted.cursor),
    )
    page = await request.engine.store.reads.holds(query)
    found = page.rows
    if found and found[-1].id == page.next:  # the page may end within this hold
        found = [part for part in found if part.id != page.next]
        found += await request.engine.store.reads.hold(page.next)
    shown = await request.engine.reader.holds(found)
    if query.status is HoldStatus.OPEN:
        shown = [part for part in shown if part.status is HoldStatus.OPEN]
    items = [hold_item(sort_parts(parts)) for _, parts in groupby(shown, key=lambda part: part.id)]
    return http.HoldsResponse(
        holds=items, count=len(items), next_cursor=page.next, correlation_id=request.correlation_id
    )


def hold_item(parts: list[Hold]) -> http.HoldItem:
    first = parts[0]
    return http.HoldItem(
        hold_id=first.id,
        status=first.status.value,
        subject_type=first.wallet.subject_type,
        subject_id=first.wallet.subject_id,
        user_id=first.user_id,
        org_id=first.org_id,
        requirements=first.requirements,
        settled=first.settled,
        by_credit_type=_sums(part for part in parts if part.is_of_credits),
        allowances={
            metric_of(name): one
            for name, one in _sums(part for part in parts if not part.is_of_credits).items()
        }
        or UNSET,
        settlement=_late_settlement(first),
        expires_at=first.expires_at,
        correlation_id=first.correlation_id,
        policy_version=first.policy_version,
        actor=first.actor,
        client=first.client,
        created_at=first.created_at,
        closed_at=first.closed_at,
    )


def _sums(parts: Iterable[Hold]) -> dict[str, http.HoldPartItem]:
    """Return the parts by credit type; those of several wallets of one type are added."""
    by_type: dict[str, list[Hold]] = {}
    for part in parts:
        by_type.setdefault(part.wallet.credit_type, []).append(part)
    return {
        name: http.HoldPartItem(
            taken=sum(part.taken for part in some),
            held=sum(part.held for part in some),
            charged=sum(part.charged for part in some),
            returned=sum(part.returned for part in some),
            backing=tuple(
                http.DrawItem(grant_id=i, quantity=n) for part in some for i, n in part.backing
            ),
        )
        for name, some in by_type.items()
    }


def _late_settlement(part: Hold) -> http.HoldSettlementItem | None:
    outcome = part.settled_late
    if outcome is None:
        return None
    return http.HoldSettlementItem(
        charged=outcome.charged,
        owed=outcome.owed,
        lapsed=True,
        operation_id=outcome.operation_id,
        credit_type=outcome.credit_type,
    )


USE_CASES: Final[UseCases] = {
    http.HOLD: take,
    http.SHOW_HOLD: show,
    http.SETTLE_HOLD: settle,
    http.EXTEND_HOLD: extend,
    http.RELEASE_HOLD: release,
    http.HOLDS: holds,
}
