"""The operations of the command line."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from entitlements import wiring
from entitlements.adapters.kafka.broker import Broker, Unreachable
from entitlements.app import engine
from entitlements.app.credits.committer import Overloaded
from entitlements.app.inbox.status import Group
from entitlements.app.operations.origin import OlderTables
from entitlements.app.policy.active import PolicyUnusable, Superseded
from entitlements.app.policy.document import PolicyError
from entitlements.app.ports import (
    AddressUnusable,
    Contended,
    Migrated,
    RoleUnusable,
    SchemaMismatch,
    StoreUnavailable,
    WriteRejected,
)
from entitlements.app.process import failpoints
from entitlements.app.process.clock import utc_now
from entitlements.app.process.log import EventLog
from entitlements.app.verify.findings import Finding
from entitlements.app.webhooks.endpoints import Webhooks
from entitlements.service.compose import System, build, naming_the_setting, open_store, webhooks_of
from entitlements.service.serve import serve
from entitlements.service.workers import work_consumer, work_relay
from entitlements.settings import (
    PREFIX,
    Settings,
    SettingsError,
    load,
    unknown_variables,
    usual_scheme,
)

log = EventLog(__name__)

EXPECTED = (
    StoreUnavailable,
    SchemaMismatch,
    RoleUnusable,
    Contended,
    WriteRejected,
    Overloaded,
    Superseded,
    PolicyUnusable,
    Unreachable,
    OSError,
)
"""Errors that can happen to any command and are not bugs."""


class ServiceProgram:
    """The operations of the command line."""

    @asynccontextmanager
    async def open(
        self, database: str | None, *, limited: bool = False, may_create: bool = False
    ) -> AsyncIterator[System]:
        failpoints.arm_from_environment()
        settings = _settings(database)
        _require_file(settings.database_url, may_create=may_create)
        async with build(
            settings, keep_policy=True, limited=limited, operators_limited=False
        ) as system:
            yield system

    @asynccontextmanager
    async def store(
        self, database: str | None, *, may_create: bool = False
    ) -> AsyncIterator[engine.Store]:
        settings = _settings(database)
        _require_file(settings.database_url, may_create=may_create)
        opened = await open_store(settings)
        try:
            yield opened
        finally:
            await opened.close()

    @asynccontextmanager
    async def webhooks(
        self, database: str | None, *, may_create: bool = False
    ) -> AsyncIterator[Webhooks]:
        settings = _settings(database)
        _require_file(settings.database_url, may_create=may_create)
        store = await open_store(settings)
        try:
            async with webhooks_of(settings, store.webhooks, utc_now) as webhooks:
                yield webhooks
        finally:
            await store.close()

    def older_service(self, url: str) -> AbstractAsyncContextManager[OlderTables]:
        url = usual_scheme(url)
        _require_file(url, may_create=False)
        return wiring.older_service(url)

    async def serve(
        self, database: str | None, host: str | None, port: int | None, workers: int | None
    ) -> None:
        # The service logs the warnings that the other commands print.
        await serve(_load(database, http_host=host, http_port=port, workers=workers))

    async def work_consumer(self, database: str | None) -> None:
        await work_consumer(_load(database))

    async def work_relay(self, database: str | None) -> None:
        await work_relay(_load(database))

    async def migrate(self, database: str | None, service_role: str | None) -> Migrated:
        url = _settings(database).database_url
        if wiring.file_of(url) is not None and service_role is not None:
            raise SettingsError("a service role needs PostgreSQL; SQLite has no roles")
        return await wiring.migrate(url, service_role)

    async def verify(self, database: str | None) -> list[Finding]:
        settings = _settings(database)
        _require_file(settings.database_url, may_create=False)
        return await wiring.verify(settings.database_url)

    async def consumer_group(self) -> Group:
        settings = _settings(None)
        if settings.kafka_bootstrap_servers is None:
            raise SettingsError(f"{PREFIX}KAFKA_BOOTSTRAP_SERVERS: is not set")
        broker = Broker(settings.kafka_bootstrap_servers, settings.kafka_options)
        prefix, group = settings.topic_prefix, settings.consumer_group
        with naming_the_setting():
            return await wiring.consumer_group(broker, prefix, group)

    def is_usage(self, error: Exception) -> bool:
        return isinstance(error, SettingsError | PolicyError | AddressUnusable)

    def is_expected(self, error: Exception) -> bool:
        return isinstance(error, EXPECTED)


def _require_file(url: str, *, may_create: bool) -> None:
    """Raise StoreUnavailable if the SQLite file does not exist and must not be created.

    Otherwise a mistyped name would create an empty database.
    """
    path = wiring.file_of(url)
    if path is not None and not may_create and not path.exists():
        raise StoreUnavailable(f"there is no database {path}")


def _settings(database: str | None) -> Settings:
    """Load the settings, and print unknown variables to stderr."""
    for problem in unknown_variables(os.environ):
        print(f"entitlements: {problem}", file=sys.stderr)  # noqa: T201
    return _load(database)


def _load(database: str | None, **given: Any) -> Settings:
    """Load the settings of the environment; options of the command line take precedence."""
    given["database_url"] = database
    return load(**{name: value for name, value in given.items() if value is not None})
