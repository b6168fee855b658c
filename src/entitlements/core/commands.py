"""What can be asked of the ledger. A command's ``id`` becomes the id of its own operation."""

from __future__ import annotations

from datetime import datetime

from msgspec import Struct

from entitlements.core.model import (
    GrantDetails,
    GrantReason,
    JobKey,
    Operation,
    Subject,
    WalletKey,
)
from entitlements.core.policy import DEFAULT_CREDIT_TYPE


class Origin(Struct, frozen=True, gc=False, kw_only=True):
    """Who asks, under which name. The key is scoped by the client; a key made on entry is unique.

    ``lifetime_s`` is how long the receipt answers for repeats.
    """

    actor: str
    client: str
    correlation_id: str
    key: str
    fingerprint: str
    lifetime_s: int


class Command(Struct, frozen=True, gc=False, kw_only=True):
    id: str
    origin: Origin


class Consume(Command, frozen=True, gc=False, kw_only=True):
    """Finished work: ``units`` of ``metric``, at least 1."""

    user_id: str
    org_id: str | None = None
    metric: str
    units: int
    batch_id: str | None = None
    job: JobKey | None = None


class ConsumeTogether(Command, frozen=True, gc=False, kw_only=True):
    """Finished work that is charged whole or not at all: at least one item, each with an id, a
    name and a job of its own, as if it had come alone. Its own key names nothing.
    """

    items: tuple[Consume, ...]


class GrantCredits(Command, frozen=True, gc=False, kw_only=True):
    """``granted_at`` none: from now on."""

    wallet: WalletKey
    quantity: int
    reason: GrantReason
    priority: int = 50
    granted_at: datetime | None = None
    expires_at: datetime | None = None
    details: GrantDetails


class Adjust(Command, frozen=True, gc=False, kw_only=True):
    """A positive amount adds a grant, a negative one burns.

    ``is_over_limit``: the operator has made too many; then only an earlier answer is given again.
    """

    wallet: WalletKey
    amount: int
    reason: str
    is_over_limit: bool = False


class SetBalance(Command, frozen=True, gc=False, kw_only=True):
    """``is_over_limit`` as of `Adjust`."""

    wallet: WalletKey
    balance: int
    reason: str | None = None
    is_over_limit: bool = False


class Revoke(Command, frozen=True, gc=False, kw_only=True):
    wallet: WalletKey
    grant_id: str
    reason: str | None


class Reverse(Command, frozen=True, gc=False, kw_only=True):
    """``amount`` none: all that is left of the operation. The operation never changes, so it may
    have been read before.
    """

    operation: Operation
    amount: int | None
    reason: str

    @property
    def wallet(self) -> WalletKey:
        """The wallet that paid."""
        return self.operation.wallet


class SettleDebt(Command, frozen=True, gc=False, kw_only=True):
    wallet: WalletKey
    debt_id: str
    reason: str | None = None


class WriteOffDebt(Command, frozen=True, gc=False, kw_only=True):
    wallet: WalletKey
    debt_id: str
    reason: str | None = None


class OpenAccount(Command, frozen=True, gc=False, kw_only=True):
    subject: Subject

    @property
    def wallet(self) -> WalletKey:
        """Where the signup bonus goes."""
        return WalletKey(self.subject.type, self.subject.id, DEFAULT_CREDIT_TYPE)


class ApplyDue(Command, frozen=True, gc=False, kw_only=True):
    """Put what is due in a wallet on record, as the next command on it would."""

    wallet: WalletKey


AnyCommand = (
    Consume
    | ConsumeTogether
    | GrantCredits
    | Adjust
    | SetBalance
    | Revoke
    | Reverse
    | SettleDebt
    | WriteOffDebt
    | OpenAccount
    | ApplyDue
)
