"""Classes of essays to grade: from a file, or a built-in sample."""

import csv
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Final

from msgspec import Struct

BESIDE_THE_CHECKOUT: Final = Path("../shared/data/essays.csv")
CLASS_MAX: Final = 30
CLASS_MIN: Final = 2
_COLUMNS: Final = ("essay_id", "prompt", "text")


class UnusableEssays(ValueError):
    """The file has no class that can be graded; the text says why."""


class Essay(Struct, frozen=True):
    id: str
    text: str


class SchoolClass(Struct, frozen=True):
    """Essays on one prompt, which are compared with each other."""

    prompt: str
    essays: tuple[Essay, ...]


def classes(path: Path | None, *, size_max: int = CLASS_MAX) -> tuple[str, list[SchoolClass]]:
    """Return the source of the essays, and one class per prompt. Raises UnusableEssays."""
    if path is None and BESIDE_THE_CHECKOUT.is_file():
        path = BESIDE_THE_CHECKOUT
    if path is None:
        sample = resources.files(__package__) / "sample.csv"
        return "the sample", _grouped(sample.read_text("utf-8").splitlines(), size_max)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return path.name, _grouped(file, size_max)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UnusableEssays(f"{path}: {error}") from error


def _grouped(lines: Iterable[str], size_max: int) -> list[SchoolClass]:
    rows = csv.DictReader(lines)
    if missing := [name for name in _COLUMNS if name not in (rows.fieldnames or ())]:
        raise UnusableEssays(f"the essays lack the column {missing[0]}")

    by_prompt: dict[str, list[Essay]] = {}
    for row in rows:
        by_prompt.setdefault(row["prompt"], []).append(Essay(row["essay_id"], row["text"]))
    found = [
        SchoolClass(prompt, tuple(essays[:size_max]))
        for prompt, essays in by_prompt.items()
        if len(essays) >= CLASS_MIN
    ]
    if not found:
        raise UnusableEssays("no prompt has two essays to compare")
    return found
