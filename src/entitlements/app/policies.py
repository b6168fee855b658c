"""The active policy, as this process knows it."""

from __future__ import annotations

import structlog

from entitlements.app.policy_document import parse
from entitlements.app.ports import Records
from entitlements.core.policy import Policy

log = structlog.get_logger()


class Policies:
    """Holds the active policy; the database's table is the only truth about which that is."""

    def __init__(self, active: Policy) -> None:
        self.active = active

    @classmethod
    async def activate(cls, records: Records, text: str, *, source: str, actor: str) -> Policies:
        """Make ``text`` the active version, unless it was active before and has been superseded.

        Raises PolicyError if it is not valid; nothing is activated then.
        """
        policy = parse(text, source=source)
        version = await records.activate_policy(policy.version, text, actor)
        if version == policy.version:
            return cls(policy)
        content = await records.policy(version)
        assert content is not None, version
        log.info("policy.superseded", offered=policy.version, active=version)
        return cls(parse(content, source=f"policy {version}"))

    @classmethod
    async def in_force(cls, records: Records, *, otherwise: str, actor: str) -> Policies:
        """The active version as it is; only a database that has none yet gets ``otherwise``."""
        version = await records.active_policy()
        content = None if version is None else await records.policy(version)
        if content is None:
            return await cls.activate(records, otherwise, source="default policy", actor=actor)
        return cls(parse(content, source=f"policy {version}"))

    def learn(self, version: str, content: str) -> Policy:
        """Take over the version a batch has found active."""
        if version != self.active.version:
            self.active = parse(content, source=f"policy {version}")
            log.info("policy.changed", version=version)
        return self.active
