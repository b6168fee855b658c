"""A batch of commands that are decided and committed together, without I/O."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable
from datetime import datetime
from time import monotonic

from msgspec.structs import replace

from entitlements.app.credits.ahead import ahead_in
from entitlements.app.outbox.announce import Announcer
from entitlements.app.policy.active import Policies
from entitlements.app.ports import Batch, StoreUnavailable
from entitlements.core.attribution import root_subject
from entitlements.core.commands import (
    AnyCommand,
    Consume,
    IngestUsage,
    Spend,
    TakeHold,
    Together,
)
from entitlements.core.ledger.apply import add_needs, apply, wallets_of
from entitlements.core.ledger.book import Book, NeedMore, Needs
from entitlements.core.ledger.due import MoreDue
from entitlements.core.ledger.subscribing import calls
from entitlements.core.model import Subject, WalletKey
from entitlements.core.outcomes import AnyOutcome, Refusal
from entitlements.core.policy import Policy

TOO_LATE = "the command could not be decided in time"


class DeadlineExceeded(StoreUnavailable):
    """The command was not decided in time; it changed nothing."""


class CallerAnswered(Exception):
    """A caller got an error while its command was being recorded, so it must not be committed."""


verdicts = threading.Lock()
"""Held while callers are refused and while commands are marked as about to be committed (also in
a thread of the store), so that each command is either refused or sent, never both.
"""


class Submission:
    """A command in the queue, and the future of its caller."""

    __slots__ = (
        "_policy",
        "_wallets",
        "command",
        "deadline",
        "future",
        "is_sent",
        "is_taken",
        "root",
        "weight",
    )

    def __init__(
        self, command: AnyCommand, root: Subject, deadline: float, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.command = command
        self.root = root
        self.weight = len(command.items) if isinstance(command, Together) else 1
        self.deadline = deadline
        self.is_taken = False
        self.is_sent = False
        """Whether a COMMIT with its changes was sent, which may have succeeded."""
        self.future: asyncio.Future[AnyOutcome | Refusal] = loop.create_future()
        self._policy: Policy | None = None
        self._wallets: set[WalletKey] = set()

    def wallets(self, policy: Policy) -> set[WalletKey]:
        """Return the wallets that the command can touch, computed once per policy."""
        if self._policy is not policy:
            self._wallets, self._policy = wallets_of(self.command, policy), policy
        return self._wallets

    @property
    def is_refused(self) -> bool:
        """Whether the caller has an answer. A caller that went away has none."""
        return self.future.done() and not self.future.cancelled()


class Redo:
    """The command must be retried: its wallets had more due effects than one batch applies."""


_REDO = Redo()
_NOT_DECIDED = (Redo, Exception, type(None))


class BatchDecision:
    """The decision on a batch, without I/O: what to load, the outcomes, and what to write."""

    def __init__(
        self,
        submissions: list[Submission],
        policies: Policies,
        announcer: Announcer,
        new_id: Callable[[], str],
        *,
        may_lack_wallets: bool,
        sees_uncommitted: bool = False,
    ) -> None:
        self._may_lack_wallets = may_lack_wallets
        self._sees_uncommitted = sees_uncommitted
        self._submissions = submissions
        self._policies = policies
        self._policy = policies.active
        self._announcer = announcer
        self._new_id = new_id
        self._depth: dict[WalletKey, int] = {}
        self._wallets: set[WalletKey] = set()
        self.outcomes: list[AnyOutcome | Refusal | Exception | Redo | None] = []
        """One per submission; None if a wallet of the command is not in the book."""
        self.has_events = False
        self.allowances: frozenset[str] = frozenset()
        """The metrics with allowances, once the batch is committed."""
        self.ahead: dict[WalletKey, datetime] = {}
        """Wallets that were ahead of the clock when loaded."""
        self._sealed: list[Submission] = []

    def needs(self) -> Needs:
        """Return what to load, by the policy known so far."""
        policy = self._policy
        needs = Needs(
            policy_version=policy.version,
            burn_order=policy.burn_order,
            depth=self._depth,
            wallets=set(self._wallets),
            due_debts=policy.settle_debts,
            allowances=len(policy.allowances),
        )
        for submission in self._submissions:
            add_needs(needs, submission.command, submission.wallets(policy), policy)
        return needs

    def decide(self, book: Book) -> Batch | Needs | None:
        """Decide every command in order of arrival, as `ports.Decide`."""
        if self._has_learned(book):
            return self.needs()
        # Decide by the version that was loaded; the process may know another one by now.
        assert self._policy.version == book.policy_version
        self._policies.found()
        self.ahead = ahead_in(book)
        book.equip(self._policy, self._new_id)
        self.outcomes = []
        now = monotonic()
        is_short = False
        for submission in self._submissions:
            if submission.deadline <= now and not submission.is_sent:
                # Waiting for the locks may have taken until the deadline.
                self.outcomes.append(DeadlineExceeded(TOO_LATE))
                continue
            try:
                self.outcomes.append(self._outcome(book, submission))
            except NeedMore as more:
                # Wallets that were requested but are not in the book are locked by others.
                self.outcomes.append(None)
                is_short |= not more.wallets or not more.wallets <= self._wallets
                self._depth |= more.depth
                self._wallets |= more.wallets
            except MoreDue:
                self.outcomes.append(_REDO)
            except Exception as error:  # noqa: BLE001 - a bug fails only its own command
                self.outcomes.append(error)
        if is_short:  # later decisions are discarded with the book
            return self.needs()
        changes = book.changes()
        if not changes:
            return None
        self.allowances = self._policy.allowances | changes.allowances
        events = self._announcer.rows(changes)
        self.has_events = bool(events)
        return Batch(changes, events, calls(changes))

    def _has_learned(self, book: Book) -> bool:
        """Adopt the policy and the metrics with allowances that the book found, if others."""
        if book.policy_content is not None:
            self._policy = self._policies.learn(book.policy_version, book.policy_content)
        if book.allowances is not None:
            if not self._sees_uncommitted:  # a rollback may undo them
                self._policies.know(book.allowances)
            self._policy = replace(self._policy, allowances=book.allowances)
        return book.policy_content is not None or book.allowances is not None

    def seal(self) -> None:
        """Mark the submissions about to be committed. Raises CallerAnswered if one was refused."""
        pairs = zip(self._submissions, self.outcomes, strict=True)
        decided = [one for one, outcome in pairs if not isinstance(outcome, _NOT_DECIDED)]
        with verdicts:
            if any(submission.is_refused for submission in decided):
                raise CallerAnswered
            self._sealed = [submission for submission in decided if not submission.is_sent]
            for submission in self._sealed:
                submission.is_sent = True

    def unseal(self) -> None:
        """Unmark the submissions: nothing was committed."""
        for submission in self._sealed:
            submission.is_sent = False

    def _outcome(self, book: Book, submission: Submission) -> AnyOutcome | Refusal | None:
        wallets = submission.wallets(book.policy)
        if self._may_lack_wallets and not wallets <= book.wallets.keys():
            return None
        return apply(book, submission.command, wallets)


def root_of(command: AnyCommand) -> Subject:
    """Return the root subject whose share of the queue the command takes; of several, the first."""
    match command:
        case (
            Consume(user_id=user_id, org_id=org_id)
            | TakeHold(user_id=user_id, org_id=org_id)
            | Spend(user_id=user_id, org_id=org_id)
        ):
            return root_subject(user_id, org_id)
        case Together(items=items):
            return root_of(items[0])
        case IngestUsage(report=report):
            return root_subject(report.user_id, report.org_id)
        case _:
            return command.wallet.subject


def fail_all(submissions: Iterable[Submission], error: Exception) -> None:
    for submission in submissions:
        fail(submission, error)


def fail(submission: Submission, error: Exception) -> None:
    """Fail the submission. Once its COMMIT was sent, whether it was applied is unknown."""
    if not submission.future.done():
        if submission.is_sent:
            error = StoreUnavailable(str(error), applied="unknown")
        submission.future.set_exception(error)
        submission.future.exception()  # mark as retrieved: the caller may have gone away


def in_time(submissions: Iterable[Submission], error: StoreUnavailable) -> list[Submission]:
    """Return the commands before their deadlines; fail the others with ``error``."""
    now = monotonic()
    kept = []
    for submission in submissions:
        if submission.deadline > now:
            kept.append(submission)
        else:
            fail(submission, error)
    return kept
