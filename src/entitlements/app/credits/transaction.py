"""Commands in a transaction that also holds statements of the caller, without group commit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from time import monotonic

from entitlements.app.credits.batch import BatchDecision, Redo, Submission, root_of
from entitlements.app.credits.committer import CONTENTIONS_MAX
from entitlements.app.outbox.announce import Announcer
from entitlements.app.policy.active import Policies
from entitlements.app.ports import Contended, Ledger, Locked, StoreUnavailable
from entitlements.core.commands import AnyCommand
from entitlements.core.limits import counted
from entitlements.core.outcomes import AnyOutcome, Refusal
from entitlements.core.windows import Use


class TransactionCommands:
    """Decides commands one after another in an open transaction, which may be rolled back.

    Implements `Submitter`. A command that raises changes nothing; the transaction stays usable.
    """

    def __init__(
        self,
        ledger: Ledger,
        policies: Policies,
        announcer: Announcer,
        new_id: Callable[[], str],
        record_uses: Callable[[Sequence[Use]], None],
        *,
        announced: Callable[[], None],
        deadline_s: float,
    ) -> None:
        self._ledger = ledger
        self._policies = policies
        self._announcer = announcer
        self._new_id = new_id
        self._record_uses = record_uses
        self._announced = announced
        self._deadline_s = deadline_s
        self.turn = asyncio.Lock()
        """Held by the command or statement that runs."""
        self._done: list[tuple[AnyCommand, AnyOutcome | Refusal]] = []
        self._allowances: frozenset[str] = frozenset()
        self._has_events = False

    async def submit(
        self, command: AnyCommand, *, deadline_s: float | None = None
    ) -> AnyOutcome | Refusal:
        """Return the command's outcome, which is durable once the transaction is committed.

        Waits for wallets that others have locked, until the deadline. Raises StoreUnavailable,
        Contended and Unreadable.
        """
        patience = self._deadline_s if deadline_s is None else deadline_s
        async with self.turn:
            outcome = await self._decided(command, monotonic() + patience)
        self._done.append((command, outcome))
        return outcome

    def committed(self) -> None:
        """Count the uses of the commands and publish their events, once; to be called after COMMIT.

        A second call does nothing.
        """
        done, self._done = self._done, []
        self._policies.know(self._allowances)
        policy = self._policies.active
        self._record_uses([use for one in done for use in counted(policy, *one)])
        if self._has_events:
            self._announced()

    async def _decided(self, command: AnyCommand, deadline: float) -> AnyOutcome | Refusal:
        """Return the outcome. Due effects of a wallet that one decision cannot apply take more."""
        contentions = 0
        while True:
            try:
                outcome = await self._decided_once(command, deadline)
            except Locked as error:
                if monotonic() >= deadline:
                    raise StoreUnavailable("another transaction keeps a wallet locked") from error
                continue
            except Contended:
                contentions += 1
                if contentions > CONTENTIONS_MAX:
                    raise
                continue
            if not isinstance(outcome, Redo):
                return outcome

    async def _decided_once(
        self, command: AnyCommand, deadline: float
    ) -> AnyOutcome | Refusal | Redo:
        submission = Submission(command, root_of(command), deadline, asyncio.get_running_loop())
        decision = BatchDecision(
            [submission],
            self._policies,
            self._announcer,
            self._new_id,
            may_lack_wallets=False,
            sees_uncommitted=True,
        )
        await self._ledger.commit(decision.needs(), decision.decide)
        (outcome,) = decision.outcomes
        if isinstance(outcome, Exception):
            raise outcome
        assert outcome is not None, "no wallet is left out"
        self._allowances |= decision.allowances
        self._has_events |= decision.has_events
        return outcome
