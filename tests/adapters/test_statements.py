"""Both engines have the same statements, except for those listed here."""

from entitlements.adapters.postgres.statements import SQL as POSTGRES
from entitlements.adapters.sqlite.statements import SQL as SQLITE

ONLY_POSTGRES = {
    "begin": "settings that make plans independent of statistics; SQLite has a fixed BEGIN",
    "begin_inside": "as begin",
    "settings_to_restore": "as begin",
    "identity": "a SQLite file has one writer, so no connection of a caller can join",
    "begin_relay": "as begin",
    "pin_plans": "as begin",
    "pin_verify_plans": "as begin",
    "pin_webhook_plans": "as begin",
    "lock_endpoint": "a transaction on SQLite locks the whole file",
    "lock_policies": "as lock_endpoint",
    "lock_versions": "as lock_endpoint",
    "lock_wallets": "as lock_endpoint",
    "lock_wallets_skipping": "as lock_endpoint",
    "load": "one round trip for active_policy, receipt, load_live_grants and load_holds_named",
    "load_fifo": "as load",
    "load_filed_debts": "one round trip for several debts",
    "load_operations": "one round trip for several operations",
    "read_books": "one round trip for read_wallets, load_due_grants and load_due_holds",
    "write_changed": "one round trip for write_receipt, write_wallets, write_grants and holds",
    "clock": "SQLite uses the clock of the process",
    "takes_writes": "SQLite has no standby; ping reads",
    "foreign_tables": "one statement for is_ours and tables",
    "schema": "files have no roles",
    "role_exists": "as schema",
    "role_problems": "as schema",
    "rights_of": "as schema",
    "rights_through": "as schema",
    "service_roles": "as schema",
}
ONLY_SQLITE = {
    "load_live_grants": "a part of load",
    "load_live_grants_fifo": "a part of load_fifo",
    "load_holds_named": "a part of load",
    "plain_expiries": "a part of read_books",
    "load_other_due_grants": "a part of read_books",
    "any_lifecycle_call": "a claim without one would keep others from writing",
    "write_wallets": "a part of write_changed",
    "write_grants": "a part of write_changed",
    "draw_grants": "a write_grants that touches no partial index",
    "write_holds": "a part of write_changed",
    "create_holds": "a part of write_changed",
    "create_operations": "PostgreSQL copies",
    "create_events": "PostgreSQL copies",
    "create_records": "PostgreSQL copies",
    "active_state": "a part of load",
    "active_endpoints": "a part of claim_deliveries",
    "any_due": "shows whether claim_deliveries needs the lock of the file",
    "create_deliveries": "a part of PostgreSQL's statements that publish events",
    "ping": "PostgreSQL: takes_writes",
    "is_ours": "a part of foreign_tables",
    "tables": "a part of foreign_tables",
}


def test_only_the_listed_statements_are_of_one_engine() -> None:
    assert POSTGRES.keys() - SQLITE.keys() == ONLY_POSTGRES.keys()
    assert SQLITE.keys() - POSTGRES.keys() == ONLY_SQLITE.keys()


def test_fragments_are_filled_in_with_their_arguments() -> None:
    locking = POSTGRES["lock_wallets"].replace("FOR UPDATE", "FOR UPDATE SKIP LOCKED")
    assert POSTGRES["lock_wallets_skipping"] == locking
    assert "ORDER BY priority, granted_at, id LIMIT ?" in SQLITE["load_live_grants_fifo"]
    assert not [name for name, sql in (POSTGRES | SQLITE).items() if "{{" in sql]
