import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entitlements.core.check import Decision, ask, decide
from entitlements.core.model import Wallet, WalletKey
from entitlements.core.policy import AMOUNT_MAX, Policy
from entitlements.core.pricing import AmountTooLarge
from entitlements.core.reasons import DenialReason, SubjectType
from entitlements.core.windows import LimitQuery, Window, WindowState

CASES = Path(__file__).parents[2] / "conformance" / "check" / "bulk.json"
EXAMPLES = [
    pytest.param(case, id=case["name"]) for case in json.loads(CASES.read_text("utf-8"))["cases"]
]
NOW = datetime(2026, 1, 1, tzinfo=UTC)
NOW_MS = 1_767_225_600_000
COSTS = {
    "essay": {"credits": 1},
    "feedback": {"credits": 5},
    "spellcheck": {"credits": 0},
    "tokens": {"credits": 2, "credit_type": "ai_tokens"},
    "hint": {"credits": 0, "credit_type": "ai_tokens"},
}


def a_policy(**differing: Any) -> Policy:
    fields = {"version": "0" * 64, "costs": COSTS, "limits": {}, "signup_bonuses": {}}
    return msgspec.convert(fields | differing, Policy)


def a_wallet(subject: SubjectType, credit_type: str, balance: int, held: int = 0) -> Wallet:
    key = WalletKey(subject, "u" if subject == "user" else "o", credit_type)
    return Wallet(key=key, balance=balance, held=held, updated_at=NOW)


def decided(
    policy: Policy,
    requirements: dict[str, int],
    *wallets: Wallet,
    org: bool = True,
    used: Mapping[str, int] | None = None,
    owing: Mapping[WalletKey, int] | None = None,
) -> Decision:
    """Decide with ``used`` units per metric in each of its windows; ``owing`` as in `decide`."""
    question = ask(policy, requirements, user_id="u", org_id="o" if org else None)
    by_key = {wallet.key: wallet for wallet in wallets}
    # Pass only the wallets and windows that the question named.
    states = [state(ask, (used or {}).get(ask.window.metric, 0)) for ask in question.queries]
    named = {key: by_key[key] for key in question.wallets if key in by_key}
    return decide(question, named, states, owing or {})


def state(ask: LimitQuery, used: int) -> WindowState:
    """Return the state of a window in which all units were used just now."""
    window = Window(ask.window.window_s)
    window.add(NOW_MS, used)
    return window.state(NOW_MS, ask.limit, ask.amount)


@pytest.mark.parametrize("case", EXAMPLES)
def test_check(case: dict[str, Any]) -> None:
    wallets = [
        a_wallet(subject, credit_type, available, case.get("held", 0))
        for subject, types in case["wallets"].items()
        for credit_type, available in types.items()
    ]
    expect = case["expect"]

    decision = decided(
        a_policy(**case.get("policy", {})),
        case["requirements"],
        *wallets,
        org=case["org"],
        used=case.get("used"),
    )

    assert decision.allowed == (expect["reason"] is None)
    assert decision.reason == expect["reason"]
    assert decision.required == expect["required"]
    assert decision.available == expect["available"]
    assert decision.source == expect["source"]
    lines = {
        metric: [line.required, line.available, line.allowed, line.source, line.reason]
        for metric, line in decision.lines.items()
    }
    assert list(lines.items()) == list(expect["lines"].items())
    needs = {
        name: [need.required, need.org, need.user, need.missing]
        for name, need in decision.needs.items()
    }
    assert list(needs.items()) == list(expect["needs"].items())
    exceeded = [[*ask.window.subject, ask.window.metric] for ask, _ in decision.exceeded]
    assert exceeded == expect.get("exceeded", [])


def test_reasons_are_listed_in_their_order_of_precedence() -> None:
    assert [reason.value for reason in DenialReason] == [
        "policy_denied",
        "rate_limit_exceeded",
        "insufficient_credits",
    ]


def test_an_unknown_metric_is_denied_with_the_detail_unknown_metric() -> None:
    decision = decided(a_policy(), {"unheard": 1, "essay": 1})

    assert decision.lines["unheard"].detail == "unknown_metric"
    assert decision.lines["essay"].detail is None


def test_wallets_of_org_and_user_are_read_even_if_everything_is_free() -> None:
    question = ask(a_policy(), {"spellcheck": 1}, user_id="u", org_id="o")

    assert set(question.wallets) == {
        WalletKey("user", "u", "credits"),
        WalletKey("org", "o", "credits"),
    }


def test_a_total_beyond_the_largest_amount_is_refused() -> None:
    with pytest.raises(AmountTooLarge):
        ask(a_policy(), {"essay": AMOUNT_MAX, "feedback": 1}, user_id="u", org_id=None)


@given(
    requirements=st.dictionaries(st.sampled_from(sorted(COSTS)), st.integers(0, 50)),
    funds=st.lists(st.integers(-20, 400), min_size=4, max_size=4),
)
def test_a_check_is_allowed_exactly_if_org_or_user_can_pay(
    requirements: dict[str, int], funds: list[int]
) -> None:
    wallets = [
        a_wallet("org", "credits", funds[0]),
        a_wallet("org", "ai_tokens", funds[1]),
        a_wallet("user", "credits", funds[2]),
        a_wallet("user", "ai_tokens", funds[3]),
    ]

    decision = decided(a_policy(), requirements, *wallets)

    credits = requirements.get("essay", 0) + 5 * requirements.get("feedback", 0)
    tokens = 2 * requirements.get("tokens", 0)
    org_pays = (not credits or funds[0] >= credits) and (not tokens or funds[1] >= tokens)
    user_pays = (not credits or funds[2] >= credits) and (not tokens or funds[3] >= tokens)
    assert decision.allowed == (org_pays or user_pays)
    if decision.allowed and (credits or tokens):
        assert decision.source == ("org" if org_pays else "user")


ORG = WalletKey("org", "o", "credits")
USER = WalletKey("user", "u", "credits")


def test_a_subject_that_owes_more_than_the_debt_gate_does_not_pay() -> None:
    policy = a_policy(debt_gate=5)
    wallets = (a_wallet("org", "credits", 99), a_wallet("user", "credits", 99))
    metric = "essay"

    at_the_gate = decided(policy, {metric: 1}, *wallets, owing={ORG: 5})
    next_pays = decided(policy, {metric: 1}, *wallets, owing={ORG: 6})
    nobody = decided(policy, {metric: 1}, *wallets, owing={ORG: 6, USER: 6})
    poor = decided(policy, {metric: 1}, owing={ORG: 6, USER: 6})
    without = decided(a_policy(), {metric: 1}, *wallets, owing={ORG: 6, USER: 6})

    assert (at_the_gate.source, next_pays.source, without.source) == ("org", "user", "org")
    assert (nobody.reason, nobody.lines[metric].detail) == ("insufficient_credits", "debt_gate")
    assert (poor.reason, poor.lines[metric].detail) == ("insufficient_credits", None)
    assert decided(policy, {}, *wallets, owing={ORG: 6, USER: 6}).allowed
