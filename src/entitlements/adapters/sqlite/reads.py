"""Committed state of the ledger on SQLite."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence

import apsw

from entitlements.adapters import listing
from entitlements.adapters.sqlite import rows
from entitlements.adapters.sqlite.database import Database
from entitlements.adapters.sqlite.loading import load_members, open_books, read_books
from entitlements.adapters.sqlite.statements import SQL
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


class SqliteReads:
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
        def read(db: apsw.Connection) -> Book:
            book = read_books(db, keys, self._db.clock(), owing=owing, expiring=expiring)
            load_members(db, book, members)
            return book

        return await (self._db.books(read) if expiring else self._db.read(read))

    async def opened_books(self, needs: Needs) -> Book:
        return await self._db.books(lambda db: open_books(db, needs, self._db.clock()))

    async def operation(self, operation_id: str) -> Operation | None:
        row = await self._db.one("operation", operation_id)
        return rows.operation(row) if row else None

    async def operation_ids(self, first: str, last: str) -> list[str]:
        return [found for (found,) in await self._db.all("operation_ids", first, last)]

    async def operations(self, query: OperationsQuery) -> Page[Operation, Cursor]:
        found = await self._db.listed(lambda: listing.operations(query, rows.to_us))
        end = found.next
        return Page(
            rows=[rows.operation(row) for row in found.rows],
            next=Cursor(rows.from_us(end[0]), end[-1]) if end else None,
        )

    async def grant(self, grant_id: str) -> StoredGrant | None:
        row = await self._db.one("grant", grant_id)
        return rows.stored_grant(row) if row else None

    async def grant_ids(self, first: str, last: str) -> list[str]:
        return [found for (found,) in await self._db.all("grant_ids", first, last)]

    async def grants(self, query: GrantsQuery) -> Page[StoredGrant, str]:
        found = await self._db.listed(lambda: listing.grants(query, rows.to_us))
        return found.page(rows.stored_grant)

    async def wallets(self, query: WalletsQuery) -> Page[WalletKey, WalletKey]:
        found = await self._db.listed(lambda: listing.wallets(query))
        return Page(
            rows=[WalletKey(*row) for row in found.rows],
            next=WalletKey(*found.next) if found.next else None,
        )

    async def current_grants(self, wanted: Sequence[GrantsOf], limit: int) -> list[StoredGrant]:
        def read(db: apsw.Connection) -> list[StoredGrant]:
            now = rows.to_us(self._db.clock())
            asked = ((*subject, kind, now, limit) for subject, kind in wanted)
            found = (db.execute(SQL["current_grants"], values) for values in asked)
            return [rows.stored_grant(row) for grants in found for row in grants]

        return await self._db.read(read)

    async def used_totals(self, subject: Subject) -> dict[str, int]:
        return dict(await self._db.all("used_totals", *subject))

    async def subscription(self, subscription_id: str) -> Subscription | None:
        row = await self._db.one("subscription", subscription_id)
        return rows.subscription(row) if row else None

    async def subscriptions(self, query: SubscriptionsQuery) -> Page[Subscription, str]:
        found = await self._db.listed(lambda: listing.subscriptions(query, rows.to_us))
        return found.page(rows.subscription)

    async def hold(self, hold_id: str) -> list[Hold]:
        return sort_parts(await self.holds_named([hold_id]))

    async def holds_named(self, ids: Sequence[str]) -> list[Hold]:
        def read(db: apsw.Connection) -> list[Hold]:
            found = (db.execute(SQL["holds_named"], (hold_id,)) for hold_id in ids)
            return [rows.hold(row) for parts in found for row in parts]

        return await self._db.read(read)

    async def holds(self, query: HoldsQuery) -> Page[Hold, str]:
        found = await self._db.listed(lambda: listing.holds(query))
        return found.page(rows.hold)

    async def wallet_keys(self, subject_type: str, subject_id: str) -> list[WalletKey]:
        found = await self._db.all("wallet_keys", subject_type, subject_id)
        return [WalletKey(*row) for row in found]

    async def member(self, key: Membership) -> Member | None:
        row = await self._db.one("load_members", *key)
        return rows.member(row) if row else None

    async def members_of(self, org_id: str, *, after: str | None, limit: int) -> Page[Member, str]:
        found = await self._db.all("members_of", org_id, after or "", limit + 1)
        return members_page(list(map(rows.member, found)), limit)

    async def orgs_of(self, user_id: str, limit: int) -> list[str]:
        return [org_id for (org_id,) in await self._db.all("orgs_of", user_id, limit)]

    async def debt(self, operation_id: str) -> Debt | None:
        row = await self._db.one("debt", operation_id)
        return rows.debt(row) if row else None

    async def debts(
        self, *, open_only: bool, limit: int, after: Cursor | None = None
    ) -> Page[Debt, Cursor]:
        place = (rows.to_us(after.created_at), after.id) if after else rows.BEFORE_ALL
        found = await self._db.many("debts_open" if open_only else "debts", *place, limit + 1)
        return debts_page([rows.debt(row) for row in found], limit)

    async def unpriced_work(
        self, metrics: Collection[str] | None, limit: int, *, without: Collection[str] = ()
    ) -> list[str]:
        known = None if metrics is None else json.dumps(list(metrics))
        found = await self._db.many("unpriced_work", known, json.dumps(list(without)), limit)
        return [operation_id for (operation_id,) in found]

    async def unpriced_total(self, limit: int) -> int:
        ((total,),) = await self._db.many("unpriced_total", limit)
        return int(total)

    async def due_wallets(
        self, limit: int, *, without: Collection[WalletKey] = ()
    ) -> list[WalletKey]:
        left_out = json.dumps(list(without))
        found = await self._db.many("due_wallets", self._db.now(), left_out, limit)
        return [WalletKey(*row) for row in found]
