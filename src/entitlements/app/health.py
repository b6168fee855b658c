"""Whether this process can do its work, part by part."""

from __future__ import annotations

from collections.abc import Mapping

from entitlements.app.engine import Engine
from entitlements.app.policies import Policies
from entitlements.app.ports import Unavailable
from entitlements.contracts.http import HealthCheck


async def health(engine: Engine) -> Mapping[str, HealthCheck]:
    """The database, the lane of every change, what counts limits, and the policy."""
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
    return {
        "database": database,
        "committer": committer,
        "limiter": limiter,
        "policy": policy(engine.policies),
    }


def policy(policies: Policies) -> HealthCheck:
    """A warning while a document cannot be used, wherever it is."""
    if policies.problems:
        reasons = "; ".join(f"{source}: {why}" for source, why in policies.problems.items())
        return HealthCheck(status="warning", message=reasons)
    return HealthCheck(status="healthy", message=policies.active.version)
