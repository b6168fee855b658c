"""Laws of subscriptions, against a model of two numbers."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from entitlements.core.outcomes import AnyOutcome, HoldTaken, Refusal
from tests.core.ledger.teller import Teller, check_books

QUANTITIES = {"none": 0, "small": 30, "split": 70, "large": 100}
GRANT = {"entitlement_type": "credit_grant", "credit_type": "tokens", "consumption": "renewable"}
POLICY: dict[str, Any] = {
    "costs": {"call": {"credits": 1, "credit_type": "tokens"}},
    "plans": {
        "none": {"grants": []},
        "small": {"grants": [GRANT | {"quantity": 30, "period": {}}]},
        "split": {"grants": [GRANT | {"quantity": n, "period": {}} for n in (40, 30)]},
        "large": {"grants": [GRANT | {"quantity": 100, "period": {}}]},
    },
}
NAMED: dict[str, Any] = {"wallet": "user:u", "subscription_id": "s"}
steps = st.lists(
    st.one_of(
        st.tuples(st.just("use"), st.integers(1, 60)),
        st.tuples(st.just("hold"), st.integers(1, 60)),
        st.tuples(st.just("settle"), st.integers(0, 60)),
        st.tuples(st.just("change"), st.sampled_from(sorted(QUANTITIES))),
        st.tuples(st.just("cancel"), st.booleans()),
    ),
    max_size=25,
)


class Subscribed:
    """A subscriber and the model: what was used or is held in the period, and what a change lost.

    The rest of a hold that was taken before a change is lost: the grants that backed it have ended.
    """

    def __init__(self) -> None:
        self.teller = Teller(POLICY)
        self.teller.ask("activate", plan_id="large", **NAMED)
        self.plan, self.used, self.lost = "large", 0, 0
        self.second = 0
        self.holds: list[tuple[str, int, int]] = []
        self.changes = 0

    @property
    def available(self) -> int:
        return self.teller.wallet("user:u/tokens").available

    def ask(self, verb: str, **fields: Any) -> AnyOutcome | Refusal:
        self.second += 1
        return self.teller.ask(verb, second=self.second, **fields)

    def use(self, quantity: int) -> None:
        is_short = quantity > self.available
        spent = self.ask("spend", user_id="u", credit_type="tokens", quantity=quantity)
        assert isinstance(spent, Refusal) == is_short
        self.used += 0 if is_short else quantity

    def hold(self, units: int) -> None:
        taken = self.ask("hold", user_id="u", requirements={"call": units}, ttl_s=86_400)
        if isinstance(taken, HoldTaken):
            self.holds.append((taken.hold_id, units, self.changes))
            self.used += units

    def settle(self, units: int) -> None:
        if self.holds:
            hold_id, held, changes = self.holds.pop()
            charged = min(units, held)
            self.ask("settle_hold", hold=hold_id, requirements={"call": charged})
            self.used -= held - charged
            self.lost += 0 if changes == self.changes else held - charged

    def change(self, plan_id: str) -> None:
        self.ask("change", plan_id=plan_id, **NAMED)
        self.plan, self.changes = plan_id, self.changes + 1

    def cancel(self, *, is_withdrawn: bool) -> None:
        """Cancel at the end of the period, which the next period or change withdraws."""
        self.ask("cancel", at_period_end=True, **NAMED)
        if is_withdrawn:
            self.ask("activate", plan_id=self.plan, **NAMED)


@given(steps)
def test_what_was_used_in_a_period_is_not_given_again(steps: list[tuple[str, Any]]) -> None:
    subscribed = Subscribed()

    for name, value in steps:
        if name == "cancel":
            subscribed.cancel(is_withdrawn=value)
        else:
            getattr(subscribed, name)(value)

        check_books(subscribed.teller)
        left = QUANTITIES[subscribed.plan] - subscribed.used
        assert max(0, left - subscribed.lost) <= subscribed.available <= max(0, left)
