"""What Prometheus reads. Labels are bounded: unknown metrics are `other`, subjects never appear."""

from functools import lru_cache
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from entitlements.app.checks import Checked
from entitlements.app.policies import Policies
from entitlements.core.check import DenialReason

CONTENT_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"
BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
OTHER: Final = "other"
_SERIES_MAX: Final = 4_096


class Metrics:
    """The service's counters, with the children of each label set found once."""

    def __init__(self, registry: CollectorRegistry, policies: Policies) -> None:
        self._registry = registry
        self._policies = policies
        requests = Counter(
            "http_requests", "HTTP requests.", ["method", "route", "status"], registry=registry
        )
        durations = Histogram(
            "http_request_duration_seconds",
            "From the request's head to the last byte of the answer.",
            ["method", "route"],
            registry=registry,
            buckets=BUCKETS_S,
        )
        checks = Counter(
            "entitlements_credit_checks",
            "Checks, by what they ended in and who would pay.",
            ["result", "source"],
            registry=registry,
        )
        consumptions = Counter(
            "entitlements_credit_consumption",
            "Consumptions answered, by metric and payer; failed ones have the source none.",
            ["metric", "source"],
            registry=registry,
        )
        adjustments = Counter(
            "entitlements_credit_adjustments",
            "Adjustments by people.",
            ["subject_type", "adjustment_type"],
            registry=registry,
        )
        limit_checks = Counter(
            "entitlements_rate_limit_checks",
            "Limits asked for by checks, by metric and result.",
            ["metric", "result"],
            registry=registry,
        )
        violations = Counter(
            "entitlements_rate_limit_violations",
            "Checks that a limit denied.",
            ["metric"],
            registry=registry,
        )
        self._check_s = Histogram(
            "entitlements_credit_check_duration_seconds",
            "How long a check took, its reads included.",
            registry=registry,
            buckets=BUCKETS_S,
        )
        self._consumption_s = Histogram(
            "entitlements_credit_consumption_duration_seconds",
            "How long a consumption took until it was committed.",
            registry=registry,
            buckets=BUCKETS_S,
        )

        cached = lru_cache(_SERIES_MAX)
        self._requests = cached(requests.labels)
        self._durations = cached(durations.labels)
        self._checks = cached(checks.labels)
        self._limit_checks = cached(limit_checks.labels)
        self._violations = cached(violations.labels)
        self._consumptions = cached(consumptions.labels)
        self._adjustments = cached(adjustments.labels)

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        self._requests(method, route, status).inc()
        self._durations(method, route).observe(seconds)

    def check(self, checked: Checked, seconds: float) -> None:
        decision = checked.decision
        self._checks(decision.reason or "allowed", decision.source or "none").inc()
        self._check_s.observe(seconds)
        if decision.reason is DenialReason.POLICY_DENIED:
            return
        exceeded = {ask.window.metric for ask, _ in decision.exceeded}
        for metric in checked.limited:
            self._limit_checks(metric, "exceeded" if metric in exceeded else "allowed").inc()
        for metric in exceeded:
            self._violations(metric).inc()

    def consumption(self, metric: str, source: str, seconds: float) -> None:
        known = metric if self._policies.active.knows(metric) else OTHER
        self._consumptions(known, source).inc()
        self._consumption_s.observe(seconds)

    def adjustment(self, subject_type: str, kind: str) -> None:
        self._adjustments(subject_type, kind).inc()

    def text(self) -> bytes:
        return generate_latest(self._registry)
