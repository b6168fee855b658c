"""Committed state of the ledger on PostgreSQL."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import asyncpg

from entitlements.adapters import listing
from entitlements.adapters.postgres import rows
from entitlements.adapters.postgres.database import Database
from entitlements.adapters.postgres.loading import (
    load_expiries,
    load_members,
    load_open,
    load_owing,
)
from entitlements.adapters.postgres.statements import SQL
from entitlements.app.paging import Page
from entitlements.app.ports import (
    Cursor,
    GrantsOf,
    GrantsQuery,
    HoldsQuery,
    OperationsQuery,
    SubscriptionsQuery,
    WalletsQuery,
    debts_page,
    members_page,
)
from entitlements.core.ledger.book import Book, Needs
from entitlements.core.ledger.closings import sort_parts
from entitlements.core.model import (
    Debt,
    Hold,
    Member,
    Membership,
    Operation,
    StoredGrant,
    Subject,
    WalletKey,
)
from entitlements.core.subscription import Subscription
from entitlements.ids import is_uuid


class PostgresReads:
    """Implements `LedgerReads`."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def books(
        self,
        keys: Sequence[WalletKey],
        *,
        owing: Collection[WalletKey] = (),
        members: Collection[Membership] = (),
        expiring: bool = False,
    ) -> Book:
        async def read(db: asyncpg.Connection) -> Book:
            if not (owing or members or expiring):
                return await self._books(db, keys)
            async with db.transaction(isolation="repeatable_read", readonly=True):
                book = await self._books(db, keys)
                if owing:
                    book.owing = await load_owing(db, sorted(owing))
                if members:
                    await load_members(db, book, members)
                if expiring:
                    await load_expiries(db, book)
                return book

        return await self._db.read(read, within_s=self._db.check_s)

    async def opened_books(self, needs: Needs) -> Book:
        async def read(db: asyncpg.Connection) -> Book:
            async with db.transaction(isolation="repeatable_read", readonly=True):
                # A start that settles debts can draw from grants that have expired since.
                with_each = bool(needs.oldest_debts)
                book = await self._books(db, sorted(needs.wallets), with_each=with_each)
                await load_open(db, book, needs)
                return book

        return await self._db.read(read, within_s=self._db.check_s)

    async def _books(
        self, db: asyncpg.Connection, keys: Sequence[WalletKey], *, with_each: bool = False
    ) -> Book:
        """Return the wallets with due effects; plain expiries as a sum, unless ``with_each``."""
        clock = self._db.now()
        asked = (*rows.columns(keys, 3), clock)
        found = await db.fetch(SQL["read_wallets"], *asked)
        now = found[0]["clock"] if found else clock or await db.fetchval(SQL["clock"])
        book = Book(now=now, policy_version="", policy_content=None)
        book.wallets = {wallet.key: wallet for wallet in map(rows.wallet, found)}
        if any(wallet.is_due(now) for wallet in book.wallets.values()):
            return await self._due_books(db, (*asked, with_each))
        return book

    async def _due_books(self, db: asyncpg.Connection, asked: tuple[Any, ...]) -> Book:
        """Read the wallets again together with their due effects, so that all is of one moment."""
        found = await db.fetch(SQL["read_books"], *asked)
        book = Book(now=found[0]["clock"], policy_version="", policy_content=None)
        for row in found:
            wallet = rows.wallet(row)
            book.wallets[wallet.key] = wallet
            if row["expired"] and wallet.is_due(book.now):
                book.expired[wallet.key] = row["expired"]
            if row[rows.DUE_GRANT] is not None:
                book.put_grant(rows.due_grant(row))
            if row[rows.DUE_HOLD] is not None:
                book.put_hold(rows.due_hold(row))
        return book

    async def operation(self, operation_id: str) -> Operation | None:
        row = await self._db.named("operation", operation_id)
        return rows.operation(row) if row else None

    async def operation_ids(self, first: str, last: str) -> list[str]:
        return [row["id"] for row in await self._db.all("operation_ids", first, last)]

    async def operations(self, query: OperationsQuery) -> Page[Operation, Cursor]:
        found = await self._db.listed(lambda: listing.operations(query, lambda at: at))
        end = found.next
        return Page(
            rows=[rows.operation(row) for row in found.rows],
            next=Cursor(end[0], str(end[-1])) if end else None,
        )

    async def grant(self, grant_id: str) -> StoredGrant | None:
        row = await self._db.named("grant", grant_id)
        return rows.stored_grant(row) if row else None

    async def grant_ids(self, first: str, last: str) -> list[str]:
        return [row["id"] for row in await self._db.all("grant_ids", first, last)]

    async def grants(self, query: GrantsQuery) -> Page[StoredGrant, str]:
        found = await self._db.listed(lambda: listing.grants(query, lambda at: at))
        return found.page(rows.stored_grant)

    async def wallets(self, query: WalletsQuery) -> Page[WalletKey, WalletKey]:
        found = await self._db.listed(lambda: listing.wallets(query))
        return Page(
            rows=[WalletKey(*row) for row in found.rows],
            next=WalletKey(*found.next) if found.next else None,
        )

    async def current_grants(self, wanted: Sequence[GrantsOf], limit: int) -> list[StoredGrant]:
        asked = rows.columns([(*subject, kind) for subject, kind in wanted], 3)
        found = await self._db.all("current_grants", *asked, limit, self._db.now())
        return [rows.stored_grant(row) for row in found]

    async def used_totals(self, subject: Subject) -> dict[str, int]:
        found = await self._db.all("used_totals", *subject)
        return {row["credit_type"]: row["used"] for row in found}

    async def subscription(self, subscription_id: str) -> Subscription | None:
        row = await self._db.one("subscription", subscription_id)
        return rows.subscription(row) if row else None

    async def subscriptions(self, query: SubscriptionsQuery) -> Page[Subscription, str]:
        found = await self._db.listed(lambda: listing.subscriptions(query, lambda at: at))
        return found.page(rows.subscription)

    async def hold(self, hold_id: str) -> list[Hold]:
        return sort_parts(await self.holds_named([hold_id]))

    async def holds_named(self, ids: Sequence[str]) -> list[Hold]:
        known = [hold_id for hold_id in ids if is_uuid(hold_id)]
        return [rows.hold(row) for row in await self._db.all("holds_named", known)]

    async def holds(self, query: HoldsQuery) -> Page[Hold, str]:
        found = await self._db.listed(lambda: listing.holds(query))
        return found.page(rows.hold)

    async def wallet_keys(self, subject_type: str, subject_id: str) -> list[WalletKey]:
        return [
            rows.key_of(row) for row in await self._db.all("wallet_keys", subject_type, subject_id)
        ]

    async def member(self, key: Membership) -> Member | None:
        found = await self._db.all("load_members", [key.org_id], [key.user_id])
        return rows.member(found[0]) if found else None

    async def members_of(self, org_id: str, *, after: str | None, limit: int) -> Page[Member, str]:
        found = await self._db.all("members_of", org_id, after or "", limit + 1)
        return members_page(list(map(rows.member, found)), limit)

    async def orgs_of(self, user_id: str, limit: int) -> list[str]:
        return [row["org_id"] for row in await self._db.all("orgs_of", user_id, limit)]

    async def debt(self, operation_id: str) -> Debt | None:
        row = await self._db.named("debt", operation_id)
        return rows.debt(row) if row else None

    async def debts(
        self, *, open_only: bool, limit: int, after: Cursor | None = None
    ) -> Page[Debt, Cursor]:
        place = (after.created_at, after.id) if after else (None, None)
        found = await self._db.all("debts_open" if open_only else "debts", *place, limit + 1)
        return debts_page([rows.debt(row) for row in found], limit)

    async def unpriced_work(
        self, metrics: Collection[str] | None, limit: int, *, without: Collection[str] = ()
    ) -> list[str]:
        known = None if metrics is None else list(metrics)
        found = await self._db.all("unpriced_work", known, list(without), limit)
        return [row["operation_id"] for row in found]

    async def unpriced_total(self, limit: int) -> int:
        (row,) = await self._db.all("unpriced_total", limit)
        return int(row["total"])

    async def due_wallets(
        self, limit: int, *, without: Collection[WalletKey] = ()
    ) -> list[WalletKey]:
        now = self._db.now()
        left_out = rows.columns(sorted(without), 3)
        return [
            rows.key_of(row) for row in await self._db.all("due_wallets", now, limit, *left_out)
        ]
