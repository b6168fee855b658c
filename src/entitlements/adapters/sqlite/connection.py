"""Connections to one SQLite file, and their transactions."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Final

import apsw

from entitlements.adapters.rights import NONE, RIGHTS
from entitlements.app.ports import Locked, StoreUnavailable, WriteRejected
from entitlements.app.process.log import EventLog

log = EventLog(__name__)

OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO

SQLITE_MIN = (3, 51, 3)
"""Earlier versions can corrupt a write-ahead log that several connections reset at once."""

BUSY_SLICE_MS = 250
"""SQLite's sleeps grow while it waits; a new slice starts with short ones again."""
LOCK_WAIT_S = 3.0
"""How long another process may lock the file before a batch gives up."""

_READING: Final = (
    apsw.SQLITE_FUNCTION,
    apsw.SQLITE_PRAGMA,
    apsw.SQLITE_READ,
    apsw.SQLITE_RECURSIVE,
    apsw.SQLITE_SAVEPOINT,
    apsw.SQLITE_SELECT,
    apsw.SQLITE_TRANSACTION,
)
"""Actions that change no table. Changes of the schema are not allowed at all."""


_WITH_TABLE: Final = (
    apsw.SQLITE_ALTER_TABLE,
    apsw.SQLITE_CREATE_INDEX,
    apsw.SQLITE_CREATE_TEMP_INDEX,
    apsw.SQLITE_CREATE_TEMP_TRIGGER,
    apsw.SQLITE_CREATE_TRIGGER,
    apsw.SQLITE_DROP_INDEX,
    apsw.SQLITE_DROP_TEMP_INDEX,
    apsw.SQLITE_DROP_TEMP_TRIGGER,
    apsw.SQLITE_DROP_TRIGGER,
)
"""Changes of the schema whose second detail is the table that they concern."""
_PRAGMAS_OF_TABLES: Final = (
    "foreign_key_list",
    "index_info",
    "index_list",
    "index_xinfo",
    "table_info",
    "table_list",
    "table_xinfo",
)
"""Pragmas that only read, also with an argument."""

NOT_LET_IN: Final = (
    FileNotFoundError,
    NotADirectoryError,
    PermissionError,
    apsw.CantOpenError,
    apsw.NotADBError,
    apsw.ReadOnlyError,
)
"""Errors while opening: no such folder, no permission, or another kind of file."""


def require_sqlite(version: str) -> None:
    """Raise RuntimeError if the library is too old for a file that processes share."""
    if tuple(map(int, version.split("."))) < SQLITE_MIN:
        wanted = ".".join(map(str, SQLITE_MIN))
        raise RuntimeError(f"SQLite {version} is too old: {wanted} or newer is needed")


def create_private(path: str | os.PathLike[str]) -> None:
    """Create a missing file, readable by its owner only: it contains secrets.

    SQLite gives the same mode to the files that it puts next to it. An existing file keeps its
    mode; one that others can open is logged. Raises StoreUnavailable.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        _warn_of_others(os.fspath(path))
    except OSError as error:
        raise StoreUnavailable(f"cannot create {os.fspath(path)}: {error.strerror}") from error


@cache
def _warn_of_others(path: str) -> None:
    """Log a file that others can open, once per process."""
    for name in (path, f"{path}-wal", f"{path}-shm"):
        with suppress(OSError):
            mode = stat.S_IMODE(Path(name).stat().st_mode)
            if os.name == "posix" and mode & OTHERS:
                log.warning("database.not_private", file=name, mode=f"{mode:04o}", wanted="0600")


def connect(path: str | os.PathLike[str], *, read_only: bool = False) -> apsw.Connection:
    """Return a connection in WAL mode with durable commits. Raises StoreUnavailable."""
    flags = apsw.SQLITE_OPEN_READWRITE
    with unavailable():
        db = apsw.Connection(
            os.fspath(path),
            flags=apsw.SQLITE_OPEN_READONLY if read_only else flags,
            statementcachesize=128,
        )
        db.set_busy_timeout(BUSY_SLICE_MS)
        # Plans do not depend on bound values; otherwise each new value prepares a new plan.
        db.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
        if not read_only:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            db.execute("PRAGMA wal_autocheckpoint = 4000")
            db.execute("PRAGMA journal_size_limit = 67108864")
        db.execute("PRAGMA cache_size = -16384")
    return db


def restrict(db: apsw.Connection, others: Callable[[], bool]) -> None:
    """Limit the connection's changes to those that `RIGHTS` lists, or while ``others`` returns true
    to those of other tables.

    A cached statement is not authorized again: execute those of others without the cache.
    """

    def authorize(
        action: int, name: str | None, detail: str | None, _database: str | None, _by: str | None
    ) -> int:
        may = _others_may if others() else _may
        return apsw.SQLITE_OK if may(action, name, detail) else apsw.SQLITE_DENY

    db.authorizer = authorize


def _others_may(action: int, name: str | None, detail: str | None) -> bool:
    """Return whether a statement that is not the engine's may do it. It ends no transaction, and
    changes no table, trigger or index of the engine and no setting of its connection.
    """
    match action:
        case apsw.SQLITE_TRANSACTION | apsw.SQLITE_ATTACH | apsw.SQLITE_DETACH:
            return False
        case apsw.SQLITE_PRAGMA:
            return detail is None or name in _PRAGMAS_OF_TABLES
        case _ if action in _WITH_TABLE:
            return detail not in RIGHTS
        case _:
            return action in _READING or name not in RIGHTS


def _may(action: int, name: str | None, column: str | None) -> bool:
    rights = RIGHTS.get(name or "", NONE)
    match action:
        case apsw.SQLITE_INSERT:
            return rights.insert
        case apsw.SQLITE_UPDATE:
            return column in rights.update
        case apsw.SQLITE_DELETE:
            return rights.delete
        case _:
            return action in _READING


@contextmanager
def unavailable() -> Iterator[None]:
    """Convert SQLite's errors to those of the ports."""
    try:
        yield
    except apsw.ConstraintError as error:
        raise WriteRejected(str(error)) from error
    except apsw.BusyError as error:
        raise Locked("another process keeps the database file locked") from error
    except (
        apsw.CantOpenError,
        apsw.ConnectionClosedError,
        apsw.CorruptError,
        apsw.FullError,
        apsw.IOError,
        apsw.NoMemError,
        apsw.NotADBError,
        apsw.PermissionsError,
        apsw.ReadOnlyError,
        apsw.SchemaChangeError,
    ) as error:
        raise StoreUnavailable(str(error)) from error


@contextmanager
def writing(db: apsw.Connection, wait_s: float = LOCK_WAIT_S) -> Iterator[None]:
    """Run a transaction that holds the file's write lock from its start; roll back on errors.

    Raises Locked after ``wait_s``, rounded up to slices.
    """
    with unavailable():
        _take_lock(db, wait_s)
        with _ending(db):
            yield


@contextmanager
def savepoint(db: apsw.Connection) -> Iterator[None]:
    """Run a part of an open transaction, which is undone if it raises."""
    with unavailable():
        db.execute("SAVEPOINT entitlements")
        try:
            yield
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK TO entitlements")
            raise
        finally:
            if db.in_transaction:
                db.execute("RELEASE entitlements")


@contextmanager
def unsynced(db: apsw.Connection) -> Iterator[None]:
    """Make commits in the block cheaper: a power loss can undo them, but no commit before them."""
    db.execute("PRAGMA synchronous = NORMAL")
    try:
        yield
    finally:
        db.execute("PRAGMA synchronous = FULL")


@contextmanager
def reading(db: apsw.Connection) -> Iterator[None]:
    """Run a read transaction, which sees one moment of the database."""
    with unavailable():
        db.execute("BEGIN")
        with _ending(db):
            yield


def _take_lock(db: apsw.Connection, wait_s: float) -> None:
    deadline = time.monotonic() + wait_s
    while True:
        try:
            # It takes the write lock now: what is read next cannot change until COMMIT.
            db.execute("BEGIN IMMEDIATE")
        except apsw.BusyError:
            if time.monotonic() >= deadline:
                raise
        else:
            return


@contextmanager
def _ending(db: apsw.Connection) -> Iterator[None]:
    try:
        yield
        try:
            db.execute("COMMIT")
        except apsw.IOError as error:
            # It may still be in the write-ahead log, for the next process that opens the file.
            raise StoreUnavailable(str(error), applied="unknown") from error
    except BaseException:
        # Some errors, such as a full disk, have already ended the transaction.
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
