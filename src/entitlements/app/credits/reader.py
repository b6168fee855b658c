"""Fresh reads of wallets; concurrent callers share one query."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple, TypeVar

from msgspec.structs import replace

from entitlements.app.credits.gathering import Gathering
from entitlements.app.credits.unreadable import UnreadableLog
from entitlements.app.policy.active import Policies
from entitlements.app.ports import GrantsOf, LedgerReads
from entitlements.core.access import lacking, required_kinds
from entitlements.core.burndown import burn_key
from entitlements.core.ledger.backing import as_lapsed
from entitlements.core.ledger.book import Draft, NeedMore, Needs
from entitlements.core.ledger.closings import sort_parts
from entitlements.core.ledger.due import look_ahead, soonest_expiry, starts_pay_debts, wallet_in
from entitlements.core.ledger.posting import has_ended
from entitlements.core.model import (
    Expiry,
    Hold,
    Member,
    Membership,
    StoredGrant,
    Subject,
    Wallet,
    WalletKey,
)
from entitlements.core.policy import BurnOrder, Policy
from entitlements.core.reasons import EntitlementType, GrantStatus, HoldStatus

HAD_MAX = 1000
"""How many current grants of a subject and type are read."""
ALL_TYPES = tuple(EntitlementType)

V = TypeVar("V")


class WalletView(NamedTuple):
    """A wallet as of now, and its next expiry."""

    wallet: Wallet
    soonest_expiry: Expiry | None


class GrantView(NamedTuple):
    """A grant as of now."""

    stored: StoredGrant
    status: GrantStatus


class Means(NamedTuple):
    """Wallets as of now, and of those that were asked for the sum of each wallet's open debts, and
    the members.
    """

    wallets: dict[WalletKey, Wallet]
    owing: dict[WalletKey, int]
    members: dict[Membership, Member] = {}  # noqa: RUF012 - of a named tuple
    now: datetime | None = None


class _Wanted(NamedTuple):
    keys: tuple[WalletKey, ...]
    owing: tuple[WalletKey, ...]
    members: tuple[Membership, ...]


class Reader:
    """Reads what wallets hold now, with due starts and expiries applied; writes nothing."""

    def __init__(
        self, reads: LedgerReads, policies: Policies, unreadable: UnreadableLog | None = None
    ) -> None:
        self.reads = reads
        self._policies = policies
        log = unreadable or UnreadableLog()
        self._means = Gathering(self._find_means, log, size=lambda wanted: len(wanted.keys))
        self._holds = Gathering(self._find_holds, log)
        self._had = Gathering(self._find_had, log, size=len)

    def means(
        self,
        keys: Iterable[WalletKey],
        *,
        owing: Iterable[WalletKey] = (),
        members: Iterable[Membership] = (),
    ) -> asyncio.Future[Means]:
        """Return a future of these wallets, of what some of them owe and of members; start reading
        at once.

        A wallet that does not exist is empty. Raises StoreUnavailable.
        """
        return self._means.ask(_Wanted(tuple(keys), tuple(owing), tuple(members)))

    async def holdings(self, keys: Iterable[WalletKey]) -> dict[WalletKey, WalletView]:
        """Return the wallets as of now, with the next expiry of each. Each call is a query."""
        wanted = sorted(set(keys))
        drafts = await self._drafts(wanted, expiring=True)
        return {
            key: WalletView(wallet_in(drafts[key], key), soonest_expiry(drafts[key], key))
            for key in wanted
        }

    async def opened(
        self,
        keys: Iterable[WalletKey],
        use: Callable[[Draft], V],
        *,
        policy: Policy,
        owing: Iterable[WalletKey] = (),
        members: Iterable[Membership] = (),
    ) -> V:
        """Return ``use`` of a draft of the wallets with the grants that would pay, those that start
        or end next, and debts; due effects are applied. While it raises NeedMore, load more.
        """
        wallets = set(keys)
        depth: dict[WalletKey, int] = {}
        while True:
            needs = Needs(
                policy_version=policy.version,
                burn_order=policy.burn_order,
                wallets=wallets,
                oldest_debts=wallets if policy.settle_debts else set(),
                owing=set(owing),
                members=set(members),
                depth=depth,
            )
            book = await self.reads.opened_books(needs)
            book.equip(policy, _no_id)
            draft = Draft(book)
            try:
                look_ahead(draft, wallets)
                return use(draft)
            except NeedMore as more:
                depth = depth | more.depth

    async def hold(self, hold_id: str) -> list[Hold]:
        """Return the hold's parts as stored, ordered by type. Concurrent callers share a query."""
        return await self._holds.ask(hold_id)

    async def _find_holds(self, ids: Sequence[str]) -> list[list[Hold]]:
        parts: dict[str, list[Hold]] = {hold_id: [] for hold_id in ids}
        for part in await self.reads.holds_named(list(parts)):
            parts[part.id].append(part)
        return [sort_parts(parts[hold_id]) for hold_id in ids]

    async def holds(self, found: Sequence[Hold]) -> list[Hold]:
        """Return the given parts as of now: an open part whose time is over has lapsed."""
        keys = {part.wallet for part in found if part.status is HoldStatus.OPEN}
        return holds_now(await self._drafts(sorted(keys)), found)

    async def grants(self, found: Sequence[StoredGrant]) -> list[GrantView]:
        """Return the given grants as of now, with due effects applied."""
        if not found:
            return []
        drafts = await self._drafts(sorted({one.grant.wallet for one in found}))
        return [_grant_now(drafts[one.grant.wallet], one) for one in found]

    async def had(
        self, subjects: Sequence[Subject], kinds: Collection[EntitlementType] = ALL_TYPES
    ) -> dict[Subject, list[StoredGrant]]:
        """Return the active grants of each subject in burn order, up to `HAD_MAX` of each type.
        Concurrent callers share a query.
        """
        return await self._had.ask([(subject, kind) for subject in subjects for kind in kinds])

    async def _find_had(
        self, asked: Sequence[Sequence[GrantsOf]]
    ) -> list[dict[Subject, list[StoredGrant]]]:
        order = self._policies.active.burn_order
        wanted = {one for question in asked for one in question}
        found: dict[GrantsOf, list[StoredGrant]] = {one: [] for one in wanted}
        for view in await self.grants(await self.reads.current_grants(sorted(wanted), HAD_MAX)):
            if view.status is GrantStatus.ACTIVE:
                grant = view.stored.grant
                found[grant.wallet.subject, grant.entitlement_type].append(view.stored)
        return [_by_subject(question, found, order) for question in asked]

    async def lacking(
        self, policy: Policy, metrics: Collection[str], user_id: str, org_id: str | None
    ) -> frozenset[str]:
        """Return the metrics that require an entitlement which neither user nor org has."""
        kinds = required_kinds(policy.requires, metrics)
        if not kinds:
            return frozenset()
        subjects = [Subject("user", user_id)]
        if org_id is not None:
            subjects.append(Subject("org", org_id))
        return lacking(policy.requires, metrics, await self.had(subjects, kinds))

    async def _drafts(
        self,
        keys: Sequence[WalletKey],
        *,
        owing: Collection[WalletKey] = (),
        members: Collection[Membership] = (),
        expiring: bool = False,
    ) -> dict[WalletKey, Draft]:
        """Return for each wallet a draft in which everything due is applied."""
        policy = self._policies.active
        book = await self.reads.books(keys, owing=owing, members=members, expiring=expiring)
        book.equip(policy, _no_id)
        indebted = {key for key in book.wallets if starts_pay_debts(book, key)}
        draft = Draft(book)
        look_ahead(draft, (key for key in keys if key not in indebted))
        drafts = dict.fromkeys(keys, draft)
        if indebted:
            owed = [key for key in owing if key in indebted]
            opened = await self.opened(
                indebted, lambda found: found, policy=policy, owing=owed, members=members
            )
            drafts |= dict.fromkeys(indebted, opened)
        return drafts

    async def _find_means(self, asked: Sequence[_Wanted]) -> list[Means]:
        keys = sorted({key for wanted in asked for key in wanted.keys})
        owing = {key for wanted in asked for key in wanted.owing}
        members = {key for wanted in asked for key in wanted.members}
        drafts = await self._drafts(keys, owing=owing, members=members)
        wallets = {key: wallet_in(draft, key) for key, draft in drafts.items()}
        return [
            Means(
                {key: wallets[key] for key in wanted.keys},
                {key: drafts[key].owing(key) for key in wanted.owing},
                _members(drafts, wanted),
                drafts[wanted.keys[0]].now if wanted.keys else None,
            )
            for wanted in asked
        ]


def _by_subject(
    question: Sequence[GrantsOf], found: Mapping[GrantsOf, list[StoredGrant]], order: BurnOrder
) -> dict[Subject, list[StoredGrant]]:
    """Return the grants that were asked for by subject, in burn order."""
    grants: dict[Subject, list[StoredGrant]] = {subject: [] for subject, _ in question}
    for one in question:
        subject, _ = one
        grants[subject] += found[one]
    for of_subject in grants.values():
        of_subject.sort(key=lambda one: burn_key(one.grant, order))
    return grants


def _members(drafts: Mapping[WalletKey, Draft], wanted: _Wanted) -> dict[Membership, Member]:
    """Return the members as of now, with the lapses in the wallets of their orgs applied."""
    found: dict[Membership, Member] = {}
    for key in wanted.members:
        orgs = (one for one in wanted.keys if one.subject == Subject("org", key.org_id))
        member = drafts[next(orgs, wanted.keys[0])].member(key)
        if member is not None:
            found[key] = member
    return found


def holds_now(drafts: Mapping[WalletKey, Draft], parts: Sequence[Hold]) -> list[Hold]:
    """Return the parts as of now, with what is due applied to their wallets.

    A hold has lapsed if one of its parts has, by its wallet's clock.
    """
    shown = [
        drafts[part.wallet].holds.get((part.wallet, part.id), part)
        if part.status is HoldStatus.OPEN
        else part
        for part in parts
    ]
    lapsed = {part.id for part in shown if part.status is HoldStatus.LAPSED}
    return [as_lapsed(part) if part.id in lapsed else part for part in shown]


def _grant_now(draft: Draft, found: StoredGrant) -> GrantView:
    grant = draft.grants.get(found.grant.id, found.grant)
    if has_ended(grant, draft.now) and grant.started:
        grant = replace(grant, remaining=grant.held)
    now = max(draft.now, wallet_in(draft, grant.wallet).updated_at)
    return GrantView(replace(found, grant=grant), grant.status(now))


def _no_id() -> str:
    """Return an empty id: the operations of a draft are discarded."""
    return ""
