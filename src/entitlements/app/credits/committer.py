"""Group commit: commands that arrive together are decided and committed in one transaction.

While one batch commits, the next one gathers; no batch waits to be filled. A command is answered
only after the commit that contains its changes. A caller that goes away does not stop its batch.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Self

from entitlements.app.credits.ahead import AheadLog
from entitlements.app.credits.batch import (
    TOO_LATE,
    BatchDecision,
    CallerAnswered,
    DeadlineExceeded,
    Redo,
    Submission,
    fail,
    fail_all,
    in_time,
    root_of,
    verdicts,
)
from entitlements.app.credits.unreadable import UnreadableLog
from entitlements.app.outbox.announce import Announcer
from entitlements.app.policy.active import Policies, PolicyUnusable
from entitlements.app.ports import (
    Contended,
    Ledger,
    Locked,
    StoreUnavailable,
    Transient,
    Unreadable,
)
from entitlements.app.process import failpoints
from entitlements.app.process.backoff import backoff_s
from entitlements.app.process.clock import utc_now
from entitlements.app.process.log import EventLog
from entitlements.core.commands import AnyCommand
from entitlements.core.limits import counted
from entitlements.core.model import Subject, WalletKey
from entitlements.core.outcomes import AnyOutcome, Refusal
from entitlements.core.windows import Use

log = EventLog(__name__)

COMMANDS_MAX = 512
"""Per batch. Each item of a bulk command counts; a command with more items commits alone."""
QUEUE_MAX = 8192
ROOT_SHARE_MAX = QUEUE_MAX // 4
CONTENTIONS_MAX = 3
RETRY_FIRST_S = 0.02
RETRY_MAX_S = 0.5
LOCKED_POLL_S = 0.05
GRACE_S = 1.0
"""How long after its deadline a caller gets an error, even if the database is stuck."""
WATCH_S = 0.25


class Overloaded(Transient):
    """The queue is full or closed; the command was not accepted."""

    def __init__(self, retry_after_s: int = 1) -> None:
        super().__init__("too many commands are waiting")
        self.retry_after_s = retry_after_s


class Committer:
    """The queue, the task that commits batches of it, and the handling of failed batches."""

    def __init__(
        self,
        ledger: Ledger,
        policies: Policies,
        announcer: Announcer,
        new_id: Callable[[], str],
        record_uses: Callable[[Sequence[Use]], None],
        *,
        announced: Callable[[], None] = lambda: None,
        deadline_s: float = 6.0,
        unreadable: UnreadableLog | None = None,
        ahead: AheadLog | None = None,
    ) -> None:
        self._unreadable = unreadable or UnreadableLog()
        self._ahead = ahead or AheadLog(utc_now)
        self._ledger = ledger
        self._policies = policies
        self._announcer = announcer
        self._new_id = new_id
        self._record_uses = record_uses
        self._announced = announced
        self._deadline_s = deadline_s
        self._queue: deque[Submission] = deque()
        self._unanswered: list[Submission] = []
        """Accepted submissions; `_watch` removes those that have been answered."""
        self._queued = 0
        self._roots: Counter[Subject] = Counter()
        self._arrived = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False
        self._deferred: list[Submission] = []
        self._locks_met = asyncio.Event()
        self._locked: set[WalletKey] = set()
        self.batch_sizes: Callable[[int], None] = lambda _size: None
        """Called with the size of every committed batch."""

    async def __aenter__(self) -> Self:
        self._tasks = [
            asyncio.create_task(self._commit_queued()),
            asyncio.create_task(self._retry_locked()),
        ]
        self._tasks[0].add_done_callback(lambda _: self._locks_met.set())
        self._watching = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Accept no more commands and finish the accepted ones."""
        self._stopping = True
        self._arrived.set()
        await asyncio.gather(*self._tasks)
        self._watching.cancel()

    @property
    def depth(self) -> int:
        """The number of waiting commands, deferred ones included."""
        return self._queued

    @property
    def running(self) -> bool:
        return bool(self._tasks) and not any(task.done() for task in self._tasks)

    async def submit(
        self, command: AnyCommand, *, deadline_s: float | None = None
    ) -> AnyOutcome | Refusal:
        """Return the command's outcome, once it is durable.

        Raises Overloaded if the command was not accepted, and StoreUnavailable if it has no outcome
        in time. If `applied` of the error is unknown, repeat the command with the same key to get
        its outcome; otherwise nothing was changed, and nothing will be.
        """
        root = root_of(command)
        full = self._queued >= QUEUE_MAX or self._roots[root] >= ROOT_SHARE_MAX
        if self._stopping or full:
            raise Overloaded
        loop = asyncio.get_running_loop()
        patience = self._deadline_s if deadline_s is None else deadline_s
        submission = Submission(command, root, monotonic() + patience, loop)
        self._queue.append(submission)
        self._count(submission)
        self._arrived.set()
        failpoints.hit("queued")
        self._unanswered.append(submission)
        return await submission.future

    async def _watch(self) -> None:
        """Fail submissions that are long past their deadlines, whatever their commands wait for."""
        while True:
            await asyncio.sleep(WATCH_S)
            self._unanswered = [one for one in self._unanswered if not one.future.done()]
            late = monotonic() - GRACE_S
            with verdicts:
                for submission in self._unanswered:
                    if submission.deadline < late:
                        fail(submission, _out_of_time(submission))

    async def _commit_queued(self) -> None:
        while True:
            if not self._queue:
                if self._stopping:
                    return
                self._arrived.clear()
                await self._arrived.wait()
                continue
            submissions = in_time(self._take(), DeadlineExceeded(TOO_LATE))
            free = [submission for submission in submissions if not self._meets_lock(submission)]
            if len(free) < len(submissions):
                self._defer(
                    [submission for submission in submissions if self._meets_lock(submission)]
                )
            if free:
                await self._commit_or_fail(free)

    def _take(self) -> list[Submission]:
        taken = _batch(self._queue)
        for submission in taken:
            submission.is_taken = True
            self._discount(submission)
        return taken

    def _meets_lock(self, submission: Submission) -> bool:
        return bool(self._locked) and not self._locked.isdisjoint(
            submission.wallets(self._policies.active)
        )

    async def _commit_or_fail(self, submissions: list[Submission]) -> None:
        """Commit the submissions. Any error, even of a log that cannot be written, fails them
        and not the task.
        """
        try:
            await self._commit(submissions)
        except Exception as error:  # noqa: BLE001 - outermost
            fail_all(submissions, error)

    async def _commit(self, submissions: list[Submission]) -> None:
        """Commit the submissions together, or in parts where that is not possible."""
        try:
            await self._commit_with_retries(submissions)
        except Locked:
            await self._commit_around_locks(submissions)
        except PolicyUnusable as error:
            fail_all(submissions, error)
        except Exception as error:
            if len(submissions) == 1:
                if isinstance(error, Unreadable):
                    self._unreadable.note(error)
                elif not isinstance(error, StoreUnavailable | Contended):
                    log.exception("commit.failed", command=type(submissions[0].command).__name__)
                fail(
                    submissions[0],
                    StoreUnavailable("contended") if type(error) is Contended else error,
                )
            else:
                middle = len(submissions) // 2
                await self._commit(submissions[:middle])
                await self._commit(submissions[middle:])

    async def _commit_with_retries(self, submissions: list[Submission]) -> None:
        """Commit, with retries while the database is unavailable or contended."""
        contentions = 0
        retries = 0
        while submissions:
            try:
                await self._commit_once(submissions, skip_locked=False)
            except Locked:
                raise
            except Contended:
                contentions += 1
                if contentions > CONTENTIONS_MAX:
                    raise
            except StoreUnavailable as error:
                retries += 1
                await asyncio.sleep(backoff_s(retries, first_s=RETRY_FIRST_S, most_s=RETRY_MAX_S))
                submissions = in_time(submissions, error)
            else:
                return

    async def _commit_around_locks(self, submissions: list[Submission]) -> None:
        """Commit the submissions whose wallets can be locked; defer the others."""
        try:
            left = await self._commit_once(submissions, skip_locked=True)
        except Locked:
            # All wallets share one lock (SQLite), or a policy is being activated.
            left = submissions
        except (PolicyUnusable, StoreUnavailable) as error:
            # One attempt only: callers that wait for a lock already expect to retry.
            fail_all(submissions, error)
            return
        except Exception as error:  # noqa: BLE001 - outermost, as in `_commit`
            if len(submissions) == 1:
                fail(submissions[0], error)
                return
            middle = len(submissions) // 2
            await self._commit_around_locks(submissions[:middle])
            await self._commit_around_locks(submissions[middle:])
            return
        self._defer(left)

    async def _retry_locked(self) -> None:
        """Retry the deferred commands, whose wallets are locked, until their deadlines."""
        while await self._has_deferred():
            await asyncio.sleep(LOCKED_POLL_S)
            deferred, self._deferred = self._deferred, []
            for submission in deferred:
                self._discount(submission)
            waiting = deque(in_time(deferred, DeadlineExceeded(TOO_LATE)))
            while waiting:
                await self._commit_around_locks(_batch(waiting))
            # Set after the retry: until then new commands on these wallets are deferred too, so
            # that no batch waits for their locks.
            self._locked = self._wallets(self._deferred)

    async def _has_deferred(self) -> bool:
        """Wait for deferred commands; return False once no more can come."""
        if not self._deferred and not self._tasks[0].done():
            self._locks_met.clear()
            await self._locks_met.wait()
        return bool(self._deferred)

    def _defer(self, submissions: list[Submission]) -> None:
        """Defer the submissions. They still count as queued, so the queue's limit covers them."""
        for submission in submissions:
            self._count(submission)
        self._deferred += submissions
        self._locked |= self._wallets(submissions)
        if submissions:
            self._locks_met.set()

    def _wallets(self, submissions: list[Submission]) -> set[WalletKey]:
        policy = self._policies.active
        return {key for submission in submissions for key in submission.wallets(policy)}

    async def _commit_once(
        self, submissions: list[Submission], *, skip_locked: bool
    ) -> list[Submission]:
        """Commit one transaction. Return the submissions whose wallets others have locked."""
        decision = BatchDecision(
            submissions, self._policies, self._announcer, self._new_id, may_lack_wallets=skip_locked
        )
        try:
            await self._ledger.commit(
                decision.needs(), decision.decide, seal=decision.seal, skip_locked=skip_locked
            )
        except CallerAnswered:
            waiting = [submission for submission in submissions if not submission.is_refused]
            return await self._commit_once(waiting, skip_locked=skip_locked) if waiting else []
        except Exception as error:
            if not isinstance(error, StoreUnavailable) or error.applied == "no":
                decision.unseal()
            raise
        return self._answer(submissions, decision)

    def _answer(self, submissions: list[Submission], decision: BatchDecision) -> list[Submission]:
        """Complete each submission with its outcome. Return the submissions without one."""
        self.batch_sizes(len(submissions))
        self._ahead.note(decision.ahead)
        if decision.has_events:
            self._announced()
        self._policies.know(decision.allowances)
        left: list[Submission] = []
        again: list[Submission] = []
        for submission, outcome in zip(submissions, decision.outcomes, strict=True):
            if isinstance(outcome, Redo):
                again.append(submission)
            elif outcome is None:
                left.append(submission)
            elif isinstance(outcome, Exception):
                if not isinstance(outcome, DeadlineExceeded):
                    log.error("command.failed", exc_info=outcome)
                fail(submission, outcome)
            elif not submission.future.done():
                submission.future.set_result(outcome)
        self._requeue(again)
        failpoints.hit("answered-unrecorded")
        # In the same turn of the event loop: a caller sees its own use counted when it asks again.
        policy = self._policies.active
        if policy.limits:
            done = zip(
                (submission.command for submission in submissions), decision.outcomes, strict=True
            )
            self._record_uses([use for one in done for use in counted(policy, *one)])
        return left

    def _requeue(self, submissions: list[Submission]) -> None:
        """Put the submissions back at the front of the queue, in their order."""
        self._queue.extendleft(reversed(submissions))
        for submission in submissions:
            self._count(submission)
        if submissions:
            self._arrived.set()

    def _count(self, submission: Submission) -> None:
        self._queued += submission.weight
        self._roots[submission.root] += submission.weight

    def _discount(self, submission: Submission) -> None:
        self._queued -= submission.weight
        self._roots[submission.root] -= submission.weight
        if not self._roots[submission.root]:
            del self._roots[submission.root]


def _batch(waiting: deque[Submission]) -> list[Submission]:
    """Take from the left the commands that fit into one batch: at least one."""
    taken = [waiting.popleft()]
    room = COMMANDS_MAX - taken[0].weight
    while waiting and waiting[0].weight <= room:
        taken.append(waiting.popleft())
        room -= taken[-1].weight
    return taken


def _out_of_time(submission: Submission) -> StoreUnavailable:
    if submission.is_taken:
        return StoreUnavailable("the database did not respond in time")
    return DeadlineExceeded(TOO_LATE)
