"""The rate-limit windows that a metric's units count in, by the policy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import NamedTuple

from entitlements.core.commands import (
    AnyCommand,
    Consume,
    IngestUsage,
    OfHold,
    Origin,
    TakeHold,
    Together,
)
from entitlements.core.model import HoldFacts, Subject, UsageReport
from entitlements.core.outcomes import (
    Consumed,
    DoneTogether,
    HoldChanged,
    HoldTaken,
    UsageIngested,
)
from entitlements.core.policy import Limit, Policy
from entitlements.core.windows import Cause, LimitQuery, Use, WarnLevel, WindowKey


class WindowLimit(NamedTuple):
    """The lowest limit on a window, and the fewest units that are near a limit, or None."""

    limit: int
    warn_at: int | None

    def lowest(self, other: WindowLimit | None) -> WindowLimit:
        """Return the lower of each."""
        if other is None:
            return self
        levels = [level for level in (self.warn_at, other.warn_at) if level is not None]
        return WindowLimit(min(self.limit, other.limit), min(levels, default=None))


def limit_queries(
    policy: Policy, requirements: Mapping[str, int], *, user_id: str, org_id: str | None
) -> tuple[LimitQuery, ...]:
    """Return every limit that the units by metric must keep.

    Limits per org apply only if the request names an org.
    """
    if not policy.limits:
        return ()
    return tuple(
        [
            LimitQuery(window, found.limit, units)
            for metric, units in requirements.items()
            for window, found in _windows(policy, metric, user_id, org_id)
        ]
    )


def uses(
    policy: Policy,
    metric: str,
    units: int,
    *,
    user_id: str,
    org_id: str | None,
    cause: Cause | None = None,
) -> tuple[Use, ...]:
    """Return the windows that finished work counts in: each once, even if it has several limits.

    With ``cause``, they have the levels that the policy warns of.
    """
    windows: dict[WindowKey, WindowLimit] = {}
    for window, found in _windows(policy, metric, user_id, org_id):
        windows[window] = found.lowest(windows.get(window))
    return tuple(Use(window, units, _warn_level(found, cause)) for window, found in windows.items())


def counted(policy: Policy, command: AnyCommand, outcome: object) -> Iterator[Use]:
    """Yield the usage to count for a command's outcome.

    Work counts when it is first charged or held for. A settlement counts only the units that the
    hold did not.
    """
    for subject, units in _counted_by_metric(command, outcome):
        for metric, count in units.items():
            yield from _uses(policy, metric, count, subject, command.origin)
    for item, consumed in _consumptions(command, outcome):
        if consumed.success and not consumed.replayed:
            yield from _uses(policy, item.metric, item.units, item, item.origin)


def windows_of(policy: Policy, subject: Subject) -> dict[WindowKey, WindowLimit]:
    """Return every window of the subject with the lowest limit on it."""
    found: dict[WindowKey, WindowLimit] = {}
    for metric, limits in policy.limits.items():
        for limit in limits:
            if limit.count is not None and limit.per == subject.type:
                window = WindowKey(subject, metric, limit.window_s)
                one = WindowLimit(limit.count, limit.warn_at)
                found[window] = one.lowest(found.get(window))
    return found


def _warn_level(found: WindowLimit, cause: Cause | None) -> WarnLevel | None:
    if found.warn_at is None or cause is None:
        return None
    return WarnLevel(found.limit, found.warn_at, cause)


def _uses(
    policy: Policy,
    metric: str,
    units: int,
    worker: Consume | TakeHold | HoldFacts | UsageReport,
    origin: Origin,
) -> tuple[Use, ...]:
    """Return the uses of a command's work, of the many metrics without limits none."""
    if metric not in policy.limits:
        return ()
    user_id, org_id = worker.user_id, worker.org_id
    cause = Cause(origin.correlation_id, user_id, org_id, origin.traceparent)
    return uses(policy, metric, units, user_id=user_id, org_id=org_id, cause=cause)


def _consumptions(command: AnyCommand, outcome: object) -> Iterable[tuple[Consume, Consumed]]:
    if isinstance(command, Consume) and isinstance(outcome, Consumed):
        return ((command, outcome),)
    if isinstance(command, Together) and isinstance(outcome, DoneTogether):
        pairs = zip(command.items, outcome.results, strict=True)
        return chain.from_iterable(_consumptions(*pair) for pair in pairs)
    return ()


def _counted_by_metric(
    command: AnyCommand, outcome: object
) -> Iterator[tuple[TakeHold | HoldFacts | UsageReport, dict[str, int]]]:
    if isinstance(command, TakeHold) and isinstance(outcome, HoldTaken) and not outcome.replayed:
        yield command, command.requirements or {}
    if isinstance(command, OfHold) and isinstance(outcome, HoldChanged) and not outcome.replayed:
        yield command.hold, outcome.counted
    if (
        isinstance(command, IngestUsage)
        and isinstance(outcome, UsageIngested)
        and not outcome.replayed
    ):
        yield command.hold or command.report, outcome.counted


def _windows(
    policy: Policy, metric: str, user_id: str, org_id: str | None
) -> list[tuple[WindowKey, WindowLimit]]:
    """Return the windows and their limits; an empty list for the many metrics without limits."""
    found: list[tuple[WindowKey, WindowLimit]] = []
    for limit in policy.limits.get(metric, ()):
        subject = _bound(limit, user_id, org_id)
        if subject is not None and limit.count is not None:
            window = WindowKey(subject, metric, limit.window_s)
            found.append((window, WindowLimit(limit.count, limit.warn_at)))
    return found


def _bound(limit: Limit, user_id: str, org_id: str | None) -> Subject | None:
    """Return the subject of the limit; None if it is per org and the request names no org."""
    if limit.per == "user":
        return Subject("user", user_id)
    return Subject("org", org_id) if org_id is not None else None
