"""What serving processes and workers do at their start."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from functools import partial

from entitlements import wiring
from entitlements.app import engine
from entitlements.app.ports import (
    StoreUnavailable,
)
from entitlements.app.process.log import EventLog
from entitlements.app.process.loop import retry_until_done
from entitlements.app.process.redaction import masked
from entitlements.service.compose import open_store
from entitlements.settings import PREFIX, Settings, SettingsError

log = EventLog(__name__)

STARTUP_PATIENCE_S = 60


async def wait_for_database(settings: Settings) -> None:
    """Wait for a database that is still starting, for at most a minute."""
    store = await retry_until_done(
        partial(open_store, settings),
        on=StoreUnavailable,
        pause_s=1,
        patience_s=STARTUP_PATIENCE_S,
        log=log,
        event="database.waiting",
    )
    await store.close()


def show_store(settings: Settings, store: engine.Store) -> None:
    """Log the store, and warn of a SQLite file if the settings suggest a database server."""
    log.info("store.opened", kind=store.kind, url=masked(settings.database_url))
    if wiring.file_of(settings.database_url) is None:
        return
    reasons = {
        "ENVIRONMENT is production": settings.environment == "production",
        "KAFKA_BOOTSTRAP_SERVERS is set": settings.kafka_bootstrap_servers is not None,
    }
    if found := [reason for reason, holds in reasons.items() if holds]:
        log.warning(
            "store.is_a_file",
            detail=f"{' and '.join(found)}, but credits are stored in a SQLite file on this"
            f" machine: set {PREFIX}DATABASE_URL to a PostgreSQL database",
        )


def bind_ports(settings: Settings, closing: ExitStack) -> list[socket.socket]:
    """Bind all ports of the settings first, so that a port in use fails early.

    Raise SettingsError.
    """
    from entitlements.transports.http.listening import bind

    sockets: list[socket.socket] = []
    names = {settings.metrics_port: "METRICS_PORT", settings.http_port: "HTTP_PORT"}
    for port, name in names.items():
        try:
            bound = bind(settings.http_host, port)
        except OSError as error:
            where = f"{settings.http_host} port {port}"
            reason = f"cannot listen on {where}: {error.strerror}"
            raise SettingsError(f"{PREFIX}{name}: {reason}") from None
        sockets += [closing.enter_context(taken) for taken in bound]
    return sockets
