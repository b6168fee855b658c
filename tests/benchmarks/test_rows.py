"""The rows of the benchmark: their ratios, and the databases that they load."""

from __future__ import annotations

import asyncio
from pathlib import Path

import asyncpg
import pytest

from benchmarks.__main__ import names_of_rows, parsed
from benchmarks.in_process import in_process_load
from benchmarks.renewals import DUE, write_renewals
from benchmarks.report import P99_MS, P99_RATIOS, RATIOS
from benchmarks.scenes import ALLOWANCE, MANY_KINDS, MEMBER, SCENES, fill_scene
from benchmarks.wallets import POLICY, SCHOOL
from entitlements import Entitlements
from tests.books import assert_books_balance
from tests.concurrency.scene import engines
from tests.waiting import until


def test_reported_figures_are_of_rows_that_exist() -> None:
    ratios = [name for ratio in RATIOS for name in (ratio.measure, ratio.against)]
    latencies = [*P99_MS, *(name for one in P99_RATIOS for name in one[:2])]

    assert {*ratios, *latencies} <= set(names_of_rows(parsed([])))


@pytest.mark.parametrize(
    ("scene", "paid_by"),
    [
        (ALLOWANCE, "units:cj_comparison"),
        (MEMBER, "credits"),
        (MANY_KINDS, "credits"),
    ],
)
async def test_in_a_scene_the_organisation_pays_by_what_its_name_says(
    tmp_path: Path, scene: str, paid_by: str
) -> None:
    url = f"sqlite:///{tmp_path}/books.db"
    policy = SCENES[scene].policy
    await asyncio.to_thread(fill_scene, url=url, scene=scene)

    await asyncio.to_thread(in_process_load, url, subjects=1, seconds=1, once=True, policy=policy)

    async with Entitlements.open(url) as opened:
        work = (await opened.operations(kind="consume")).operations
        members = (await opened.members(SCHOOL)).members
    assert [(one.subject_id, one.credit_type) for one in work if one.amount] == [(SCHOOL, paid_by)]
    assert [one.drawn_this_month for one in members] == ([1] if scene == MEMBER else [])
    await assert_books_balance(url)


async def test_written_renewals_are_due_and_recorded_in_the_background(postgres_url: str) -> None:
    async with engines(postgres_url, policy=POLICY):
        pass  # activates the policy
    await asyncio.to_thread(write_renewals, url=postgres_url, run=1, wallets=30)
    database = await asyncpg.connect(postgres_url)
    try:
        due = await database.fetchval(DUE)
        async with engines(postgres_url, policy=POLICY):
            await until(lambda: _is_zero(database))
        balances = await database.fetch("SELECT balance FROM credit_balances")
    finally:
        await database.close()

    assert due == 30
    assert [row["balance"] for row in balances] == [1000] * 30
    await assert_books_balance(postgres_url)


async def _is_zero(database: asyncpg.Connection) -> bool:
    return bool(await database.fetchval(DUE) == 0)
