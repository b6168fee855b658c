"""What commands need from the program. The wiring provides it; commands name no adapters."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from entitlements.app.engine import Engine, Store
    from entitlements.app.inbox.status import Group
    from entitlements.app.operations.origin import OlderTables
    from entitlements.app.ports import Migrated
    from entitlements.app.verify.findings import Finding
    from entitlements.app.webhooks.endpoints import Webhooks


class LocalSystem(Protocol):
    """A running engine on the database."""

    @property
    def engine(self) -> Engine: ...

    @property
    def clock(self) -> Callable[[], datetime]: ...


class Program(Protocol):
    """The interface of commands to the program. ``database`` None: the one in the settings.

    A SQLite file that does not exist is created only with ``may_create``.
    """

    def open(
        self, database: str | None, *, limited: bool = False, may_create: bool = False
    ) -> AbstractAsyncContextManager[LocalSystem]:
        """Open an engine under the active policy; ``limited`` if the command needs rate limits."""

    def store(
        self, database: str | None, *, may_create: bool = False
    ) -> AbstractAsyncContextManager[Store]:
        """Open the database alone, with any active policy or none."""

    def webhooks(
        self, database: str | None, *, may_create: bool = False
    ) -> AbstractAsyncContextManager[Webhooks]:
        """Open the webhooks of the database."""

    def older_service(self, url: str) -> AbstractAsyncContextManager[OlderTables]:
        """Open the tables of an older service for reading."""

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
        """Return the state of the configured consumer group."""

    def is_usage(self, error: Exception) -> bool:
        """Return whether the error is one of settings or arguments."""

    def is_expected(self, error: Exception) -> bool:
        """Return whether the error's message suffices; any other error is a bug."""
