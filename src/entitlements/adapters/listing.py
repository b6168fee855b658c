"""Listings of growing tables: SQL for both engines, built from the filters that are given.

A listing walks the index of its most selective filter in listing order and reads at most
`LOOKED_MAX` rows per page; the other filters are applied to the rows it reads. The statements are
yielded to the engine, which sends back their rows.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from typing import Any, Final, NamedTuple, TypeVar, assert_never

import msgspec

from entitlements.adapters import columns
from entitlements.app.inbox.store import LettersQuery, RecordsQuery
from entitlements.app.paging import Page
from entitlements.app.ports import (
    AuditQuery,
    Cursor,
    GrantsQuery,
    HoldsQuery,
    ImportedOperationsQuery,
    OperationsQuery,
    SubscriptionsQuery,
    WalletsQuery,
)
from entitlements.app.webhooks.store import DeliveriesQuery
from entitlements.core.model import NEVER, REVOKED, WalletKey
from entitlements.core.reasons import GrantStatus, SubjectType
from entitlements.core.subscription import SubscriptionStatus
from entitlements.ids import is_uuid

T = TypeVar("T")
Row = Any
"""A row of either engine: values by column position."""
Place = tuple[Any, ...]
"""The position of a row in its listing."""
Statement = tuple[str, list[Any]]
Steps = Generator[Statement, list[Row], T]
Stored = Callable[[datetime], Any]
"""Maps a time to the engine's stored value."""

FIRST: Final = datetime.min.replace(tzinfo=UTC)
LOOKED_MAX: Final = 20_000
_TYPES: Final[tuple[SubjectType, ...]] = ("org", "user")
RECORDING_DELAY: Final = timedelta(days=7)
"""How much later than its id a consumption record can be written, after a database outage."""

NEWEST: Final = ("created_at", "subject_type", "subject_id", "credit_type", "seq")
"""The columns that order operations, all descending."""
PLACE: Final = (*NEWEST, "id")
WALLET: Final = "subject_type = ? AND subject_id = ? AND credit_type = ?"
_BELOW_WALLET: Final = "(subject_type, subject_id, credit_type) < (?, ?, ?)"
WALLETS: Final = """SELECT credit_type, version FROM credit_balances
    WHERE subject_type = $1 AND subject_id = $2"""
WALLETS_OF_HOLD: Final = """
    SELECT h.subject_type, h.subject_id, h.credit_type, w.version, h.created_at
    FROM (
        SELECT subject_type, subject_id, credit_type, created_at FROM holds
        WHERE id = $1 ORDER BY id LIMIT 1000
    ) AS h
    CROSS JOIN credit_balances AS w
    WHERE w.subject_type = h.subject_type AND w.subject_id = h.subject_id
      AND w.credit_type = h.credit_type"""
"""Ordered and limited, so that it uses the index of ids."""
KEYED: Final = """WITH RECURSIVE clients (client) AS (
        SELECT min(client) FROM receipts
        UNION ALL
        SELECT (SELECT min(client) FROM receipts WHERE client > c.client) FROM clients AS c
        WHERE c.client IS NOT NULL
    )
    SELECT r.outcome FROM clients AS c CROSS JOIN receipts AS r
    WHERE r.client = c.client AND r.key = $1"""
"""Receipts of a key, by their primary key: one look-up per client."""
_IS_BEFORE: Final = """(
            SELECT created_at {below} $5 FROM credit_operations
            WHERE subject_type = $2 AND subject_id = $3 AND credit_type = $4
              AND seq = (p.low + p.high + 1) / 2)"""
BEFORE: Final = f"""WITH RECURSIVE place (low, high) AS (
        SELECT CAST(0 AS bigint), CAST($1 AS bigint)
        UNION ALL
        SELECT CASE WHEN {_IS_BEFORE} THEN (p.low + p.high + 1) / 2 ELSE p.low END,
               CASE WHEN {_IS_BEFORE} THEN p.high ELSE (p.low + p.high - 1) / 2 END
        FROM place AS p WHERE p.low < p.high
    )
    SELECT max(low) FROM place"""
"""The last operation of a wallet before a time, by bisection: a wallet's numbers have no gaps, and
its times never decrease. A scalar subquery per step uses the key; a join might scan all rows.
"""


class Condition(NamedTuple):
    """A part of a WHERE clause; each ``?`` stands for one of ``values``."""

    text: str
    values: tuple[Any, ...] = ()


class Walk(NamedTuple):
    """The rows to read, newest first, in the order of an index. ``place`` names a row's position.

    ``end`` finds the last row that may be read, if more rows can follow it.
    """

    table: str
    columns: Sequence[str]
    place: Sequence[str]
    path: Sequence[Condition]
    order: str
    end: Statement | None

    @classmethod
    def unbounded(
        cls,
        table: str,
        columns: Sequence[str],
        place: Sequence[str],
        path: Sequence[Condition],
        order: str,
    ) -> Walk:
        """Return a walk along a path with any number of rows."""
        values: list[Any] = []
        rows = f"SELECT {', '.join(place)} FROM {table}{_where(path, values)} ORDER BY {order}"
        end = f"{rows} LIMIT 1 OFFSET {LOOKED_MAX - 1}"
        return cls(table, columns, place, path, order, (end, values))


class Span(NamedTuple):
    """The part of the ledger to list: since a time, until a time, after a position."""

    calendar: tuple[Any, Any]
    """The earliest and the latest time, used without filters: a search with two bounds always uses
    the index of times.
    """
    since: Any
    until: Any
    after: Place | None

    def conditions(self) -> list[Condition]:
        """Return the conditions; the position also by its first column alone, for its index."""
        first, last = self.calendar
        bounds = [
            Condition("created_at >= ?", (first if self.since is None else self.since,)),
            Condition("created_at < ?", (last if self.until is None else self.until,)),
        ]
        if self.after is not None:
            marks = ", ".join("?" * len(NEWEST))
            bounds += [
                Condition("created_at <= ?", self.after[:1]),
                Condition(f"({', '.join(NEWEST)}) < ({marks})", self.after[: len(NEWEST)]),
            ]
        return bounds


class Found(NamedTuple):
    """Rows of one walk. ``end``: the last position that was read; None if nothing is left."""

    rows: list[Row]
    end: Place | None


class Listed(NamedTuple):
    """Rows of a page, newest first. ``next``: position of its last row; None on the last page."""

    rows: list[Any]
    next: Place | None

    def page(self, read: Callable[[Any], T]) -> Page[T, str]:
        """Return the page with decoded rows, for listings whose positions begin with an id."""
        return Page(
            rows=[read(row) for row in self.rows],
            next=str(self.next[0]) if self.next is not None else None,
        )


def operations(query: OperationsQuery, stored: Stored) -> Steps[Listed]:
    """List operations, newest first by time, wallet and number, all descending."""
    named = (query.hold_id, query.group_id)
    if not all(one is None or is_uuid(one) for one in named):
        return Listed([], None)  # nothing has such an id
    after = (yield from _place_of(query.after, stored)) if query.after else None
    span = Span(
        (stored(FIRST), stored(NEVER)),
        stored(query.since) if query.since else None,
        stored(query.until) if query.until else None,
        after,
    )
    walks = yield from _walks(query, span)
    filters = _given(
        ("subject_type = ?", query.subject_type),
        ("subject_id = ?", query.subject_id),
        ("correlation_id = ?", query.correlation_id),
        ("metric = ?", query.metric),
        ("operation_status = ?", query.status),
        ("user_id = ?", query.user_id),
        ("org_id = ?", query.org_id),
        ("batch_id = ?", query.batch_id),
        ("hold_id = ?", query.hold_id),
        ("group_id = ?", query.group_id),
        ("kind = ?", query.kind),
    )
    return (yield from _merged(walks, [*filters, *span.conditions()], query.limit))


def _place_of(cursor: Cursor, stored: Stored) -> Steps[Place]:
    """Return the position of the operation that ended the previous page."""
    (found,) = (
        yield f"SELECT {', '.join(PLACE)} FROM credit_operations WHERE id = $1", [cursor.id]
    ) or [(stored(cursor.created_at), "", "", "", 0)]
    return tuple(found)


def _walks(query: OperationsQuery, span: Span) -> Steps[list[Walk]]:
    """Return walks by the first of these filters that is given, or by the subject if it has few
    operations; without any of them, by time alone.
    """
    if query.key is not None:
        keyed = yield KEYED, [f"k:{query.key}"]
        ids = [msgspec.json.decode(outcome).get("operation_id") for (outcome,) in keyed]
        return [_by_id(one) for one in ids if one is not None]
    wallets = None
    if query.subject_id is not None:
        wallets = yield from _wallets(query.subject_type, query.subject_id)
    is_small = wallets is not None and sum(wallets.values()) <= LOOKED_MAX
    for name, value in (("group_id", query.group_id), ("correlation_id", query.correlation_id)):
        if value is not None and not is_small:
            return [_by_time(span, Condition(f"{name} = ?", (value,)))]
    if query.hold_id is not None:
        return (yield from _of_hold(query.hold_id, span))
    if wallets is not None:
        return (yield from _of_wallets(wallets, span))
    if query.status == "failed":
        return [_by_time(span, Condition("operation_status = 'failed'"))]
    return [_by_time(span)]


def _by_time(span: Span, *path: Condition) -> Walk:
    order = ", ".join(f"{column} DESC" for column in NEWEST)
    path = (*path, *span.conditions())
    return Walk.unbounded("credit_operations", columns.OPERATION, PLACE, path, order)


def _by_id(operation_id: str) -> Walk:
    path = [Condition("id = ?", (operation_id,))]
    return Walk("credit_operations", columns.OPERATION, PLACE, path, "id", None)


def _of_hold(hold_id: str, span: Span) -> Steps[list[Walk]]:
    """Walk the hold's wallets from the time it was taken; a reversal can name it at any time."""
    taken = yield WALLETS_OF_HOLD, [hold_id]
    wallets = {WalletKey(*row[:3]): row[3] for row in taken}
    since = [at for at in (span.since, *(row[4] for row in taken)) if at is not None]
    return (yield from _of_wallets(wallets, span._replace(since=max(since, default=None))))


def _wallets(subject_type: SubjectType | None, subject_id: str) -> Steps[dict[WalletKey, int]]:
    """Return the number of operations of each wallet of the subject, of both types by default."""
    found: dict[WalletKey, int] = {}
    for given in (subject_type,) if subject_type else _TYPES:
        rows = yield WALLETS, [given, subject_id]
        found |= {WalletKey(given, subject_id, credit_type): n for credit_type, n in rows}
    return found


def _of_wallets(wallets: Mapping[WalletKey, int], span: Span) -> Steps[list[Walk]]:
    """Walk each wallet by number; together they read no more rows than a page may."""
    share = max(1, LOOKED_MAX // max(1, len(wallets)))
    walks = []
    for key, version in wallets.items():
        high, low = version, 0
        if span.after is not None:
            high = yield from _high_before(key, high, span.after)
        if span.until is not None:
            high = yield from _high(key, high, "<", span.until)
        if span.since is not None:
            low = yield from _high(key, high, "<", span.since)
        walks.append(_by_number(key, low, high, share))
    return walks


def _high_before(key: WalletKey, high: int, after: Place) -> Steps[int]:
    """Return the highest ``seq`` of the wallet that is listed after a position."""
    place = WalletKey(*after[1:4])
    if key == place:
        return int(after[4]) - 1
    return (yield from _high(key, high, "<=" if key < place else "<", after[0]))


def _high(key: WalletKey, high: int, below: str, at: Any) -> Steps[int]:
    """Return the wallet's last operation below a time, of those up to ``high``."""
    ((found,),) = yield BEFORE.format(below=below), [high, *key, at]
    return int(found)


def _by_number(key: WalletKey, low: int, high: int, share: int) -> Walk:
    """Walk a wallet's operations with ``low < seq <= high``, the newest ``share`` of them."""
    lowest = max(low, high - share)
    above = [Condition(WALLET, key), Condition("seq > ?", (lowest,))]
    values: list[Any] = []
    first = f"SELECT {', '.join(PLACE)} FROM credit_operations{_where(above, values)}"
    return Walk(
        "credit_operations",
        columns.OPERATION,
        PLACE,
        [*above, Condition("seq <= ?", (high,))],
        "seq DESC",
        (f"{first} ORDER BY seq LIMIT 1", values) if lowest > low else None,
    )


def holds(query: HoldsQuery) -> Steps[Listed]:
    """List holds, newest first by id, which is ordered by time; parts of a hold are adjacent."""
    after = _given(("id < ?", query.after))
    filters = _given(("subject_type = ?", query.subject_type), ("status = ?", query.status))
    if query.subject_id is None:
        is_open = [Condition("status = 'open'")] if query.status == "open" else []
        paths = [[*is_open, *after]]
    else:
        wallets = yield from _wallets(query.subject_type, query.subject_id)
        paths = [[Condition(WALLET, key), *after] for key in wallets]
    walks = [Walk.unbounded("holds", columns.HOLD, ("id",), path, "id DESC") for path in paths]
    return (yield from _merged(walks, filters, query.limit))


def grants(query: GrantsQuery, stored: Stored) -> Steps[Listed]:
    """List grants, newest first by id, which is ordered by time."""
    after = _given(("id < ?", query.after))
    filters = _given(
        ("subject_type = ?", query.subject_type),
        ("subject_id = ?", query.subject_id),
        ("entitlement_type = ?", query.entitlement_type),
    )
    if query.status is not None:
        filters.append(_has_status(query.status, stored(query.now)))
    if query.reference_id is not None:
        paths = [[Condition("reference_id = ?", (query.reference_id,)), *after]]
    elif query.subject_id is not None:
        wallets = yield from _wallets(query.subject_type, query.subject_id)
        paths = [[Condition(WALLET, key), *after] for key in wallets]
    else:
        paths = [after]
    walks = [
        Walk.unbounded("grants", columns.STORED_GRANT, ("id",), path, "id DESC") for path in paths
    ]
    return (yield from _merged(walks, filters, query.limit))


def subscriptions(query: SubscriptionsQuery, stored: Stored) -> Steps[Listed]:
    """List subscriptions, newest first by the id of their own grant, which is ordered by time."""
    after = _given(("grant_id < ?", query.after))
    of_subject = _given(
        ("subject_type = ?", query.subject_type), ("subject_id = ?", query.subject_id)
    )
    of_plan = _given(("plan_id = ?", query.plan_id))
    path = (
        of_subject if query.subject_id is not None and query.subject_type is not None else of_plan
    )
    filters = [*of_subject, *of_plan]
    if query.status is not None:
        filters.append(_is_subscription(query.status, stored(query.now)))
    walk = Walk.unbounded(
        "subscriptions", columns.SUBSCRIPTION, ("grant_id",), [*path, *after], "grant_id DESC"
    )
    return (yield from _merged([walk], filters, query.limit))


def _is_subscription(status: SubscriptionStatus, now: Any) -> Condition:
    """Return the condition of `Subscription.at`: a cancellation may not be recorded yet."""
    is_over = "(ended_at IS NULL AND coalesce(cancels_at <= ?, false))"
    if status is SubscriptionStatus.CANCELED:
        return Condition(f"(status = ? OR {is_over})", (status.value, now))
    return Condition(f"(status = ? AND NOT {is_over})", (status.value, now))


def wallets(query: WalletsQuery) -> Steps[Listed]:
    """List wallets by their key, descending."""
    path = _given(("subject_type = ?", query.subject_type), ("subject_id = ?", query.subject_id))
    after = [] if query.after is None else [Condition(_BELOW_WALLET, query.after)]
    walk = Walk.unbounded(
        "credit_balances",
        columns.WALLET[:3],
        columns.WALLET[:3],
        [*path, *after],
        "subject_type DESC, subject_id DESC, credit_type DESC",
    )
    filters = _given(("credit_type = ?", query.credit_type))
    return (yield from _merged([walk], filters, query.limit))


def _has_status(status: GrantStatus, now: Any) -> Condition:
    """Return the condition of `Grant.status`."""
    is_over = "(ended_at IS NOT NULL OR coalesce(expires_at <= ?, false))"
    gives = (
        "(NOT started OR remaining > 0 OR unlimited OR consumption = 'none'"
        " OR coalesce(renews_at <= ?, false))"
    )
    match status:
        case GrantStatus.REVOKED:
            return Condition(f"end_reason = '{REVOKED}'")
        case GrantStatus.EXPIRED:
            return Condition(f"({is_over} AND coalesce(end_reason, '') <> '{REVOKED}')", (now,))
        case GrantStatus.SCHEDULED:
            return Condition(f"(NOT {is_over} AND NOT started AND granted_at > ?)", (now, now))
        case GrantStatus.ACTIVE:
            text = f"(NOT {is_over} AND (started OR granted_at <= ?) AND {gives})"
            return Condition(text, (now, now, now))
        case GrantStatus.EXHAUSTED:
            return Condition(f"(NOT {is_over} AND NOT {gives})", (now, now))
        case _:
            assert_never(status)


def records(query: RecordsQuery, stored: Stored) -> Steps[Listed]:
    """List consumption records, newest first by id, which is ordered by time."""
    since = stored(query.since) if query.since else None
    until = stored(query.until) if query.until else None
    of_user = _given(("user_id = ?", query.user_id))
    of_conflicts = query.result == "conflict" and query.user_id is None
    path = [Condition("outcome = 'conflict'")] if of_conflicts else of_user
    after = _given(("id < ?", query.after))
    walk = Walk.unbounded(
        "consumption_records", columns.RECORD, ("id", "recorded_at"), [*path, *after], "id DESC"
    )
    filters = _given(
        ("org_id = ?", query.org_id),
        ("resource_type = ?", query.metric),
        ("outcome = ?", query.result),
        ("recorded_at >= ?", since),
        ("recorded_at < ?", until),
    )
    found = yield from _merged([walk], filters, query.limit)
    first = max(query.since or FIRST, FIRST + RECORDING_DELAY) - RECORDING_DELAY
    if found.next is not None and found.next[1] < stored(first):
        return found._replace(next=None)
    return found


def audit(query: AuditQuery, stored: Stored) -> Steps[Listed]:
    """List audit entries, newest first by time, then id."""
    path = _given(
        ("at >= ?", stored(query.since) if query.since else None),
        ("at < ?", stored(query.until) if query.until else None),
    )
    if query.after is not None:
        at = stored(query.after.created_at)
        path += [Condition("at <= ?", (at,)), Condition("(at, id) < (?, ?)", (at, query.after.id))]
    walk = Walk.unbounded("audit_log", columns.AUDIT, ("at", "id"), path, "at DESC, id DESC")
    filters = _given(
        ("actor = ?", query.actor),
        ("client = ?", query.client),
        ("action = ?", query.action),
        ("subject_type = ?", query.subject_type),
        ("subject_id = ?", query.subject_id),
        ("correlation_id = ?", query.correlation_id),
    )
    return (yield from _merged([walk], filters, query.limit))


def imported_operations(query: ImportedOperationsQuery, stored: Stored) -> Steps[Listed]:
    """List an older service's operations, newest first by time, then id."""
    if query.subject_id is not None:
        types = (query.subject_type,) if query.subject_type else _TYPES
        starts = [{"subject_type": one, "subject_id": query.subject_id} for one in types]
    elif query.correlation_id is not None:
        starts = [{"correlation_id": query.correlation_id}]
    else:
        starts = [{}]
    walks = [
        Walk.unbounded(
            "imported_operations",
            columns.IMPORTED_OPERATION,
            ("created_at", "id"),
            _imported_path(start, query, stored),
            "created_at DESC, id DESC",
        )
        for start in starts
    ]
    filters = _given(
        ("subject_type = ?", query.subject_type),
        ("correlation_id = ?", query.correlation_id),
        ("metric = ?", query.metric),
        ("operation_status = ?", query.status),
        ("batch_id = ?", query.batch_id),
    )
    return (yield from _merged(walks, filters, query.limit))


def _imported_path(
    start: Mapping[str, Any], query: ImportedOperationsQuery, stored: Stored
) -> list[Condition]:
    """Return the conditions of the index that begins with the columns of ``start``. Their values
    are part of each bound, and one bound is always given: else the index of times would fit as
    well.
    """

    def bound(below: str, *at: Any) -> Condition:
        names = (*start, "created_at", "id")[: len(start) + len(at)]
        marks = ", ".join("?" * len(names))
        return Condition(f"({', '.join(names)}) {below} ({marks})", (*start.values(), *at))

    path = [Condition(f"{name} = ?", (value,)) for name, value in start.items()]
    path.append(bound("<", stored(query.until or NEVER)))
    if query.since is not None:
        path.append(bound(">=", stored(query.since)))
    if query.after is not None:
        path.append(bound("<", stored(query.after.created_at), query.after.id))
    return path


def dead_letters(query: LettersQuery) -> Steps[Listed]:
    """List dead letters, newest first by id, which is ordered by time."""
    path = [Condition("state = 'open'")] if query.state == "open" else []
    after = _given(("id < ?", query.after))
    walk = Walk.unbounded("dead_letters", columns.LETTER, ("id",), [*path, *after], "id DESC")
    filters = _given(
        ("state = ?", query.state), ("topic = ?", query.topic), ("reason = ?", query.reason)
    )
    return (yield from _merged([walk], filters, query.limit))


def deliveries(query: DeliveriesQuery) -> Steps[Listed]:
    """List deliveries, newest first by event id, which is ordered by time."""
    path = [Condition("endpoint_id = ?", (query.endpoint_id,))]
    if query.state == "failed":
        path.append(Condition("state = 'failed'"))
    after = _given(("event_id < ?", query.after))
    walk = Walk.unbounded(
        "webhook_deliveries", columns.DELIVERY, ("event_id",), [*path, *after], "event_id DESC"
    )
    filters = _given(("state = ?", query.state))
    return (yield from _merged([walk], filters, query.limit))


def _given(*conditions: tuple[str, Any]) -> list[Condition]:
    """Return the conditions that have a value."""
    return [Condition(text, (value,)) for text, value in conditions if value is not None]


def _merged(walks: Iterable[Walk], filters: Sequence[Condition], limit: int) -> Steps[Listed]:
    """Merge the walks: the newest rows of all, down to the newest position where one ended."""
    placed: list[tuple[Place, Row]] = []
    horizon: Place | None = None
    for walk in walks:
        found = yield from _look(walk, filters, limit)
        placed += [(_place(walk, row), row) for row in found.rows]
        if found.end is not None:
            horizon = max(horizon, found.end) if horizon is not None else found.end
    placed.sort(key=itemgetter(0), reverse=True)
    shown = [one for one in placed if horizon is None or one[0] >= horizon]
    if len(shown) > limit:
        shown = shown[:limit]
        horizon = shown[-1][0]
    return Listed([row for _, row in shown], horizon)


def _look(walk: Walk, filters: Sequence[Condition], limit: int) -> Steps[Found]:
    """Read up to one row more than wanted. The subquery with a LIMIT keeps the filters from making
    the planner choose another index for the walk.
    """
    values: list[Any] = []
    names = ", ".join(walk.columns)
    path = _where(walk.path, values)
    looked = f"SELECT {names} FROM {walk.table}{path} ORDER BY {walk.order} LIMIT {LOOKED_MAX}"
    wanted = _where([one for one in filters if one not in walk.path], values)
    values.append(limit + 1)
    rows = yield f"SELECT {names} FROM ({looked}) AS looked{wanted} LIMIT ${len(values)}", values
    if len(rows) > limit:
        return Found(rows, _place(walk, rows[-1]))
    end = (yield walk.end) if walk.end is not None else []
    return Found(rows, tuple(end[0]) if end else None)


def _place(walk: Walk, row: Row) -> Place:
    return tuple(row[walk.columns.index(column)] for column in walk.place)


def _where(conditions: Iterable[Condition], values: list[Any]) -> str:
    """Return the WHERE clause; its parameters are numbered after those of the values so far."""
    texts = []
    for condition in conditions:
        first, *others = condition.text.split("?")
        text = first
        for value, other in zip(condition.values, others, strict=True):
            values.append(value)
            text += f"${len(values)}{other}"
        texts.append(text)
    return f" WHERE {' AND '.join(texts)}" if texts else ""
