"""The first admin key, and the start message."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from entitlements.app.access import keys
from entitlements.app.process.log import EventLog
from entitlements.service.compose import System
from entitlements.settings import PREFIX, SettingsError

log = EventLog(__name__)

BOOTSTRAP_FILE = Path("entitlements-admin.key")


@dataclass(frozen=True)
class Greeting:
    """The start message of the service; without a ``credential``, all callers are admitted."""

    address: str
    credential: str | None = field(repr=False)
    is_new: bool = False

    def say(self) -> None:
        """Print the message on a terminal, else log it."""
        if sys.stdout.isatty():
            print(self.text(), flush=True)  # noqa: T201
        else:
            log.info("service.started", url=self.address, docs=f"{self.address}/docs")

    def text(self) -> str:
        hello = f"Entitlements at {self.address}, docs at {self.address}/docs."
        if self.credential is None:
            return f"{hello} AUTH=none: every caller is admin."
        if not self.is_new:
            return f"{hello} `entitlements keys create` creates another key."
        return f"{hello} Admin key: {self.credential}\nTry: {self.example()}"

    def example(self) -> str:
        """Return a command that opens an account with its signup bonus."""
        return (
            f"curl -s {self.address}/v1/admin/accounts"
            f' -H "Authorization: Bearer {self.credential}" -H "Content-Type: application/json"'
            """ -d '{"subject_type": "user", "subject_id": "ada"}'"""
        )


async def bootstrap(system: System) -> Greeting:
    """Create an admin key if no key is valid, and show it on the terminal or in a 0600 file.

    Raise SettingsError if the file cannot be written; then no key is created.
    """
    settings = system.settings
    host = f"[{settings.http_host}]" if ":" in settings.http_host else settings.http_host
    address = f"http://{host}:{settings.http_port}"
    if settings.auth == "none":
        return Greeting(address, None)
    store = system.engine.store
    if any(key.revoked_at is None for key in await store.keys.all()):
        return Greeting(address, "")
    act = keys.Act(
        actor="system",
        client="bootstrap",
        at=system.clock(),
        new_id=system.engine.new_id,
        correlation_id="bootstrap",
    )
    key, secret = keys.new_key(name="bootstrap", role=keys.Role.ADMIN, act=act)
    if settings.bootstrap_key_file is None and sys.stdout.isatty():
        await keys.add_key(store.keys, key, act)
        return Greeting(address, secret, is_new=True)
    path = settings.bootstrap_key_file or BOOTSTRAP_FILE
    # Write before the key is committed: a key that no one can read would lock every caller out.
    _write_private(path, secret + "\n")
    await keys.add_key(store.keys, key, act)
    log.warning("key.bootstrapped", detail=f"an admin key was created, in {path}")
    return Greeting(address, f"$(cat {path})", is_new=True)


def _write_private(path: Path, text: str) -> None:
    """Replace the file with one that only its owner can read, and sync it. Raise SettingsError."""
    try:
        with suppress(FileNotFoundError):
            path.unlink()
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
    except OSError as error:
        reason = f"cannot write {path}: {error.strerror}"
        raise SettingsError(f"{PREFIX}BOOTSTRAP_KEY_FILE: {reason}") from None
