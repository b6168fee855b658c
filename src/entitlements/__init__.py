"""Credits, entitlements, holds and rate limits on PostgreSQL or SQLite."""

from typing import TYPE_CHECKING, Any

from entitlements.version import VERSION

if TYPE_CHECKING:
    from entitlements.embedded import Entitlements

__version__ = VERSION
__all__ = ["Entitlements", "__version__"]


def __getattr__(name: str) -> Any:
    """Import `Entitlements` on first use, so that a client does not load the engine."""
    if name == "Entitlements":
        from entitlements.embedded import Entitlements

        return Entitlements
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
