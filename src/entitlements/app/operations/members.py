"""Memberships of users in orgs: added, capped, removed and listed."""

from __future__ import annotations

from typing import Final

from entitlements.app.operations.naming import item_origin
from entitlements.app.operations.request import Request, UseCases
from entitlements.app.paging import Page
from entitlements.contracts import http
from entitlements.contracts.errors import NotFound
from entitlements.core.commands import RemoveMember, SetMember
from entitlements.core.model import Member, Membership
from entitlements.core.outcomes import MemberChanged


async def set_member(request: Request, body: http.MemberRequest) -> http.MemberItem:
    """Add the user to the org, or change the cap of a member."""
    named = _named(request)
    command = SetMember(
        id=request.engine.new_id(),
        origin=item_origin(request, (), request.given, path=request.path, key=None),
        member=named,
        monthly_cap=body.monthly_cap,
    )
    return await _changed(request, command)


async def remove_member(request: Request, _: None) -> http.MemberItem:
    """End the membership. Raises NotFound if the user was never a member."""
    named = _named(request)
    if await request.engine.store.reads.member(named) is None:
        raise _no_such_member()
    command = RemoveMember(
        id=request.engine.new_id(),
        origin=item_origin(request, (), request.given, path=request.path, key=None),
        member=named,
    )
    return await _changed(request, command)


async def _changed(request: Request, command: SetMember | RemoveMember) -> http.MemberItem:
    changed = await request.submitted(command, MemberChanged)
    return http.MemberItem(
        org_id=changed.org_id,
        user_id=changed.user_id,
        monthly_cap=changed.monthly_cap,
        drawn_this_month=changed.drawn,
        joined_at=changed.joined_at,
        left_at=changed.left_at,
    )


async def member(request: Request, _: None) -> http.MemberItem:
    """Return a membership, also one that has ended. Raises NotFound."""
    found = await request.engine.store.reads.member(_named(request))
    if found is None:
        raise _no_such_member()
    return item(request, found)


async def members(request: Request, wanted: http.MembersQuery) -> http.MembersResponse:
    org_id = request.params["org_id"]
    request.ids = (None, org_id)
    page: Page[Member, str] = await request.engine.store.reads.members_of(
        org_id, after=wanted.cursor, limit=wanted.limit
    )
    shown = [item(request, one) for one in page.rows]
    return http.MembersResponse(
        members=shown,
        count=len(shown),
        next_cursor=page.next,
        correlation_id=request.correlation_id,
    )


def item(request: Request, one: Member) -> http.MemberItem:
    return http.MemberItem(
        org_id=one.org_id,
        user_id=one.user_id,
        monthly_cap=one.monthly_cap,
        drawn_this_month=one.drawn_at(request.engine.clock()),
        joined_at=one.joined_at,
        left_at=one.left_at,
    )


def _named(request: Request) -> Membership:
    named = Membership(request.params["org_id"], request.params["user_id"])
    request.ids = (named.user_id, named.org_id)
    return named


def _no_such_member() -> NotFound:
    return NotFound("not_found", "no such member")


USE_CASES: Final[UseCases] = {
    http.MEMBERS: members,
    http.MEMBER: member,
    http.SET_MEMBER: set_member,
    http.REMOVE_MEMBER: remove_member,
}
