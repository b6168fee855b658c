"""Commands on policy documents: check, show, compare, apply."""

import os
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from entitlements.app.policy import active
from entitlements.app.policy.active import ACTIVE, NoSuchPolicy
from entitlements.app.policy.document import PolicyError, parse, text_of
from entitlements.app.ports import PolicyVersion, PolicyVersions
from entitlements.core.policy import Policy
from entitlements.core.policy_diff import difference
from entitlements.lifecycle import known_handlers
from entitlements.transports.cli.asking import Actor, Reason, act_of
from entitlements.transports.cli.ledger import Injected
from entitlements.transports.cli.output import (
    AsJson,
    Database,
    Failed,
    Limit,
    Misused,
    say,
    show_json,
    show_table,
)

SHOWN = 12


def check(file: Path, *, json: AsJson = False) -> None:
    """Validate a policy document, line by line."""
    try:
        policy = parse(_read(file), source=str(file), handlers=known_handlers())
    except PolicyError as error:
        if json:
            problems = [problem._asdict() for problem in error.problems]
            show_json({"valid": False, "problems": problems})
        raise Failed(str(error)) from None
    if json:
        show_json({"valid": True, "version": policy.version})
    else:
        say(f"{file} is valid: {len(policy.costs)} costs, version {policy.version}")


async def show(
    version: str = ACTIVE, *, program: Injected, database: Database = None, json: AsJson = False
) -> None:
    """Print the document of a version as it was activated.

    Parameters
    ----------
    version
        The first digits of a version; default: the active one.
    """
    async with program.store(database) as store:
        found = await _find(store.policies, version)
        content = await active.document(store.policies, found.version)
    if json:
        show_json(_public(found) | {"content": content})
    else:
        sys.stdout.write(content)


async def history(
    *,
    program: Injected,
    limit: Limit = 100,
    database: Database = None,
    json: AsJson = False,
) -> None:
    """List every version that was ever active, newest first."""
    async with program.store(database) as store:
        found = await store.policies.versions(limit=limit)
    if json:
        show_json([_public(version) for version in found])
        return
    show_table(
        ("version", "activated_at", "actor", "active"),
        [
            (each.version[:SHOWN], each.activated_at, each.actor, each.active or None)
            for each in found
        ],
        empty="no policy has been active yet",
    )


async def diff(
    a: str,
    b: str = ACTIVE,
    *,
    program: Injected,
    database: Database = None,
    json: AsJson = False,
) -> None:
    """List the differences of two policies, rule by rule.

    Parameters
    ----------
    a
        The first digits of a version, "active", or a file.
    b
        The same; default: the active version.
    """
    async with program.store(database) as store:
        before, after = await _rules(store.policies, a), await _rules(store.policies, b)
    changes = difference(before, after)
    if json:
        show_json({"from": before.version, "to": after.version, "changes": changes})
        return
    for change in changes:
        say(str(change))
    if not changes:
        say("the rules are the same")


async def apply(
    file: Path,
    *,
    actor: Actor,
    program: Injected,
    reason: Reason = None,
    database: Database = None,
    json: AsJson = False,
) -> None:
    """Activate a policy document; services follow within two seconds."""
    async with program.store(database, may_create=True) as store:
        try:
            policy, changed = await active.activate(
                store.policies, _read(file), source="cli", name=str(file), act=act_of(actor, reason)
            )
        except PolicyError as error:
            raise Failed(str(error)) from None
    if json:
        show_json({"version": policy.version, "changed": changed, "active": True})
    else:
        say(f"{policy.version} {'is' if changed else 'was already'} active")


def _read(file: Path) -> str:
    try:
        return text_of(file)
    except OSError as error:
        raise Misused(f"{file} cannot be read: {error.strerror}") from None


async def _find(versions: PolicyVersions, name: str) -> PolicyVersion:
    try:
        return await active.find(versions, name)
    except NoSuchPolicy as error:
        raise Failed(str(error)) from None


async def _rules(versions: PolicyVersions, name: str) -> Policy:
    """Return the rules of a version, or of a file with that name."""
    if name != ACTIVE and os.path.isfile(name):  # noqa: PTH113, ASYNC240 - a command of one
        try:
            return parse(_read(Path(name)), source=name)
        except PolicyError as error:
            raise Failed(str(error)) from None
    return await active.rules(versions, (await _find(versions, name)).version)


def _public(version: PolicyVersion) -> dict[str, Any]:
    return {
        "version": version.version,
        "activated_at": version.activated_at,
        "actor": version.actor,
        "active": version.active,
    }


def _time(at: datetime) -> str:
    return at.isoformat(sep=" ", timespec="seconds")
