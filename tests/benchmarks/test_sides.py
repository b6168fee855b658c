"""Checkouts that are compared, and calls into their code."""

import msgspec
import pytest

from benchmarks.sides import HERE, THIS, Lacking, Side, build_of


@pytest.fixture
def this() -> Side:
    return Side(THIS, HERE, 0)


def test_an_optimised_build_is_known_by_its_configuration() -> None:
    build = build_of("3.11.7", "'--enable-optimizations' '--with-lto'", "/opt/python")

    assert (build.pgo, build.lto) == ("yes", "yes")
    assert not build.warning


def test_a_build_of_ones_own_without_the_options_is_not_optimised() -> None:
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
def test_what_a_side_lacks_is_named(
    this: Side, function: str, arguments: dict[str, object], reason: str
) -> None:
    with pytest.raises(Lacking, match=reason):
        this.call(function, **arguments)


def test_a_function_that_fails_is_named_with_its_error(this: Side) -> None:
    with pytest.raises(RuntimeError, match="median_interval: IndexError"):
        this.call("benchmarks.compare:median_interval", values=[])
