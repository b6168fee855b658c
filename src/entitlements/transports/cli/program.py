"""What the commands work with; the wiring hands it over, so that they name no store."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from entitlements.app.engine import Engine, Store
    from entitlements.app.ingest.state import Group
    from entitlements.app.ports import Migrated
    from entitlements.app.verify import Finding
    from entitlements.app.webhooks.endpoints import Webhooks


class System(Protocol):
    """A running engine on the database."""

    @property
    def engine(self) -> Engine: ...

    @property
    def clock(self) -> Callable[[], datetime]: ...


class Program(Protocol):
    """Everything a command can ask for. ``database`` none: the one that the settings name.

    A SQLite file that does not exist is made only for those who say that they ``may_create`` it.
    """

    def open(
        self, database: str | None, *, limited: bool = False, may_create: bool = False
    ) -> AbstractAsyncContextManager[System]:
        """An engine under the policy that is active there; ``limited`` if rate limits matter."""

    def store(
        self, database: str | None, *, may_create: bool = False
    ) -> AbstractAsyncContextManager[Store]:
        """The database alone, whatever policy is active there, if any."""

    def webhooks(
        self, database: str | None, *, may_create: bool = False
    ) -> AbstractAsyncContextManager[Webhooks]:
        """Those of the database alone."""

    def serve(
        self, database: str | None, host: str | None, port: int | None, workers: int | None
    ) -> Coroutine[None, None, None]: ...

    def work_consumer(self, database: str | None) -> Coroutine[None, None, None]: ...

    def work_relay(self, database: str | None) -> Coroutine[None, None, None]: ...

    def migrate(
        self, database: str | None, service_role: str | None
    ) -> Coroutine[None, None, Migrated]: ...

    def verify(self, database: str | None) -> Coroutine[None, None, list[Finding]]: ...

    def consumer_group(self) -> Coroutine[None, None, Group]:
        """Where the group of the settings stands."""

    def is_usage(self, error: Exception) -> bool:
        """Whether settings or arguments are to blame."""

    def is_expected(self, error: Exception) -> bool:
        """Whether its message says all there is to say; any other is a bug."""
