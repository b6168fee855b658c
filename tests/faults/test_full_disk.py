"""The disk of a SQLite file fills up and is freed again."""

import errno
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx2
import pytest

from entitlements.service.compose import build
from entitlements.settings import load
from tests.books import assert_books_balance
from tests.transports.http.api import Api

CONSUME = "/v1/entitlements/consume-credits"
GIVEN = 1_000


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of four megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a small file system cannot be mounted here: {error}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
async def api(disk: Path) -> AsyncIterator[Api]:
    url = f"sqlite:///{disk}/entitlements.db"
    async with AsyncExitStack() as stack:
        settings = load(database_url=url, command_deadline_s=1)
        yield Api(await stack.enter_async_context(build(settings)), stack)
    await assert_books_balance(url)


def fill(ballast: Path) -> None:
    """Use up all free space."""
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError as error:
            assert error.errno == errno.ENOSPC  # noqa: PT017 - the only way out of the loop


async def consumed(client: httpx2.AsyncClient, key: int) -> httpx2.Response:
    body = {"user_id": "ada", "metric": "cj_comparison", "amount": 1, "correlation_id": "c"}
    return await client.post(CONSUME, json=body, headers={"Idempotency-Key": str(key)})


async def test_a_full_disk_refuses_writes_loses_nothing_and_recovers_once_space_is_freed(
    api: Api, disk: Path
) -> None:
    await api.give("user:ada", GIVEN)
    client = await api.as_role_service("grader")
    first = await consumed(client, 0)
    fill(disk / "ballast")

    done = 1
    while (refused := await consumed(client, done)).status_code == httpx2.codes.OK:
        done += 1
        assert done < GIVEN, "the disk is not full"
    balance_meanwhile = await api.balance("ada")
    known = await consumed(client, 0)
    (disk / "ballast").unlink()
    again = await consumed(client, done)

    assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
    assert refused.json()["data"] == {"applied": "no"}
    assert "Retry-After" in refused.headers
    assert balance_meanwhile == (GIVEN - done, None)
    assert (again.status_code, again.json()["replayed"]) == (200, False)
    assert again.json()["new_balance"] == GIVEN - done - 1
    assert known.json() == first.json() | {"replayed": True}
