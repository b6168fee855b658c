"""Follows the policy: activates a changed policy file, and learns the active version."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final, NoReturn

from entitlements.app.access.keys import Act
from entitlements.app.policy.active import Policies, PolicyUnusable, Superseded, activate, brief
from entitlements.app.policy.cache_copy import PolicyCopier
from entitlements.app.policy.document import PolicyError, text_of
from entitlements.app.ports import PolicyVersions
from entitlements.app.process.log import EventLog
from entitlements.app.process.loop import every

POLL_S: Final = 0.5

log = EventLog(__name__)

_Stamp = tuple[int, int, int]


class PolicyWatch:
    """Polls twice a second. If a document cannot be used, the running policy stays active."""

    def __init__(
        self,
        versions: PolicyVersions,
        policies: Policies,
        act: Callable[[], Act],
        *,
        file: Path | None = None,
        copier: PolicyCopier | None = None,
    ) -> None:
        self._versions = versions
        self._policies = policies
        self._act = act
        self._file = file
        self._copier = copier
        self._seen: _Stamp | None = None
        self._taken: _Stamp | None = None

    async def run(self) -> NoReturn:
        """Poll until cancelled."""
        await every(POLL_S, self.poll, log, "policy_watch")

    async def poll(self) -> None:
        """Activate a changed file, read the active version, and update the copy."""
        if self._file is not None:
            await self._read_file(self._file)
        try:
            await self._policies.refresh(self._versions)
        except PolicyUnusable:
            return  # it was logged; checks and consumptions refuse until another is activated
        if self._copier is not None:
            await self._copier.follow()

    async def _read_file(self, file: Path) -> None:
        """Activate a file that was unchanged at two looks: a half-written file may be valid."""
        try:
            stamp = await asyncio.to_thread(_stamp, file)
            settled, self._seen = stamp == self._seen, stamp
            if not settled or stamp == self._taken:
                return
            await self._offer(file)
            self._taken = stamp
        except OSError as error:
            self._seen = self._taken = None
            self._policies.set_problem("file", f"{file.name} cannot be read: {error.strerror}")

    async def _offer(self, file: Path) -> None:
        try:
            text = await asyncio.to_thread(text_of, file)
            _, changed = await activate(
                self._versions, text, source="file", name=file.name, act=self._act()
            )
        except PolicyError as error:
            self._policies.set_problem("file", brief(error))
            return
        except Superseded as superseded:
            log.warning("policy.superseded", offered=superseded.version, active=superseded.active)
        else:
            if changed:
                await self._policies.refresh(self._versions, source="file")
        self._policies.set_problem("file", None)


def _stamp(file: Path) -> _Stamp:
    """Return a value that changes whenever the file is written or replaced."""
    found = file.stat()
    return found.st_mtime_ns, found.st_size, found.st_ino
