"""Applies numbered SQL files in order, each in its own transaction, under a lock."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from typing import Final

import asyncpg

from entitlements.adapters.postgres.connection import connected
from entitlements.adapters.postgres.service_role import restrict, roles_behind
from entitlements.adapters.postgres.statements import SQL
from entitlements.adapters.rights import RIGHTS, in_the_way
from entitlements.app.ports import Migrated, SchemaMismatch

LEFT_BEHIND: Final = (
    "the role {role} lacks rights that the service needs:"
    " run `entitlements migrate --service-role {role}`"
)
NOT_NARROWED: Final = (
    "the role {role} keeps the rights that programs of the previous version need: once none runs,"
    " run `entitlements migrate --service-role {role}` again"
)


def migrations() -> list[tuple[int, str, str, str]]:
    """Return every migration: number, name, SQL, checksum."""
    found = []
    for file in files("entitlements.adapters.postgres").iterdir():
        number = file.name.partition("_")[0]
        if number.isdigit() and file.name.endswith(".sql"):
            text = file.read_text("utf-8")
            checksum = hashlib.sha256(text.encode()).hexdigest()
            found.append((int(number), file.name, text, checksum))
    return sorted(found)


async def migrate_at(url: str, service_role: str | None) -> Migrated:
    """Migrate on a new connection, then give the service's role its rights.

    Programs of the previous version may still run while migrations are applied. Then rights that
    they may need are not revoked.

    Raises StoreUnavailable if the database cannot be reached or refuses; AddressUnusable,
    RoleUnusable.
    """
    async with connected(url) as db:
        is_new = not await db.fetchval(SQL["versions_exist"])
        applied = await migrate(db)
        if service_role is None:
            behind = await roles_behind(db)
            return Migrated(applied, [LEFT_BEHIND.format(role=role) for role in behind])
        narrow = is_new or not applied
        await restrict(db, service_role, narrow=narrow)
        return Migrated(applied, [] if narrow else [NOT_NARROWED.format(role=service_role)])


async def migrate(db: asyncpg.Connection) -> list[str]:
    """Apply the missing migrations; return their names. Of two concurrent calls, the second finds
    nothing to do. Raises SchemaMismatch.
    """
    _require_utf8(db)
    await _require_own(db)
    await _create_versions(db)
    applied: list[str] = []
    for number, name, text, checksum in migrations():
        async with db.transaction():
            await db.execute(SQL["lock_versions"])
            known = (await _versions(db)).get(number)
            if known is None:
                await db.execute(text)
                await db.execute(SQL["add_version"], number, name, checksum)
                applied.append(name)
            elif known != checksum:
                message = f"migration {name} differs from the applied one"
                raise SchemaMismatch(message)
    return applied


async def check(db: asyncpg.Connection) -> None:
    """Check that every migration of this program is applied. Raises SchemaMismatch."""
    _require_utf8(db)
    if not await db.fetchval(SQL["versions_exist"]):
        message = "the database has no tables yet: run `entitlements migrate`"
        raise SchemaMismatch(message)
    applied = await _versions(db)
    for number, name, _, checksum in migrations():
        if number not in applied:
            message = f"migration {name} is missing: run `entitlements migrate`"
            raise SchemaMismatch(message)
        if applied[number] != checksum:
            message = f"migration {name} differs from the applied one"
            raise SchemaMismatch(message)


async def _versions(db: asyncpg.Connection) -> dict[int, str]:
    """Return the checksums of applied migrations by number."""
    return dict(await db.fetch(SQL["versions"]))


def _require_utf8(db: asyncpg.Connection) -> None:
    """Raise SchemaMismatch if the database's encoding cannot store every name."""
    encoding = db.get_settings().server_encoding
    if encoding != "UTF8":
        raise SchemaMismatch(
            f"the database has the encoding {encoding}: create one with"
            " `CREATE DATABASE name ENCODING 'UTF8' TEMPLATE template0`"
        )


async def _require_own(db: asyncpg.Connection) -> None:
    """Raise SchemaMismatch if tables of another program have this service's table names."""
    if found := await db.fetch(SQL["foreign_tables"], list(RIGHTS)):
        another = "another database, or a separate schema (?options=-csearch_path%3Dentitlements)"
        raise SchemaMismatch(in_the_way([row[0] for row in found], another))


async def _create_versions(db: asyncpg.Connection) -> None:
    try:
        await db.execute(SQL["create_versions"])
    except (
        asyncpg.UniqueViolationError,
        asyncpg.DuplicateTableError,
        asyncpg.DuplicateObjectError,
    ):
        # A concurrent call made the catalogue refuse the first one.
        await db.execute(SQL["create_versions"])
