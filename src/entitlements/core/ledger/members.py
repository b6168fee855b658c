"""Members of orgs, and the credits that an org pays for each in a month."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from msgspec.structs import replace

from entitlements.core.commands import RemoveMember, SetMember
from entitlements.core.ledger.book import Draft, Needs
from entitlements.core.ledger.rule import Audit, Rule, Rules, its_wallet
from entitlements.core.model import Member, Membership, WalletKey
from entitlements.core.outcomes import MemberChanged
from entitlements.core.policy import Memberships, Policy


def add_member(needs: Needs, policy: Policy, user_id: str, org_id: str | None) -> None:
    """Add the membership that decides whether the org pays, if the policy enforces it."""
    if org_id is not None and policy.memberships is Memberships.ENFORCE:
        needs.members.add(Membership(org_id, user_id))


def standing(
    policy: Policy, member: Member | None, org_id: str | None, at: datetime
) -> tuple[bool, int | None]:
    """Return whether the org pays for the user at all, and the most that it pays in the month."""
    if org_id is None or policy.memberships is not Memberships.ENFORCE:
        return True, None
    if member is None or member.left_at is not None:
        return False, 0
    return True, member.payable_at(at)


def org_most(draft: Draft, user_id: str, org_id: str | None) -> int | None:
    """Return the most credits that the org pays for the user now; None if nothing limits it."""
    if org_id is None or draft.book.policy.memberships is not Memberships.ENFORCE:
        return None
    return standing_in(draft, user_id, org_id)[1]


def is_member(draft: Draft, user_id: str, org_id: str | None) -> bool:
    """Return whether the org's allowances pay for the user."""
    return standing_in(draft, user_id, org_id)[0]


def standing_in(draft: Draft, user_id: str, org_id: str | None) -> tuple[bool, int | None]:
    """Return the `standing` of the user in a draft."""
    member = draft.member(Membership(org_id, user_id)) if org_id is not None else None
    return standing(draft.book.policy, member, org_id, draft.now)


def count_draw(draft: Draft, wallet: WalletKey, user_id: str | None, credits: int) -> str | None:
    """Count credits that an org pays for a member; return the month, or None if not counted."""
    if draft.book.policy.memberships is not Memberships.ENFORCE:
        return None
    if user_id is None or wallet.subject_type != "org" or wallet.is_of_allowances or not credits:
        return None
    member = draft.member(Membership(wallet.subject_id, user_id))
    if member is None:
        return None
    month, drawn = member.month_at(draft.now), member.drawn_at(draft.now) + credits
    draft.members[member.key] = replace(member, month=month, drawn=drawn)
    return month


def uncount(
    draft: Draft, wallet: WalletKey, user_id: str | None, credits: int, month: str | None
) -> None:
    """Take credits back out of the month in which they were counted, if it is the current one."""
    if month is None or user_id is None:
        return
    member = draft.member(Membership(wallet.subject_id, user_id))
    if member is not None and member.month == month:
        draft.members[member.key] = replace(member, drawn=member.drawn - credits)


def set_member(draft: Draft, command: SetMember) -> MemberChanged:
    """Add the user to the org, or change the cap of a member."""
    known = draft.member(command.member)
    member = known or Member(
        org_id=command.member.org_id, user_id=command.member.user_id, joined_at=draft.now
    )
    if member.left_at is not None:
        member = replace(member, joined_at=draft.now, left_at=None)
    draft.members[command.member] = member = replace(member, monthly_cap=command.monthly_cap)
    return _changed(draft, member)


def remove_member(draft: Draft, command: RemoveMember) -> MemberChanged:
    """End a membership that exists; its count of this month is kept for a return."""
    member = draft.member(command.member)
    assert member is not None, command
    if member.left_at is None:
        draft.members[command.member] = member = replace(member, left_at=draft.now)
    return _changed(draft, member)


def _changed(draft: Draft, member: Member) -> MemberChanged:
    return MemberChanged(
        org_id=member.org_id,
        user_id=member.user_id,
        monthly_cap=member.monthly_cap,
        drawn=member.drawn_at(draft.now),
        joined_at=member.joined_at,
        left_at=member.left_at,
    )


def _needs(needs: Needs, command: SetMember | RemoveMember, _policy: Policy) -> None:
    needs.members.add(command.member)


RULES: Final[Rules] = {
    SetMember: Rule(
        decide=set_member,
        wallets=its_wallet,
        needs=_needs,
        audit=Audit("member.set", ("member", "monthly_cap")),
    ),
    RemoveMember: Rule(
        decide=remove_member,
        wallets=its_wallet,
        needs=_needs,
        audit=Audit("member.remove", ("member",)),
    ),
}
