import pytest

from entitlements.adapters.postgres import migrate as postgres
from entitlements.adapters.sqlite import migrate as sqlite


@pytest.mark.parametrize(
    "names",
    [
        [name for _, name, _, _ in postgres.migrations()],
        [migration.name for migration in sqlite.migrations()],
    ],
    ids=["postgres", "sqlite"],
)
def test_migrations_are_numbered_without_gap_or_repeat(names: list[str]) -> None:
    assert [int(name[:4]) for name in names] == list(range(1, len(names) + 1))
