"""A request as the use cases see it, independent of its transport."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol, TypeVar

import msgspec
from msgspec import Struct

from entitlements.app.access.keys import Act, Caller
from entitlements.app.engine import Engine
from entitlements.app.operations.refusals import refused
from entitlements.app.ports import Submitter
from entitlements.contracts import names
from entitlements.contracts.errors import invalid
from entitlements.contracts.fields import not_valid
from entitlements.contracts.kinds import kept, normalised
from entitlements.contracts.verbs import Verb
from entitlements.core.commands import AnyCommand
from entitlements.core.model import Subject
from entitlements.core.outcomes import AnyOutcome, Outcome, Refusal
from entitlements.core.reasons import SubjectType

T = TypeVar("T", bound=Outcome)
B = TypeVar("B", bound=Struct)


class _OfUser(Protocol):
    """A body with a user and an org."""

    @property
    def user_id(self) -> str | int: ...
    @property
    def org_id(self) -> str | int | None: ...


class Request:
    """The caller, path, key and correlation of a request. ``path`` is the operation's HTTP path.

    With ``is_its_own``, a request without a key is never a replay, even with equal words.
    ``committer`` decides its commands, by default the engine's.
    """

    __slots__ = ("_correlation_id", "caller", "committer", "correlation_header", "engine",
                 "explained", "given", "ids", "is_its_own", "key", "params", "path",
                 "traceparent")  # fmt: skip

    def __init__(
        self,
        engine: Engine,
        path: str,
        caller: Caller | None = None,
        key: str | None = None,
        *,
        is_its_own: bool = False,
        committer: Submitter | None = None,
    ) -> None:
        self.engine = engine
        self.committer: Submitter = committer or engine.committer
        self.path = path
        self.caller = caller
        self.key = key
        self.is_its_own = is_its_own
        self.params: Mapping[str, str] = {}
        """The parameters of the path."""
        self.explained = False
        """Whether a check includes its explanation."""
        self.given: Any = None
        """The body as sent."""
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

    def read(self, body: B) -> B:
        """Return the body normalised, and use its correlation id. Raise InvalidRequest.

        The body as sent is kept in ``given``, for fingerprints.
        """
        self.given = body
        own = getattr(body, "correlation_id", None)
        if own is not None:
            self.correlate(optional_text("correlation_id", own))
        return normalised(body, invalid)

    def converted(self, contract: type[B], fields: Mapping[str, Any]) -> B:
        """Return the body with these fields, read. Raise InvalidRequest."""
        try:
            return self.read(msgspec.convert(fields, contract))
        except msgspec.ValidationError as error:
            raise not_valid(error) from None

    def correlate(self, known: str | None) -> None:
        """Use the correlation id, unless it is None."""
        self._correlation_id = known or self._correlation_id

    def subjects(self, body: _OfUser) -> tuple[str, str | None]:
        """Return the user and the org of a normalised body, and log them."""
        user, org = str(body.user_id), body.org_id
        self.ids = ids = (user, None if org is None else str(org))
        return ids

    async def known_subject(
        self, field: str, subject_type: SubjectType, subject_id: str | int
    ) -> Subject:
        """Return the subject. An id with white space at an end must have a wallet already."""
        subject = Subject(subject_type, str(subject_id))
        if names.is_padded(subject.id) and not await self.engine.store.reads.wallet_keys(*subject):
            kept(field, names.subject_id, subject.id, invalid)
        return subject

    def act(self, reason: str | None = None) -> Act:
        """Return the audit context of the request."""
        assert self.caller is not None, "changes need an authenticated caller"
        return Act(
            actor=self.caller.actor,
            client=self.caller.client,
            at=self.engine.clock(),
            new_id=self.engine.new_id,
            correlation_id=self.correlation_id,
            reason=reason,
        )

    async def submitted(self, command: AnyCommand, expected: type[T]) -> T:
        """Submit a command and return its committed outcome. Raises Refused if it is refused."""
        return done(await self.committer.submit(command), expected)


UseCase = Callable[[Request, Any], Awaitable[Struct]]
"""Takes the body of a POST or the query of a GET; None if there is none."""
UseCases = Mapping[Verb[Any], UseCase]


def optional_text(field: str, given: str | None) -> str | None:
    """Return the text; None if it is blank. Raise InvalidRequest."""
    return kept(field, names.optional_text, given, invalid)


def done(outcome: AnyOutcome | Refusal, expected: type[T]) -> T:
    """Return the outcome. Raises Refused if it is a refusal."""
    if isinstance(outcome, expected):
        return outcome
    assert isinstance(outcome, Refusal), outcome
    raise refused(outcome)
