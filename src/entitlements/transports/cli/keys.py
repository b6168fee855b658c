"""Commands on API keys."""

from typing import Any

from entitlements.app.access import keys
from entitlements.app.access.keys import Role
from entitlements.app.ports import ApiKey
from entitlements.contracts.names import InvalidName
from entitlements.transports.cli.asking import Actor, Reason, act_of
from entitlements.transports.cli.ledger import Injected
from entitlements.transports.cli.output import (
    AsJson,
    Database,
    Failed,
    Misused,
    note,
    say,
    show_json,
    show_table,
)


async def create(
    name: str,
    *,
    role: Role,
    actor: Actor,
    program: Injected,
    reason: Reason = None,
    database: Database = None,
    json: AsJson = False,
) -> None:
    """Create an API key; the secret is printed once, alone on standard output.

    Parameters
    ----------
    name
        The client's name; keys with the same name share idempotency keys, so a client can rotate.
    role
        The key's role: service (check, consume), reader, operator (adjust), admin (everything).
    """
    async with program.open(database, may_create=True) as system:
        try:
            key, secret = await keys.create_key(
                system.engine.store.keys, name=name, role=role, act=act_of(actor, reason)
            )
        except InvalidName as error:
            raise Misused(f"NAME {error}") from None
    if json:
        show_json({**_public(key), "secret": secret})
    else:
        say(secret)
        note(f"Key {key.id} of {name!r} has the role {role}. The secret is not shown again.")


async def list_keys(*, program: Injected, database: Database = None, json: AsJson = False) -> None:
    """List all keys, without their secrets."""
    async with program.open(database) as system:
        found = await system.engine.store.keys.all()
    if json:
        show_json([_public(key) for key in found])
    else:
        show_table(
            ("id", "name", "role", "prefix", "created_at", "last_used_at", "revoked_at"),
            [tuple(_public(key).values()) for key in found],
            empty="no keys",
        )


async def revoke(
    key_id: str,
    *,
    actor: Actor,
    program: Injected,
    reason: Reason = None,
    database: Database = None,
    json: AsJson = False,
) -> None:
    """Revoke an API key; services stop accepting it within seconds."""
    async with program.open(database) as system:
        store = system.engine.store
        if key_id not in {key.id for key in await store.keys.all()}:
            raise Failed(f"no such key: {key_id}")
        revoked = await keys.revoke_key(store.keys, key_id, act_of(actor, reason))
    if json:
        show_json({"id": key_id, "revoked": revoked})
    else:
        say(f"{key_id} is revoked" if revoked else f"{key_id} was revoked before")


def _public(key: ApiKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "role": key.role,
        "prefix": key.prefix,
        "created_at": key.created_at,
        "last_used_at": key.last_used_at,
        "revoked_at": key.revoked_at,
    }
