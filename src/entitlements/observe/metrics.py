"""Prometheus metrics of requests. Unknown metrics are `other`; subjects are never labels."""

from collections import Counter
from typing import Final

from prometheus_client import CollectorRegistry

from entitlements.app.credits.checks import Checked
from entitlements.app.operations.refusals import ExceededLimits
from entitlements.app.policy.active import Policies
from entitlements.core.reasons import DenialReason
from entitlements.observe.tallies import Durations, Tally

CONTENT_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"
OTHER: Final = "other"


def show_consumptions(registry: CollectorRegistry, counts: Counter[tuple[str, ...]]) -> None:
    """Register the counter of consumptions, by metric and payer."""
    Tally(
        registry,
        "entitlements_credit_consumption",
        "Consumptions by requests and events, by metric and payer; failed and free ones have"
        " source=none.",
        ["metric", "source"],
        counts,
    )


class Metrics:
    """The metrics of this process's requests."""

    def __init__(
        self,
        registry: CollectorRegistry,
        policies: Policies,
        consumptions: Counter[tuple[str, ...]],
    ) -> None:
        """``consumptions`` also counts those that events report."""
        self._policies = policies
        self._requests = Tally(
            registry, "http_requests", "HTTP requests.", ["method", "endpoint", "status_code"]
        ).counts
        self._request_s = Durations(
            registry,
            "http_request_duration_seconds",
            "Duration from the request's head to the last byte of the response.",
            ["method", "endpoint"],
        )
        self._checks = Tally(
            registry,
            "entitlements_credit_checks",
            "Checks, by result and payer.",
            ["result", "source"],
        ).counts
        self._consumptions = consumptions
        show_consumptions(registry, consumptions)
        self._adjustments = Tally(
            registry,
            "entitlements_credit_adjustments",
            "Balances that operators adjusted or set.",
            ["subject_type", "adjustment_type"],
        ).counts
        self._holds = Tally(
            registry, "entitlements_holds", "Hold requests, by result.", ["result"]
        ).counts
        self._limit_checks = Tally(
            registry,
            "entitlements_rate_limit_checks",
            "Rate limits evaluated by checks, by metric and result.",
            ["metric", "result"],
        ).counts
        self._violations = Tally(
            registry,
            "entitlements_rate_limit_violations",
            "Checks and adjustments denied by a rate limit, by metric.",
            ["metric"],
        ).counts
        self._check_s = Durations(
            registry,
            "entitlements_credit_check_duration_seconds",
            "Duration of a check, including its reads.",
        )
        self._consumption_s = Durations(
            registry,
            "entitlements_credit_consumption_duration_seconds",
            "Duration of a consumption until it is committed.",
        )

    def request(self, method: str, endpoint: str, status: int, seconds: float) -> None:
        self._requests[method, endpoint, str(status)] += 1
        self._request_s.observe(seconds, method, endpoint)

    def check(self, checked: Checked, seconds: float) -> None:
        decision = checked.decision
        self._checks[decision.reason or "allowed", decision.source or "none"] += 1
        self._check_s.observe(seconds)
        if decision.reason is DenialReason.POLICY_DENIED:
            return
        exceeded = {ask.window.metric for ask, _ in decision.exceeded}
        for metric in checked.limited:
            self._limit_checks[metric, "blocked" if metric in exceeded else "allowed"] += 1
        for metric in exceeded:
            self._violations[metric,] += 1

    def consumption(self, metric: str, source: str, seconds: float) -> None:
        known = metric if self._policies.active.knows(metric) else OTHER
        self._consumptions[known, source] += 1
        self._consumption_s.observe(seconds)

    def denied(self, exceeded: ExceededLimits) -> None:
        """Count the limits that denied an adjustment."""
        for metric in {ask.window.metric for ask, _ in exceeded}:
            self._violations[metric,] += 1

    def hold(self, result: str) -> None:
        self._holds[result,] += 1

    def adjustment(self, subject_type: str, kind: str) -> None:
        self._adjustments[subject_type, kind] += 1
