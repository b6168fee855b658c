"""Bodies of the memberships of users in orgs."""

from datetime import datetime
from typing import Final

from msgspec import Struct

from entitlements.contracts.http.fields import Amount, PageLimit
from entitlements.contracts.verbs import Verb


class MemberRequest(Struct, frozen=True, gc=False, kw_only=True, forbid_unknown_fields=True):
    """A membership. Without ``monthly_cap`` the org pays as much as it has."""

    monthly_cap: Amount | None = None


class MemberItem(Struct, frozen=True, gc=False, kw_only=True):
    """A user of an org.

    ``drawn_this_month``: credits that the org paid or holds for the user in the current calendar
    month, UTC, since memberships are enforced. ``left_at`` is null for a member.
    """

    org_id: str
    user_id: str
    monthly_cap: int | None
    drawn_this_month: int
    joined_at: datetime
    left_at: datetime | None


class MembersQuery(Struct, frozen=True, kw_only=True):
    limit: PageLimit = 100
    cursor: str | None = None


class MembersResponse(Struct, frozen=True, gc=False, kw_only=True):
    """Members by user id. ``next_cursor`` is null on the last page."""

    members: list[MemberItem]
    count: int
    next_cursor: str | None
    correlation_id: str


MEMBERS: Final = Verb(
    "list_members", "GET", "/v1/admin/orgs/{org_id}/members", MembersQuery, MembersResponse
)
MEMBER: Final = Verb("show_member", "GET", f"{MEMBERS.path}/{{user_id}}", None, MemberItem)
SET_MEMBER: Final = Verb("set_member", "PUT", MEMBER.path, MemberRequest, MemberItem)
REMOVE_MEMBER: Final = Verb("remove_member", "DELETE", MEMBER.path, None, MemberItem)
