"""Health checks of this process, part by part."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import datetime, timedelta
from time import monotonic
from typing import Final

from entitlements.app.credits.ahead import AheadLog
from entitlements.app.engine import Engine, Store
from entitlements.app.inbox.status import State, Status
from entitlements.app.lifecycle.store import WaitingCall
from entitlements.app.outbox.relay import Relay
from entitlements.app.policy.active import Policies, Source
from entitlements.app.ports import ReadOnly
from entitlements.app.process.log import EventLog
from entitlements.app.webhooks.deliverer import Deliverer
from entitlements.contracts.http import HealthCheck, HealthResponse
from entitlements.version import VERSION

log = EventLog(__name__)

PING_S: Final = 2.0
"""The timeout of a ping. Probes give up earlier than a stuck database connection times out."""
CALLS_WAIT_S: Final = 3_600
"""How long a call of a lifecycle handler may wait before health warns."""
UNREACHABLE: Final = "the database cannot be reached"
STOPPED: Final = "the relay has stopped"
PLACES: Final[Mapping[Source, str]] = {
    "file": "the document in the policy file",
    "database": "the policy in the database",
}
WHERE_TO_LOOK: Final = "see the log and /v1/admin/policies/active"
_pings: Final[set[asyncio.Task[None]]] = set()


async def health(engine: Engine, deliverer: Deliverer) -> Mapping[str, HealthCheck]:
    """Return the checks of a service."""
    parts = {**await engine_health(engine), "webhooks": webhooks(deliverer)}
    if engine.relay is not None:
        parts["relay"] = destination(engine.relay)
    return parts


async def engine_health(engine: Engine) -> Mapping[str, HealthCheck]:
    """Return the checks of the database, the committer, the limiter, the policy and the consumer
    of events.
    """
    if engine.committer.running:
        committer = HealthCheck(status="healthy", message=f"{engine.committer.depth} waiting")
    else:
        committer = HealthCheck(status="unhealthy", message="the committer has stopped")
    if engine.limits.is_degraded:
        problem = engine.limits.problem or "cannot be reached"
        message = f"the shared limiter {problem}: limits follow `limiter_down`"
        limiter = HealthCheck(status="warning", message=message)
    elif engine.history is not None and not engine.history.is_complete:
        message = "past usage is still being counted: until then limits let more pass"
        limiter = HealthCheck(status="warning", message=message)
    elif engine.peers is not None and engine.peers.others:
        message = f"{engine.peers.others} other processes count limits alone: set REDIS_URL for all"
        limiter = HealthCheck(status="warning", message=message)
    else:
        limiter = HealthCheck(status="healthy")
    parts = {
        "database": await _database(engine.store),
        "clock": clock(engine.ahead),
        "committer": committer,
        "limiter": limiter,
        "policy": policy(engine.policies),
    }
    if engine.watch.oldest_call is not None:
        parts["lifecycle_handlers"] = handlers(engine.watch.oldest_call, engine.clock())
    if engine.watch.consumer is not None:
        parts["consumer"] = consumer(engine.watch.consumer.state, monotonic())
    return parts


def clock(ahead: AheadLog) -> HealthCheck:
    """Return a warning while wallets are ahead of the database's clock. Their names are left out:
    the response is public.
    """
    if count := ahead.count:
        message = f"{count} wallets are ahead of the database's clock; `verify` names them"
        return HealthCheck(status="warning", message=message)
    return HealthCheck(status="healthy")


def handlers(oldest: WaitingCall, now: datetime) -> HealthCheck:
    """Return a warning if the oldest call of a lifecycle handler has waited for long."""
    if now - oldest.created_at < timedelta(seconds=CALLS_WAIT_S):
        return HealthCheck(status="healthy")
    message = "calls of lifecycle handlers wait; see /v1/admin/lifecycle-calls"
    return HealthCheck(status="warning", message=message)


async def relay_health(
    store: Store, relay: Relay, deliverer: Deliverer
) -> Mapping[str, HealthCheck]:
    """Return the checks of a process that only publishes events: unhealthy without its relay."""
    relaying = destination(relay)
    if not relay.is_running:
        relaying = HealthCheck(status="unhealthy", message=STOPPED)
    return {
        "database": await _database(store),
        "relay": relaying,
        "webhooks": webhooks(deliverer),
    }


async def _database(store: Store) -> HealthCheck:
    """Return unhealthy if the database cannot be reached or is read-only. A late ping is left to
    end by itself: dropping its connection would take as long.
    """
    ping = asyncio.create_task(store.ping())
    _pings.add(ping)
    ping.add_done_callback(_ended)
    await asyncio.wait({ping}, timeout=PING_S)
    if not ping.done():
        return HealthCheck(status="unhealthy", message=UNREACHABLE)
    match ping.exception():
        case None:
            return HealthCheck(status="healthy", message=store.kind)
        case ReadOnly():
            return HealthCheck(status="unhealthy", message="the database takes no writes")
        case _:
            return HealthCheck(status="unhealthy", message=UNREACHABLE)


def destination(relay: Relay) -> HealthCheck:
    """Return a warning if events may pile up; none is lost."""
    if not relay.is_running:
        return HealthCheck(status="warning", message=STOPPED)
    if relay.is_failing:
        return HealthCheck(status="warning", message="events cannot be published; they wait")
    return HealthCheck(status="healthy", message=f"{relay.buckets} buckets")


def consumer(state: State, now: float) -> HealthCheck:
    """Return whether events are read. A paused consumer resumes by itself. The reason may name
    brokers, so it is not part of this public response.
    """
    if state.is_stopped(now):
        return HealthCheck(status="unhealthy", message="the consumer has stopped")
    if state.status is not Status.RUNNING or state.problem is not None:
        message = f"the consumer is {state.status}; see /v1/admin/consumer"
        return HealthCheck(status="warning", message=message)
    behind = sum(one.lag or 0 for one in state.partitions)
    message = f"{len(state.partitions)} partitions, {behind} events behind"
    return HealthCheck(status="healthy", message=message)


def webhooks(deliverer: Deliverer) -> HealthCheck:
    if deliverer.is_failing_long:
        message = "a webhook endpoint is failing; see GET /v1/admin/webhooks"
        return HealthCheck(status="warning", message=message)
    return HealthCheck(status="healthy")


def policy(policies: Policies) -> HealthCheck:
    """Return a warning while a document cannot be used. The reason may quote the document, so it is
    not part of this public response.
    """
    if policies.problems:
        places = " and ".join(PLACES[source] for source in policies.problems)
        return HealthCheck(status="warning", message=f"{places} cannot be used; {WHERE_TO_LOOK}")
    return HealthCheck(status="healthy", message=policies.active.version)


def _ended(ping: asyncio.Task[None]) -> None:
    _pings.discard(ping)
    if not ping.cancelled():
        ping.exception()


def failing(checks: Mapping[str, HealthCheck]) -> list[str]:
    """Return the names of the unhealthy parts, sorted."""
    return sorted(name for name, check in checks.items() if check.status == "unhealthy")


def summary(checks: Mapping[str, HealthCheck], *, service: str, environment: str) -> HealthResponse:
    """Return the health of a process; one unhealthy part makes it unhealthy."""
    names = failing(checks)
    return HealthResponse(
        service=service,
        status="unhealthy" if names else "healthy",
        message=f"failing: {', '.join(names)}" if names else "required parts are healthy",
        version=VERSION,
        checks=dict(checks),
        environment=environment,
    )
