"""The SQL statements of PostgreSQL, by name."""

from typing import Final

from entitlements.adapters import columns
from entitlements.adapters.named_sql import load

_LISTS: Final = {
    "{hold}": ", ".join(columns.HOLD),
    "{no_hold}": ", ".join("NULL" for _ in columns.HOLD),
    "{record}": ", ".join(columns.RECORD),
    "{letter}": ", ".join(columns.LETTER),
}


def _listed(sql: str) -> str:
    """Return the statement with its placeholders in braces replaced by lists of columns."""
    for place, names in _LISTS.items():
        sql = sql.replace(place, names)
    return sql


SQL = {
    name: _listed(sql)
    for name, sql in load("entitlements.adapters.postgres", "queries.sql").items()
}
OUTBOX = load("entitlements.adapters.postgres", "outbox.sql")
ROLES = load("entitlements.adapters.postgres", "roles.sql")
