"""Credits, entitlements, holds and rate limits: one authority for what a subject may do."""

from typing import TYPE_CHECKING, Any

from entitlements.version import VERSION

if TYPE_CHECKING:
    from entitlements.embedded import Entitlements

__version__ = VERSION
__all__ = ["Entitlements", "__version__"]


def __getattr__(name: str) -> Any:
    """`Entitlements` is imported when it is asked for: a client needs no engine."""
    if name == "Entitlements":
        from entitlements.embedded import Entitlements

        return Entitlements
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
