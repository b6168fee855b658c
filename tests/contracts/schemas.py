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
    """Of the topic, without its prefix. Formats count: a time must be one."""
    schema = json.loads((SCHEMAS / f"{topic}.json").read_text("utf-8"))
    Draft7Validator.check_schema(schema)
    return Draft7Validator(schema, format_checker=FormatChecker())


def faults(event: Any, topic: str) -> list[str]:
    """What the published schema has against an event."""
    return [error.message for error in validator(topic).iter_errors(event)]
