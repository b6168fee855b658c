"""The client behind reverse proxies with different behaviour."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from entitlements.client import AsyncClient
from entitlements.contracts import errors
from tests.gateway import HABITS, Gateway, Habit, page
from tests.surfaces.scene import serving
from tests.tables import sqlite_url

Scene = tuple[Gateway, AsyncClient]


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    """A proxy in front of a service, and a client of the proxy; ada has 50 credits."""
    async with (
        serving(sqlite_url(tmp_path)) as (_, port, secret),
        Gateway(port) as gateway,
        AsyncClient(gateway.url, key=secret) as client,
    ):
        await client.open_account(subject_type="user", subject_id="ada")
        gateway.requests = 0
        yield gateway, client


@pytest.mark.parametrize("habit", HABITS, ids=[habit.__name__ for habit in HABITS])
async def test_responses_pass_through_unchanged(scene: Scene, habit: Habit) -> None:
    gateway, client = scene
    gateway.habit = habit

    paid = await client.consume(user_id="ada", metric="cj_comparison", amount=10)
    denied = await client.check(user_id="ada", metric="cj_comparison", amount=41)
    with pytest.raises(errors.InsufficientCredits) as hold:
        await client.take_hold(user_id="ada", credits=41)
    with pytest.raises(errors.InvalidRequest) as refusal:
        await client.adjust(-41, subject_type="user", subject_id="ada", reason="x")

    assert (paid.success, paid.new_balance, paid.replayed) == (True, 40, False)
    assert (denied.allowed, denied.reason) == (False, "insufficient_credits")
    assert hold.value.data["available_credits"] == 40
    assert refusal.value.code == "below_zero"
    assert gateway.requests == 4


@pytest.mark.parametrize("status", [502, 503, 504])
async def test_an_error_page_of_the_proxy_is_retried_and_charges_once(
    scene: Scene, status: int
) -> None:
    gateway, client = scene
    gateway.habits = [page(status), page(status, ("retry-after", "0"))]

    paid = await client.consume(user_id="ada", metric="cj_comparison", amount=10)

    assert (paid.new_balance, paid.replayed) == (40, True)
    assert gateway.requests == 3


async def test_a_proxy_that_always_fails_leaves_unknown_whether_the_request_was_applied(
    scene: Scene,
) -> None:
    gateway, _ = scene
    gateway.habit = page(502)
    async with AsyncClient(gateway.url, attempts_max=2) as client:
        with pytest.raises(errors.Unavailable) as lost:
            await client.consume(user_id="ada", metric="cj_comparison")

    assert (lost.value.code, lost.value.applied) == ("unexpected_answer", "unknown")
    assert lost.value.detail == "HTTP 502 with text/html is not a response of the service"
    assert gateway.requests == 2


@pytest.mark.parametrize("status", [200, 400, 401, 402, 403, 404, 413, 429, 500])
async def test_a_page_of_the_proxy_is_not_taken_for_a_response_or_refusal(
    scene: Scene, status: int
) -> None:
    gateway, client = scene
    gateway.habit = page(status)

    with pytest.raises(errors.Unavailable) as lost:
        await client.check(user_id="ada", metric="cj_comparison")

    assert (lost.value.code, lost.value.applied) == ("unexpected_answer", "unknown")
    assert gateway.requests == 1


async def test_a_redirect_is_not_followed_and_the_error_names_its_target(scene: Scene) -> None:
    gateway, client = scene
    gateway.habit = page(308, ("location", "https://credits.example/v1"))

    with pytest.raises(errors.Unavailable, match=r"a redirect to https://credits\.example/v1"):
        await client.check(user_id="ada", metric="cj_comparison")

    assert gateway.requests == 1
