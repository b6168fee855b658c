"""Several commands in one request, executed separately or atomically."""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from msgspec import Struct

from entitlements.app.operations.request import Request, done
from entitlements.contracts.errors import STATUS
from entitlements.contracts.fields import visible_key
from entitlements.core.commands import Item, Together
from entitlements.core.outcomes import DoneTogether, Outcome, Refusal

T = TypeVar("T", bound=Outcome)


def where(number: int | None) -> str:
    """Return the prefix of an item's fields in errors; empty for a single command (None)."""
    return f"items[{number}]." if number is not None else ""


def given(request: Request, number: int | None) -> Struct:
    """Return the body of a single command (None) or of an item, as sent."""
    body: Struct = request.given if number is None else request.given.items[number]
    return body


def item_key(request: Request, number: int, own: str | None) -> str | None:
    """Return the item's own key, or the request's key with the item's index."""
    if own is not None:
        return visible_key(f"{where(number)}idempotency_key", own)
    return f"{request.key}#{number}" if request.key is not None else None


def log_subjects(request: Request, users: Iterable[str | None], orgs: Iterable[str | None]) -> None:
    """Set the user and the org of the log line if all items have the same one."""
    user, org = set(users), set(orgs)
    request.ids = (user.pop() if len(user) == 1 else None, org.pop() if len(org) == 1 else None)


async def submit(
    request: Request,
    commands: Sequence[Item],
    expected: type[T],
    *,
    atomic: bool,
) -> list[T | Refusal] | Refusal:
    """Return the outcome of each command; with ``atomic`` a single refusal if any is refused.

    Raises if a command was not decided. By then no command of the request is running, so the
    request can be repeated.
    """
    committer = request.committer
    if atomic:
        whole = Together(
            id=request.engine.new_id(), origin=commands[0].origin, items=tuple(commands)
        )
        answer = await committer.submit(whole)
        if isinstance(answer, Refusal):
            return answer
        return [_expected(result, expected) for result in done(answer, DoneTogether).results]
    outcomes = await asyncio.gather(*map(committer.submit, commands), return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    return [_expected(outcome, expected) for outcome in outcomes]


def _expected(outcome: object, expected: type[T]) -> T | Refusal:
    assert isinstance(outcome, expected | Refusal), outcome
    return outcome


def refusal(refused: Refusal) -> dict[str, Any]:
    """Return the fields of a result whose item was refused."""
    return {
        "success": False,
        "operation_id": None,
        "replayed": False,
        "status": STATUS[refused.code],
        "code": refused.code,
        "detail": refused.detail,
        "data": refused.data,
    }
