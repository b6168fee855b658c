"""JSON Schema validation of events by an independent implementation."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft7Validator, FormatChecker

ROOT = Path(__file__).parents[2]
SCHEMAS = ROOT / "docs" / "events" / "schemas"
EXAMPLES = ROOT / "conformance" / "events"


@cache
def validator(topic: str) -> Draft7Validator:
    """Return the validator of a topic, named without its prefix. It checks formats too."""
    schema = json.loads((SCHEMAS / f"{topic}.json").read_text("utf-8"))
    Draft7Validator.check_schema(schema)
    return Draft7Validator(schema, format_checker=FormatChecker())


def faults(event: Any, topic: str) -> list[str]:
    """Return the errors of an event against its published schema."""
    return [error.message for error in validator(topic).iter_errors(event)]
