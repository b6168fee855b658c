"""What the routes work with."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol

from prometheus_client import CollectorRegistry

from entitlements.app.access import Access
from entitlements.app.checks import Checks
from entitlements.app.committer import Committer
from entitlements.app.limit_events import LimitEvents
from entitlements.app.limits import Limits
from entitlements.app.policies import Policies
from entitlements.app.ports import Backlog, Connections, Records
from entitlements.app.reader import Reader
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
    def auth(self) -> Literal["keys", "none"]: ...

    @property
    def allowed_hosts(self) -> tuple[str, ...]: ...

    @property
    def receipts_retention_days(self) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """The use cases and edges of one process. ``registry`` is where other parts add metrics.

    ``health`` answers with one entry per part; an unhealthy one makes the whole unhealthy.
    """

    committer: Committer
    reader: Reader
    records: Records
    policies: Policies
    limits: Limits
    limit_events: LimitEvents
    checks: Checks
    access: Access
    settings: Config
    clock: Callable[[], datetime]
    new_id: Callable[[], str]
    backlog: Callable[[], Backlog | None]
    connections: Callable[[], Connections | None]
    health: Callable[[], Awaitable[Mapping[str, HealthCheck]]]
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
