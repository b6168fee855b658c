"""Subscriptions and plans on the command line."""

from pathlib import Path
from typing import Any

import pytest

from tests.transports.cli.conftest import Answer, Entitlements

PLANS = """
costs: {}
free_plan: free
plans:
  free: {grants: []}
  pro:
    grants:
      - {entitlement_type: feature_unlock, feature: export}
      - {entitlement_type: credit_grant, quantity: 500, consumption_type: renewable}
    lifecycle: read_only
"""


@pytest.fixture
def policy(entitlements: Entitlements, tmp_path: Path) -> Path:
    """The file of the active policy."""
    path = tmp_path / "policy.yaml"
    path.write_text(PLANS)
    entitlements("account", "open", "user:eve")
    entitlements("policy", "apply", str(path))
    return path


@pytest.fixture
def sub(entitlements: Entitlements, policy: Path) -> Answer:
    return entitlements("subscription", "activate", "user:ada", "pro", "sub_1", "--key", "k")


def test_a_subscription_is_activated_once_and_shown(
    entitlements: Entitlements, sub: Answer
) -> None:
    again = entitlements("subscription", "activate", "user:ada", "pro", "sub_1", "--key", "k")
    shown = entitlements("subscription", "show", "sub_1", "--json").json
    lines = entitlements("subscription", "show", "sub_1").out.splitlines()
    table = entitlements("subscription", "list", "--plan", "pro").out.splitlines()

    assert (sub.code, sub.out) == (
        0,
        "sub_1 of user:ada to pro is active; 3 granted, 0 revoked\n",
    )
    assert again.out == "sub_1 of user:ada to pro is active; 3 granted, 0 revoked (replayed)\n"
    assert (shown["status"], shown["lifecycle"]) == ("active", "read_only(days=30)")
    assert "plan_id: pro" in lines
    assert table[0].split()[:3] == ["status", "subject", "plan"]
    assert table[1].split()[:3] == ["active", "user:ada", "pro"]
    assert "subscription: yes" in entitlements("summary", "user:ada").out


def test_a_subscription_is_changed_and_ended(entitlements: Entitlements, sub: Answer) -> None:
    def said(*words: str) -> str:
        return entitlements("subscription", *words).out

    changed = said("change", "sub_1", "free")
    late = said("past-due", "sub_1", "--reason", "invoice 17")
    canceling: Any = entitlements(
        "subscription", "cancel", "sub_1", "--at", "period_end", "--json"
    ).json
    expired = said("expire", "sub_1")

    assert changed == "sub_1 of user:ada to free is active; 0 granted, 2 revoked\n"
    assert late == "sub_1 of user:ada to free is past_due; 0 granted, 0 revoked\n"
    assert canceling["cancels_at"] == canceling["current_period_end"]
    assert expired.startswith("sub_1 of user:ada to free is expired since ")
    assert expired.endswith("; 0 granted, 1 revoked\n")
    acts = [one["action"] for one in entitlements("audit", "--json").json]
    assert acts[:5] == [
        "subscription.expire",
        "subscription.cancel",
        "subscription.past_due",
        "subscription.change",
        "subscription.activate",
    ]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("activate user:ada gold sub_2", 1, "the policy has no such plan"),
        ("activate ada pro sub_2", 2, "org:ID or user:ID"),
        ("cancel sub_2", 1, "no such subscription"),
        ("cancel sub_1 --at tomorrow", 2, "period_end"),
        ("activate user:eve pro sub_1", 1, "belongs to another subject"),
    ],
)
def test_what_is_refused_says_why(
    entitlements: Entitlements, sub: Answer, words: str, code: int, message: str
) -> None:
    answer = entitlements("subscription", *words.split())

    assert (answer.code, answer.out) == (code, "")
    assert message in answer.err


def test_plans_are_listed_and_shown(entitlements: Entitlements, policy: Path) -> None:
    table = entitlements("plan", "list").out.splitlines()
    shown = entitlements("plan", "show", "pro").out.splitlines()
    unknown = entitlements("plan", "show", "gold")

    assert [line.split()[0] for line in table] == ["plan", "free", "pro"]
    assert shown == [
        "pro: period month, lifecycle read_only(days=30)",
        "  feature_unlock feature=export",
        "  credit_grant consumption_type=renewable quantity=500 credit_type=credits",
    ]
    assert (unknown.code, unknown.err) == (1, "entitlements: the policy has no plan gold\n")
    assert entitlements("plan", "show", "pro", "--json").json["plan_id"] == "pro"


def test_a_migration_shows_who_gets_what_and_moves_them_once(
    entitlements: Entitlements, sub: Answer, policy: Path
) -> None:
    entitlements("subscription", "activate", "user:eve", "pro", "leaving")
    entitlements("subscription", "cancel", "leaving", "--at", "period_end")
    policy.write_text(PLANS.replace("500", "900").replace("feature: export", "feature: search"))
    entitlements("policy", "apply", str(policy))

    dry: Any = entitlements("plan", "migrate", "pro", "--dry-run", "--json").json
    table = entitlements("plan", "migrate", "pro", "--dry-run").out.splitlines()
    before = entitlements("balance", "user:ada", "--json").json
    moved = entitlements("plan", "migrate", "pro")
    after = entitlements("balance", "user:ada", "--json").json
    again = entitlements("plan", "migrate", "pro")

    assert dry["moved"] == 0
    assert [one["subscription_id"] for one in dry["changes"]] == ["sub_1"], "one is canceling"
    assert dry["changes"][0]["gains"] == [
        "feature_unlock feature=search",
        "credit_grant consumption_type=renewable quantity=900 credit_type=credits",
    ]
    assert dry["changes"][0]["loses"] == [
        "feature_unlock feature=export",
        "credit_grant consumption_type=renewable quantity=500 credit_type=credits",
    ]
    assert table[1].split()[:2] == ["user:ada", "sub_1"]
    assert moved.out.endswith("1 subscriptions moved\n")
    assert again.out == "every subscription to pro has its plan\n"
    assert [one["balance"] for one in (before[0], after[0])] == [500, 900]
    kept: Any = entitlements("subscription", "show", "leaving", "--json").json
    assert kept["cancels_at"] is not None
    assert entitlements("plan", "migrate", "gold").code in (1, 2)
