"""Routes of the memberships of users in orgs."""

from typing import Final

from entitlements.app.access.keys import Role
from entitlements.contracts import http
from entitlements.transports.http.answering import route
from entitlements.transports.http.routes import roles

_MEMBER: Final = {
    "org_id": "school-1",
    "user_id": "teacher-7",
    "monthly_cap": 500,
    "drawn_this_month": 120,
    "joined_at": "2026-09-01T08:00:00Z",
    "left_at": None,
}
_READING: Final = roles(Role.READER, Role.OPERATOR)
_WRITING: Final = roles(Role.OPERATOR)

ROUTES: Final = (
    route(
        http.MEMBERS,
        rule=_READING,
        tag="members",
        summary="List the members of an org.",
        answer={
            "members": [_MEMBER],
            "count": 1,
            "next_cursor": None,
            "correlation_id": "support-12",
        },
    ),
    route(
        http.MEMBER,
        rule=_READING,
        tag="members",
        summary="Show the membership of a user in an org.",
        answer=_MEMBER,
        problems=(404,),
    ),
    route(
        http.SET_MEMBER,
        rule=_WRITING,
        tag="members",
        summary="Add a user to an org, or set the monthly cap of a member.",
        example={"monthly_cap": 500},
        answer=_MEMBER,
    ),
    route(
        http.REMOVE_MEMBER,
        rule=_WRITING,
        tag="members",
        summary="End the membership of a user in an org.",
        answer={**_MEMBER, "left_at": "2026-09-20T08:00:00Z"},
        problems=(404,),
    ),
)
