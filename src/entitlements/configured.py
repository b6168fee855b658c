"""The engine or client of this process, for code that is given none."""

from __future__ import annotations

from entitlements.api import Entitlements


class _Process:
    entitlements: Entitlements | None = None


def configure(entitlements: Entitlements | None) -> None:
    """Set the engine or client of this process, for every `EntitlementService` without one.

    None removes it. It must be open: ``async with Entitlements.open(url) as e: configure(e)``.
    """
    _Process.entitlements = entitlements


def configured() -> Entitlements:
    """Return the engine or client of this process. Raise RuntimeError without one."""
    entitlements: object = _Process.entitlements
    if not isinstance(entitlements, Entitlements):
        raise RuntimeError(  # noqa: TRY004 - nothing of the call is of a wrong type
            "no open engine or client is configured: call entitlements.configure(e) or"
            " entitlements.fastapi.install(app, e) first, or pass one as db=e"
        )
    return entitlements
