"""The request that routes receive, and the reply that they return."""

import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl, quote, unquote_to_bytes

import msgspec
from msgspec import Struct, inspect

from entitlements.app.operations import request as requests
from entitlements.contracts import names
from entitlements.contracts.errors import invalid
from entitlements.contracts.fields import not_valid, traceparent, visible_key
from entitlements.contracts.kinds import kept, normalised
from entitlements.observe.metrics import Metrics
from entitlements.transports.http.problems import ProblemResponse
from entitlements.transports.http.service import Service

JSON: Final = b"application/json"
REPLAYED: Final = ((b"idempotency-replayed", b"true"),)
Headers = tuple[tuple[bytes, bytes], ...]
T = TypeVar("T", bound=Struct)

_PLAIN: Final = re.compile(r"[A-Za-z0-9._:\-]*")
_QUERY_FIELDS_MAX: Final = 50
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_DIGITS: Final = re.compile(r"[0-9]{1,18}")
_TRUTH: Final = {"true": True, "1": True, "false": False, "0": False}
_NO_FILTERS: Final = frozenset(("cursor", "explain", "limit"))


class Reply(Struct, frozen=True, gc=False):
    """A response. ``body`` is a value of a contract, or bytes of ``content_type``."""

    body: Any
    status: int = 200
    headers: Headers = ()
    content_type: bytes = JSON


class HttpRequest(requests.Request):
    """A request after the checks of the app: host and caller are known, the body is complete."""

    __slots__ = (
        "headers", "method", "metrics", "parameters", "query_string", "service",
    )  # fmt: skip

    def __init__(
        self,
        service: Service,
        metrics: Metrics,
        *,
        method: str,
        path: str,
        headers: Mapping[bytes, bytes],
    ) -> None:
        super().__init__(service.engine, path)
        self.service = service
        self.metrics = metrics
        self.method = method
        self.headers = headers
        self.query_string = b""
        self.parameters: dict[str, str | int | bool] = {}
        """The parameters of the query string."""

    def read_correlation(self) -> None:
        """Read the correlation id from the header. Raise InvalidRequest for an invalid one."""
        self.correlation_header = self.text_header(b"x-correlation-id", "X-Correlation-ID")

    def read_key(self) -> None:
        """Read the idempotency key from the header. Raise InvalidRequest for an invalid one."""
        raw = self.headers.get(b"idempotency-key")
        if raw is not None:
            self.key = visible_key("Idempotency-Key", raw.decode("latin-1"))

    def read_trace(self) -> None:
        """Read the caller's span; a malformed one is ignored, as the standard demands."""
        self.traceparent = traceparent(self.headers.get(b"traceparent"))

    @property
    def echo(self) -> bytes:
        """Return the response header: percent-encoded outside letters, digits and ``. _ : -``."""
        text = self.correlation_header or self.correlation_id
        if _PLAIN.fullmatch(text):
            return text.encode()
        return quote(text, safe=":", errors="replace").replace("~", "%7E").encode()

    def text_header(
        self, name: bytes, shown: str, rule: Callable[[str], str | None] = names.optional_text
    ) -> str | None:
        """Return the header by the rule, percent-decoded if X-Identity-Encoding is ``url``."""
        raw = self.headers.get(name)
        if raw is None:
            return None
        if self.headers.get(b"x-identity-encoding") == b"url":
            raw = unquote_to_bytes(raw)
        return kept(shown, rule, decoded(raw, shown), invalid)

    def read_query(self, contract: type | None) -> None:
        """Read the query string. Raise InvalidRequest for an unknown or repeated parameter."""
        try:
            pairs = parse_qsl(
                self.query_string.decode("ascii"),
                keep_blank_values=True,
                errors="strict",
                max_num_fields=_QUERY_FIELDS_MAX,
            )
        except ValueError:
            raise ProblemResponse("validation_failed", "the query string is not valid") from None
        types = _types(contract) if contract is not None else {}
        for name, value in pairs:
            if name not in types:
                raise invalid(name, "is not a parameter of this route")
            if name in self.parameters:
                raise invalid(name, "was given more than once")
            self.parameters[name] = _plain(value, types[name])

    def query(self, contract: type[T]) -> T:
        """Return the parameters as a value of the contract, normalised.

        Blank parameters that are not filters get their defaults.
        """
        fields = {
            name: value
            for name, value in self.parameters.items()
            if value != "" or name not in _NO_FILTERS
        }
        try:
            return normalised(msgspec.convert(fields, contract), invalid)
        except msgspec.ValidationError as error:
            raise not_valid(error, "query") from None


@cache
def _types(contract: type) -> Mapping[str, inspect.Type]:
    """Return the types of a contract's parameters, by name in the query string."""
    told = inspect.type_info(contract)
    assert isinstance(told, inspect.StructType), contract
    return {field.encode_name: field.type for field in told.fields}


def _plain(value: str, kind: inspect.Type) -> str | int | bool:
    """Convert integers and booleans, and a date to its midnight in UTC; other values stay text."""
    if isinstance(kind, inspect.IntType) and _DIGITS.fullmatch(value):
        return int(value)
    if isinstance(kind, inspect.BoolType):
        return _TRUTH.get(value.lower(), value)
    if _is_time(kind) and _DATE.fullmatch(value):
        return f"{value}T00:00:00Z"
    return value


def _is_time(kind: inspect.Type) -> bool:
    kinds = kind.types if isinstance(kind, inspect.UnionType) else (kind,)
    return any(isinstance(one, inspect.DateTimeType) for one in kinds)


def replay_headers(answer: Struct) -> Headers:
    """Return the header of a replay; a bulk response is one if all its results are."""
    results = getattr(answer, "results", None)
    if results is None:
        is_replay = getattr(answer, "replayed", False)
    else:
        is_replay = all(getattr(result, "replayed", False) for result in results)
    return REPLAYED if is_replay else ()


def decoded(raw: bytes, field: str) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise invalid(field, "is not valid UTF-8") from None
