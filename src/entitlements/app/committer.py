"""Group commit: what arrives together is decided and committed together.

While one batch commits, the next gathers; nothing waits for company. A command is answered only
after the commit that holds its changes, and whatever happens to the caller, its batch goes on.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from time import monotonic
from typing import Self

from entitlements.app import failpoints
from entitlements.app.ahead import AheadLog, ahead_in
from entitlements.app.announce import Announcer
from entitlements.app.clock import utc_now
from entitlements.app.log import EventLog
from entitlements.app.policies import Policies, PolicyUnusable
from entitlements.app.ports import Batch, Contended, Ledger, Locked, Unavailable, Unreadable
from entitlements.app.unreadable import UnreadableLog
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
from entitlements.core.windows import Use

log = EventLog(__name__)

COMMANDS_MAX = 512
"""In one batch; the items of commands that come together count one by one, and more go alone."""
QUEUE_MAX = 8192
TOO_LATE = "the command could not be decided in time"
ROOT_SHARE_MAX = QUEUE_MAX // 4
CONTENTIONS_MAX = 3
RETRY_S = (0.02, 0.05, 0.1, 0.25, 0.5)
LOCKED_POLL_S = 0.05
GRACE_S = 1.0
"""How long after its deadline a caller is told so, be the database as stuck as it may."""
WATCH_S = 0.25


class Overloaded(Exception):
    """The queue is full; the command was not accepted."""

    def __init__(self, retry_after_s: int = 1) -> None:
        super().__init__("too many commands are waiting")
        self.retry_after_s = retry_after_s


class DeadlineExceeded(Unavailable):
    """The command could not be decided in time; it changed nothing."""


class Answered(Exception):
    """A caller was refused while its command was being recorded, which must not be committed."""


_verdicts = threading.Lock()
"""Held while callers are refused, and while commands are marked that are about to be committed, be
it in a thread of the store: a command is either.
"""


class Entry:
    """A command on its way, and who waits for its outcome."""

    __slots__ = ("command", "deadline", "future", "is_sent", "is_taken", "root", "weight")

    def __init__(
        self, command: AnyCommand, root: Subject, deadline: float, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.command = command
        self.root = root
        self.weight = len(command.items) if isinstance(command, Together) else 1
        self.deadline = deadline
        self.is_taken = False
        self.is_sent = False
        """Whether a COMMIT with its changes was sent, and may have been done."""
        self.future: asyncio.Future[AnyOutcome | Refused] = loop.create_future()

    @property
    def is_refused(self) -> bool:
        """Whether the caller has an answer; one that went away has none."""
        return self.future.done() and not self.future.cancelled()


class Committer:
    """Queue, lanes and the ways in which a batch may fail."""

    def __init__(
        self,
        ledger: Ledger,
        policies: Policies,
        announcer: Announcer,
        new_id: Callable[[], str],
        record_uses: Callable[[Sequence[Use]], None],
        *,
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
        self._lanes = lanes
        self._deadline_s = deadline_s
        self._queue: deque[Entry] = deque()
        self._unanswered: list[Entry] = []
        """Every entry that was accepted, until the watch finds it answered."""
        self._queued = 0
        self._roots: Counter[Subject] = Counter()
        self._arrived = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False
        self._aside: list[Entry] = []
        self._blocked = asyncio.Event()
        self._locked: set[WalletKey] = set()
        self.batch_sizes: Callable[[int], None] = lambda _size: None
        """Called with the size of every batch that was committed."""
        self.announced: Callable[[], None] = lambda: None
        """Called when events were committed."""

    async def __aenter__(self) -> Self:
        for _ in range(self._lanes):
            self._tasks.append(asyncio.create_task(self._lane()))
        self._tasks.append(asyncio.create_task(self._beside_locks()))
        self._watching = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Accept nothing more, finish what was accepted."""
        self._stopping = True
        self._arrived.set()
        self._blocked.set()
        await asyncio.gather(*self._tasks)
        self._watching.cancel()

    @property
    def depth(self) -> int:
        """Commands that wait, those set aside included."""
        return self._queued

    @property
    def running(self) -> bool:
        return bool(self._tasks) and not any(task.done() for task in self._tasks)

    async def submit(
        self, command: AnyCommand, *, deadline_s: float | None = None
    ) -> AnyOutcome | Refused:
        """The command's outcome, once it is durable.

        Raises Overloaded if it was not accepted; Unavailable if there is none in time. Where its
        `applied` is unknown, the same key again tells what became of the command; else nothing
        was changed, and nothing will be.
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
        """Tell callers who are long past their deadlines, whatever their commands wait for."""
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
        """Drop what is too late, before anything is loaded for it."""
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
            wallets_of(entry.command, self._policies.active)
        )

    async def _commit_or_fail(self, entries: list[Entry]) -> None:
        """Whatever goes wrong, a log that cannot be written included, nobody is left waiting and
        the lane goes on.
        """
        try:
            await self._commit(entries)
        except Exception as error:  # noqa: BLE001 - outermost
            _fail_all(entries, error)

    async def _commit(self, entries: list[Entry]) -> None:
        """Commit the entries together; in parts where together is not possible."""
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
        """Try again while the database is away or rivals are faster."""
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
                delay = RETRY_S[min(retries, len(RETRY_S) - 1)]
                retries += 1
                await asyncio.sleep(delay)
                entries = self._still_patient(entries, error)
            else:
                return

    def _still_patient(self, entries: list[Entry], error: Unavailable) -> list[Entry]:
        """Refuse those that are too late for another attempt."""
        now = monotonic()
        kept = []
        for entry in entries:
            if entry.deadline > now:
                kept.append(entry)
            else:
                _fail(entry, error)
        return kept

    async def _commit_around_locks(self, entries: list[Entry]) -> None:
        """Somebody holds a wallet: who needs it steps aside, the others go on."""
        try:
            left = await self._commit_once(entries, skip_locked=True)
        except Locked:
            left = entries  # the engine has one lock for all wallets, or a policy is activated
        except (PolicyUnusable, Unavailable) as error:
            # Tried once: callers who wait for a lock know already that they may have to come again.
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
        """Commands on wallets that others hold: tried again until their deadlines."""
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
            # Only now: until they were tried, newcomers must not make a lane wait for the lock.
            self._locked = self._wallets(self._aside)

    def _set_aside(self, entries: list[Entry]) -> None:
        """They still count as waiting: who meets locks must not fill memory beside the queue."""
        for entry in entries:
            self._count(entry)
        self._aside += entries
        self._locked |= self._wallets(entries)
        if entries:
            self._blocked.set()

    def _wallets(self, entries: list[Entry]) -> set[WalletKey]:
        policy = self._policies.active
        return {key for entry in entries for key in wallets_of(entry.command, policy)}

    def _lanes_ended(self) -> bool:
        return all(task.done() for task in self._tasks[: self._lanes])

    async def _commit_once(self, entries: list[Entry], *, skip_locked: bool) -> list[Entry]:
        """One transaction; answers the entries whose wallets were locked by others."""
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
        """Give each entry what was decided; returns those that were not."""
        self.batch_sizes(len(entries))
        self._ahead.note(deciding.ahead)
        if deciding.has_events:
            self.announced()
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
        # In the same turn of the loop: nobody who was answered asks before it is counted.
        policy = self._policies.active
        if policy.limits:
            done = zip((entry.command for entry in entries), deciding.outcomes, strict=True)
            self._record_uses([use for one in done for use in counted(policy, *one)])
        return left

    def _requeue(self, entries: list[Entry]) -> None:
        """Before all that came after them, in their order."""
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
    """The command must come again: more was due than one batch applies."""


_AGAIN = _Again()
_NOT_DECIDED = (_Again, Exception, type(None))


class Deciding:
    """The pure middle of a batch: what to load, and what to make of it."""

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
        """One per entry; none where a wallet of the command was not in the book."""
        self.has_events = False
        self.ahead: dict[WalletKey, datetime] = {}
        """Wallets that were ahead of the clock when they were loaded."""
        self._sealed: list[Entry] = []

    def needs(self) -> Needs:
        """What must be loaded, by the policy known so far."""
        policy = self._policy
        needs = Needs(
            policy_version=policy.version,
            burn_order=policy.burn_order,
            depth=self._depth,
            wallets=set(self._wallets),
            due_debts=policy.settle_debts,
        )
        for entry in self._entries:
            add_needs(needs, entry.command, policy)
        return needs

    def decide(self, book: Book) -> Batch | Needs | None:
        """As `ports.Decide`: every command in its order of arrival."""
        if book.policy_content is not None:
            self._policy = self._policies.learn(book.policy_version, book.policy_content)
            return self.needs()
        # The very version that was loaded: what the process knows by now may be another.
        assert self._policy.version == book.policy_version
        self._policies.found()
        self.ahead = ahead_in(book)
        book.equip(self._policy, self._new_id)
        self.outcomes = []
        now = monotonic()
        is_short = False
        for entry in self._entries:
            if entry.deadline <= now and not entry.is_sent:
                # The locks may have been waited for.
                self.outcomes.append(DeadlineExceeded(TOO_LATE))
                continue
            try:
                self.outcomes.append(self._outcome(book, entry.command))
            except NeedMore as more:
                # Wallets that were asked for and are not in the book are locked by others.
                self.outcomes.append(None)
                is_short |= not more.wallets or not more.wallets <= self._wallets
                self._depth |= more.depth
                self._wallets |= more.wallets
            except MoreDue:
                self.outcomes.append(_AGAIN)
            except Exception as error:  # noqa: BLE001 - a bug fails its own command, not its neighbours
                self.outcomes.append(error)
        if is_short:  # what was decided after it is thrown away with the book
            return self.needs()
        changes = book.changes()
        if not changes:
            return None
        events = self._announcer.rows(changes)
        self.has_events = bool(events)
        return Batch(changes, events)

    def seal(self) -> None:
        """Mark what is about to be committed. Raises Answered if a caller was refused meanwhile."""
        pairs = zip(self._entries, self.outcomes, strict=True)
        decided = [one for one, outcome in pairs if not isinstance(outcome, _NOT_DECIDED)]
        with _verdicts:
            if any(entry.is_refused for entry in decided):
                raise Answered
            self._sealed = [entry for entry in decided if not entry.is_sent]
            for entry in self._sealed:
                entry.is_sent = True

    def unseal(self) -> None:
        """Nothing was committed."""
        for entry in self._sealed:
            entry.is_sent = False

    def _outcome(self, book: Book, command: AnyCommand) -> AnyOutcome | Refused | None:
        if self._may_lack_wallets and not wallets_of(command, book.policy) <= book.wallets.keys():
            return None
        return apply(book, command)


def _batch(waiting: deque[Entry]) -> list[Entry]:
    """Take from the left what may be committed together: at least one."""
    taken = [waiting.popleft()]
    room = COMMANDS_MAX - taken[0].weight
    while waiting and waiting[0].weight <= room:
        taken.append(waiting.popleft())
        room -= taken[-1].weight
    return taken


def _root(command: AnyCommand) -> Subject:
    """Whose share of the queue it takes; of several, the first's."""
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
        return Unavailable("the database did not answer in time")
    return DeadlineExceeded(TOO_LATE)


def _fail(entry: Entry, error: Exception) -> None:
    """Refuse the command. Once a COMMIT was sent, no error is known to have prevented it."""
    if not entry.future.done():
        if entry.is_sent:
            error = Unavailable(str(error), applied="unknown")
        entry.future.set_exception(error)
        entry.future.exception()  # a caller that went away does not read it
