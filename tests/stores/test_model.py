"""The model of the ledger against real stores, which must pass verification after each run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from entitlements.adapters.postgres.store import PostgresStore
from entitlements.adapters.sqlite.store import SqliteStore
from entitlements.app.ports import OperationsQuery
from entitlements.core import commands as c
from entitlements.core.ledger.book import Needs
from entitlements.core.outcomes import AnyOutcome, Granted, Refusal
from entitlements.ids import uuid7
from entitlements.wiring import file_of
from tests.books import assert_books_balance
from tests.core.ledger.teller import Teller, wallet_key
from tests.core.ledger.test_model import FLOOR, NAMES, POLICY, LedgerAgainstModel
from tests.profiles import examples
from tests.servers import Postgres
from tests.stores.clerk import Clerk, Clock, an_activation
from tests.tables import sqlite_url

DOCUMENT = f"costs: {{call: 1}}\nshortfall: overdraft\noverdraft_limit: {FLOOR}\n"
KEYS = [wallet_key(name) for name in NAMES]


class SparingClerk(Clerk):
    """A clerk that first loads one live grant, so that even short runs must load more."""

    def needs(self, *commands: c.AnyCommand) -> Needs:
        needs = super().needs(*commands)
        needs.depth = dict.fromkeys(needs.wallets, 1)
        return needs


class StoreTeller(Teller):
    """A teller whose book is a copy of the committed state of a store."""

    def __init__(self, url: str) -> None:
        super().__init__(POLICY)
        self._url = url
        self._clock = Clock()
        self._runner = asyncio.Runner()
        self._grants: set[str] = set()
        self._store = self._runner.run(self._open())
        for key in KEYS:
            self.opens(key)
        # The clerk decides on the store's books; the teller's book only shows the result.
        self._clerk = SparingClerk(self._store, self._clock, self.book.policy)

    async def _open(self) -> SqliteStore | PostgresStore:
        store: SqliteStore | PostgresStore
        if (path := file_of(self._url)) is not None:
            store = await SqliteStore.open(path, clock=self._clock)
        else:
            store = await PostgresStore.open(self._url, clock=self._clock)
        await store.migrate()
        await store.policies.activate(self.book.policy.version, DOCUMENT, an_activation())
        return store

    def command(self, verb: str, fields: dict[str, Any], **origin: Any) -> c.AnyCommand:
        return super().command(verb, fields, **{"id": uuid7()} | origin)

    def apply(self, command: c.AnyCommand) -> AnyOutcome | Refusal:
        return self._runner.run(self._apply(command))

    async def _apply(self, command: c.AnyCommand) -> AnyOutcome | Refusal:
        self._clock.now = self.book.now
        (outcome,) = await self._clerk.do(command)
        if isinstance(outcome, Granted):
            self._grants.add(outcome.grant_id)
        await self._look()
        return outcome

    async def _look(self) -> None:
        """Replace the book with the committed state."""
        found = (await self._store.reads.operations(OperationsQuery(limit=1000))).rows
        assert len(found) < 1000, "a run must write fewer operations"
        self.operations = sorted(found, key=lambda line: line.seq)
        self._grants |= {draw.grant_id for line in found for draw in line.draws}
        self.book.wallets |= (await self._store.reads.books(KEYS)).wallets
        self.book.grants, self.book.holds = {}, {}
        for hold_id in {line.hold_id for line in found if line.hold_id}:
            for part in await self._store.reads.hold(hold_id):
                self.book.holds.setdefault(part.wallet, {})[part.id] = part
        for grant_id in self._grants:
            stored = await self._store.reads.grant(grant_id)
            assert stored is not None
            self.book.grants.setdefault(stored.grant.wallet, {})[grant_id] = stored.grant

    def close(self) -> None:
        """Assert that the database passes `entitlements verify`."""
        with self._runner:
            self._runner.run(self._store.close())
            self._runner.run(assert_books_balance(self._url))


class StoreAgainstModel(LedgerAgainstModel):
    def __init__(self, database: Callable[[], AbstractContextManager[str]]) -> None:
        super().__init__()
        self._database = database
        self._left = ExitStack()

    def opens(self) -> Teller:
        teller = StoreTeller(self._left.enter_context(self._database()))
        self._left.callback(teller.close)
        return teller

    def teardown(self) -> None:
        with self._left:
            super().teardown()


def runs(database: Callable[[], AbstractContextManager[str]], examples_max: int) -> None:
    """Run the state machine; the stores must agree with the model after every step."""
    run_state_machine_as_test(
        lambda: StoreAgainstModel(database),  # type: ignore[arg-type]
        settings=settings(
            max_examples=examples_max,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.hypothesis
def test_a_sqlite_file_agrees_with_the_model(tmp_path: Path) -> None:
    runs(
        lambda: nullcontext(sqlite_url(Path(mkdtemp(dir=tmp_path)))),
        examples_max=examples(60, long=1_000),
    )


@pytest.mark.hypothesis
def test_a_postgres_database_agrees_with_the_model(
    postgres_server: Postgres, postgres_template: str
) -> None:
    runs(lambda: postgres_server.database(postgres_template), examples_max=examples(25, long=400))
