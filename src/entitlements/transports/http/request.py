"""A request as the routes see it, and what they answer."""

import re
from collections.abc import Mapping
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl, quote, unquote_to_bytes

import msgspec
from msgspec import Struct

from entitlements.app import identity
from entitlements.app.access import Caller
from entitlements.app.identity import InvalidName
from entitlements.transports.http.metrics import Metrics
from entitlements.transports.http.problems import Rejected, invalid
from entitlements.transports.http.service import Service

JSON: Final = b"application/json"
Headers = tuple[tuple[bytes, bytes], ...]
T = TypeVar("T")

_PLAIN: Final = re.compile(r"[A-Za-z0-9._:\-]*")
_QUERY_FIELDS_MAX: Final = 50


class Reply(Struct, frozen=True, gc=False):
    """``body`` is a contract's value, or bytes of the content type named."""

    body: Any
    status: int = 200
    headers: Headers = ()
    content_type: bytes = JSON


class Request:
    """One request after the edge has read it: known host, known caller, whole body."""

    __slots__ = ("_correlation_id", "caller", "correlation_header", "headers", "ids",
                 "method", "metrics", "params", "path", "query_string", "service")  # fmt: skip

    def __init__(
        self,
        service: Service,
        metrics: Metrics,
        *,
        method: str,
        path: str,
        headers: Mapping[bytes, bytes],
    ) -> None:
        self.service = service
        self.metrics = metrics
        self.method = method
        self.path = path
        self.headers = headers
        self.params: Mapping[str, str] = {}
        self.query_string = b""
        self.caller: Caller | None = None
        self.ids: tuple[str | None, str | None] = (None, None)
        """User and org, for the log."""
        self.correlation_header: str | None = None
        self._correlation_id: str | None = None

    def read_correlation(self) -> None:
        """Take the header's id; raises Rejected if it cannot be kept."""
        self.correlation_header = self.text_header(b"x-correlation-id", "X-Correlation-ID")

    @property
    def correlation_id(self) -> str:
        """The one decided on, else the header's, else a new one."""
        if self._correlation_id is None:
            self._correlation_id = self.correlation_header or self.service.new_id()
        return self._correlation_id

    def correlate(self, given: str | None) -> str:
        """Use the body's id where it names one; it is echoed verbatim."""
        if given:
            self._correlation_id = self.text("correlation_id", given)
        return self.correlation_id

    @property
    def echo(self) -> bytes:
        """The header's value: percent-encoded outside letters, digits and ``. _ : -``."""
        text = self.correlation_header or self.correlation_id
        if _PLAIN.fullmatch(text):
            return text.encode()
        return quote(text, safe=":", errors="replace").replace("~", "%7E").encode()

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

    def text_header(self, name: bytes, shown: str) -> str | None:
        """The header as text, percent-decoded where the caller says that it is encoded."""
        raw = self.headers.get(name)
        if raw is None:
            return None
        if self.headers.get(b"x-identity-encoding") == b"url":
            raw = unquote_to_bytes(raw)
        return self.optional_text(shown, decoded(raw, shown))

    def query(self, contract: type[T]) -> T:
        """The query string as a contract's value; fields it does not name are ignored."""
        try:
            pairs = parse_qsl(
                self.query_string.decode("ascii"),
                keep_blank_values=True,
                errors="strict",
                max_num_fields=_QUERY_FIELDS_MAX,
            )
            fields = {name: value for name, value in pairs if value}
            return msgspec.convert(fields, contract, strict=False)
        except msgspec.ValidationError as error:
            message, _, where = str(error).partition(" - at `$.")
            raise invalid(where.rstrip("`") or "query", message) from None
        except ValueError:
            raise Rejected("validation_failed", "the query string is not valid") from None


def decoded(raw: bytes, field: str) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise invalid(field, "is not valid UTF-8") from None
