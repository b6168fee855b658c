"""Calls of a language model: from a trace, or a built-in sample."""

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from msgspec import Struct

BESIDE_THE_CHECKOUT: Final = Path("../shared/data/llm_requests.csv")
SAMPLE_SIZE: Final = 48
TOKENS_MAX: Final = 10**9
_COLUMNS: Final = ("ContextTokens", "GeneratedTokens")


class UnusableCalls(ValueError):
    """The file is not a trace of calls; the text says why."""


class ModelCall(Struct, frozen=True):
    """The tokens that one call read and wrote."""

    context: int
    generated: int


def calls(path: Path | None, *, at_most: int | None = None) -> tuple[str, list[ModelCall]]:
    """Return the source of the calls, and the first ones in order. Raises UnusableCalls."""
    if path is None and BESIDE_THE_CHECKOUT.is_file():
        path = BESIDE_THE_CHECKOUT
    if path is None:
        return "the sample", sample()[:at_most]
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return path.name, _read(file)[:at_most]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UnusableCalls(f"{path}: {error}") from error


def sample() -> list[ModelCall]:
    """Return long prompts with short responses, all different; some prices need no rounding."""
    return [ModelCall(100 + n * n * 997 % 7_300, 1 + n * 131 % 400) for n in range(SAMPLE_SIZE)]


def _read(lines: Iterable[str]) -> list[ModelCall]:
    rows = csv.DictReader(lines)
    if missing := [name for name in _COLUMNS if name not in (rows.fieldnames or ())]:
        raise UnusableCalls(f"the calls lack the column {missing[0]}")
    found = [ModelCall(*(_tokens(row[name], rows.line_num) for name in _COLUMNS)) for row in rows]
    if not found:
        raise UnusableCalls("the file has no calls")
    return found


def _tokens(text: str | None, line: int) -> int:
    if text is None or not (text.isascii() and text.isdigit() and 0 < int(text) <= TOKENS_MAX):
        raise UnusableCalls(f"line {line}: {text!r} is not a number of tokens")
    return int(text)
