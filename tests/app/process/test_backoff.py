"""Backoff grows with every failure; it applies to a key, or to the whole sink if all keys fail."""

import pytest

from entitlements.app.process.backoff import KEYS_MAX, MOST_S, Backoff


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def backoff(clock: Clock) -> Backoff:
    return Backoff(clock, lambda: 1.0)


def test_pauses_double_up_to_the_longest(backoff: Backoff) -> None:
    pauses = []
    for _ in range(12):
        backoff.fail()
        pauses.append(round(backoff.pause_s(), 3))

    assert pauses[:4] == [0.1, 0.2, 0.4, 0.8]
    assert pauses[-1] == MOST_S
    backoff.clear()
    assert (backoff.pause_s(), backoff.is_failing) == (0.0, False)


def test_jitter_takes_away_up_to_half(clock: Clock) -> None:
    soon = Backoff(clock, lambda: 0.0)

    soon.fail()

    assert soon.pause_s() == pytest.approx(0.05)


def test_a_key_that_fails_while_others_pass_backs_off_alone(backoff: Backoff, clock: Clock) -> None:
    backoff.note(["a", "b"], ["b", "c"])

    assert sorted(backoff.waiting_keys()) == ["b", "c"]
    assert backoff.pause_s() == 0.0
    assert backoff.soonest_s(1.0) == pytest.approx(0.1)
    clock.now += 0.1
    assert backoff.waiting_keys() == []
    backoff.note(["b"], ["c"])
    assert (backoff.tries("a"), backoff.tries("b"), backoff.tries("c")) == (0, 0, 2)


def test_if_every_key_fails_all_of_them_back_off(backoff: Backoff) -> None:
    backoff.note([], ["a", "b"])

    assert backoff.waiting_keys() == []
    assert backoff.pause_s() == pytest.approx(0.1)
    backoff.note(["a"], [])
    assert backoff.pause_s() == 0.0


def test_a_single_failing_key_backs_off_alone(backoff: Backoff) -> None:
    backoff.note([], ["a"])

    assert backoff.waiting_keys() == ["a"]
    assert not backoff.is_failing


def test_too_many_failing_keys_count_as_a_failing_sink(backoff: Backoff) -> None:
    backoff.note(["good"], [f"k{n}" for n in range(KEYS_MAX)])
    before = backoff.is_failing

    backoff.note(["good"], ["one more"])

    assert (before, backoff.is_failing) == (False, True)
    assert backoff.waiting_keys() == []
