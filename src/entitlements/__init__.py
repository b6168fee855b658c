"""Credits, entitlements, holds and rate limits: one authority for what a subject may do."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from entitlements.embedded import Entitlements as Entitlements

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`Entitlements` is imported when it is asked for: a client needs no engine."""
    if name == "Entitlements":
        from entitlements.embedded import Entitlements

        return Entitlements
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
