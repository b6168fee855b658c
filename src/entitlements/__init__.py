"""Credits, entitlements, holds and rate limits on PostgreSQL or SQLite."""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from entitlements.version import VERSION

if TYPE_CHECKING:
    from entitlements.configured import configure
    from entitlements.contracts.errors import InsufficientCreditsError
    from entitlements.core.reasons import ConsumptionType, EntitlementType, GrantReason
    from entitlements.embedded import Entitlements
    from entitlements.entitlement_service import (
        CreditType,
        EntitlementCheckRequest,
        EntitlementConsumptionRequest,
        EntitlementGrantRequest,
        EntitlementLifecycleHandler,
        EntitlementService,
        UserEntitlementRead,
    )
    from entitlements.lifecycle import lifecycle_handler

__version__ = VERSION
__all__ = [
    "ConsumptionType",
    "CreditType",
    "EntitlementCheckRequest",
    "EntitlementConsumptionRequest",
    "EntitlementGrantRequest",
    "EntitlementLifecycleHandler",
    "EntitlementService",
    "EntitlementType",
    "Entitlements",
    "GrantReason",
    "InsufficientCreditsError",
    "UserEntitlementRead",
    "__version__",
    "configure",
    "lifecycle_handler",
]

_MODULES: Final = {
    "Entitlements": "entitlements.embedded",
    "InsufficientCreditsError": "entitlements.contracts.errors",
    "ConsumptionType": "entitlements.core.reasons",
    "EntitlementType": "entitlements.core.reasons",
    "GrantReason": "entitlements.core.reasons",
    "configure": "entitlements.configured",
    "lifecycle_handler": "entitlements.lifecycle",
}


def __getattr__(name: str) -> Any:
    """Import a name on first use, so that a client does not load the engine."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES.get(name, "entitlements.entitlement_service")), name)
