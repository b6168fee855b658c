"""The history of an older service, on every surface."""

from datetime import UTC, datetime, timedelta

import pytest

from entitlements import api, wiring
from entitlements.app.ports import ImportedOperation, ImportedOperationsQuery
from entitlements.contracts.errors import InvalidRequest
from entitlements.core.model import Subject

FIRST = datetime(2025, 1, 1, 8, tzinfo=UTC)


def an_operation(number: int, subject: Subject, **given: str) -> ImportedOperation:
    return ImportedOperation(
        id=f"row {number}",
        subject=subject,
        credit_type="credits",
        metric="cj_comparison",
        amount=number,
        batch_id=given.get("batch_id"),
        consumed_from=None,
        correlation_id=given.get("correlation_id"),
        status="completed",
        # Some have equal times: then the id decides.
        created_at=FIRST + timedelta(days=number // 2),
    )


HISTORY = [
    *(an_operation(number, Subject("user", "ada")) for number in range(5)),
    *(an_operation(number, Subject("org", "ada"), batch_id="b") for number in range(5, 8)),
    an_operation(8, Subject("user", "bo"), correlation_id="c"),
]


@pytest.fixture(autouse=True)
async def history(named: tuple[str, str]) -> None:
    """Stores the operations, twice."""
    store = await wiring.open_store(named[1])
    assert await store.imports.add(HISTORY) == len(HISTORY)
    assert await store.imports.add(HISTORY) == 0
    assert await store.imports.known([*HISTORY, an_operation(9, Subject("user", "ada"))]) == 9
    assert (await store.imports.operations(ImportedOperationsQuery(limit=1))).next is not None
    await store.close()


async def test_pages_follow_each_other_without_gaps(face: api.Entitlements) -> None:
    found: list[int] = []
    cursor = None
    while True:
        page = await face.imported_operations(limit=2, cursor=cursor)
        found += [one.amount for one in page.operations]
        if (cursor := page.next_cursor) is None:
            break

    assert found == [8, 7, 6, 5, 4, 3, 2, 1, 0]


async def test_filters_select_operations(face: api.Entitlements) -> None:
    of_both = await face.imported_operations(subject_id="ada", limit=4)
    of_user = await face.imported_operations(subject_type="user", subject_id="ada")
    of_batch = await face.imported_operations(batch_id="b", metric="cj_comparison")
    correlated = await face.imported_operations(correlation_id="c")
    of_time = await face.imported_operations(
        since=FIRST + timedelta(days=1), until=FIRST + timedelta(days=2)
    )
    failed = await face.imported_operations(status="failed")

    assert [one.amount for one in of_both.operations] == [7, 6, 5, 4]
    assert [one.amount for one in of_user.operations] == [4, 3, 2, 1, 0]
    assert [one.amount for one in of_batch.operations] == [7, 6, 5]
    assert [one.amount for one in correlated.operations] == [8]
    assert [one.amount for one in of_time.operations] == [3, 2]
    assert failed.operations == []
    assert (await face.operations()).operations == []


async def test_a_foreign_cursor_is_refused(face: api.Entitlements) -> None:
    with pytest.raises(InvalidRequest):
        await face.imported_operations(cursor="x")
