"""Differences between two policies, rule by rule."""

import pytest
from msgspec.structs import replace

from entitlements.app.policy.document import default_policy_text, parse
from entitlements.core.policy import Policy, ShortfallRule, Threshold
from entitlements.core.policy_diff import Change, difference

BASE = """\
costs: {feedback: 5, essay: 1, tokens: {cost: 2, credit_type: ai_tokens, per: 1000}}
rate_limits: {batch: 60/hour, essay: [5/day, {limit: 9/week, per: org}]}
signup_bonuses: {user: 50}
requires: {essay: {feature: export}}
implicit_idempotency: 24h
plans: {pro: {grants: [{entitlement_type: credit_grant, quantity: 5}], lifecycle: read_only}}
"""


def policy(text: str) -> Policy:
    return parse(text, source="test")


def told(old: str, new: str) -> list[str]:
    """Return the changes between the base policy and the base with one text replaced."""
    assert BASE.count(old) == 1, old
    return [str(change) for change in difference(policy(BASE), policy(BASE.replace(old, new)))]


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("feedback: 5", "feedback: 6", "costs.feedback: 5 -> 6"),
        ("feedback: 5", "{cost: 5, per: 2}", None),
        ("essay: 1, ", "", "costs.essay: removed, was 1"),
        ("essay: 1,", "essay: 1, scan: 0,", "costs.scan: added, 0"),
        ("per: 1000", "per: 100", "costs.tokens: 2 ai_tokens per 1000 -> 2 ai_tokens per 100"),
        ("60/hour", "30/hour", "rate_limits.batch: 60/hour -> 30/hour"),
        (
            "60/hour",
            "{limit: 60/hour, warn: 80%}",
            "rate_limits.batch: 60/hour -> 60/hour warn 80%",
        ),
        (
            "{limit: 9/week, per: org}",
            "{limit: 9/week, warn: 5%, per: org}",
            "rate_limits.essay: 5/day, 9/week per org -> 5/day, 9/week per org warn 5%",
        ),
        ("60/hour", "unlimited", "rate_limits.batch: 60/hour -> unlimited"),
        ("[5/day, {", "[{", "rate_limits.essay: 5/day, 9/week per org -> 9/week per org"),
        ("{user: 50}", "{user: 51}", "signup_bonuses.user: 50 -> 51"),
        ("feature: export", "tier: pro", "requires.essay: feature export -> tier pro"),
        ("24h", "off", "implicit_idempotency: 1d -> off"),
        ("24h", "90s", "implicit_idempotency: 1d -> 90s"),
        ("24h\n", "24h\nunknown_metrics: free\n", "unknown_metrics: denied -> free"),
        (
            "quantity: 5}",
            "quantity: 6, reset_day: 1, consumption_type: renewable}",
            (
                "plans.pro: credit_grant consumption_type=decremental quantity=5"
                " credit_type=credits; month; read_only(days=30) -> credit_grant"
                " consumption_type=renewable quantity=6 credit_type=credits"
                ' metadata={"reset_day":1}; month; read_only(days=30)'
            ),
        ),
        ("24h\n", "24h\nfree_plan: pro\n", "free_plan: none -> pro"),
        ("24h\n", "24h\nsettle_debts: true\n", "settle_debts: false -> true"),
        ("24h\n", "24h\nattribution: org_only\n", "attribution: org_first -> org_only"),
        ("24h\n", "24h\ncache_ttl: 60\n", "cache_ttl: 300 -> 60"),
    ],
)
def test_a_change_is_shown_in_the_notation_of_the_document(
    old: str, new: str, line: str | None
) -> None:
    if line is None:
        new, line = "feedback: {cost: 5, per: 2}", "costs.feedback: 5 -> 5 per 2"

    assert told(old, new) == [line]


def test_equivalent_documents_have_no_differences() -> None:
    assert told("24h\n", "1d # a comment\nattribution: org_first\n") == []


def test_changes_follow_the_order_of_the_document_then_the_name() -> None:
    new = policy("cache_ttl: 60\ncosts: {b: 1, a: 1}\nrate_limits: {a: 1/day}\n")

    assert [change.path for change in difference(policy("costs: {c: 1}"), new)] == [
        "costs.a",
        "costs.b",
        "costs.c",
        "rate_limits.a",
        "cache_ttl",
    ]


def test_the_reverse_comparison_swaps_before_and_after() -> None:
    shipped, base = policy(default_policy_text()), policy(BASE)
    there, back = difference(shipped, base), difference(base, shipped)

    assert {Change(c.path, c.after, c.before) for c in there} == set(back)


NOT_IN_A_DOCUMENT = {"version", "allowances"}


@pytest.mark.parametrize("field", [*sorted({*Policy.__struct_fields__} - NOT_IN_A_DOCUMENT)])
def test_a_change_of_any_field_is_a_difference(field: str) -> None:
    base = policy(BASE)
    value = getattr(base, field)
    match value:
        case bool():
            other: object = not value
        case int():
            other = value + 1
        case None:
            other = 1
        case dict():
            other = {}
        case tuple():
            other = (Threshold(below=1),)
        case ShortfallRule():
            other = ShortfallRule.OVERDRAFT
        case _:
            other = next(each for each in type(value) if each is not value)

    assert difference(base, replace(base, **{field: other}))
