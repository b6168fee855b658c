"""A request as the use cases see it, whichever way it came in."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypeVar

from entitlements.app import identity
from entitlements.app.access import Act, Caller
from entitlements.app.checks import Checks
from entitlements.app.committer import Committer
from entitlements.app.conflicts import Conflicts
from entitlements.app.holds import Holds
from entitlements.app.identity import InvalidName
from entitlements.app.limits import Limits
from entitlements.app.policies import Policies
from entitlements.app.ports import Records
from entitlements.app.reader import Reader
from entitlements.app.requests.refusals import refused
from entitlements.contracts.errors import invalid
from entitlements.core.commands import AnyCommand
from entitlements.core.outcomes import AnyOutcome, Outcome, Refused

T = TypeVar("T", bound=Outcome)
REASON_MAX: Final = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """Where requests are taken. Receipts of keys last ``receipts_retention_s``; without
    ``counts_operators`` anybody may adjust as often as they like.
    """

    committer: Committer
    reader: Reader
    records: Records
    policies: Policies
    limits: Limits
    checks: Checks
    holds: Holds
    conflicts: Conflicts
    clock: Callable[[], datetime]
    new_id: Callable[[], str]
    receipts_retention_s: int
    counts_operators: bool


class Request:
    """Who asks, for what, under which name. ``path`` is the operation's, as over HTTP.

    With ``is_its_own`` a request without a key is never a repetition, whatever its words.
    """

    __slots__ = ("_correlation_id", "caller", "correlation_header", "desk", "ids", "is_its_own",
                 "key", "path", "traceparent")  # fmt: skip

    def __init__(
        self,
        desk: Desk,
        path: str,
        caller: Caller | None = None,
        key: str | None = None,
        *,
        is_its_own: bool = False,
    ) -> None:
        self.desk = desk
        self.path = path
        self.caller = caller
        self.key = key
        self.is_its_own = is_its_own
        self.ids: tuple[str | None, str | None] = (None, None)
        """User and org, for the log."""
        self.correlation_header: str | None = None
        self.traceparent: str | None = None
        self._correlation_id: str | None = None

    @property
    def correlation_id(self) -> str:
        """The one decided on, else the header's, else a new one."""
        if self._correlation_id is None:
            self._correlation_id = self.correlation_header or self.desk.new_id()
        return self._correlation_id

    def correlate(self, given: str | None) -> str:
        """Use the body's id where it names one; it is echoed verbatim."""
        if given:
            self._correlation_id = self.text("correlation_id", given)
        return self.correlation_id

    def subjects(
        self, user_id: str | int, org_id: str | int | None = None, *, where: str = ""
    ) -> tuple[str, str | None]:
        """User and org as they are kept; errors name the fields behind ``where``."""
        user = self.subject_id(f"{where}user_id", user_id)
        org = self.optional_id(f"{where}org_id", org_id)
        self.ids = (user, org)
        return user, org

    def subject_id(self, field: str, raw: str | int) -> str:
        try:
            return identity.subject_id(raw)
        except InvalidName as error:
            raise invalid(field, str(error)) from None

    def optional_id(self, field: str, raw: str | int | None) -> str | None:
        try:
            return identity.optional_id(raw)
        except InvalidName as error:
            raise invalid(field, str(error)) from None

    def metric(self, field: str, raw: str) -> str:
        try:
            return identity.metric(raw)
        except InvalidName as error:
            raise invalid(field, str(error)) from None

    def text(self, field: str, raw: str, *, at_most: int = identity.ID_MAX) -> str:
        try:
            return identity.verbatim(raw, at_most=at_most)
        except InvalidName as error:
            raise invalid(field, str(error)) from None

    def optional_text(
        self, field: str, raw: str | None, *, at_most: int = identity.ID_MAX
    ) -> str | None:
        """Blank counts as not given."""
        return self.text(field, raw, at_most=at_most) if raw else None

    def act(self, reason: str | None = None) -> Act:
        """What the caller does, for the audit log."""
        assert self.caller is not None, "only those who are known change anything"
        return Act(
            actor=self.caller.actor,
            client=self.caller.client,
            at=self.desk.clock(),
            new_id=self.desk.new_id,
            correlation_id=self.correlation_id,
            reason=self.optional_text("reason", reason, at_most=REASON_MAX),
        )

    async def submitted(self, command: AnyCommand, expected: type[T]) -> T:
        """The outcome once it is committed. Raises Refused for a refusal."""
        return done(await self.desk.committer.submit(command), expected)


def done(outcome: AnyOutcome | Refused, expected: type[T]) -> T:
    """The outcome of what was done. Raises Refused for a refusal."""
    if isinstance(outcome, expected):
        return outcome
    assert isinstance(outcome, Refused), outcome
    raise refused(outcome)
