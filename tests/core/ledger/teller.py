"""Apply commands written as JSON to a book in memory, with a settable clock and ids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import msgspec

from entitlements.core import commands as c
from entitlements.core.ledger.apply import wallets_of
from entitlements.core.ledger.book import Book, NeedMore
from entitlements.core.ledger.closings import sort_parts
from entitlements.core.model import (
    Grant,
    Hold,
    HoldFacts,
    Member,
    Operation,
    Subject,
    UsageReport,
    Wallet,
    WalletKey,
    facts_of,
)
from entitlements.core.outcomes import AnyOutcome, Refusal
from entitlements.core.policy import AMOUNT_MAX, Policy
from entitlements.core.reasons import ConsumptionType
from tests.deciding import apply

EPOCH = datetime(2040, 1, 1, tzinfo=UTC)
"""Second 0 of every example. It is later than any real clock, because some stores read theirs."""

COMMANDS: dict[str, type[c.Command]] = {
    "consume": c.Consume,
    "spend": c.Spend,
    "consume_together": c.Together,
    "together": c.Together,
    "grant": c.CreateGrant,
    "adjust": c.Adjust,
    "set": c.SetBalance,
    "revoke": c.Revoke,
    "reverse": c.Reverse,
    "settle": c.SettleDebt,
    "write_off": c.WriteOffDebt,
    "price": c.PriceDebt,
    "open": c.OpenAccount,
    "report": c.IngestUsage,
    "hold": c.TakeHold,
    "settle_hold": c.SettleHold,
    "extend_hold": c.ExtendHold,
    "release_hold": c.ReleaseHold,
    "activate": c.Activate,
    "change": c.ChangePlan,
    "cancel": c.CancelSubscription,
    "past_due": c.MarkPastDue,
    "expire": c.ExpireSubscription,
    "apply_due": c.ApplyDue,
    "set_member": c.SetMember,
    "remove_member": c.RemoveMember,
}
TIMES = {"granted_at", "expires_at", "current_period_end"}
ORIGIN_KEYS = {"id", "key", "client", "fingerprint", "lifetime_s"}
NO_RULES = {"version": "1", "costs": {}, "limits": {}, "signup_bonuses": {}}


def wallet_key(text: str) -> WalletKey:
    """Parse ``user:u`` (a wallet of credits) or ``user:u/tokens`` (of another credit type)."""
    subject, _, credit_type = text.partition("/")
    kind, _, subject_id = subject.partition(":")
    return WalletKey("org" if kind == "org" else "user", subject_id, credit_type or "credits")


def at(second: int) -> datetime:
    return EPOCH + timedelta(seconds=second)


class Teller:
    """A ledger in memory. It creates a wallet when it is first named, as a store does."""

    def __init__(self, policy: dict[str, Any] | None = None) -> None:
        self.book = Book(now=EPOCH, policy_version="1", policy_content=None)
        ids = count(1)
        self.book.equip(msgspec.convert(NO_RULES | (policy or {}), Policy), lambda: f"n{next(ids)}")
        self._new_id = self.book.new_id
        self.operations: list[Operation] = []
        self._names = count(1)

    def activates(self, policy: dict[str, Any]) -> None:
        """Decide all later commands by this policy."""
        self.book.equip(msgspec.convert(NO_RULES | policy, Policy), self._new_id)
        self.book.policy_version = self.book.policy.version

    def opens(self, key: WalletKey) -> None:
        if key not in self.book.wallets:
            self.book.put_wallet(Wallet(key=key, updated_at=EPOCH))

    def starts_with_grant(self, example: dict[str, Any]) -> None:
        """Add a grant; ``remaining`` defaults to the quantity, ``granted_at`` to second 0."""
        given = {"reason": "purchase", "granted_at": 0, "remaining": example["quantity"]} | example
        for name in ("granted_at", "expires_at", "ended_at", "renews_at"):
            if given.get(name) is not None:
                given[name] = at(given[name])
        grant = msgspec.convert(given | {"wallet": wallet_key(example["wallet"])}, Grant)
        self.opens(grant.wallet)
        self.book.put_grant(grant)
        wallet = self.book.wallets[grant.wallet]
        dues = [one.due_at for one in self.book.grants[grant.wallet].values() if one.due_at]
        self.book.put_wallet(
            msgspec.structs.replace(
                wallet,
                balance=wallet.balance + (grant.remaining if grant.is_live else 0),
                unlimited=wallet.unlimited + (grant.unlimited and grant.is_live),
                promised=wallet.promised + (0 if grant.started else grant.remaining),
                next_due_at=min(dues, default=None),
            )
        )

    def starts_overdrawn(self, key: WalletKey, overdraft: int) -> None:
        self.opens(key)
        wallet = self.book.wallets[key]
        self.book.put_wallet(
            msgspec.structs.replace(wallet, overdraft=overdraft, balance=-overdraft)
        )

    def starts_with_member(self, **fields: Any) -> None:
        """Add a member of the org ``o``: by default ``u``, without a cap."""
        given: dict[str, Any] = {"org_id": "o", "user_id": "u", "joined_at": EPOCH} | fields
        if given.get("left_at") is not None:
            given["left_at"] = at(given["left_at"])
        self.book.put_member(msgspec.convert(given, Member))

    def command(self, verb: str, fields: dict[str, Any], **origin: Any) -> c.AnyCommand:
        """Build a command. ``id`` defaults to the next of ``c1, c2, ...``, ``key`` to the id.

        The items of a joint command carry ``id`` and ``key`` among their own fields.
        """
        given = self._found(verb, fields)
        if "items" in given:
            given["items"] = tuple(self._items(verb, given["items"]))
        if verb == "report":
            given = _report(given)
        command_id = origin.get("id") or f"c{next(self._names)}"
        if verb == "open":
            given["subject"] = Subject(*given["subject"].split(":", 1))
        if "wallet" in given:
            given["wallet"] = wallet_key(given["wallet"])
        if verb == "grant":
            given["details"] = {"granted_by": "op"}
        for name in TIMES & given.keys():
            given[name] = None if given[name] is None else at(given[name])
        given |= {"reason": given.get("reason", "asked")} if "reason" in _fields(verb) else {}
        given["id"] = command_id
        given["origin"] = {
            "actor": "op",
            "client": origin.get("client", "app"),
            "correlation_id": "corr",
            "key": origin.get("key", command_id),
            "fingerprint": origin.get("fingerprint", "same"),
            "lifetime_s": origin.get("lifetime_s", 86_400),
        }
        unknown = given.keys() - set(_fields(verb))
        assert not unknown, f"{verb} has no {unknown}"
        if "items" in given:
            given["origin"] = msgspec.convert(given["origin"], c.Origin)
            return c.Together(**given)
        command: c.AnyCommand = msgspec.convert(given, COMMANDS[verb], from_attributes=True)  # type: ignore[assignment]
        return command

    def _found(self, verb: str, fields: dict[str, Any]) -> dict[str, Any]:
        """Return the fields with what they name: an operation, a hold, a member."""
        given = dict(fields)
        if "operation" in given:
            given |= self._named(verb, given["operation"])
        if "hold" in given:
            given["hold"] = self.hold(given["hold"])
        if "member" in given:
            given["member"] = given["member"].split("/")
        return given

    def _items(self, verb: str, items: list[dict[str, Any]]) -> Iterator[c.AnyCommand]:
        for one in items:
            ((named, item),) = [("consume", one)] if verb == "consume_together" else one.items()
            origin = {name: item[name] for name in ORIGIN_KEYS & item.keys()}
            fields = {name: item[name] for name in item.keys() - ORIGIN_KEYS}
            yield self.command(named, fields, **origin)

    def apply(self, command: c.AnyCommand) -> AnyOutcome | Refusal:
        for key in _wallets_named(command, self.book.policy):
            self.opens(key)
            debts = (one for one in self.book.debts.values() if one.wallet == key)
            self.book.owing.setdefault(key, sum(one.still_owed for one in debts))
        if isinstance(command, c.Reverse):
            for one in command.group or (command.operation,):
                if one.id not in self.book.reversed:
                    self.book.put_reversed(one.id, 0)
        try:
            outcome = apply(self.book, command)
        except NeedMore as more:
            for key in more.wallets:
                self.opens(key)
            outcome = apply(self.book, command)
        self.operations = list(self.book.changes().operations)
        return outcome

    def ask(self, verb: str, *, second: int | None = None, **fields: Any) -> AnyOutcome | Refusal:
        """Apply one command under a new key, at ``second`` if given."""
        if second is not None:
            self.book.now = at(second)
        return self.apply(self.command(verb, fields))

    def hold(self, hold_id: str) -> HoldFacts:
        """Return the facts about a hold that a store loads."""
        held = (part for holds in self.book.holds.values() for part in holds.values())
        parts = [part for part in held if part.id == hold_id]
        return facts_of(sort_parts(parts))

    def holds(self, key: WalletKey) -> list[Hold]:
        return list(self.book.holds.get(key, {}).values())

    def operation(self, operation_id: str) -> Operation:
        return next(one for one in self.operations if one.id == operation_id)

    def _named(self, verb: str, operation_id: str) -> dict[str, Any]:
        """Return the operation; for a reversal with the group that it is the first of."""
        named: dict[str, Any] = {"operation": self.operation(operation_id)}
        if verb == "reverse":
            grouped = (one for one in self.operations if one.group_id == operation_id)
            named["group"] = tuple(grouped)
        return named

    def wallet(self, name: str = "user:u") -> Wallet:
        return self.book.wallets[wallet_key(name)]

    def grants(self, key: WalletKey) -> list[Grant]:
        return list(self.book.grants.get(key, {}).values())


def _fields(verb: str) -> tuple[str, ...]:
    return COMMANDS[verb].__struct_fields__


def _report(given: dict[str, Any]) -> dict[str, Any]:
    """Move all fields but ``hold`` and ``is_charged`` into the usage report."""
    beside: dict[str, Any] = {
        name: given.pop(name) for name in ("hold", "is_charged") if name in given
    }
    told = {"event_type": "consumption.v1", "source_service": "grader"} | given
    if beside.get("hold"):
        told["hold_id"] = beside["hold"].id
    return {"report": told, **beside}


def _wallets_named(command: c.AnyCommand, policy: Policy) -> list[WalletKey]:
    """Return at least the wallets that the command needs; for a consumption or a hold, one of each
    credit type in the examples.
    """
    if isinstance(command, c.PriceDebt | c.Reverse | c.Spend | c.OfSubscription):
        return sorted(wallets_of(command, policy))
    if isinstance(command, c.Together):
        return [key for item in command.items for key in _wallets_named(item, policy)]
    if isinstance(command, c.Consume | c.TakeHold):
        named: c.Consume | c.TakeHold | HoldFacts | UsageReport = command
    elif isinstance(command, c.OfHold):
        named = command.hold
    elif isinstance(command, c.IngestUsage):
        named = command.report
    else:
        return [command.wallet]
    keys = [key for key in wallets_of(command, policy) if key.is_of_allowances]
    keys += [WalletKey("user", named.user_id, name) for name in ("credits", "tokens")]
    if named.org_id is not None:
        keys += [WalletKey("org", named.org_id, name) for name in ("credits", "tokens")]
    return keys


def check_books(teller: Teller, opened: dict[WalletKey, int] | None = None) -> None:
    """Assert the invariants of every wallet, which hold once due effects are applied.

    ``opened`` has the opening balance of each wallet that did not start empty.
    """
    for key, wallet in teller.book.wallets.items():
        grants = teller.grants(key)
        left = sum(grant.remaining for grant in grants if grant.started)
        held = sum(grant.held for grant in grants)
        balance = (opened or {}).get(key, 0)
        lines = [line for line in teller.operations if line.wallet == key]

        assert wallet.balance == left - wallet.overdraft
        assert left == held or wallet.overdraft == 0
        assert all(0 <= grant.held <= grant.remaining <= most(grant) for grant in grants)
        assert all(grant.remaining == grant.held for grant in grants if grant.ended_at)
        assert wallet.unlimited == sum(grant.unlimited and grant.is_live for grant in grants)
        assert wallet.promised == sum(
            grant.remaining for grant in grants if not grant.started and not grant.ended_at
        )
        assert all(grant.spent >= 0 for grant in grants)
        check_holds(teller.holds(key), grants, wallet.held)
        assert [line.seq for line in lines] == list(range(1, wallet.version + 1))
        for line in lines:
            balance += line.delta
            assert line.balance_after == balance
            assert line.amount >= 0
            assert line.effective_at <= line.created_at
        assert wallet.balance == balance


def most(grant: Grant) -> int:
    """Return the largest remaining quantity of a grant."""
    if grant.consumption is not ConsumptionType.ACCUMULATIVE or grant.period is None:
        return grant.quantity
    cap = grant.period.rollover_cap
    return AMOUNT_MAX if cap is None else grant.quantity + cap


def check_holds(parts: list[Hold], grants: list[Grant], held: int) -> None:
    """Assert that the held credits of a wallet and of its grants are those of its open holds."""
    backed = Counter[str]()
    uncounted = {grant.id for grant in grants if grant.unlimited}
    for part in parts:
        assert part.held + part.charged + part.returned == part.taken
        assert part.held == sum(draw.quantity for draw in part.backing)
        assert part.held == 0 or part.status == "open"
        for draw in part.backing:
            backed[draw.grant_id] += draw.quantity
    free = sum(backed.pop(grant_id, 0) for grant_id in uncounted)
    assert backed == {grant.id: grant.held for grant in grants if grant.held}
    assert held == sum(part.held for part in parts) - free
