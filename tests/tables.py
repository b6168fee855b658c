"""Databases with the tables of this version."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from entitlements.adapters.postgres.migrate import migrate_at
from entitlements.adapters.sqlite import connection
from entitlements.adapters.sqlite.migrate import migrate as migrate_file
from tests.servers import run_apart


def migrate(url: str) -> None:
    run_apart(migrate_at(url, None))


def sqlite_url(folder: Path) -> str:
    """Return the URL of a new file, a copy of a migrated one."""
    path = folder / "books.db"
    connection.create_private(path)
    path.write_bytes(_migrated())
    return f"sqlite:///{path}"


@cache
def _migrated() -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "books.db"
        connection.create_private(path)
        db = connection.connect(path)
        migrate_file(db, now=0)
        db.close()
        return path.read_bytes()
