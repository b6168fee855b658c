"""Alerts speak of metrics that the service has, fire when they should, and are explained."""

import asyncio
import re
import shutil
import subprocess
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from entitlements.service.compose import build
from entitlements.settings import load
from tests.transports.http.api import Api

ROOT = Path(__file__).parents[1]
RULES = [
    rule
    for group in yaml.safe_load((ROOT / "deploy" / "alerts.yml").read_text("utf-8"))["groups"]
    for rule in group["rules"]
]
GUIDE = (ROOT / "docs" / "operations.md").read_text("utf-8")
METRICS = (ROOT / "docs" / "reference" / "metrics.md").read_text("utf-8")
NAME = re.compile(r"\b(?:entitlements|http)_[a-z_]+")
SELECTORS = re.compile(r"\b((?:entitlements|http)_[a-z_]+)\{([^}]*)\}")
LABEL = re.compile(r"([a-z_]+)(?:=~|!~|!=|=)\"")
GROUPED = re.compile(r"by \(([a-z_, ]+)\) \([^(]*?(?:\w+\()*((?:entitlements|http)_[a-z_]+)")
PROMETHEUS_OWN = {"le", "instance", "job"}

every_rule = pytest.mark.parametrize("rule", RULES, ids=[rule["alert"] for rule in RULES])


def reference() -> dict[str, set[str]]:
    """Every metric in the reference and its labels."""
    rows = re.findall(r"^\| `(\w+)` \|([\w, ]*)\|", METRICS, re.MULTILINE)
    return {name: {label.strip() for label in labels.split(",")} for name, labels in rows}


def plain(name: str) -> str:
    return re.sub(r"_(bucket|sum|count)$", "", name)


@pytest.fixture(scope="module")
def exposed(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names of all metrics of a service."""
    url = f"sqlite:///{tmp_path_factory.mktemp('service')}/books.db"

    async def scraped() -> str:
        async with AsyncExitStack() as stack:
            api = Api(
                await stack.enter_async_context(build(load(database_url=url), publishes=True)),
                stack,
            )
            return (await api.call("GET", "/metrics")).text

    text = asyncio.run(scraped())
    names = set(re.findall(r"^# TYPE (\w+) ", text, re.MULTILINE))
    return {name for name in names if not name.endswith("_created")}


@every_rule
def test_an_alert_names_metrics_that_the_service_has(
    rule: dict[str, Any], exposed: set[str]
) -> None:
    named = {plain(name) for name in NAME.findall(rule["expr"])}

    assert named or 'up{job="entitlements"}' in rule["expr"]
    assert named <= exposed


@every_rule
def test_an_alert_asks_for_labels_that_the_metrics_have(rule: dict[str, Any]) -> None:
    known = reference()

    asked = [
        (name, label)
        for name, selector in SELECTORS.findall(rule["expr"])
        for label in LABEL.findall(selector)
    ]
    for labels, name in GROUPED.findall(rule["expr"]):
        asked += [(name, label.strip()) for label in labels.split(",")]
    told = re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"])
    names = NAME.findall(rule["expr"])
    asked += [(name, label) for name in names for label in told]

    for name, label in asked:
        assert label in known[plain(name)] | PROMETHEUS_OWN, (name, label)


@every_rule
def test_an_alert_says_how_urgent_it_is_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert rule["annotations"]["summary"]
    assert f"\n### {rule['alert']}\n" in GUIDE


def test_the_guide_explains_no_alert_that_is_not_there() -> None:
    explained = re.findall(r"^### (Entitlements\w+)$", GUIDE, re.MULTILINE)

    assert sorted(explained) == sorted(rule["alert"] for rule in RULES)


def test_the_reference_lists_every_metric_and_no_other(exposed: set[str]) -> None:
    assert set(reference()) == exposed


class Example(NamedTuple):
    """Series of one job, a sample a minute, and the alerts that fire at ``minute``."""

    alerts: str
    series: dict[str, str]
    minute: int = 30


EXAMPLES = [
    Example("EntitlementsDown", {'up{instance="a"}': "0x40", 'up{instance="b"}': "1x40"}),
    Example(
        "EntitlementsFailing",
        {
            'http_requests_total{status_code="503"}': "0+2x40",
            'http_requests_total{status_code="200"}': "0+98x40",
        },
    ),
    Example(
        "",
        {
            'http_requests_total{status_code="503"}': "0+1x40",
            'http_requests_total{status_code="200"}': "0+99x40",
        },
    ),
    *(
        Example(
            alert,
            {
                f'{name}_bucket{{le="{below}"}}': "0+98x40",
                f'{name}_bucket{{le="{above}"}}': "0+100x40",
                f'{name}_bucket{{le="+Inf"}}': "0+100x40",
            },
        )
        for alert, name, below, above in (
            ("EntitlementsSlowChecks", "entitlements_credit_check_duration_seconds", 0.1, 0.25),
            ("", "entitlements_credit_check_duration_seconds", 0.05, 0.1),
            (
                "EntitlementsSlowConsumption",
                "entitlements_credit_consumption_duration_seconds",
                0.5,
                1,
            ),
            ("", "entitlements_credit_consumption_duration_seconds", 0.25, 0.5),
        )
    ),
    Example("EntitlementsQueueFull", {"entitlements_commands_waiting": "4001x40"}),
    Example("", {"entitlements_commands_waiting": "4000x40"}),
    Example("EntitlementsPoolExhausted", {"entitlements_database_pool_waiting": "1x40"}),
    Example("EntitlementsLimiterDegraded", {"entitlements_limiter_degraded": "1x40"}),
    Example("EntitlementsLimiterNotShared", {"entitlements_limiter_peers_apart": "1x40"}),
    Example("EntitlementsUsesNotCounted", {"entitlements_limiter_dropped_uses_total": "0x25 3x15"}),
    Example(
        "EntitlementsLimitEventsLost",
        {"entitlements_limit_events_dropped_total": "0x25 3x15"},
    ),
    Example("EntitlementsPolicyUnusable", {'entitlements_policy_problems{source="file"}': "1x40"}),
    Example(
        "EntitlementsLifecycleCallsWait", {"entitlements_lifecycle_call_age_seconds": "3601x40"}
    ),
    Example("EntitlementsWorkUnpriced", {"entitlements_work_unpriced": "2x40"}),
    Example("EntitlementsRecordsUnreadable", {"entitlements_records_unreadable": "1x40"}),
    Example("EntitlementsWalletsAheadOfClock", {"entitlements_wallets_ahead": "1x40"}),
    Example("EntitlementsBooksViolated", {'entitlements_invariant_violations{check="a"}': "1x40"}),
    # At minute 30, two days and a second after the proof; then two days.
    Example(
        "EntitlementsBooksNotProved",
        {"entitlements_books_proved_timestamp_seconds": "-171001x40"},
    ),
    Example("", {"entitlements_books_proved_timestamp_seconds": "-171000x40"}),
    Example("EntitlementsEventsLate", {"entitlements_outbox_age_seconds": "61x40"}),
    Example("", {"entitlements_outbox_age_seconds": "60x40"}),
    Example(
        "EntitlementsEventsLate EntitlementsEventsVeryLate",
        {"entitlements_outbox_age_seconds": "1801x40"},
    ),
    Example("EntitlementsEventsPileUp", {"entitlements_outbox_depth": "10000x40"}),
    Example("EntitlementsShippingFails", {"entitlements_outbox_failed_total": "0+1x40"}),
    Example("EntitlementsEventsParked", {"entitlements_outbox_parked": "1x40"}),
    Example("EntitlementsWebhooksFailing", {"entitlements_webhooks_failing": "1x40"}),
    *(
        Example(
            "EntitlementsWebhooksGivenUp",
            {'entitlements_webhook_deliveries_total{result="failed"}': counts},
            minute=100,
        )
        for counts in ("_x90 1x20", "0x90 1x20")
    ),
    Example(
        "", {'entitlements_webhook_deliveries_total{result="delivered"}': "_x90 1x20"}, minute=100
    ),
    Example(
        "EntitlementsConsumerBehind",
        {'entitlements_consumer_lag{topic="t",partition="0"}': "10001x40"},
    ),
    Example("EntitlementsConsumerHeldUp", {"entitlements_consumer_running": "0x40"}),
    Example("EntitlementsConsumerRestarts", {"entitlements_consumer_restarts_total": "0+1x40"}),
    *(
        Example(
            "EntitlementsEventsFail",
            {'entitlements_consumer_errors_total{resource_type="t"}': counts},
        )
        for counts in ("_x25 1x15", "0x25 1x15")
    ),
    Example("", {'entitlements_consumer_errors_total{resource_type="t"}': "1x40"}),
    Example("EntitlementsDeadLetters", {"entitlements_dead_letters_open": "1x40"}),
    *(
        Example(
            "EntitlementsConflicts",
            {'entitlements_consumption_conflicts_total{metric="m"}': counts},
        )
        for counts in ("_x25 1x15", "0x25 1x15")
    ),
    Example("EntitlementsGone", {'up{job="another"}': "1x40"}),
]
"""Beside each, a process of the job is up, unless the series name a job or say otherwise."""


def test_each_alert_has_an_example_in_which_it_fires() -> None:
    assert {name for example in EXAMPLES for name in example.alerts.split()} == {
        rule["alert"] for rule in RULES
    }


def test_exactly_the_alerts_of_an_example_fire_and_none_for_another_job(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    assert promtool, "promtool is missing: install the Debian package prometheus"
    anothers = {name: values for e in EXAMPLES for name, values in e.series.items() if e.alerts}
    tests = [unit_test(example, "entitlements") for example in EXAMPLES]
    tests.append(unit_test(Example("", anothers), "another"))
    file = tmp_path / "examples.yml"
    rules = str(ROOT / "deploy" / "alerts.yml")
    file.write_text(
        yaml.safe_dump({"rule_files": [rules], "evaluation_interval": "1m", "tests": tests})
    )

    run = subprocess.run(
        [promtool, "test", "rules", str(file)], capture_output=True, text=True, check=False
    )

    assert run.returncode == 0, run.stdout + run.stderr


def unit_test(example: Example, job: str) -> dict[str, Any]:
    """As promtool wants it."""
    series = {of_job(name, job): values for name, values in example.series.items()}
    if job != "entitlements" or not any(name.startswith("up{") for name in series):
        series['up{job="entitlements"}'] = f"1x{example.minute + 10}"
    return {
        "name": f"{sorted(series)} of {job}",
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                "eval_time": f"{example.minute}m",
                "exp_samples": [
                    {"labels": f'{{alertname="{alert}"}}', "value": 1}
                    for alert in example.alerts.split()
                ],
            }
        ],
    }


def of_job(series: str, job: str) -> str:
    """The series with the label ``job``, unless it has one."""
    name, _, labels = series.rstrip("}").partition("{")
    if "job=" in labels:
        return series
    return f'{name}{{job="{job}"{"," if labels else ""}{labels}}}'
