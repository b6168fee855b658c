"""The active policy as this process knows it; the database's table is authoritative."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from threading import Lock
from time import perf_counter
from typing import Final, Literal

from msgspec.structs import replace

from entitlements.app.access.keys import Act
from entitlements.app.policy.document import (
    PolicyError,
    default_policy_text,
    parse,
    version_of,
)
from entitlements.app.ports import NO_POLICY, PolicyVersion, PolicyVersions, Transient
from entitlements.app.process.log import EventLog
from entitlements.core.policy import Policy
from entitlements.lifecycle import known_handlers

Source = Literal["file", "api", "cli", "database", "default"]

log = EventLog(__name__)


class Superseded(Exception):
    """The text was active before and has been superseded; it cannot be activated again."""

    def __init__(self, version: str, active: str) -> None:
        super().__init__(
            f"{version} was active before and has been superseded by {active}; to activate its"
            " rules again, change the document; a comment suffices"
        )
        self.version = version
        self.active = active


class NoSuchPolicy(Exception):
    """No version, or more than one, matches the name."""


class PolicyUnusable(Transient):
    """No policy is active, or this program cannot read the active one; it decides nothing until
    another one is activated.
    """

    def __init__(self, version: str, reason: str) -> None:
        super().__init__(f"this program cannot use the policy: {reason}")
        self.version = version
        self.reason = reason


async def activate(
    versions: PolicyVersions, text: str, *, source: Source, name: str, act: Act
) -> tuple[Policy, bool]:
    """Activate the text. Return its policy, and whether it was not active before.

    ``name`` identifies the text in errors. A text that is not active can name only lifecycle
    handlers that this process knows. Raises PolicyError, Superseded, StoreUnavailable, Contended.
    """
    is_active = version_of(text) == await versions.active()
    handlers = None if is_active else known_handlers()
    policy = await asyncio.to_thread(parse, text, source=name, handlers=handlers)
    entry = act.entry("policy.activate", {"version": policy.version, "source": source})
    activation = await versions.activate(policy.version, text, entry)
    if activation.active != policy.version:
        raise Superseded(policy.version, activation.active)
    return policy, activation.changed


ACTIVE: Final = "active"


async def find(versions: PolicyVersions, name: str) -> PolicyVersion:
    """Return the version that starts with ``name``, or the `ACTIVE` one. Raises NoSuchPolicy."""
    prefix = "" if name == ACTIVE else name
    found = await versions.versions(prefix=prefix, limit=2)
    if not found:
        raise NoSuchPolicy(f"no such policy: {name}")
    if len(found) > 1 and name != ACTIVE:
        raise NoSuchPolicy(f"more than one policy starts with {name}")
    return found[0]


async def before(versions: PolicyVersions, version: PolicyVersion) -> PolicyVersion:
    """Return the version that this one superseded. Raises NoSuchPolicy."""
    found = await versions.versions(before=version.activated_at, limit=1)
    if not found:
        raise NoSuchPolicy(f"no policy was active before {version.version}")
    return found[0]


async def document(versions: PolicyVersions, version: str) -> str:
    """Return the version's text; that of `NO_POLICY` is empty."""
    return await versions.content(version) or NO_POLICY


async def rules(versions: PolicyVersions, version: str) -> Policy:
    """Return the version's policy. Raises PolicyUnusable."""
    found = await asyncio.to_thread(_read, version, await document(versions, version))
    if isinstance(found, PolicyUnusable):
        raise found
    return found


class Policies:
    """Holds the last active policy that this process could read, and the errors of others."""

    def __init__(self, active: Policy, source: Source = "database") -> None:
        self.active = active
        self.loads: Counter[Source] = Counter([source])
        self.hits = 0
        self.misses = 0
        """How often a look at the database found the known version, or another one."""
        self.on_refresh: Callable[[float], None] = lambda _seconds: None
        """Called with the duration in seconds of every look outside of batches."""
        self.problems: dict[Source, str] = {}
        """Why a document could not be activated or read, by its source."""
        self._unusable: PolicyUnusable | None = None
        self._taking = Lock()

    @classmethod
    async def start(
        cls, versions: PolicyVersions, text: str | None, *, name: str, act: Act
    ) -> Policies:
        """Return the active policy, after activating ``text`` if given.

        Without a text the active policy stays; a new database gets the default policy. Raises
        PolicyError if the text or the active policy is invalid.
        """
        policies = await cls._start(versions, text, name=name, act=act)
        policies.know(await versions.allowances())
        return policies

    @classmethod
    async def _start(
        cls, versions: PolicyVersions, text: str | None, *, name: str, act: Act
    ) -> Policies:
        version = await versions.active()
        try:
            if text is not None:
                policy, _ = await activate(versions, text, source="file", name=name, act=act)
                return cls(policy, "file")
            if version is None:
                shipped = default_policy_text()
                policy, _ = await activate(
                    versions, shipped, source="default", name="default policy", act=act
                )
                return cls(policy, "default")
        except Superseded as superseded:
            log.warning("policy.superseded", offered=superseded.version, active=superseded.active)
            version = superseded.active
        assert version is not None
        return cls(parse(await document(versions, version), source=f"policy {version}"))

    @property
    def in_force(self) -> Policy:
        """The active policy, for decisions. Raises PolicyUnusable."""
        if self._unusable is not None:
            raise PolicyUnusable(self._unusable.version, self._unusable.reason)
        return self.active

    def found(self) -> None:
        """Count a batch that found the known version active."""
        self.hits += 1

    def learn(self, version: str, content: str) -> Policy:
        """Adopt the version that a batch found active; may be called from any thread.

        Raises PolicyUnusable, as `in_force` then does until another version is activated.
        """
        self.misses += 1
        is_known = self._unusable is not None and self._unusable.version == version
        if is_known:
            return self.in_force
        found = _read(version, content)
        with self._taking:
            return self._take(found, "database")

    def know(self, allowances: frozenset[str]) -> None:
        """Add metrics that have allowances; may be called from any thread."""
        if not allowances <= self.active.allowances:
            with self._taking:
                known = self.active.allowances | allowances
                self.active = replace(self.active, allowances=known)

    async def refresh(self, versions: PolicyVersions, *, source: Source = "database") -> None:
        """Read from the database which version is active. Raises PolicyUnusable, StoreUnavailable.

        Reads again if another look or a batch has changed the known version in the meantime.
        """
        started = perf_counter()
        while not await self._refreshed(versions, source):
            pass
        self.on_refresh(perf_counter() - started)

    async def _refreshed(self, versions: PolicyVersions, source: Source) -> bool:
        """Look once. Return False if the known version has changed in the meantime."""
        self.know(await versions.allowances())
        known = (self.active, self._unusable)
        version = await versions.active() or NO_POLICY
        if version == (self._unusable or self.active).version:
            self.hits += 1
            return True
        self.misses += 1
        found = await asyncio.to_thread(_read, version, await document(versions, version))
        with self._taking:
            if known != (self.active, self._unusable):
                return False
            self._take(found, source)
        return True

    def _take(self, found: Policy | PolicyUnusable, source: Source) -> Policy:
        if isinstance(found, PolicyUnusable):
            self._unusable = found
            self.set_problem("database", found.reason)
            return self.in_force
        found = replace(found, allowances=self.active.allowances)
        if found.version != self.active.version or self._unusable:
            self.active, self._unusable = found, None
            self.loads[source] += 1
            self.set_problem("database", None)
            log.info("policy.changed", version=found.version)
        return found

    def set_problem(self, source: Source, reason: str | None) -> None:
        """Store or clear why a source's document cannot be used; log each change once."""
        if self.problems.get(source) == reason:
            return
        if reason is None:
            del self.problems[source]
            log.info("policy.mended", source=source)
        else:
            self.problems[source] = reason
            log.warning("policy.broken", source=source, reason=reason)


def brief(error: PolicyError) -> str:
    """Return the first problem, and the number of others."""
    first, _, rest = str(error).partition("\n")
    return f"{first} (and {rest.count(chr(10)) + 1} more)" if rest else first


def _read(version: str, content: str) -> Policy | PolicyUnusable:
    if version == NO_POLICY:
        return PolicyUnusable(version, "no policy is active")
    try:
        policy = parse(content, source=f"policy {version[:12]}")
    except PolicyError as error:
        return PolicyUnusable(version, brief(error))
    if policy.version != version:
        return PolicyUnusable(version, "the stored document does not match its version")
    return policy
