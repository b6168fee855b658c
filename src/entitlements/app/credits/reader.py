"""Fresh reads of wallets; concurrent callers share one query."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from entitlements.app.credits.unreadable import UnreadableLog
from entitlements.app.policy.active import Policies
from entitlements.app.ports import Contended, LedgerReads, StoreUnavailable, Unreadable
from entitlements.core.commands import ApplyDue, Origin
from entitlements.core.ledger.book import Book, Draft
from entitlements.core.ledger.closings import sort_parts
from entitlements.core.ledger.due import apply_due, soonest_expiry
from entitlements.core.model import Expiry, Hold, Wallet, WalletKey
from entitlements.core.policy import Policy
from entitlements.core.reasons import HoldStatus

QUERIES_AT_ONCE = 2
KEYS_PER_QUERY = 2048
_NOBODY = Origin(actor="", client="", correlation_id="", key="", fingerprint="", lifetime_s=0)


K = TypeVar("K")
V = TypeVar("V")
Waiter = tuple[K, list["asyncio.Future[V]"]]
"""What is requested, and the callers that wait for it."""


class WalletView(NamedTuple):
    """A wallet as of now, and its next expiry."""

    wallet: Wallet
    soonest_expiry: Expiry | None


class Reader:
    """Reads what wallets hold now, with due starts and expiries applied; writes nothing."""

    def __init__(
        self, reads: LedgerReads, policies: Policies, unreadable: UnreadableLog | None = None
    ) -> None:
        self.reads = reads
        self._policies = policies
        self._unreadable = unreadable or UnreadableLog()
        self._waiting: list[Waiter[tuple[WalletKey, ...], dict[WalletKey, Wallet]]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._draining = 0
        self._wanted: dict[str, list[asyncio.Future[list[Hold]]]] = {}
        self._finding = 0

    def wallets(self, keys: Iterable[WalletKey]) -> asyncio.Future[dict[WalletKey, Wallet]]:
        """Return a future of these wallets, and start reading at once; a wallet that does not exist
        is empty. Raises StoreUnavailable.
        """
        future: asyncio.Future[dict[WalletKey, Wallet]] = asyncio.get_running_loop().create_future()
        self._waiting.append((tuple(keys), [future]))
        if self._draining < QUERIES_AT_ONCE:
            self._draining += 1
            task = asyncio.create_task(self._drain())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return future

    async def holdings(self, keys: Iterable[WalletKey]) -> dict[WalletKey, WalletView]:
        """As `wallets`, with the next expiry of each; each call is a separate query."""
        wanted = sorted(set(keys))
        book = await self.reads.books(wanted, expiring=True)
        book.equip(self._policies.active, _no_id)
        return {key: holding(book, key) for key in wanted}

    async def owing(self, keys: Sequence[WalletKey]) -> dict[WalletKey, int]:
        """Return the sum of each wallet's open debts; without keys nothing is read."""
        return await self.reads.owing(keys) if keys else {}

    async def opened(
        self, keys: Iterable[WalletKey], *, policy: Policy, depth: Mapping[WalletKey, int]
    ) -> Draft:
        """Return a draft of the wallets with the grants that would pay and those that start or end
        next; due effects are applied. ``depth`` is that of a NeedMore.
        """
        order = policy.burn_order
        book = await self.reads.opened_books(sorted(set(keys)), order=order, depth=depth)
        book.equip(policy, _no_id)
        draft = Draft(book)
        for key in book.wallets:
            _apply_due(draft, key)
        return draft

    async def hold(self, hold_id: str) -> list[Hold]:
        """Return the hold's parts as stored, ordered by type. Concurrent callers share a query."""
        future: asyncio.Future[list[Hold]] = asyncio.get_running_loop().create_future()
        self._wanted.setdefault(hold_id, []).append(future)
        if self._finding < QUERIES_AT_ONCE:
            self._finding += 1
            task = asyncio.create_task(self._find_holds())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await future

    async def _find_holds(self) -> None:
        while self._wanted:
            wanted, self._wanted = self._wanted, {}
            await self._in_halves(list(wanted.items()), self._find)
        self._finding -= 1

    async def _find(self, wanted: Sequence[Waiter[str, list[Hold]]]) -> list[list[Hold]]:
        parts: dict[str, list[Hold]] = {hold_id: [] for hold_id, _ in wanted}
        for part in await self.reads.holds_named(list(parts)):
            parts[part.id].append(part)
        return [sort_parts(parts[hold_id]) for hold_id, _ in wanted]

    async def holds(self, found: Sequence[Hold]) -> list[Hold]:
        """Return the given parts as of now: an open part whose time is over has lapsed."""
        keys = {part.wallet for part in found if part.status is HoldStatus.OPEN}
        book = await self.reads.books(sorted(keys))
        book.equip(self._policies.active, _no_id)
        return holds_now(book, found)

    async def _drain(self) -> None:
        while self._waiting:
            batch, size = 0, 0
            while batch < len(self._waiting) and size < KEYS_PER_QUERY:
                size += len(self._waiting[batch][0])
                batch += 1
            taken, self._waiting = self._waiting[:batch], self._waiting[batch:]
            await self._in_halves(taken, self._find_wallets)
        # In the same step as the last look at the queue: later requests must start a new task.
        self._draining -= 1

    async def _find_wallets(
        self, taken: Sequence[Waiter[tuple[WalletKey, ...], dict[WalletKey, Wallet]]]
    ) -> list[dict[WalletKey, Wallet]]:
        found = await self._read(sorted({key for keys, _ in taken for key in keys}))
        return [{key: found[key] for key in keys} for keys, _ in taken]

    async def _in_halves(
        self,
        asked: Sequence[Waiter[K, V]],
        find: Callable[[Sequence[Waiter[K, V]]], Awaitable[list[V]]],
    ) -> None:
        """Serve all callers with one query. If it fails, split the callers in halves until the
        query that fails serves a single caller.
        """
        try:
            found = await find(asked)
        except Exception as error:  # noqa: BLE001 - each caller gets it, so that none hangs
            middle = len(asked) // 2
            if middle and not isinstance(error, StoreUnavailable | Contended):
                await self._in_halves(asked[:middle], find)
                await self._in_halves(asked[middle:], find)
                return
            if isinstance(error, Unreadable):
                self._unreadable.note(error)
            for future in (future for _, futures in asked for future in futures):
                if not future.done():
                    future.set_exception(error)
                    future.exception()  # mark as retrieved: the caller may have gone away
            return
        for (_, futures), value in zip(asked, found, strict=True):
            for future in futures:
                if not future.done():
                    future.set_result(value)

    async def _read(self, keys: list[WalletKey]) -> dict[WalletKey, Wallet]:
        book = await self.reads.books(keys)
        book.equip(self._policies.active, _no_id)
        return {key: with_due_applied(book, key) for key in keys}


def with_due_applied(book: Book, key: WalletKey) -> Wallet:
    """Return the wallet with due effects applied, as the next command on it would see it."""
    wallet = book.wallets.get(key)
    if wallet is None:
        return Wallet(key=key, updated_at=book.now)
    if not wallet.is_due(book.now):
        return wallet
    return _with_due(book, key).wallet(key)


def holds_now(book: Book, parts: Iterable[Hold]) -> list[Hold]:
    """Return the parts with the due effects of their wallets applied."""
    drafts = {key: _with_due(book, key) for key in book.wallets}
    lapsed = {key: hold for draft in drafts.values() for key, hold in draft.holds.items()}
    return [lapsed.get((part.wallet, part.id), part) for part in parts]


def holding(book: Book, key: WalletKey) -> WalletView:
    """As `settled`, with the next expiry."""
    if key not in book.wallets:
        return WalletView(with_due_applied(book, key), None)
    draft = _with_due(book, key)
    return WalletView(draft.wallet(key), soonest_expiry(draft, key))


def _with_due(book: Book, key: WalletKey) -> Draft:
    draft = Draft(book)
    _apply_due(draft, key)
    return draft


def _apply_due(draft: Draft, key: WalletKey) -> None:
    apply_due(draft, ApplyDue(id="", origin=_NOBODY, wallet=key), key)


def _no_id() -> str:
    """Return an empty id: the operations of a draft are discarded."""
    return ""
