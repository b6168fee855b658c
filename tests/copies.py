"""Copies of a template database: checking whether a copy is unchanged, and restoring its rows."""

import json
from collections.abc import Iterable
from typing import Final, NamedTuple

import asyncpg

from tests.waiting import PATIENCE_S

_GROWN: Final = 1 << 20
"""Growth in bytes beyond the template that may change the plans of statements."""

_CATALOGS: Final = (
    "pg_attrdef", "pg_attribute", "pg_class", "pg_constraint", "pg_default_acl", "pg_extension",
    "pg_index", "pg_namespace", "pg_policy", "pg_proc", "pg_rewrite", "pg_statistic_ext",
    "pg_trigger", "pg_type",
)  # fmt: skip
"""Each row has the id of the transaction that wrote it last, which copies keep."""

_SCHEMA: Final = " UNION ALL ".join(
    f"SELECT '{name}', count(*), sum(xmin::text::bigint) FROM {name}" for name in _CATALOGS
)
_SETTINGS: Final = """
SELECT datacl::text, datconnlimit,
       (SELECT count(*) FROM pg_db_role_setting WHERE setdatabase = pg_database.oid)
FROM pg_database WHERE datname = current_database()
"""
_RELATIONS: Final = """
SELECT coalesce(sum(pg_relation_size(oid)), 0)::bigint AS bytes, coalesce(sum(reltuples), 0) AS rows
FROM pg_class WHERE relnamespace = 'public'::regnamespace
"""
_TABLES: Final = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY tablename"
_SEQUENCES: Final = """
SELECT quote_ident(sequencename), coalesce(last_value, start_value), last_value IS NOT NULL
FROM pg_sequences WHERE schemaname = 'public' ORDER BY sequencename
"""
_OTHERS: Final = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""


class Template(NamedTuple):
    """The state of a new copy: its schema, and its rows by table."""

    schema: object
    bytes: int
    rows: dict[str, str]
    sequences: list[tuple[object, ...]]


async def read(url: str) -> Template:
    """Return the template at the URL."""
    db = await asyncpg.connect(url, timeout=PATIENCE_S)
    try:
        tables = [row[0] for row in await db.fetch(_TABLES)]
        size = await db.fetchrow(_RELATIONS)
        return Template(
            schema=await _schema(db),
            bytes=size["bytes"],
            rows=await _rows(db, tables),
            sequences=[tuple(row) for row in await db.fetch(_SEQUENCES)],
        )
    finally:
        await db.close()


async def restored(url: str, template: Template) -> bool:
    """Restore the rows; return whether the copy is as new. It is not if its schema or statistics
    changed, if it has grown much or has open sessions, or if its rows cannot be restored.
    """
    db = await asyncpg.connect(url, timeout=PATIENCE_S)
    try:
        if await db.fetchval(_OTHERS) or await _schema(db) != template.schema:
            return False
        if (await db.fetchval(_RELATIONS)) > template.bytes + _GROWN:
            return False
        await _restore(db, template)
    except asyncpg.InsufficientPrivilegeError:
        return False
    finally:
        await db.close()
    return True


async def _schema(db: asyncpg.Connection) -> object:
    size = await db.fetchrow(_RELATIONS)
    catalogs = [tuple(row) for row in await db.fetch(_SCHEMA)]
    return catalogs, tuple(await db.fetchrow(_SETTINGS)), size["rows"]


async def _rows(db: asyncpg.Connection, tables: Iterable[str]) -> dict[str, str]:
    """Return the rows of each table as JSON."""
    as_json = "coalesce(json_agg(t ORDER BY t::text)::text, '[]')"
    each = [f"SELECT '{table}', {as_json} FROM \"{table}\" AS t" for table in tables]
    return dict(await db.fetch(" UNION ALL ".join(each))) if each else {}


async def _restore(db: asyncpg.Connection, template: Template) -> None:
    """Restore without triggers and foreign keys, so that the order of tables does not matter."""
    async with db.transaction():
        await db.execute("SET LOCAL session_replication_role = replica")
        found = await _rows(db, template.rows)
        for table, rows in template.rows.items():
            if found[table] == rows:
                continue
            await db.execute(f'DELETE FROM "{table}"')
            if json.loads(rows):
                await db.execute(
                    f'INSERT INTO "{table}" OVERRIDING SYSTEM VALUE'
                    f' SELECT * FROM json_populate_recordset(NULL::"{table}", $1)',
                    rows,
                )
        await db.executemany("SELECT setval($1::text::regclass, $2, $3)", template.sequences)
