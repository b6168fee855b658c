"""The collaborators of the routes."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

from prometheus_client import CollectorRegistry

from entitlements.app.access.keys import Access
from entitlements.app.engine import Engine
from entitlements.app.verify.schedule import Verifier
from entitlements.app.webhooks.deliverer import Deliverer
from entitlements.app.webhooks.endpoints import Webhooks


class Config(Protocol):
    """The settings that the routes read."""

    @property
    def service_name(self) -> str: ...

    @property
    def environment(self) -> str: ...

    @property
    def http_port(self) -> int: ...

    @property
    def metrics_port(self) -> int: ...

    @property
    def root_path(self) -> str: ...

    @property
    def allowed_hosts(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """The collaborators of the routes in one process. Other parts add metrics to ``registry``."""

    engine: Engine
    access: Access
    webhooks: Webhooks
    deliverer: Deliverer
    verifier: Verifier
    settings: Config
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    metrics: Callable[[], Awaitable[bytes]] | None = None
    """The metrics for scrapes, in place of the registry."""
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when load balancers should stop sending requests to this process."""
