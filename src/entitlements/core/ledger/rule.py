"""How the ledger treats one kind of command: an entry of the table in `apply`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Generic, Protocol, TypeVar

from msgspec import Struct

from entitlements.core.commands import AnyCommand, Command
from entitlements.core.ledger.book import Draft, Needs
from entitlements.core.model import WalletKey
from entitlements.core.outcomes import AnyOutcome, Refusal
from entitlements.core.policy import Policy

C = TypeVar("C", bound=AnyCommand)
Wallets = set[WalletKey]


class Audit(Struct, frozen=True, gc=False):
    """The entry in the audit log: the action's name, and the command's fields to record."""

    action: str
    fields: tuple[str, ...] = ()


class OfWallet(Protocol):
    """A command on one wallet."""

    @property
    def wallet(self) -> WalletKey: ...


def its_wallet(command: OfWallet, _policy: Policy) -> Wallets:
    """Return the wallet that the command names."""
    return {command.wallet}


def no_needs(_needs: Needs, _command: AnyCommand, _policy: Policy) -> None:
    """Add nothing."""


class Rule(Struct, Generic[C], frozen=True, kw_only=True):
    """The functions that decide commands of one kind."""

    decide: Callable[[Draft, C], AnyOutcome | Refusal]
    wallets: Callable[[C, Policy], Wallets]
    """Every wallet that the command can change or include in its answer."""
    needs: Callable[[Needs, C, Policy], None] = no_needs
    """Adds the rows to load other than its wallets and the stored answer of its key."""
    earlier: Callable[[Draft, C], AnyOutcome | Refusal | None] | None = None
    """Returns the stored answer of a repeat; None: the answer of its key or job is stored."""
    audit: Audit | None = None


Rules = Mapping[type[Command], Rule[Any]]
