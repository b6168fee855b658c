"""Commands on outgoing webhooks."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal

import msgspec
from cyclopts import Parameter

from entitlements.app.webhooks.endpoints import Webhooks
from entitlements.app.webhooks.store import Delivery, Endpoint
from entitlements.contracts.errors import Conflict, InvalidRequest, NotFound
from entitlements.contracts.http.webhooks import OVERLAP_MAX_S
from entitlements.transports.cli.asking import Actor, Reason, act_of
from entitlements.transports.cli.ledger import Injected
from entitlements.transports.cli.output import (
    AsJson,
    Database,
    Failed,
    Limit,
    Misused,
    Whole,
    note,
    say,
    show_json,
    show_table,
)
from entitlements.transports.cli.program import Program


async def create(
    url: str,
    *,
    actor: Actor,
    program: Injected,
    events: Annotated[list[str] | None, Parameter(negative="")] = None,
    description: str | None = None,
    reason: Reason = None,
    database: Database = None,
    json: AsJson = False,
) -> None:
    """Post events to a URL; the secret that signs them is printed once.

    Parameters
    ----------
    events
        An event type, in which * matches anything; may be given more than once. Default: all.
    """
    async with _webhooks(program, database, may_create=True) as webhooks:
        wanted = tuple(events or ("*",))
        endpoint, secret = await webhooks.create(url, wanted, description, act_of(actor, reason))
    _show_secret(endpoint, secret, as_json=json)


async def list_webhooks(
    *, program: Injected, database: Database = None, json: AsJson = False
) -> None:
    """List all webhooks, without their secrets."""
    async with _webhooks(program, database) as webhooks:
        found = await webhooks.all()
    if json:
        show_json([_public(one) for one in found])
        return
    show_table(
        ("id", "url", "events", "state", "failing since", "created_at"),
        [
            (one.id, one.url, " ".join(one.events), _state(one), one.failing_since, one.created_at)
            for one in found
        ],
        empty="no webhooks",
    )


async def delete(
    webhook: str,
    *,
    actor: Actor,
    program: Injected,
    reason: Reason = None,
    database: Database = None,
    json: AsJson = False,
) -> None:
    """Delete a webhook; its pending deliveries are dropped."""
    async with _webhooks(program, database) as webhooks:
        await webhooks.delete(webhook, act_of(actor, reason))
    if json:
        show_json({"id": webhook, "deleted": True})
    else:
        say(f"{webhook} is deleted")


async def rotate(
    webhook: str,
    *,
    actor: Actor,
    program: Injected,
    overlap: Whole = 86_400,
    reason: Reason = None,
    database: Database = None,
    json: AsJson = False,
) -> None:
    """Create a new secret, printed once; the current one keeps signing for a while.

    Parameters
    ----------
    overlap
        Seconds for which the current secrets keep signing; 0 ends them at once.
    """
    if not 0 <= overlap <= OVERLAP_MAX_S:
        raise Misused(f"--overlap must be 0 to {OVERLAP_MAX_S}")
    async with _webhooks(program, database) as webhooks:
        endpoint, secret = await webhooks.rotate(webhook, overlap, act_of(actor, reason))
    _show_secret(endpoint, secret, as_json=json)


async def ping(
    webhook: str,
    *,
    actor: Actor,
    program: Injected,
    database: Database = None,
    json: AsJson = False,
) -> None:
    """Send a ping; exit code 1 if it was not accepted."""
    async with _webhooks(program, database) as webhooks:
        pinged = await webhooks.test(webhook, act_of(actor, None))
    if json:
        show_json({"delivered": pinged.error is None} | msgspec.to_builtins(pinged))
    if pinged.error is not None:
        raise Failed(f"the ping was not delivered: {pinged.error}")
    if not json:
        say(f"the ping was delivered: HTTP {pinged.status}")


async def deliveries(
    webhook: str,
    *,
    program: Injected,
    state: Literal["pending", "delivered", "failed"] | None = None,
    limit: Limit = 100,
    cursor: str | None = None,
    database: Database = None,
    json: AsJson = False,
) -> None:
    """List the deliveries of a webhook, newest first.

    Parameters
    ----------
    cursor
        The last event of the previous page.
    """
    async with _webhooks(program, database) as webhooks:
        found = (await webhooks.deliveries(webhook, state, limit, cursor)).rows
    if json:
        show_json([msgspec.to_builtins(one) for one in found])
        return
    show_table(
        ("event", "type", "state", "attempts", "next_at", "last status", "last error"),
        [_line(one) for one in found],
        empty="no deliveries",
    )


async def retry(
    webhook: str,
    event: str,
    *,
    actor: Actor,
    program: Injected,
    reason: Reason = None,
    database: Database = None,
    json: AsJson = False,
) -> None:
    """Send an event to a webhook again."""
    async with _webhooks(program, database) as webhooks:
        delivery = await webhooks.retry(webhook, event, act_of(actor, reason))
    if json:
        show_json(msgspec.to_builtins(delivery))
    else:
        say(f"{event} is sent again")


@asynccontextmanager
async def _webhooks(
    program: Program, database: str | None, *, may_create: bool = False
) -> AsyncIterator[Webhooks]:
    """Open the webhooks; refusals become errors of the command."""
    async with program.webhooks(database, may_create=may_create) as webhooks:
        try:
            yield webhooks
        except InvalidRequest as error:
            raise Misused(error.detail) from None
        except (NotFound, Conflict) as error:
            raise Failed(error.detail) from None


def _show_secret(endpoint: Endpoint, secret: str, *, as_json: bool) -> None:
    if as_json:
        show_json(_public(endpoint) | {"secret": secret})
    else:
        say(secret)
        note(f"It signs what {endpoint.id} sends to {endpoint.url}. It is not shown again.")


def _public(endpoint: Endpoint) -> dict[str, Any]:
    fields = msgspec.structs.asdict(endpoint)
    del fields["secrets"]
    return fields


def _state(endpoint: Endpoint) -> str:
    if endpoint.active:
        return "active"
    return f"off ({endpoint.disabled_because})" if endpoint.disabled_because else "off"


def _line(one: Delivery) -> tuple[Any, ...]:
    next_at = one.next_at if one.state == "pending" else None
    kind = one.event_type
    return (one.event_id, kind, one.state, one.attempts, next_at, one.last_status, one.last_error)
