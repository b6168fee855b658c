"""Rules about tests that no linter knows."""

import re
from pathlib import Path

import pytest

from tests.conftest import LONGEST_FIRST, TESTS

THROUGH_OURS = re.compile(
    r"""setattr\(\s*"entitlements[\w.]*\.(asyncio|time|os|socket|threading|random)\."""
)
ITSELF = re.compile(r"""setattr\(\s*"?(asyncio|time|os|socket|threading|random)[.,]""")


@pytest.mark.parametrize("pattern", [THROUGH_OURS, ITSELF], ids=["through ours", "itself"])
def test_no_test_patches_the_standard_library(pattern: re.Pattern[str]) -> None:
    """Servers and loops in the same process would use the patched function, and spin or hang."""
    patched = [
        f"{file.relative_to(TESTS)}: {found[0]}"
        for file in sorted(TESTS.rglob("*.py"))
        if file != Path(__file__)
        for found in pattern.finditer(file.read_text("utf-8"))
    ]

    assert patched == []


def test_the_files_listed_as_longest_exist() -> None:
    assert [file for file in LONGEST_FIRST if not (TESTS / file).exists()] == []
