"""Alerts speak of metrics that the service has, by labels that they have, and are explained."""

import asyncio
import re
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from entitlements.main import build
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
LABELLED = re.compile(r"\b((?:entitlements|http)_[a-z_]+)\{([a-z_]+)(?:=~|!~|!=|=)\"")
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
                await stack.enter_async_context(build(load(database_url=url), ships=True)), stack
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

    assert named or rule["expr"].startswith("up{")
    assert named <= exposed


@every_rule
def test_an_alert_asks_for_labels_that_the_metrics_have(rule: dict[str, Any]) -> None:
    known = reference()

    asked = [(name, label) for name, label in LABELLED.findall(rule["expr"])]
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
