"""Apply every worked example in `conformance` to a book in memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from entitlements.core.outcomes import AnyOutcome, Refusal
from entitlements.core.subscription import Subscription
from tests.core.ledger.teller import EPOCH, ORIGIN_KEYS, Teller, at, check_books, wallet_key

ROOT = Path(__file__).parents[3] / "conformance"
RULES = (
    "allowance",
    "attribution",
    "burndown",
    "consume",
    "together",
    "grant",
    "adjust",
    "reverse",
    "debt",
    "due",
    "hold",
    "member",
    "renewal",
    "replay",
    "spend",
    "subscription",
    "report",
    "thresholds",
)
CASE_KEYS = {
    "name", "policy", "grants", "overdrafts", "members", "steps", "wallets", "remaining", "debts",
    "drawn", "subscriptions",
}  # fmt: skip
STEP_KEYS = ORIGIN_KEYS | {"policy", "do", "at", "outcome", "writes"}


def cases() -> list[Any]:
    found = []
    for file in sorted(path for rule in RULES for path in (ROOT / rule).glob("*.json")):
        examples = json.loads(file.read_text("utf-8"))
        for case in examples["cases"]:
            case["policy"] = examples["policy"] | case.get("policy", {})
            found.append(pytest.param(case, id=f"{file.parent.name}: {case['name']}"))
    return found


def test_an_example_is_found_by_its_name() -> None:
    """Planted bugs name the example that catches them."""
    names = [case.id for case in cases()]

    assert len(set(names)) == len(names), [name for name in names if names.count(name) > 1]


@pytest.mark.parametrize("case", cases())
def test_example(case: dict[str, Any]) -> None:
    assert case.keys() <= CASE_KEYS
    teller = Teller(case["policy"])
    for grant in case.get("grants", []):
        teller.starts_with_grant(grant)
    for name, overdraft in case.get("overdrafts", {}).items():
        teller.starts_overdrawn(wallet_key(name), overdraft)
    for member in case.get("members", []):
        teller.starts_with_member(**member)
    opened = {key: wallet.balance for key, wallet in teller.book.wallets.items()}

    for step in case["steps"]:
        follow(teller, step)
        check_books(teller, opened)

    for name, expected in case.get("wallets", {}).items():
        assert_shows(msgspec.to_builtins(teller.wallet(name)), expected)
    for debt_id, expected in case.get("debts", {}).items():
        debt = msgspec.to_builtins(teller.book.debts[debt_id])
        assert_shows(debt | {"wallet": _wallet_name(debt["wallet"])}, expected)
    drawn = {f"{one.org_id}/{one.user_id}": one.drawn for one in teller.book.members.values()}
    assert_shows(drawn, case.get("drawn", {}))
    for name, expected in case.get("subscriptions", {}).items():
        assert_shows(_subscription(teller.book.subscriptions[name]), expected)
    left = {one.id: one.remaining for key in teller.book.wallets for one in teller.grants(key)}
    assert_shows(left, case.get("remaining", {}))


def follow(teller: Teller, step: dict[str, Any]) -> None:
    """Apply one step of an example; assert its outcome and exactly the operations it lists."""
    assert step.keys() <= STEP_KEYS
    teller.book.now = at(step["at"]) if "at" in step else teller.book.now
    if "policy" in step:
        teller.activates(step["policy"])
    ((verb, fields),) = step["do"].items()
    origin = {name: step[name] for name in ORIGIN_KEYS & step.keys()}
    written = len(teller.operations)

    outcome = teller.apply(teller.command(verb, fields, **origin))

    expected = dict(step.get("outcome", {}))
    results = expected.pop("results", None)
    answer = shown(outcome)
    assert_shows(answer, expected)
    if results is not None:
        assert len(results) == len(answer["results"])
        for result, wanted in zip(answer["results"], results, strict=True):
            assert_shows(result, wanted)
    lines = [
        _line(one)
        for one in msgspec.to_builtins(teller.operations[written:], builtin_types=(type(EPOCH),))
    ]
    if "writes" in step:
        assert len(lines) == len(step["writes"]), lines
        for line, expected in zip(lines, step["writes"], strict=True):
            assert_shows(line, expected)


def shown(outcome: AnyOutcome | Refusal) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(msgspec.json.encode(outcome))
    if isinstance(outcome, Refusal):
        return {"refused": plain["code"], **plain["data"]}
    return plain


def _line(operation: dict[str, Any]) -> dict[str, Any]:
    """Return an operation in the notation of the examples: a wallet is text, a time is a second."""
    seconds = {
        name: int((operation[name] - EPOCH).total_seconds())
        for name in ("created_at", "effective_at")
    }
    pairs = {name: [list(pair) for pair in operation[name]] for name in ("draws", "crossings")}
    return operation | seconds | pairs | {"wallet": _wallet_name(operation["wallet"])}


def _subscription(one: Subscription) -> dict[str, Any]:
    """Return a subscription in the notation of the examples: a time is a second."""
    plain: dict[str, Any] = msgspec.to_builtins(one, builtin_types=(type(EPOCH),))
    for name, value in plain.items():
        if isinstance(value, type(EPOCH)):
            plain[name] = int((value - EPOCH).total_seconds())
        if isinstance(value, tuple):
            plain[name] = [list(pair) for pair in value]
    return plain


def _wallet_name(key: list[str]) -> str:
    kind, subject_id, credit_type = key
    return f"{kind}:{subject_id}" + ("" if credit_type == "credits" else f"/{credit_type}")


def assert_shows(actual: dict[str, Any], expected: dict[str, Any]) -> None:
    assert {name: actual[name] for name in expected} == expected
