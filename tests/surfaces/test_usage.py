"""Usage reports of each provider, converted to four kinds of tokens."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from entitlements.llm import usage_of

EXAMPLES = json.loads(
    (Path(__file__).parents[2] / "conformance" / "llm" / "usage.json").read_text("utf-8")
)


def as_object(told: Any) -> Any:
    """Convert mappings to objects, as the providers' libraries return them."""
    if not isinstance(told, dict):
        return told
    return SimpleNamespace(**{name: as_object(value) for name, value in told.items()})


@pytest.mark.parametrize("as_told", [dict, as_object], ids=["mapping", "object"])
@pytest.mark.parametrize("case", EXAMPLES["cases"], ids=lambda case: case["name"])
def test_example(case: dict[str, Any], as_told: Any) -> None:
    used = usage_of(as_told(case["usage"]) if case["usage"] is not None else None)

    assert (used._asdict() if used else None) == case["tokens"]
