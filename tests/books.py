"""The finaliser of tests that leave a database behind: its books must balance."""

from entitlements.adapters.postgres import verify as postgres
from entitlements.adapters.sqlite import verify as sqlite
from entitlements.app.verify import Finding


async def findings(url: str) -> list[Finding]:
    """What `entitlements verify` would say of the database."""
    if url.startswith("sqlite:///"):
        return await sqlite.verify(url.removeprefix("sqlite:///"))
    return await postgres.verify(url)


async def assert_books_balance(url: str) -> None:
    found = await findings(url)
    assert not found, "\n".join(map(str, found))
