"""Databases with the tables of this version."""

from entitlements.adapters.postgres.migrate import migrate_at
from tests.servers import run_apart


def migrate(url: str) -> None:
    run_apart(migrate_at(url, None))
