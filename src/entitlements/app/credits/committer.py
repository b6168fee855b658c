"""Group commit: commands that arrive together are decided and committed in one transaction.

While one batch commits, the next one gathers; no batch waits to be filled. A command is answered
only after the commit that contains its changes. A caller that goes away does not stop its batch.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from time import monotonic
from typing import Self

from entitlements.app.credits.ahead import AheadLog, ahead_in
from entitlements.app.credits.unreadable import UnreadableLog
from entitlements.app.outbox.announce import Announcer
from entitlements.app.policy.active import Policies, PolicyUnusable
from entitlements.app.ports import (
    Batch,
    Contended,
    Ledger,
    Locked,
    Transient,
    Unavailable,
    Unreadable,
)
from entitlements.app.process import failpoints
from entitlements.app.process.backoff import backoff_s
from entitlements.app.process.clock import utc_now
from entitlements.app.process.log import EventLog
from entitlements.core.attribution import root_subject
from entitlements.core.commands import (
    AnyCommand,
    Consume,
    ReportUse,
    TakeHold,
    Together,
)
from entitlements.core.ledger.apply import add_needs, apply, wallets_of
from entitlements.core.ledger.book import Book, NeedMore, Needs
from entitlements.core.ledger.due import MoreDue
from entitlements.core.limits import counted
from entitlements.core.model import Subject, WalletKey
from entitlements.core.outcomes import AnyOutcome, Refused
from entitlements.core.policy import Policy
from entitlements.core.windows import Use

log = EventLog(__name__)

COMMANDS_MAX = 512
"""Per batch. Each item of a bulk command counts; a command with more items commits alone."""
QUEUE_MAX = 8192
TOO_LATE = "the command could not be decided in time"
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


class DeadlineExceeded(Unavailable):
    """The command was not decided in time; it changed nothing."""


class Answered(Exception):
    """A caller got an error while its command was being recorded, so it must not be committed."""


_verdicts = threading.Lock()
"""Held while callers are refused and while commands are marked as about to be committed (also in
a thread of the store), so that each command is either refused or sent, never both.
"""


class Entry:
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
        self.future: asyncio.Future[AnyOutcome | Refused] = loop.create_future()
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


class Committer:
    """The queue, the lanes that commit batches, and the handling of failed batches."""

    def __init__(
        self,
        ledger: Ledger,
        policies: Policies,
        announcer: Announcer,
        new_id: Callable[[], str],
        record_uses: Callable[[Sequence[Use]], None],
        *,
        announced: Callable[[], None] = lambda: None,
        lanes: int = 1,
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
        self._lanes = lanes
        self._deadline_s = deadline_s
        self._queue: deque[Entry] = deque()
        self._unanswered: list[Entry] = []
        """Every accepted entry, until `_watch` finds it answered."""
        self._queued = 0
        self._roots: Counter[Subject] = Counter()
        self._arrived = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False
        self._aside: list[Entry] = []
        self._blocked = asyncio.Event()
        self._locked: set[WalletKey] = set()
        self.batch_sizes: Callable[[int], None] = lambda _size: None
        """Called with the size of every committed batch."""

    async def __aenter__(self) -> Self:
        for _ in range(self._lanes):
            self._tasks.append(asyncio.create_task(self._lane()))
        self._tasks.append(asyncio.create_task(self._beside_locks()))
        self._watching = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Accept no more commands and finish the accepted ones."""
        self._stopping = True
        self._arrived.set()
        self._blocked.set()
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
    ) -> AnyOutcome | Refused:
        """Return the command's outcome, once it is durable.

        Raises Overloaded if the command was not accepted, and Unavailable if it has no outcome in
        time. If `applied` of the error is unknown, repeat the command with the same key to get its
        outcome; otherwise nothing was changed, and nothing will be.
        """
        root = _root(command)
        full = self._queued >= QUEUE_MAX or self._roots[root] >= ROOT_SHARE_MAX
        if self._stopping or full:
            raise Overloaded
        loop = asyncio.get_running_loop()
        patience = self._deadline_s if deadline_s is None else deadline_s
        entry = Entry(command, root, monotonic() + patience, loop)
        self._queue.append(entry)
        self._count(entry)
        self._arrived.set()
        failpoints.hit("queued")
        self._unanswered.append(entry)
        return await entry.future

    async def _watch(self) -> None:
        """Fail entries that are long past their deadlines, whatever their commands wait for."""
        while True:
            await asyncio.sleep(WATCH_S)
            self._unanswered = [one for one in self._unanswered if not one.future.done()]
            late = monotonic() - GRACE_S
            with _verdicts:
                for entry in self._unanswered:
                    if entry.deadline < late:
                        _fail(entry, _out_of_time(entry))

    async def _lane(self) -> None:
        while True:
            if not self._queue:
                if self._stopping:
                    return
                self._arrived.clear()
                await self._arrived.wait()
                continue
            entries = self._in_time(self._take())
            free = [entry for entry in entries if not self._meets_lock(entry)]
            if len(free) < len(entries):
                self._set_aside([entry for entry in entries if self._meets_lock(entry)])
            if free:
                await self._commit_or_fail(free)

    def _take(self) -> list[Entry]:
        taken = _batch(self._queue)
        for entry in taken:
            entry.is_taken = True
            self._discount(entry)
        return taken

    def _in_time(self, entries: Iterable[Entry]) -> list[Entry]:
        """Return the entries before their deadlines; fail the others before anything is loaded."""
        now = monotonic()
        kept = []
        for entry in entries:
            if entry.deadline > now:
                kept.append(entry)
            else:
                _fail(entry, DeadlineExceeded(TOO_LATE))
        return kept

    def _meets_lock(self, entry: Entry) -> bool:
        return bool(self._locked) and not self._locked.isdisjoint(
            entry.wallets(self._policies.active)
        )

    async def _commit_or_fail(self, entries: list[Entry]) -> None:
        """Commit the entries. Any error, even of a log that cannot be written, fails the entries
        and not the lane.
        """
        try:
            await self._commit(entries)
        except Exception as error:  # noqa: BLE001 - outermost
            _fail_all(entries, error)

    async def _commit(self, entries: list[Entry]) -> None:
        """Commit the entries together, or in parts where that is not possible."""
        try:
            await self._commit_patiently(entries)
        except Locked:
            await self._commit_around_locks(entries)
        except PolicyUnusable as error:
            _fail_all(entries, error)
        except Exception as error:
            if len(entries) == 1:
                if isinstance(error, Unreadable):
                    self._unreadable.note(error)
                elif not isinstance(error, Unavailable | Contended):
                    log.exception("commit.failed", command=type(entries[0].command).__name__)
                _fail(entries[0], Unavailable("contended") if type(error) is Contended else error)
            else:
                middle = len(entries) // 2
                await self._commit(entries[:middle])
                await self._commit(entries[middle:])

    async def _commit_patiently(self, entries: list[Entry]) -> None:
        """Commit, with retries while the database is unavailable or contended."""
        contentions = 0
        retries = 0
        while entries:
            try:
                await self._commit_once(entries, skip_locked=False)
            except Locked:
                raise
            except Contended:
                contentions += 1
                if contentions > CONTENTIONS_MAX:
                    raise
            except Unavailable as error:
                retries += 1
                await asyncio.sleep(backoff_s(retries, first_s=RETRY_FIRST_S, most_s=RETRY_MAX_S))
                entries = self._still_patient(entries, error)
            else:
                return

    def _still_patient(self, entries: list[Entry], error: Unavailable) -> list[Entry]:
        """Return the entries that still have time for another attempt; fail the others."""
        now = monotonic()
        kept = []
        for entry in entries:
            if entry.deadline > now:
                kept.append(entry)
            else:
                _fail(entry, error)
        return kept

    async def _commit_around_locks(self, entries: list[Entry]) -> None:
        """Commit the entries whose wallets can be locked; defer the others."""
        try:
            left = await self._commit_once(entries, skip_locked=True)
        except Locked:
            left = entries  # all wallets share one lock (SQLite), or a policy is being activated
        except (PolicyUnusable, Unavailable) as error:
            # One attempt only: callers that wait for a lock already expect to retry.
            _fail_all(entries, error)
            return
        except Exception as error:  # noqa: BLE001 - outermost, as in `_commit`
            if len(entries) == 1:
                _fail(entries[0], error)
                return
            middle = len(entries) // 2
            await self._commit_around_locks(entries[:middle])
            await self._commit_around_locks(entries[middle:])
            return
        self._set_aside(left)

    async def _beside_locks(self) -> None:
        """Retry the deferred commands, whose wallets are locked, until their deadlines."""
        while not (self._stopping and not self._aside and self._lanes_ended()):
            if not self._aside and not self._stopping:
                self._blocked.clear()
                await self._blocked.wait()
            await asyncio.sleep(LOCKED_POLL_S)
            aside, self._aside = self._aside, []
            for entry in aside:
                self._discount(entry)
            waiting = deque(self._in_time(aside))
            while waiting:
                await self._commit_around_locks(_batch(waiting))
            # Only now: before their retry, new commands must not make a lane wait for the lock.
            self._locked = self._wallets(self._aside)

    def _set_aside(self, entries: list[Entry]) -> None:
        """Defer the entries. They still count as queued, so the queue's limit covers them."""
        for entry in entries:
            self._count(entry)
        self._aside += entries
        self._locked |= self._wallets(entries)
        if entries:
            self._blocked.set()

    def _wallets(self, entries: list[Entry]) -> set[WalletKey]:
        policy = self._policies.active
        return {key for entry in entries for key in entry.wallets(policy)}

    def _lanes_ended(self) -> bool:
        return all(task.done() for task in self._tasks[: self._lanes])

    async def _commit_once(self, entries: list[Entry], *, skip_locked: bool) -> list[Entry]:
        """Commit one transaction. Return the entries whose wallets others have locked."""
        deciding = Deciding(
            entries, self._policies, self._announcer, self._new_id, may_lack_wallets=skip_locked
        )
        try:
            await self._ledger.commit(
                deciding.needs(), deciding.decide, seal=deciding.seal, skip_locked=skip_locked
            )
        except Answered:
            waiting = [entry for entry in entries if not entry.is_refused]
            return await self._commit_once(waiting, skip_locked=skip_locked) if waiting else []
        except Exception as error:
            if not isinstance(error, Unavailable) or error.applied == "no":
                deciding.unseal()
            raise
        return self._answer(entries, deciding)

    def _answer(self, entries: list[Entry], deciding: Deciding) -> list[Entry]:
        """Complete each entry with its outcome. Return the entries without one."""
        self.batch_sizes(len(entries))
        self._ahead.note(deciding.ahead)
        if deciding.has_events:
            self._announced()
        left: list[Entry] = []
        again: list[Entry] = []
        for entry, outcome in zip(entries, deciding.outcomes, strict=True):
            if isinstance(outcome, _Again):
                again.append(entry)
            elif outcome is None:
                left.append(entry)
            elif isinstance(outcome, Exception):
                if not isinstance(outcome, DeadlineExceeded):
                    log.error("command.failed", exc_info=outcome)
                _fail(entry, outcome)
            elif not entry.future.done():
                entry.future.set_result(outcome)
        self._requeue(again)
        failpoints.hit("answered-unrecorded")
        # In the same turn of the event loop: a caller sees its own use counted when it asks again.
        policy = self._policies.active
        if policy.limits:
            done = zip((entry.command for entry in entries), deciding.outcomes, strict=True)
            self._record_uses([use for one in done for use in counted(policy, *one)])
        return left

    def _requeue(self, entries: list[Entry]) -> None:
        """Put the entries back at the front of the queue, in their order."""
        self._queue.extendleft(reversed(entries))
        for entry in entries:
            self._count(entry)
        if entries:
            self._arrived.set()

    def _count(self, entry: Entry) -> None:
        self._queued += entry.weight
        self._roots[entry.root] += entry.weight

    def _discount(self, entry: Entry) -> None:
        self._queued -= entry.weight
        self._roots[entry.root] -= entry.weight
        if not self._roots[entry.root]:
            del self._roots[entry.root]


class _Again:
    """The command must be retried: its wallets had more due effects than one batch applies."""


_AGAIN = _Again()
_NOT_DECIDED = (_Again, Exception, type(None))


class Deciding:
    """The decision on a batch, without I/O: what to load, the outcomes, and what to write."""

    def __init__(
        self,
        entries: list[Entry],
        policies: Policies,
        announcer: Announcer,
        new_id: Callable[[], str],
        *,
        may_lack_wallets: bool,
    ) -> None:
        self._may_lack_wallets = may_lack_wallets
        self._entries = entries
        self._policies = policies
        self._policy = policies.active
        self._announcer = announcer
        self._new_id = new_id
        self._depth: dict[WalletKey, int] = {}
        self._wallets: set[WalletKey] = set()
        self.outcomes: list[AnyOutcome | Refused | Exception | _Again | None] = []
        """One per entry; None if a wallet of the command is not in the book."""
        self.has_events = False
        self.ahead: dict[WalletKey, datetime] = {}
        """Wallets that were ahead of the clock when loaded."""
        self._sealed: list[Entry] = []

    def needs(self) -> Needs:
        """Return what to load, by the policy known so far."""
        policy = self._policy
        needs = Needs(
            policy_version=policy.version,
            burn_order=policy.burn_order,
            depth=self._depth,
            wallets=set(self._wallets),
            due_debts=policy.settle_debts,
        )
        for entry in self._entries:
            add_needs(needs, entry.command, entry.wallets(policy), policy)
        return needs

    def decide(self, book: Book) -> Batch | Needs | None:
        """Decide every command in order of arrival, as `ports.Decide`."""
        if book.policy_content is not None:
            self._policy = self._policies.learn(book.policy_version, book.policy_content)
            return self.needs()
        # Decide by the version that was loaded; the process may know another one by now.
        assert self._policy.version == book.policy_version
        self._policies.found()
        self.ahead = ahead_in(book)
        book.equip(self._policy, self._new_id)
        self.outcomes = []
        now = monotonic()
        is_short = False
        for entry in self._entries:
            if entry.deadline <= now and not entry.is_sent:
                # Waiting for the locks may have taken until the deadline.
                self.outcomes.append(DeadlineExceeded(TOO_LATE))
                continue
            try:
                self.outcomes.append(self._outcome(book, entry))
            except NeedMore as more:
                # Wallets that were requested but are not in the book are locked by others.
                self.outcomes.append(None)
                is_short |= not more.wallets or not more.wallets <= self._wallets
                self._depth |= more.depth
                self._wallets |= more.wallets
            except MoreDue:
                self.outcomes.append(_AGAIN)
            except Exception as error:  # noqa: BLE001 - a bug fails its own command, not its neighbours
                self.outcomes.append(error)
        if is_short:  # later decisions are discarded with the book
            return self.needs()
        changes = book.changes()
        if not changes:
            return None
        events = self._announcer.rows(changes)
        self.has_events = bool(events)
        return Batch(changes, events)

    def seal(self) -> None:
        """Mark the entries that are about to be committed. Raises Answered if one was refused."""
        pairs = zip(self._entries, self.outcomes, strict=True)
        decided = [one for one, outcome in pairs if not isinstance(outcome, _NOT_DECIDED)]
        with _verdicts:
            if any(entry.is_refused for entry in decided):
                raise Answered
            self._sealed = [entry for entry in decided if not entry.is_sent]
            for entry in self._sealed:
                entry.is_sent = True

    def unseal(self) -> None:
        """Unmark the entries: nothing was committed."""
        for entry in self._sealed:
            entry.is_sent = False

    def _outcome(self, book: Book, entry: Entry) -> AnyOutcome | Refused | None:
        wallets = entry.wallets(book.policy)
        if self._may_lack_wallets and not wallets <= book.wallets.keys():
            return None
        return apply(book, entry.command, wallets)


def _batch(waiting: deque[Entry]) -> list[Entry]:
    """Take from the left the commands that fit into one batch: at least one."""
    taken = [waiting.popleft()]
    room = COMMANDS_MAX - taken[0].weight
    while waiting and waiting[0].weight <= room:
        taken.append(waiting.popleft())
        room -= taken[-1].weight
    return taken


def _root(command: AnyCommand) -> Subject:
    """Return the root subject whose share of the queue the command takes; of several, the first."""
    match command:
        case Consume(user_id=user_id, org_id=org_id) | TakeHold(user_id=user_id, org_id=org_id):
            return root_subject(user_id, org_id)
        case Together(items=items):
            return _root(items[0])
        case ReportUse(report=report):
            return root_subject(report.user_id, report.org_id)
        case _:
            return command.wallet.subject


def _fail_all(entries: Iterable[Entry], error: Exception) -> None:
    for entry in entries:
        _fail(entry, error)


def _out_of_time(entry: Entry) -> Unavailable:
    if entry.is_taken:
        return Unavailable("the database did not respond in time")
    return DeadlineExceeded(TOO_LATE)


def _fail(entry: Entry, error: Exception) -> None:
    """Fail the entry. Once its COMMIT was sent, whether it was applied is unknown."""
    if not entry.future.done():
        if entry.is_sent:
            error = Unavailable(str(error), applied="unknown")
        entry.future.set_exception(error)
        entry.future.exception()  # mark as retrieved: the caller may have gone away
