"""The database role of the service: it gets the rights in `RIGHTS`, and no others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import asyncpg

from entitlements.adapters.postgres.statements import SQL
from entitlements.adapters.rights import RIGHTS, Rights
from entitlements.app.ports import RoleUnusable

SHOWN_MAX: Final = 20


async def restrict(db: asyncpg.Connection, role: str, *, narrow: bool = True) -> None:
    """Grant ``role`` the rights of a service and, with ``narrow``, revoke all others.

    Applies to all tables on the connection's search path. Raises RoleUnusable, and changes nothing,
    if the role would then have fewer rights or, with ``narrow``, more: through PUBLIC, another role
    that it is a member of, ownership or superuser.
    """
    async with db.transaction():
        await db.execute(SQL["lock_versions"])
        schema = await _schema(db)
        if not await db.fetchval(SQL["role_exists"], role):
            raise RoleUnusable(f"no such role: {role}")
        await db.execute(f"GRANT USAGE ON SCHEMA {_quoted(schema)} TO {_quoted(role)}")
        for table, rights in RIGHTS.items():
            for statement in _statements(f"{_quoted(schema)}.{_quoted(table)}", rights, narrow):
                await db.execute(f"{statement} {_quoted(role)}")
        problems = await _lacking(db, schema, role)
        if narrow:
            problems += await _excess(db, schema, role)
        if problems:
            more = len(problems) - SHOWN_MAX
            shown = problems[:SHOWN_MAX] + ([f"and {more} more"] if more > 0 else [])
            raise RoleUnusable(f"the role {role} cannot run the service safely: {'; '.join(shown)}")


async def roles_behind(db: asyncpg.Connection) -> list[str]:
    """Return roles that may add operations, but lack other rights of a service."""
    schema = await _schema(db)
    roles = [row["role"] for row in await db.fetch(SQL["service_roles"], schema)]
    return [role for role in roles if await _lacking(db, schema, role)]


def _statements(table: str, rights: Rights, narrow: bool) -> Iterator[str]:  # noqa: FBT001
    """Yield the statements that revoke and grant rights on a table, up to the role's name."""
    if narrow:
        yield f"REVOKE ALL ON {table} FROM"
    whole = ["SELECT"] + ["INSERT"] * rights.insert + ["DELETE"] * rights.delete
    yield f"GRANT {', '.join(whole + ['UPDATE'] * rights.lock)} ON {table} TO"
    if rights.update:
        yield f"GRANT UPDATE ({', '.join(rights.update)}) ON {table} TO"


async def _lacking(db: asyncpg.Connection, schema: str, role: str) -> list[str]:
    rows = await db.fetch(SQL["rights_of"], schema, list(RIGHTS), role)
    needed = {(row["name"], row["columns"], row["privilege"]) for row in rows if not row["held"]}
    return [
        f"it lacks {privilege} on {table}" + (f" ({column})" if column else "")
        for table, column, privilege in sorted(needed, key=str)
        if _is_needed(table, column, privilege)
    ]


async def _excess(db: asyncpg.Connection, schema: str, role: str) -> list[str]:
    problems = [
        row["problem"] for row in await db.fetch(SQL["role_problems"], schema, role, list(RIGHTS))
    ]
    if problems:
        return problems  # such a role has every right, which need not be listed
    rows = await db.fetch(SQL["rights_through"], schema, list(RIGHTS), role)
    excess: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        if not _is_needed(row["name"], row["columns"], row["privilege"]):
            place = (row["name"], row["privilege"], row["through"])
            excess.setdefault(place, []).extend([row["columns"]] if row["columns"] else [])
    return [
        f"it may {privilege} {table}"
        + (f" ({', '.join(columns)})" if columns else "")
        + (f" through {through}" if through != role else ", granted by another role")
        for (table, privilege, through), columns in sorted(excess.items())
    ]


def _is_needed(table: str, column: str | None, privilege: str) -> bool:
    rights = RIGHTS[table]
    match privilege:
        case "SELECT":
            return True
        case "INSERT":
            return rights.insert
        case "DELETE":
            return rights.delete
        case "UPDATE":
            return rights.lock or column in rights.update
        case _:
            return False


async def _schema(db: asyncpg.Connection) -> str:
    schema: str = await db.fetchval(SQL["schema"])
    return schema


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
