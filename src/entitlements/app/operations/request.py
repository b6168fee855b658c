"""A request as the use cases see it, independent of its transport."""

from collections.abc import Callable, Iterable
from typing import TypeVar

from entitlements.app.access import identity
from entitlements.app.access.identity import InvalidName
from entitlements.app.access.keys import Act, Caller
from entitlements.app.engine import Engine
from entitlements.app.operations.refusals import refused
from entitlements.contracts.errors import invalid
from entitlements.core.commands import AnyCommand
from entitlements.core.model import Subject
from entitlements.core.outcomes import AnyOutcome, Outcome, Refused
from entitlements.core.reasons import SubjectType

T = TypeVar("T", bound=Outcome)
G = TypeVar("G")
K = TypeVar("K")


class Request:
    """The caller, path, key and correlation of a request. ``path`` is the operation's HTTP path.

    With ``is_its_own``, a request without a key is never a replay, even with equal words.
    """

    __slots__ = ("_correlation_id", "caller", "correlation_header", "engine", "ids", "is_its_own",
                 "key", "path", "traceparent")  # fmt: skip

    def __init__(
        self,
        engine: Engine,
        path: str,
        caller: Caller | None = None,
        key: str | None = None,
        *,
        is_its_own: bool = False,
    ) -> None:
        self.engine = engine
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
        """The chosen correlation id, or the header's, or a new one."""
        if self._correlation_id is None:
            self._correlation_id = self.correlation_header or self.engine.new_id()
        return self._correlation_id

    def correlate(self, given: str | None) -> str:
        """Use the body's correlation id if given; it is echoed verbatim."""
        self._correlation_id = self.optional_text("correlation_id", given) or self._correlation_id
        return self.correlation_id

    def subjects(
        self, user_id: str | int, org_id: str | int | None = None, *, where: str = ""
    ) -> tuple[str, str | None]:
        """Return the normalised user and org; errors prefix the fields with ``where``."""
        user = self.subject_id(f"{where}user_id", user_id)
        org = self.optional_id(f"{where}org_id", org_id)
        self.ids = (user, org)
        return user, org

    def subject_id(self, field: str, raw: str | int) -> str:
        return _kept(field, identity.subject_id, raw)

    def optional_id(self, field: str, raw: str | int | None) -> str | None:
        return _kept(field, identity.optional_id, raw)

    async def known_subject(self, field: str, subject_type: SubjectType, raw: str | int) -> Subject:
        """Return the subject. An id with white space at an end must have a wallet already."""
        subject = Subject(subject_type, self.stored_id(field, raw))
        if identity.is_padded(subject.id) and not await self.engine.store.records.wallet_keys(
            *subject
        ):
            self.subject_id(field, raw)
        return subject

    async def known_subjects(
        self, user: str | int, org: str | int | None
    ) -> tuple[str, str | None]:
        """Return user and org as `known_subject` does."""
        user_id = (await self.known_subject("user_id", "user", user)).id
        org_id = None
        if org is not None and not identity.is_blank(str(org)):
            org_id = (await self.known_subject("org_id", "org", org)).id
        self.ids = (user_id, org_id)
        return user_id, org_id

    def metric(self, field: str, raw: str) -> str:
        return _kept(field, identity.metric, raw)

    def require_metrics(self, requirements: Iterable[str]) -> None:
        for metric in requirements:
            if not identity.is_metric(metric):
                self.metric(f"requirements.{metric!a}", metric)

    def optional_name(self, field: str, raw: str | None) -> str | None:
        return _kept(field, identity.optional_name, raw)

    def text(self, field: str, raw: str) -> str:
        return _kept(field, identity.text, raw)

    def optional_text(self, field: str, raw: str | None) -> str | None:
        return _kept(field, identity.optional_text, raw)

    def reason(self, raw: str, *, where: str = "") -> str:
        return _kept(f"{where}reason", identity.reason, raw)

    def optional_reason(self, raw: str | None, *, where: str = "") -> str | None:
        return _kept(f"{where}reason", identity.optional_reason, raw)

    def stored_id(self, field: str, raw: str | int) -> str:
        return _kept(field, identity.stored_id, raw)

    def filter_id(self, field: str, raw: str | None) -> str | None:
        """Return the id to filter by, or None. Blank is refused."""
        return None if raw is None else self.stored_id(field, raw)

    def filter_text(self, field: str, raw: str | None) -> str | None:
        """As `filter_id`, for other text."""
        return None if raw is None else self.text(field, raw)

    def act(self, reason: str | None = None) -> Act:
        """Return the audit context of the request."""
        assert self.caller is not None, "changes need an authenticated caller"
        return Act(
            actor=self.caller.actor,
            client=self.caller.client,
            at=self.engine.clock(),
            new_id=self.engine.new_id,
            correlation_id=self.correlation_id,
            reason=self.optional_reason(reason),
        )

    async def submitted(self, command: AnyCommand, expected: type[T]) -> T:
        """Submit a command and return its committed outcome. Raises Refused if it is refused."""
        return done(await self.engine.committer.submit(command), expected)


def _kept(field: str, rule: Callable[[G], K], given: G) -> K:
    """Return the value by a rule of `identity`. Raises InvalidRequest."""
    try:
        return rule(given)
    except InvalidName as error:
        raise invalid(field, str(error)) from None


def done(outcome: AnyOutcome | Refused, expected: type[T]) -> T:
    """Return the outcome. Raises Refused if it is a refusal."""
    if isinstance(outcome, expected):
        return outcome
    assert isinstance(outcome, Refused), outcome
    raise refused(outcome)
