"""Policy changes while the process runs, by its file or by another process, valid or not."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from entitlements.adapters.sqlite.policies import SqlitePolicies
from entitlements.adapters.sqlite.store import SqliteStore
from entitlements.app.access.keys import Act
from entitlements.app.policy.active import Policies, PolicyUnusable, activate
from entitlements.app.policy.watch import PolicyWatch
from entitlements.app.process.clock import utc_now
from entitlements.ids import uuid7
from entitlements.observe.health import policy as health_of
from tests.audit import audited
from tests.logs import captured_logs

FIRST = "costs: {essay: 1}\n"
SECOND = "costs: {essay: 2}\n"
THIRD = "costs: {essay: 3}\n"
BROKEN = "costs: {essay: -1}\nnews: 1\n"


def an_act() -> Act:
    return Act(actor="test", client="test", at=utc_now(), new_id=uuid7, correlation_id="test")


class Scene:
    """One process that watches a policy file and the policies table."""

    def __init__(self, store: SqliteStore, policies: Policies, file: Path) -> None:
        self.store = store
        self.policies = policies
        self.file = file
        self.watch = PolicyWatch(store.policies, policies, an_act, file=file)

    async def look(self, times: int = 2) -> int:
        """Look ``times`` times; return the cost of an essay."""
        for _ in range(times):
            await self.watch.poll()
        return self.policies.active.costs["essay"].credits

    def write(self, text: str) -> None:
        self.file.write_text(text)
        self._time = getattr(self, "_time", 1_000) + 1
        os.utime(self.file, (self._time, self._time))  # the file system's timestamps can be coarse

    async def elsewhere(self, text: str) -> None:
        """Activate the text as another process does."""
        await activate(self.store.policies, text, source="cli", name="test", act=an_act())


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    store = await SqliteStore.open(tmp_path / "books.db")
    await store.migrate()
    policies = await Policies.start(store.policies, FIRST, name="policy.yaml", act=an_act())
    scene = Scene(store, policies, tmp_path / "policy.yaml")
    scene.write(FIRST)
    yield scene
    await store.close()


class SlowPolicies(SqlitePolicies):
    """Reads the active version and returns it only after ``may_tell`` is set."""

    def __init__(self, store: SqliteStore) -> None:
        super().__init__(store.db)
        self.has_read = asyncio.Event()
        self.may_tell = asyncio.Event()

    async def active(self) -> str | None:
        version = await super().active()
        self.has_read.set()
        await self.may_tell.wait()
        return version


@pytest.mark.parametrize("first", ["stale", "fresh"])
async def test_of_two_concurrent_looks_the_newer_version_is_kept(scene: Scene, first: str) -> None:
    slow = {name: SlowPolicies(scene.store) for name in ("stale", "fresh")}
    looks: dict[str, asyncio.Task[None]] = {}
    for (name, versions), text in zip(slow.items(), (SECOND, THIRD), strict=True):
        await scene.elsewhere(text)
        looks[name] = asyncio.create_task(scene.policies.refresh(versions))
        await versions.has_read.wait()

    for name in sorted(slow, key=lambda name: name != first):
        slow[name].may_tell.set()
        await looks[name]

    assert scene.policies.active.costs["essay"].credits == 3


async def test_a_look_that_another_overtakes_is_repeated(scene: Scene) -> None:
    stale = SlowPolicies(scene.store)
    await scene.elsewhere(SECOND)
    overtaken = asyncio.create_task(scene.policies.refresh(stale))
    await stale.has_read.wait()
    await scene.elsewhere(THIRD)
    await scene.policies.refresh(scene.store.policies)
    await scene.elsewhere("costs: {essay: 4}\n")

    stale.may_tell.set()
    await overtaken

    assert scene.policies.active.costs["essay"].credits == 4


async def test_a_file_that_changes_is_activated_and_audited(scene: Scene) -> None:
    assert await scene.look() == 1
    scene.write(SECOND)

    assert await scene.look() == 2
    newest, oldest = await scene.store.policies.versions(limit=10)
    assert (newest.version, newest.actor) == (scene.policies.active.version, "test")
    assert oldest.active is False
    entry, _ = await audited(scene.store, 10)
    assert entry.action == "policy.activate"
    assert entry.detail == {"version": newest.version, "source": "file"}
    assert scene.policies.loads == {"file": 2}


async def test_a_partly_written_file_is_not_activated(scene: Scene) -> None:
    await scene.look()
    scene.write("costs: {}\n")
    await scene.look(1)
    scene.write(SECOND)

    assert await scene.look() == 2
    assert len(await scene.store.policies.versions(limit=10)) == 2


async def test_an_invalid_file_keeps_the_running_policy_and_is_logged_once(scene: Scene) -> None:
    scene.write(BROKEN)
    with captured_logs() as logs:
        assert await scene.look(5) == 1

    assert [line["event"] for line in logs] == ["policy.broken"]
    health = health_of(scene.policies)
    assert health.status == "warning"
    assert health.message.startswith("the document in the policy file cannot be used")
    assert "essay" not in health.message
    why = scene.policies.problems["file"]
    assert why.startswith("policy.yaml:1: costs.essay: must be a whole number")
    assert why.endswith("(and 1 more)")
    assert scene.policies.in_force.costs["essay"].credits == 1

    scene.write(SECOND)
    assert await scene.look() == 2
    assert health_of(scene.policies).status == "healthy"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "policy.yaml cannot be read: No such file"),
        (b"costs:\n  \xff: 1", "policy.yaml:2: is not UTF-8"),
    ],
)
async def test_an_unreadable_file_is_logged_once(
    scene: Scene, content: bytes | None, reason: str
) -> None:
    if content is None:
        scene.file.unlink()
    else:
        scene.file.write_bytes(content)
    with captured_logs() as logs:
        assert await scene.look(4) == 1

    assert [line["event"] for line in logs] == ["policy.broken"]
    assert reason in scene.policies.problems["file"]
    assert "policy.yaml" not in health_of(scene.policies).message
    scene.write(FIRST)
    await scene.look()
    assert not scene.policies.problems


async def test_a_file_that_returns_unchanged_clears_the_problem(scene: Scene) -> None:
    await scene.look()
    away = scene.file.rename(scene.file.with_name("away"))
    await scene.look()
    assert scene.policies.problems
    away.rename(scene.file)

    assert await scene.look() == 1
    assert not scene.policies.problems


async def test_an_old_file_does_not_roll_back(scene: Scene) -> None:
    await scene.elsewhere(SECOND)
    with captured_logs() as logs:
        assert await scene.look(5) == 2

    assert [line["event"] for line in logs].count("policy.superseded") == 1
    assert health_of(scene.policies).status == "healthy"
    scene.write(FIRST + "# again\n")
    assert await scene.look() == 1


async def test_a_version_activated_elsewhere_is_loaded_once(scene: Scene) -> None:
    await scene.look()
    hits, misses = scene.policies.hits, scene.policies.misses
    took: list[float] = []
    scene.policies.on_refresh = took.append
    await scene.elsewhere(SECOND)

    assert await scene.look(3) == 2
    assert (scene.policies.hits - hits, scene.policies.misses - misses) == (2, 1)
    assert scene.policies.loads == {"file": 1, "database": 1}
    assert len(took) == 3


async def test_an_unreadable_version_stops_decisions_until_another_is_activated(
    scene: Scene,
) -> None:
    entry = an_act().entry("policy.activate", {})
    await scene.store.policies.activate("2" * 64, "news: of a later program", entry)
    with captured_logs() as logs:
        await scene.look(4)

    assert [line["event"] for line in logs] == ["policy.broken", "policy.superseded"]
    assert "news: unknown key" in scene.policies.problems["database"]
    assert health_of(scene.policies).message.startswith("the policy in the database cannot be")
    for _ in range(2):
        with pytest.raises(PolicyUnusable, match="news: unknown key"):
            scene.policies.in_force.knows("essay")
        with pytest.raises(PolicyUnusable):
            scene.policies.learn("2" * 64, "news: of a later program")

    await scene.elsewhere(THIRD)
    assert await scene.look(1) == 3
    assert scene.policies.in_force is scene.policies.active
    assert not scene.policies.problems


async def test_a_document_that_does_not_match_its_hash_is_not_used(scene: Scene) -> None:
    entry = an_act().entry("policy.activate", {})
    await scene.store.policies.activate("2" * 64, SECOND, entry)

    assert await scene.look() == 1
    with pytest.raises(PolicyUnusable, match="does not match its version"):
        scene.policies.in_force.knows("essay")


async def test_a_look_that_a_batch_overtakes_does_not_restore_the_old_version(scene: Scene) -> None:
    await scene.elsewhere(SECOND)
    second = scene.store
    reads = scene.store.policies.content

    async def overtaken(version: str) -> str | None:
        content = await reads(version)
        await scene.elsewhere(THIRD)
        (third,) = await second.policies.versions(limit=1)
        scene.policies.learn(third.version, THIRD)
        return content

    scene.store.policies.content = overtaken  # type: ignore[method-assign]
    await scene.policies.refresh(scene.store.policies)

    assert scene.policies.active.costs["essay"].credits == 3


async def test_two_processes_that_start_at_once_agree(scene: Scene) -> None:
    started = await asyncio.gather(
        *(
            Policies.start(scene.store.policies, text, name="policy.yaml", act=an_act())
            for text in (SECOND, SECOND, None)
        )
    )

    assert len({policies.active.version for policies in started[:2]}) == 1
