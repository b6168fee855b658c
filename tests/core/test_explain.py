"""An explanation reports the decision and exactly its inputs."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from entitlements.core.check import Decision, ask, decide
from entitlements.core.explain import Explanation, Verdict, explain
from entitlements.core.ledger.book import Book, Draft, NeedMore
from entitlements.core.ledger.due import wallet_in
from entitlements.core.model import Grant, Wallet, WalletKey
from entitlements.core.policy import Cost, Limit, Policy
from entitlements.core.reasons import GrantReason
from entitlements.core.windows import WindowState

NOW = datetime(2026, 1, 1, tzinfo=UTC)
USER = WalletKey("user", "ada", "credits")
ORG = WalletKey("org", "school", "credits")
FREE = WindowState(0, 0)
POLICY = Policy(
    version="v1",
    costs={"essay": Cost(credits=1), "tokens": Cost(credits=2, credit_type="ai", per=1000)},
    limits={"essay": (Limit(count=10, window_s=60),)},
    signup_bonuses={},
)


def later(seconds: int) -> datetime:
    return NOW + timedelta(seconds=seconds)


def a_grant(grant_id: str, key: WalletKey, remaining: int, **fields: Any) -> Grant:
    return Grant(
        id=grant_id,
        wallet=key,
        quantity=remaining,
        remaining=remaining,
        reason=GrantReason.MANUAL,
        **{"granted_at": NOW, **fields},
    )


def told(
    requirements: dict[str, int],
    *grants: Grant,
    org: str | None = "school",
    states: tuple[WindowState, ...] = (FREE,),
    horizon: bool = False,
    policy: Policy = POLICY,
    owing: Mapping[WalletKey, int] | None = None,
) -> tuple[Decision, Explanation]:
    """Decide and explain with wallets that have exactly these grants."""
    book = Book(now=NOW, policy_version="v1", policy_content=None)
    book.equip(policy, lambda: "")
    for grant in grants:
        own = [one for one in grants if one.wallet == grant.wallet]
        due_at = min((one.due_at for one in own if one.due_at is not None), default=None)
        balance = sum(one.remaining for one in own if one.started)
        book.put_wallet(
            Wallet(key=grant.wallet, balance=balance, next_due_at=due_at, updated_at=NOW)
        )
        book.put_grant(grant)
        if horizon:
            book.horizon[grant.wallet] = (50, NOW, NOW, "")
    draft = Draft(book)
    question = ask(policy, requirements, user_id="ada", org_id=org)
    book.owing = {key: (owing or {}).get(key, 0) for key in question.gated}
    wallets = {key: wallet_in(draft, key) for key in question.wallets}
    decision = decide(question, wallets, states, owing or {})
    return decision, explain(draft, question, states, decision)


def verdicts(explanation: Explanation) -> list[tuple[str, str | None, Verdict]]:
    return [
        (one.gate, one.metric or one.inputs["subject"], one.verdict) for one in explanation.gates
    ]


def test_an_allowed_check_names_the_payer_and_the_grants_a_consumption_would_draw() -> None:
    decision, explanation = told(
        {"essay": 7},
        a_grant("late", ORG, 5, expires_at=later(90)),
        a_grant("soon", ORG, 4, expires_at=later(60)),
        a_grant("own", USER, 50),
    )

    assert decision.source == "org"
    assert verdicts(explanation) == [
        ("policy", "essay", "pass"),
        ("limit", "essay", "pass"),
        ("payer", "org:school", "pass"),
        ("payer", "user:ada", "skipped"),
    ]
    assert [(*one.draw, one.wallet) for one in explanation.draws] == [
        ("soon", 4, ORG),
        ("late", 3, ORG),
    ]
    assert (explanation.binding, explanation.passes_at) == (None, NOW)
    assert [(w.key, w.available) for w in explanation.wallets] == [(USER, 50), (ORG, 9)]
    assert (explanation.policy_version, explanation.at) == ("v1", NOW)


def test_gates_report_the_numbers_they_were_decided_by() -> None:
    _, explanation = told(
        {"essay": 3}, a_grant("g", USER, 2), org=None, states=(WindowState(6, 0),)
    )

    assert [gate.inputs for gate in explanation.gates] == [
        {
            "units": 3,
            "known": True,
            "cost": 1,
            "per": 1,
            "credits": 3,
            "credit_type": "credits",
        },
        {
            "subject": "user:ada",
            "limit": 10,
            "window_seconds": 60,
            "used": 6,
            "requested": 3,
        },
        {
            "subject": "user:ada",
            "required": {"credits": 3},
            "available": {"credits": 2},
        },
    ]
    assert explanation.binding == explanation.gates[2]


def test_an_unknown_metric_skips_the_later_gates_and_never_passes() -> None:
    _, explanation = told({"essay": 1, "unheard": 1}, a_grant("g", USER, 9), org=None)

    assert verdicts(explanation) == [
        ("policy", "essay", "pass"),
        ("policy", "unheard", "fail"),
        ("limit", "essay", "skipped"),
        ("payer", "user:ada", "skipped"),
    ]
    assert explanation.binding == explanation.gates[1]
    assert explanation.passes_at is None
    assert explanation.draws == []


def test_a_limit_skips_the_payers_and_shows_when_it_passes() -> None:
    _, explanation = told(
        {"essay": 1}, a_grant("g", USER, 9), org=None, states=(WindowState(10, 1500),)
    )

    assert verdicts(explanation)[1:] == [
        ("limit", "essay", "fail"),
        ("payer", "user:ada", "skipped"),
    ]
    assert explanation.passes_at == NOW + timedelta(milliseconds=1500)


def test_a_request_above_a_limit_by_itself_never_passes() -> None:
    _, explanation = told(
        {"essay": 11}, a_grant("g", USER, 99), org=None, states=(WindowState(0, None),)
    )

    assert explanation.passes_at is None


def test_a_free_requirement_needs_no_payer() -> None:
    _, explanation = told({"essay": 0}, a_grant("g", USER, 9), org=None)

    assert verdicts(explanation)[-1] == ("payer", "user:ada", "skipped")
    assert explanation.draws == []


def test_a_shortfall_passes_when_a_scheduled_grant_of_any_candidate_covers_it() -> None:
    _, explanation = told(
        {"essay": 5},
        a_grant("org's", ORG, 9, started=False, granted_at=later(80)),
        a_grant("live", USER, 3),
        a_grant("first", USER, 1, started=False, granted_at=later(20)),
        a_grant("second", USER, 1, started=False, granted_at=later(40)),
    )

    assert explanation.passes_at == later(40)


def test_grants_that_expire_by_then_do_not_count() -> None:
    _, explanation = told(
        {"essay": 5},
        a_grant("live", USER, 3, expires_at=later(40)),
        a_grant("second", USER, 2, started=False, granted_at=later(40)),
        a_grant("third", USER, 3, started=False, granted_at=later(60)),
        org=None,
    )

    assert explanation.passes_at == later(60)


def test_it_passes_only_when_both_the_limit_and_the_credits_allow_it() -> None:
    _, explanation = told(
        {"essay": 5},
        a_grant("short", USER, 5, expires_at=later(30)),
        a_grant("next", USER, 5, started=False, granted_at=later(90)),
        org=None,
        states=(WindowState(8, 60_000),),
    )

    assert explanation.passes_at == later(90)


def test_a_shortfall_without_scheduled_grants_never_passes() -> None:
    _, explanation = told({"essay": 5}, a_grant("live", USER, 3), org=None)

    assert explanation.passes_at is None


def test_each_credit_type_is_drawn_from_its_own_wallet() -> None:
    ai = WalletKey("user", "ada", "ai")
    _, explanation = told(
        {"essay": 2, "tokens": 1500}, a_grant("a", USER, 9), a_grant("b", ai, 9), org=None
    )

    assert [(*one.draw, one.wallet.credit_type) for one in explanation.draws] == [
        ("a", 2, "credits"),
        ("b", 3, "ai"),
    ]


def test_grants_beyond_those_loaded_are_requested() -> None:
    with pytest.raises(NeedMore):
        told({"essay": 5}, a_grant("g", USER, 9), org=None, horizon=True)


def test_the_debt_gate_is_reported_for_each_candidate() -> None:
    gated = replace(POLICY, debt_gate=5)
    grants = (a_grant("o1", ORG, 50), a_grant("a1", USER, 50))

    _, allowed = told({"essay": 1}, *grants, policy=gated, owing={ORG: 6, USER: 5})
    _, denied = told({"essay": 1}, *grants, policy=gated, owing={ORG: 6, USER: 7})

    gates = [one for one in denied.gates if one.gate == "debt_gate"]
    assert [(one.verdict, one.inputs["owed"], one.inputs["debt_gate"]) for one in gates] == [
        (Verdict.FAIL, {"credits": 6}, 5),
        (Verdict.FAIL, {"credits": 7}, 5),
    ]
    assert denied.binding == gates[0]
    assert denied.passes_at is None
    assert [one.verdict for one in allowed.gates if one.gate == "debt_gate"] == [
        Verdict.FAIL,
        Verdict.PASS,
    ]
    assert allowed.binding is None
