"""Whether this process can do its work, part by part."""

from __future__ import annotations

from collections.abc import Mapping

from entitlements.app.engine import Engine
from entitlements.app.ports import Unavailable
from entitlements.contracts.http import HealthCheck


async def health(engine: Engine) -> Mapping[str, HealthCheck]:
    """The database, the lane through which every change goes, and what counts limits."""
    try:
        await engine.store.ping()
        database = HealthCheck(status="healthy")
    except Unavailable:
        database = HealthCheck(status="unhealthy", message="the database cannot be reached")
    if engine.committer.running:
        committer = HealthCheck(status="healthy", message=f"{engine.committer.depth} waiting")
    else:
        committer = HealthCheck(status="unhealthy", message="the committer has stopped")
    if engine.limits.is_degraded:
        message = "the shared limiter cannot be reached: limits are as `limiter_down` says"
        limiter = HealthCheck(status="warning", message=message)
    else:
        limiter = HealthCheck(status="healthy")
    return {"database": database, "committer": committer, "limiter": limiter}
