"""The collaborators of the routes."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from prometheus_client import CollectorRegistry

from entitlements.app.access import Access
from entitlements.app.ahead import AheadLog
from entitlements.app.engine import Store, Watch
from entitlements.app.ingest.intake import Intake
from entitlements.app.limit_peers import LimitPeers
from entitlements.app.outbox import Outbox
from entitlements.app.ports import Backlog, Connections
from entitlements.app.proofs import Proofs
from entitlements.app.relay import Relay
from entitlements.app.requests.request import Desk
from entitlements.app.unreadable import UnreadableLog
from entitlements.app.webhooks.deliverer import Deliverer
from entitlements.app.webhooks.endpoints import Webhooks
from entitlements.contracts.http import HealthCheck


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
class Service(Desk):
    """The collaborators of the routes in one process. Other parts add metrics to ``registry``.

    ``health`` returns one entry per part; one unhealthy part makes the service unhealthy.
    """

    inbox: Store
    intake: Intake
    watch: Watch
    limit_peers: LimitPeers | None
    unreadable: UnreadableLog
    ahead: AheadLog
    access: Access
    webhooks: Webhooks
    deliverer: Deliverer
    settings: Config
    backlog: Callable[[], Backlog | None]
    outbox: Outbox
    relay: Relay | None
    connections: Callable[[], Connections | None]
    proofs: Proofs
    health: Callable[[], Awaitable[Mapping[str, HealthCheck]]]
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    metrics: Callable[[], Awaitable[bytes]] | None = None
    """The metrics for scrapes, in place of the registry."""
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when load balancers should stop sending requests to this process."""
