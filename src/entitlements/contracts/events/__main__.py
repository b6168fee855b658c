"""Writes docs/events: `python -m entitlements.contracts.events DOCUMENTS EXAMPLES`."""

import json
import sys
from pathlib import Path
from typing import Any, Final

import yaml

from entitlements.contracts.events.documents import asyncapi, schema
from entitlements.contracts.events.topics import TOPICS

_HEAD: Final = "# Made by `make schemas`; change the types instead.\n"


def files(examples: Path) -> dict[str, str]:
    """Every file by its name below the folder of documents."""
    given: dict[str, Any] = {}
    for example in sorted(examples.glob("*.json")):
        page = json.loads(example.read_text("utf-8"))
        given[page["topic"]] = page["accepted"]
    made = {
        f"schemas/{topic.name}.json": json.dumps(schema(topic), indent=2, ensure_ascii=False) + "\n"
        for topic in TOPICS
    }
    document = yaml.safe_dump(asyncapi(given), sort_keys=False, allow_unicode=True, width=120)
    return made | {"asyncapi.yaml": _HEAD + document}


def main(documents: str, examples: str) -> None:
    for name, text in files(Path(examples)).items():
        path = Path(documents) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
