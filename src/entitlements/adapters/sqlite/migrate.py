"""Migrations: numbered SQL files with checksums, each applied once in its own transaction."""

from __future__ import annotations

import hashlib
from importlib import resources
from typing import Any

import apsw
from msgspec import Struct

from entitlements.adapters.rights import RIGHTS, in_the_way
from entitlements.adapters.sqlite.connection import unavailable, writing
from entitlements.adapters.sqlite.statements import SQL
from entitlements.app.ports import SchemaMismatch


class Migration(Struct, frozen=True):
    version: int
    name: str
    text: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


def migrations() -> list[Migration]:
    """Return all migrations of this program, in order."""
    files = resources.files("entitlements.adapters.sqlite").iterdir()
    found = sorted((file.name, file) for file in files if file.name[:4].isdigit())
    return [Migration(int(name[:4]), name, file.read_text("utf-8")) for name, file in found]


def migrate(db: apsw.Connection, now: int) -> list[str]:
    """Apply the missing migrations; return their names. Of two concurrent calls, the second finds
    nothing to do. Raises SchemaMismatch.
    """
    names: list[str] = []
    with writing(db):
        _require_own(db)
        db.execute(SQL["create_versions"])
    for migration in migrations():
        with writing(db):
            if migration.version in _applied(db):
                continue
            db.execute(migration.text)
            version = (migration.version, migration.name, migration.checksum, now)
            db.execute(SQL["add_version"], version)
            names.append(migration.name)
    check(db)
    return names


def check(db: apsw.Connection) -> None:
    """Check that the schema is exactly that of this program. Raises SchemaMismatch."""
    with unavailable():
        applied = _applied(db)
    known = {migration.version: migration.checksum for migration in migrations()}
    if newer := applied.keys() - known.keys():
        raise SchemaMismatch(
            f"the database has schema version {max(newer)}, this program knows {max(known)}: "
            "use a newer program"
        )
    if missing := known.keys() - applied.keys():
        raise SchemaMismatch(
            f"the database lacks schema version {min(missing)}: run `entitlements migrate`"
        )
    if changed := [version for version in known if known[version] != applied[version]]:
        raise SchemaMismatch(f"schema version {changed[0]} was applied with another checksum")


def _require_own(db: apsw.Connection) -> None:
    """Raise SchemaMismatch if tables of another program have this service's table names."""
    if db.execute(SQL["is_ours"]).fetchone() is not None:
        return
    found = {str(row[0]) for row in db.execute(SQL["tables"])} & RIGHTS.keys()
    if found:
        raise SchemaMismatch(in_the_way(found, "another file"))


def _applied(db: apsw.Connection) -> dict[int, str]:
    """Return the checksums of applied migrations by version."""
    if db.execute(SQL["versions_exist"]).fetchone() is None:
        return {}
    applied: list[Any] = db.execute(SQL["versions"]).fetchall()
    return dict(applied)
