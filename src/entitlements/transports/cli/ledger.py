"""Commands on wallets: accounts, adjustments, balances, the ledger."""

from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import sha256
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from cyclopts import App, Parameter

from entitlements.app.engine import Engine
from entitlements.app.ports import ImportedOperation, ImportedOperationsQuery, OperationsQuery
from entitlements.app.process.clock import utc_now
from entitlements.contracts import names
from entitlements.core.commands import Adjust, AnyCommand, OpenAccount, Origin
from entitlements.core.model import UNITS, Expiry, Operation, Subject, WalletKey
from entitlements.core.outcomes import AccountOpened, Adjusted, Outcome, Refusal
from entitlements.core.policy import AMOUNT_MAX, DEFAULT_CREDIT_TYPE
from entitlements.core.reasons import OperationKind
from entitlements.transports.cli.asking import (
    CLIENT,
    RECEIPTS_S,
    Actor,
    Key,
    full_id,
    kept,
    text_filter,
)
from entitlements.transports.cli.listings import listed
from entitlements.transports.cli.output import (
    AsJson,
    Database,
    Failed,
    Id,
    LongLimit,
    Misused,
    say,
    show_json,
    show_table,
    shown_time,
    whole,
)
from entitlements.transports.cli.program import Program
from entitlements.transports.cli.tree import COMMANDS

OPERATIONS = (
    "at", "wallet", "seq", "kind", "metric", "units", "delta", "balance", "owed", "id",
)  # fmt: skip

IMPORTED_OPERATIONS = (
    "at", "subject", "credit_type", "metric", "amount", "status", "consumed_from", "batch", "id",
)  # fmt: skip

Injected = Annotated[Program, Parameter(parse=False)]
SubjectName = Annotated[str, Parameter(help="org:ID or user:ID")]
CreditType = Annotated[str, Parameter(help="The credit type.")]

O = TypeVar("O", bound=Outcome)  # noqa: E741 - an outcome


async def open_account(
    subject: SubjectName,
    *,
    actor: Actor,
    program: Injected,
    database: Database = None,
    json: AsJson = False,
) -> None:
    """Open an account; its signup bonus is granted once."""
    holder = subject_of(subject, names.subject_id)
    async with program.open(database, may_create=True) as system:
        engine = system.engine
        command = OpenAccount(
            id=engine.new_id(), origin=origin(engine, actor, None), subject=holder
        )
        opened = await submitted(engine, command, AccountOpened)
    if json:
        show_json({"subject": str(holder), **msgspec.to_builtins(opened)})
    elif opened.created:
        say(f"{holder} is open, with a bonus of {opened.bonus}: balance {opened.new_balance}")
    else:
        say(f"{holder} was open already: balance {opened.new_balance}")


async def adjust(
    subject: SubjectName,
    amount: Annotated[int, Parameter(allow_leading_hyphen=True, converter=whole)],
    *,
    reason: str,
    actor: Actor,
    program: Injected,
    credit_type: CreditType = DEFAULT_CREDIT_TYPE,
    expires_at: datetime | None = None,
    key: Key = None,
    database: Database = None,
    json: AsJson = False,
) -> None:
    """Add credits, or with a negative amount remove them; never below zero.

    Parameters
    ----------
    amount
        Whole credits, not 0.
    reason
        The reason, for the ledger and the audit log.
    expires_at
        The expiry of added credits; UTC unless it has a time zone.
    """
    if amount == 0 or abs(amount) > AMOUNT_MAX:
        raise Misused(f"AMOUNT must be a whole number from 1 to {AMOUNT_MAX}, or its negative")
    if expires_at is not None and amount < 0:
        raise Misused("--expires-at requires a positive AMOUNT")
    expiry = aware(expires_at)
    holder = subject_of(subject)
    wallet = WalletKey(*holder, kept("--credit-type", names.metric, credit_type))
    async with program.open(database, may_create=True) as system:
        engine = system.engine
        if not await engine.store.reads.wallet_keys(*holder):
            subject_of(subject, names.subject_id)
        command = Adjust(
            id=engine.new_id(),
            origin=origin(
                engine, actor, key, "adjust", *wallet, amount, reason, *filter(None, (expiry,))
            ),
            wallet=wallet,
            amount=amount,
            reason=kept("--reason", names.reason, reason),
            expires_at=expiry,
        )
        adjusted = await submitted(engine, command, Adjusted)
    if json:
        show_json({"subject": str(wallet.subject), **msgspec.to_builtins(adjusted)})
        return
    again = " (replayed)" if adjusted.replayed else ""
    say(f"{wallet.subject} has {adjusted.new_balance} {credit_type}{again}")


async def balance(
    *subjects: SubjectName, program: Injected, database: Database = None, json: AsJson = False
) -> None:
    """Show the balances of subjects, by credit type."""
    if not subjects:
        raise Misused("at least one subject is required, as org:ID or user:ID")
    holders = [subject_of(name) for name in subjects]
    async with program.open(database) as system:
        rows = [row for holder in holders for row in await _holdings(system.engine, holder)]
    columns = ("subject", "credit_type", "balance", "held", "available", "soonest_expiry")
    if json:
        show_json(
            [
                dict(zip(columns, (*row, expiry and expiry._asdict()), strict=True))
                for *row, expiry in rows
            ]
        )
    else:
        show_table(columns, [(*row, _lapse(expiry)) for *row, expiry in rows], empty="no credits")


async def operations(
    *,
    program: Injected,
    subject: SubjectName | None = None,
    correlation_id: str | None = None,
    idempotency_key: str | None = None,
    hold: str | None = None,
    group: str | None = None,
    metric: str | None = None,
    status: Literal["completed", "failed", "pending"] | None = None,
    kind: OperationKind | None = None,
    user: str | None = None,
    org: str | None = None,
    batch: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    imported: Annotated[bool, Parameter(negative="")] = False,
    limit: LongLimit = 100,
    database: Database = None,
    json: AsJson = False,
) -> None:
    """List the ledger, newest first; omitted filters match all.

    Parameters
    ----------
    idempotency_key
        The key of a request, of any client, for as long as it is stored.
    since
        From this time on; UTC unless it has a time zone. By default filters look back 31 days,
        unless a subject, correlation, hold or key is given or the status is failed.
    until
        Before this time.
    imported
        List the history of an older service instead, which `import origin` stored.
    """
    from entitlements.app.operations.ledger import operation_item, within_window

    holder = subject_of(subject) if subject is not None else None
    query = OperationsQuery(
        subject_type=holder.type if holder else None,
        subject_id=holder.id if holder else None,
        correlation_id=text_filter("--correlation-id", correlation_id),
        key=text_filter("--idempotency-key", idempotency_key),
        hold_id=text_filter("--hold", hold),
        group_id=text_filter("--group", group),
        metric=text_filter("--metric", metric),
        status=status,
        kind=kind,
        user_id=None if user is None else kept("--user", names.stored_id, user),
        org_id=None if org is None else kept("--org", names.stored_id, org),
        batch_id=text_filter("--batch", batch),
        since=aware(since),
        until=aware(until),
        limit=limit,
    )
    if imported:
        await _imported_operations(program, query, database, json=json)
        return
    query = within_window(query, utc_now)
    async with program.open(database) as system:
        found = await listed(system.engine.store.reads.operations, query)
    if json:
        show_json([operation_item(operation) for operation in found])
    else:
        show_table(OPERATIONS, map(_line, found), empty="no operations")


async def _imported_operations(
    program: Program, query: OperationsQuery, database: str | None, *, json: bool
) -> None:
    from entitlements.app.operations.ledger import imported_item

    if any((query.key, query.hold_id, query.kind, query.user_id, query.org_id)):
        raise Misused(
            "--imported cannot be combined with --idempotency-key, --hold, --kind, --user and --org"
        )
    asked = {name: getattr(query, name) for name in ImportedOperationsQuery.__struct_fields__}
    async with program.open(database) as system:
        found = await listed(
            system.engine.store.imports.operations, ImportedOperationsQuery(**asked)
        )
    if json:
        show_json([imported_item(one) for one in found])
    else:
        show_table(IMPORTED_OPERATIONS, map(_imported_line, found), empty="no operations")


async def operation(
    operation: str, *, program: Injected, database: Database = None, json: AsJson = False
) -> None:
    """Show one operation, by its id or the start of its id."""
    from entitlements.app.operations.ledger import operation_item

    async with program.open(database) as system:
        store = system.engine.store
        found = await store.reads.operation(
            await full_id(store.reads.operation_ids, "operation", operation)
        )
    if found is None:
        raise Failed(f"no such operation: {operation}")
    if json:
        show_json(operation_item(found))
    else:
        show_table(OPERATIONS, [_line(found)], empty="")


def subject_of(name: str, rule: Callable[[str], str] = names.stored_id) -> Subject:
    """Return the subject of `org:ID` or `user:ID`; the id itself may contain colons."""
    kind, _, raw = name.partition(":")
    if kind not in {"org", "user"}:
        raise Misused(f"{name!r}: a subject must be org:ID or user:ID")
    return Subject("org" if kind == "org" else "user", kept(f"{name!r}: the id", rule, raw))


async def _holdings(
    engine: Engine, holder: Subject
) -> list[tuple[str, str, int, int, int, Expiry | None]]:
    known = await engine.store.reads.wallet_keys(*holder)
    keys = [key for key in known if not key.credit_type.startswith(UNITS)]
    held = await engine.reader.holdings(keys or [WalletKey(*holder, DEFAULT_CREDIT_TYPE)])
    return [
        (str(holder), key.credit_type, wallet.balance, wallet.held, wallet.available, expiry)
        for key, (wallet, expiry) in held.items()
    ]


def _lapse(expiry: Expiry | None) -> str | None:
    return expiry and f"{expiry.credits} at {shown_time(expiry.at)}"


async def submitted(engine: Engine, command: AnyCommand, expected: type[O]) -> O:
    outcome = await engine.committer.submit(command)
    if isinstance(outcome, Refusal):
        raise Failed(outcome.detail)
    assert isinstance(outcome, expected), outcome
    return outcome


def origin(engine: Engine, actor: str, key: str | None, *words: object) -> Origin:
    """Return the origin, named by the caller's key; without a key the command is unique."""
    command_id = engine.new_id()
    return Origin(
        actor=actor,
        client=CLIENT,
        correlation_id=command_id,
        key=f"u:{command_id}" if key is None else f"k:{kept('--key', names.metric, key)}",
        fingerprint=sha256(msgspec.json.encode(words)).hexdigest(),
        lifetime_s=RECEIPTS_S,
    )


def aware(at: datetime | None) -> datetime | None:
    return at.replace(tzinfo=UTC) if at is not None and at.tzinfo is None else at


def _line(operation: Operation) -> tuple[Any, ...]:
    return (
        operation.created_at,
        f"{operation.wallet.subject}/{operation.wallet.credit_type}",
        operation.seq,
        operation.kind.value,
        operation.metric,
        operation.quantity or None,
        operation.delta,
        operation.balance_after,
        operation.owed or None,
        Id(operation.id),
    )


def _imported_line(operation: ImportedOperation) -> tuple[Any, ...]:
    return (
        operation.created_at,
        str(operation.subject),
        operation.credit_type,
        operation.metric,
        operation.amount,
        operation.status,
        operation.consumed_from,
        operation.batch_id,
        operation.id,
    )


operations_tree = App(name="operations", help_epilogue=COMMANDS["operations"].epilogue)
operations_tree.default(operations)
operations_tree.command(operation, name="show", help_epilogue=COMMANDS["operations show"].epilogue)
