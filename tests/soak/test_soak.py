"""A short soak for every change; `make soak` runs the long one."""

from pathlib import Path

from tests.soak.soak import restless, soak


async def test_nothing_is_lost_repeated_or_reordered_when_everything_is_killed_once(
    tmp_path: Path,
) -> None:
    await soak(events=3_000, users=100, seed=7, rounds=1, folder=tmp_path, consumers=1)


async def test_nothing_is_lost_or_repeated_while_consumers_join_and_leave() -> None:
    await restless(events=3_000, users=100, seed=8, seconds=6)
