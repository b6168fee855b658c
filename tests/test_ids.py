"""Ids are unique, also over threads, and sort by time."""

import uuid
from concurrent.futures import ThreadPoolExecutor

from entitlements.ids import uuid7


def test_an_id_is_a_uuid_of_version_7() -> None:
    parsed = uuid.UUID(uuid7())

    assert parsed.version == 7
    assert parsed.variant == uuid.RFC_4122


def test_threads_never_get_the_same_id() -> None:
    with ThreadPoolExecutor(4) as threads:
        batches = list(threads.map(lambda _: [uuid7() for _ in range(5_000)], range(4)))

    ids = [one for batch in batches for one in batch]
    assert len(set(ids)) == 20_000


def test_later_milliseconds_sort_later() -> None:
    earlier = uuid7()
    while uuid7()[:13] == earlier[:13]:
        pass

    assert uuid7() > earlier
