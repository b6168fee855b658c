"""API keys: authentication of callers and their roles.

Only the SHA-256 of a secret is stored. A key that was looked up is trusted for `TRUST_S` seconds,
so a revocation takes effect within that time in every process.
"""

import asyncio
import secrets
from collections.abc import Callable
from datetime import datetime
from enum import StrEnum
from hashlib import sha256
from time import monotonic
from typing import Any, Final, Protocol

from msgspec import Struct

from entitlements.app.ports import ApiKey, ApiKeys, Contended, StoreUnavailable
from entitlements.contracts import names
from entitlements.core.model import AuditEntry

SECRET_PREFIX: Final = "ent_"  # noqa: S105 - the public prefix of every secret
SECRET_LENGTH: Final = len(SECRET_PREFIX) + 43  # 256 bits, url-safe
SHOWN: Final = 12
TRUST_S: Final = 5.0
TOUCH_S: Final = 60.0
NAME_MAX: Final = 100
LOOKS_AT_ONCE: Final = 2
_TRUSTED_MAX: Final = 10_000


class Role(StrEnum):
    """The role of a key; each route lists the roles that may call it."""

    SERVICE = "service"
    READER = "reader"
    OPERATOR = "operator"
    ADMIN = "admin"


class Caller(Struct, frozen=True, gc=False):
    """An authenticated caller: ``actor`` is the key's id, ``client`` its name."""

    actor: str
    client: str
    roles: frozenset[Role]


ANONYMOUS: Final = Caller("anonymous", "anonymous", frozenset(Role))


class KeyRefused(Exception):
    """The credential is missing or unknown."""


class Act(Struct, frozen=True, kw_only=True):
    """The audit context of an administrative act: actor, time, reason and correlation id."""

    actor: str
    client: str
    at: datetime
    new_id: Callable[[], str]
    correlation_id: str
    reason: str | None = None

    def entry(self, action: str, detail: dict[str, Any]) -> AuditEntry:
        return AuditEntry(
            id=self.new_id(),
            at=self.at,
            actor=self.actor,
            client=self.client,
            action=action,
            subject=None,
            reason=self.reason,
            detail=detail,
            correlation_id=self.correlation_id,
        )


class Access(Protocol):
    """Authenticates callers."""

    async def caller(self, secret: str | None) -> Caller:
        """Return the caller. Raises KeyRefused; StoreUnavailable if the key cannot be checked."""


class OpenAccess:
    """Grants every role to every caller: for development on loopback only."""

    async def caller(self, secret: str | None) -> Caller:  # noqa: ARG002
        return ANONYMOUS


class KeyAccess:
    """Authenticates callers by their API keys."""

    def __init__(self, keys: ApiKeys, clock: Callable[[], datetime]) -> None:
        self._keys = keys
        self._clock = clock
        self._trusted: dict[str, tuple[float, Caller]] = {}
        self._touched: dict[str, float] = {}
        self._touching: set[asyncio.Task[None]] = set()
        self._looking = asyncio.Semaphore(LOOKS_AT_ONCE)

    async def caller(self, secret: str | None) -> Caller:
        if secret is None:
            raise KeyRefused("an API key is required")
        if not is_secret(secret):
            raise KeyRefused("the API key is not valid")

        digest = secret_sha256(secret)
        if trusted := self._trusted_caller(digest):
            return trusted
        # Unknown keys queue here, so that they do not take the connections of other requests.
        async with self._looking:
            return self._trusted_caller(digest) or await self._look_up(digest)

    def _trusted_caller(self, digest: str) -> Caller | None:
        trusted = self._trusted.get(digest)
        return trusted[1] if trusted is not None and monotonic() < trusted[0] else None

    async def _look_up(self, digest: str) -> Caller:
        # Looked up by hash, so that timing does not leak the secret.
        key = await self._keys.find(digest)
        if key is None or key.revoked_at is not None:
            self._trusted.pop(digest, None)
            raise KeyRefused("the API key is not valid")

        caller = Caller(key.id, key.name, frozenset((Role(key.role),)))
        if len(self._trusted) >= _TRUSTED_MAX:
            self._trusted.clear()
        self._trusted[digest] = (monotonic() + TRUST_S, caller)
        self._note_use(key.id)
        return caller

    def _note_use(self, key_id: str) -> None:
        """Record the key's last use in the background, at most once a minute."""
        now = monotonic()
        if now - self._touched.get(key_id, -TOUCH_S) < TOUCH_S:
            return
        self._touched[key_id] = now
        task = asyncio.get_running_loop().create_task(self._touch(key_id))
        self._touching.add(task)
        task.add_done_callback(self._touching.discard)

    async def _touch(self, key_id: str) -> None:
        try:
            await self._keys.touch({key_id: self._clock()})
        except (StoreUnavailable, Contended):
            self._touched.pop(key_id, None)


def secret_sha256(secret: str) -> str:
    return sha256(secret.encode()).hexdigest()


def is_secret(text: str) -> bool:
    """Return whether the text has the form of a secret; others are refused without a look-up."""
    return len(text) == SECRET_LENGTH and text.startswith(SECRET_PREFIX) and text.isascii()


def new_key(*, name: str, role: Role, act: Act) -> tuple[ApiKey, str]:
    """Return a new key and its secret, which is not stored. Raises InvalidName.

    The name is the client's: keys with the same name share idempotency keys, so a client can
    rotate its key without a gap.
    """
    names.text(name, at_most=NAME_MAX)
    secret = SECRET_PREFIX + secrets.token_urlsafe(32)
    key = ApiKey(
        id=act.new_id(),
        name=name,
        role=role.value,
        prefix=secret[:SHOWN],
        secret_sha256=secret_sha256(secret),
        created_at=act.at,
    )
    return key, secret


async def add_key(keys: ApiKeys, key: ApiKey, act: Act) -> None:
    """Store the key, which is valid from now on."""
    detail = {"key_id": key.id, "name": key.name, "role": key.role}
    await keys.add(key, act.entry("key.create", detail))


async def create_key(keys: ApiKeys, *, name: str, role: Role, act: Act) -> tuple[ApiKey, str]:
    """Create a key and store it, as `new_key` and `add_key`. Raises InvalidName."""
    key, secret = new_key(name=name, role=role, act=act)
    await add_key(keys, key, act)
    return key, secret


async def revoke_key(keys: ApiKeys, key_id: str, act: Act) -> bool:
    """Revoke a key. Return False if it does not exist or was revoked before."""
    entry = act.entry("key.revoke", {"key_id": key_id})
    return await keys.revoke(key_id, act.at, entry)
