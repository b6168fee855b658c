"""Bodies of health checks and probes."""

from typing import Literal

from msgspec import Struct


class HealthCheck(Struct, frozen=True, kw_only=True):
    """The state of one part; a warning leaves the service healthy."""

    status: Literal["healthy", "warning", "unhealthy"]
    message: str = ""


class HealthResponse(Struct, frozen=True, kw_only=True):
    service: str
    status: Literal["healthy", "unhealthy"]
    message: str
    version: str
    checks: dict[str, HealthCheck]
    environment: str


class ProbeResponse(Struct, frozen=True, kw_only=True):
    status: Literal["alive", "ready", "not_ready"]
