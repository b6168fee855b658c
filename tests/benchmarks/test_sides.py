"""Compared checkouts, and calls into their code."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from benchmarks.sides import HERE, THIS, Lacking, Side, build_of


@pytest.fixture
def this() -> Side:
    return Side(THIS, HERE, 0)


RELEASE = """
import asyncio, time

def busy(seconds):
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass

async def _measured():
    busy(0.1)
    return 7

def load(*, seconds):
    busy(0.3)
    return asyncio.run(_measured())
"""


@pytest.fixture
def release(tmp_path: Path) -> Side:
    """A checkout with its own code, run by this interpreter."""
    (tmp_path / ".venv").symlink_to(Path(sys.executable).parents[1])
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "__init__.py").touch()
    (tmp_path / "benchmarks" / "in_process.py").write_text(RELEASE)
    return Side("release", tmp_path, 1)


def test_an_optimised_build_is_known_by_its_configuration() -> None:
    build = build_of("3.11.7", "'--enable-optimizations' '--with-lto'", "/opt/python")

    assert (build.pgo, build.lto) == ("yes", "yes")
    assert not build.warning


def test_a_self_compiled_build_without_the_options_is_not_optimised() -> None:
    build = build_of("3.11.7", "'--enable-shared'", "/opt/python")

    assert (build.pgo, build.lto) == ("no", "no")
    assert "worse" in build.warning


def test_a_distributions_build_is_unknown() -> None:
    build = build_of("3.11.2", "'--prefix=/usr'", "/usr")

    assert (build.pgo, build.lto) == ("unknown", "unknown")
    assert build.warning


def test_a_side_returns_the_value_of_its_function(this: Side) -> None:
    done = this.call("benchmarks.compare:needs_round", ratios=[1.0])

    assert msgspec.json.decode(done.value) is True


def test_a_side_returns_its_constants(this: Side) -> None:
    assert this.text("benchmarks.wallets:SCHOOL") == "school"


@pytest.mark.parametrize(
    ("function", "arguments", "reason"),
    [
        ("benchmarks.nowhere:run", {}, "benchmarks.nowhere"),
        ("benchmarks.compare:nothing", {}, "nothing"),
        ("benchmarks.compare:judge", {"ratios": [], "strict": True}, "strict"),
    ],
    ids=["module", "function", "keyword"],
)
def test_a_function_that_a_side_lacks_is_named(
    this: Side, function: str, arguments: dict[str, object], reason: str
) -> None:
    with pytest.raises(Lacking, match=reason):
        this.call(function, **arguments)


def test_a_function_that_fails_is_named_with_its_error(this: Side) -> None:
    with pytest.raises(RuntimeError, match="median_interval: IndexError"):
        this.call("benchmarks.compare:median_interval", values=[])


def test_a_side_runs_its_own_code(release: Side) -> None:
    done = release.call("benchmarks.in_process:load", seconds=1)

    assert msgspec.json.decode(done.value) == 7


def test_cpu_time_is_that_of_the_window(release: Side) -> None:
    with release.prepared("benchmarks.in_process:load", "_measured", seconds=1) as call:
        inside = call.run().cpu_s

    assert 0.1 <= inside < 0.3


def test_without_a_window_cpu_time_is_that_of_the_call(release: Side) -> None:
    with release.prepared("benchmarks.in_process:load", "_lacking", seconds=1) as call:
        whole = call.run().cpu_s

    assert whole >= 0.4


def test_other_accounts_are_read_as_the_window_begins_and_ends(release: Side) -> None:
    log: list[str] = []

    @contextlib.contextmanager
    def metered() -> Iterator[None]:
        log.append("began")
        yield
        log.append("ended")

    with release.prepared("benchmarks.in_process:load", "_measured", seconds=1) as call:
        call.run(metered())

    assert log == ["began", "ended"]
