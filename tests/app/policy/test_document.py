import json
import re
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from entitlements.app.policy.document import (
    TEXT_MAX,
    DocumentProblem,
    PolicyError,
    default_policy_text,
    parse,
)

ROOT = Path(__file__).parents[3]
CONFORMANCE = ROOT / "conformance" / "policy"
REFERENCE = ROOT / "docs" / "reference" / "policy.md"


def cases(file: str) -> list[Any]:
    examples = json.loads((CONFORMANCE / file).read_text("utf-8"))["cases"]
    return [pytest.param(case, id=case["name"]) for case in examples]


@pytest.mark.parametrize("case", cases("accepted.json"))
def test_accepted(case: dict[str, Any]) -> None:
    policy = msgspec.json.decode(msgspec.json.encode(parse(case["document"], source="p.yaml")))

    assert {field: policy[field] for field in case["policy"]} == case["policy"]


@pytest.mark.parametrize("case", cases("refused.json"))
def test_refused(case: dict[str, Any]) -> None:
    with pytest.raises(PolicyError) as refused:
        parse(case["document"], source="p.yaml")

    assert str(refused.value).splitlines() == [f"p.yaml:{line}" for line in case["problems"]]


def test_a_lifecycle_names_a_handler_that_is_known_where_it_is_activated() -> None:
    text = "costs: {}\nlifecycle: gold\nplans: {pro: {grants: [], lifecycle: silver}}"

    with pytest.raises(PolicyError) as refused:
        parse(text, source="p.yaml", handlers={"silver"})

    (problem,) = refused.value.problems
    assert (problem.line, problem.path) == (2, "lifecycle")
    assert problem.reason.startswith("there is no lifecycle handler 'gold'; known: ")
    assert parse(text, source="p.yaml", handlers={"gold", "silver"}).plans.keys() == {"pro"}


def test_problems_can_be_read_one_by_one() -> None:
    with pytest.raises(PolicyError) as refused:
        parse("costs:\n  cj: -1", source="p.yaml")

    assert refused.value.problems == [
        DocumentProblem(2, "costs.cj", "must be a whole number, 0 or more"),
    ]


def test_the_version_is_the_hash_of_the_text() -> None:
    text = "costs: {}  # å\n"

    assert parse(text, source="p.yaml").version == sha256(text.encode()).hexdigest()
    assert parse(text + "\n", source="p.yaml").version != parse(text, source="p.yaml").version


def test_a_document_over_the_size_limit_is_not_parsed() -> None:
    with pytest.raises(PolicyError, match="longer than"):
        parse("#" * (TEXT_MAX + 1), source="p.yaml")


def test_the_shipped_policy_has_its_costs_limits_and_bonuses() -> None:
    policy = parse(default_policy_text(), source="default")

    assert {metric: cost.credits for metric, cost in policy.costs.items()} == {
        "cj_comparison": 1,
        "ai_feedback_generation": 5,
        "ai_editor_revision": 3,
        "spellcheck": 0,
        "nlp_analysis": 0,
        "batch_create": 0,
        "student_matching": 0,
        "content_upload": 0,
    }
    assert {
        metric: [(w.count, w.window_s, w.per) for w in policy.limits[metric]]
        for metric in policy.limits
    } == {
        "cj_comparison": [(10_000, 86_400, "user")],
        "ai_feedback_generation": [(500, 86_400, "user")],
        "batch_create": [(60, 3_600, "user")],
        "pipeline_request": [(100, 3_600, "user")],
        "credit_adjustment": [(10, 3_600, "user")],
    }
    assert policy.signup_bonuses == {"user": 50, "org": 500}
    assert policy.cache_ttl_s == 300


def test_the_shipped_policy_states_the_defaults() -> None:
    shipped = msgspec.to_builtins(parse(default_policy_text(), source="default"))
    bare = msgspec.to_builtins(parse("costs: {}", source="bare"))

    by_hand = {"version", "costs", "limits", "signup_bonuses"}
    assert {k: v for k, v in shipped.items() if k not in by_hand} == {
        k: v for k, v in bare.items() if k not in by_hand
    }


yaml_pieces = st.sampled_from(
    ["costs", ":", " ", "\n", "  ", "{", "}", "[", "]", "- ", "1", "-1", "x", "!!set ", "!a ",
     "&a ", "*a", "? ", "|", ">", "'", '"', "\\U", "FFFFFFFF", "%YAML 9", ".", "---", "...",
     "#", ",", "~", "rate_limits", "1/day", "per", "limit", "\t", "é", "\ud800"]
)  # fmt: skip


@given(st.lists(yaml_pieces, max_size=25).map("".join) | st.text(max_size=40))
@example("costs: !!set [1]")
@example("costs: {a: !!str [1]}")
@example("rate_limits: {a: !!str {a: 1}}")
@example("costs: {cj: 1}\nimplicit_idempotency: [off]")
@example("%YAML 1." + "9" * 5000 + "\n---\ncosts: {}")
@example('costs: {"\\UFFFFFFFF": 1}')
@example("{" * 100_000)
@example("costs: {cj: " + "9" * 5000 + "}")
def test_any_text_is_accepted_or_refused(text: str) -> None:
    try:
        policy = parse(text, source="any")
    except PolicyError as error:
        refused = error
    else:
        assert policy.version == sha256(text.encode()).hexdigest()
        return

    assert refused.problems


def test_the_examples_of_the_reference_are_accepted() -> None:
    examples = re.findall(r"```yaml\n(.*?)```", REFERENCE.read_text("utf-8"), re.DOTALL)

    assert len(examples) == 5
    for text in examples:
        parse(text if "costs:" in text else f"costs: {{}}\n{text}", source="policy.md")
