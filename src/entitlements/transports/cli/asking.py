"""Requests of CLI commands to the use cases, on behalf of the command's actor."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any, Final, TypeVar

from cyclopts import Parameter

from entitlements.app.access.keys import Act, Caller, Role
from entitlements.app.operations.request import Request
from entitlements.app.process.clock import utc_now
from entitlements.contracts import errors, kinds, names
from entitlements.contracts.fields import visible_key
from entitlements.contracts.names import InvalidName
from entitlements.contracts.verbs import Verb
from entitlements.ids import is_uuid, span, uuid7
from entitlements.transports.cli.output import ACTOR_VARIABLE, Failed, Misused
from entitlements.transports.cli.program import Program

CLIENT: Final = "cli"
ACTOR_MAX: Final = 100
RECEIPTS_S: Final = 30 * 86_400
G = TypeVar("G")
K = TypeVar("K")


def _actor(_: type, tokens: Any) -> str:
    try:
        return names.text(tokens[0].value, at_most=ACTOR_MAX)
    except InvalidName as error:
        raise ValueError(f"--as {error}") from None


Actor = Annotated[
    str,
    Parameter(
        name="--as",
        env_var=ACTOR_VARIABLE,
        converter=_actor,
        help="The actor in the ledger and the audit log; default: the login name, on a terminal.",
    ),
]
Key = Annotated[
    str | None,
    Parameter(help="Idempotency key: repeating the command with the same key changes nothing."),
]
Reason = Annotated[str | None, Parameter(help="The reason, for the audit log.")]


def kept(option: str, rule: Callable[[G], K], given: G) -> K:
    """Return the value by a rule of `names`. Raises Misused."""
    return kinds.kept(option, rule, given, lambda field, why: Misused(f"{field} {why}"))


def text_filter(option: str, text: str | None) -> str | None:
    return None if text is None else kept(option, names.text, text)


def act_of(actor: str, reason: str | None) -> Act:
    """Return the audit context of an act that happens now. Raises Misused."""
    return Act(
        actor=actor,
        client=CLIENT,
        at=utc_now(),
        new_id=uuid7,
        correlation_id=uuid7(),
        reason=kept("--reason", names.optional_reason, reason),
    )


@asynccontextmanager
async def asking(
    program: Program,
    database: str | None,
    actor: str,
    verb: Verb[Any],
    key: str | None = None,
    *,
    may_create: bool = False,
    limited: bool = False,
) -> AsyncIterator[Request]:
    """Open the database for one request. Raises Misused and Failed for its refusals."""
    try:
        key = None if key is None else visible_key("--key", key)
        async with program.open(database, may_create=may_create, limited=limited) as system:
            caller = Caller(actor, CLIENT, frozenset(Role))
            yield Request(system.engine, verb.path, caller, key, is_its_own=True)
    except errors.InvalidRequest as error:
        raise (Misused if error.code == "validation_failed" else Failed)(error.detail) from None
    except (errors.Refused, errors.Unavailable) as error:
        raise Failed(error.detail) from None


async def name_operation(request: Request, start: str) -> None:
    """Set the operation of the request's path by the start of its id. Raises Failed."""
    found = await full_id(request.engine.store.reads.operation_ids, "operation", start)
    request.params = {"operation_id": found}


async def full_id(
    between: Callable[[str, str], Awaitable[list[str]]], what: str, start: str
) -> str:
    """Return the id that starts so. ``between`` finds ids of ``what``. Raises Failed."""
    if is_uuid(start):
        return start
    bounds = span(start)
    found = await between(*bounds) if bounds else []
    if not found:
        raise Failed(f"no such {what}: {start}")
    if len(found) > 1:
        raise Failed(f"several {what}s begin with {start}: give more of the id")
    return found[0]
