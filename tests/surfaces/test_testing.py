"""The pytest fixtures of `entitlements.testing`, in typical tests of an application."""

import pytest

from entitlements.contracts import errors
from entitlements.testing import Authority, Clock, authority

USERS_TESTS = """
import pytest

@pytest.fixture
def entitlements_policy():
    return "costs: {{essay: 7}}"

def test_an_essay_is_paid(entitlements):
    entitlements.give("user:ada", 10)
    assert entitlements.sync.consume(user_id="ada", metric="essay").new_balance == 3

def test_each_test_begins_anew(entitlements, entitlements_clock):
    assert entitlements.sync.balance("ada").user_balance == 0
    assert entitlements_clock is entitlements.clock
"""


async def test_it_can_be_called_from_the_tests_event_loop(entitlements: Authority) -> None:
    entitlements.give("org:school", 50)

    hold = await entitlements.take_hold(user_id="ada", org_id="school", credits=50, ttl_s=60)
    entitlements.clock.advance(seconds=60)

    assert (await entitlements.hold(hold.hold_id)).status == "lapsed"
    with pytest.raises(errors.InvalidRequest):
        await entitlements.take_hold(user_id="ada")


def test_balances_can_be_of_any_credit_type(entitlements: Authority) -> None:
    entitlements.give("user:ada", 5, credit_type="ai_tokens")

    held = entitlements.sync.balance("ada").by_credit_type

    assert held["ai_tokens"]["user"].balance == 5
    with pytest.raises(errors.InvalidRequest):
        entitlements.give("ada", 5)


def test_the_clock_moves_only_forward() -> None:
    clock = Clock()
    started = clock.now

    assert (clock.advance(days=31) - started).days == 31
    with pytest.raises(ValueError, match="back"):
        clock.advance(seconds=-1)


def test_without_pytest_it_leaves_nothing_behind() -> None:
    with authority(policy="costs: {essay: 2}") as books:
        assert books.sync.check(user_id="ada", metric="essay").required_credits == 2


def test_the_fixtures_are_available_without_configuration(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(USERS_TESTS.format())

    pytester.runpytest_subprocess("-q", "-p", "no:cacheprovider").assert_outcomes(passed=2)


def test_the_plugin_costs_nothing_until_it_is_used(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("import sys\ndef test(): assert 'apsw' not in sys.modules")

    pytester.runpytest_subprocess("-q", "-p", "no:cacheprovider").assert_outcomes(passed=1)
