"""The file that a SQLite URL names."""

from pathlib import Path

import pytest

from entitlements.app.ports import AddressUnusable
from entitlements.embedded import Entitlements
from entitlements.wiring import file_of, open_store


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///books.db", "books.db"),
        ("sqlite:////var/lib/books.db", "/var/lib/books.db"),
        ("sqlite:///~/books.db", "/home/ada/books.db"),
        ("sqlite:///my books#1.db", "my books#1.db"),
    ],
)
def test_the_path_follows_three_slashes(
    monkeypatch: pytest.MonkeyPatch, url: str, path: str
) -> None:
    monkeypatch.setenv("HOME", "/home/ada")

    assert file_of(url) == Path(path)


def test_a_url_of_another_database_has_no_file() -> None:
    assert file_of("postgresql://h/x") is None


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


@pytest.mark.parametrize(
    "url", ["sqlite:///:memory:", "sqlite://books.db", "sqlite:///books.db?mode=ro"]
)
async def test_a_url_that_names_no_file_creates_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.chdir(tmp_path)

    with pytest.raises(AddressUnusable):
        await open_store(url)
    with pytest.raises(AddressUnusable):
        async with Entitlements.open(url):
            pass

    assert names_in(tmp_path) == []
