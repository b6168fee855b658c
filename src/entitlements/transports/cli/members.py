"""Commands on the members of orgs: set, remove, list."""

from typing import Annotated

from cyclopts import Parameter

from entitlements.app.operations import members as requests
from entitlements.contracts import http
from entitlements.transports.cli.asking import Actor, asking
from entitlements.transports.cli.ledger import Injected
from entitlements.transports.cli.output import (
    AsJson,
    Database,
    LongLimit,
    Whole,
    say,
    show_json,
    show_table,
)

OrgName = Annotated[str, Parameter(help="The id of the org.")]
UserName = Annotated[str, Parameter(help="The id of the user.")]


async def set_member(
    org: OrgName,
    user: UserName,
    *,
    actor: Actor,
    program: Injected,
    monthly_cap: Whole | None = None,
    database: Database = None,
    json: AsJson = False,
) -> None:
    """Add a user to an org, or set the monthly cap of a member.

    Parameters
    ----------
    monthly_cap
        The most credits that the org pays for the user in a calendar month, UTC; default: no cap.
    """
    async with asking(program, database, actor, http.SET_MEMBER) as request:
        request.params = {"org_id": org, "user_id": user}
        body = request.converted(http.MemberRequest, {"monthly_cap": monthly_cap})
        answer = await requests.set_member(request, body)
    if json:
        show_json(answer)
    else:
        cap = "no cap" if answer.monthly_cap is None else f"{answer.monthly_cap} credits a month"
        say(f"{user} is a member of {org}: {cap}, {answer.drawn_this_month} used this month")


async def remove_member(
    org: OrgName,
    user: UserName,
    *,
    actor: Actor,
    program: Injected,
    database: Database = None,
    json: AsJson = False,
) -> None:
    """End the membership of a user in an org."""
    async with asking(program, database, actor, http.REMOVE_MEMBER) as request:
        request.params = {"org_id": org, "user_id": user}
        answer = await requests.remove_member(request, None)
    if json:
        show_json(answer)
    else:
        say(f"{user} is not a member of {org}")


async def list_members(
    org: OrgName,
    *,
    program: Injected,
    limit: LongLimit = 100,
    database: Database = None,
    json: AsJson = False,
) -> None:
    """List the members of an org with their credits of this month."""
    found: list[http.MemberItem] = []
    async with asking(program, database, "", http.MEMBERS) as request:
        request.params = {"org_id": org}
        cursor: str | None = None
        while len(found) < limit:
            wanted = http.MembersQuery(limit=min(1000, limit - len(found)), cursor=cursor)
            page = await requests.members(request, wanted)
            found += page.members
            cursor = page.next_cursor
            if cursor is None:
                break
    if json:
        show_json(found)
        return
    show_table(
        ("user", "monthly_cap", "this_month", "joined"),
        [(one.user_id, one.monthly_cap, one.drawn_this_month, one.joined_at) for one in found],
        empty="no members",
    )
