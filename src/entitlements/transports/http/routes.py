"""The route table: requests, access rules and responses.

The same table routes requests and generates the OpenAPI document. Every route must have an access
rule.
"""

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote_to_bytes

import msgspec

from entitlements.app.access.keys import Role
from entitlements.contracts.verbs import Keying, keying
from entitlements.transports.http.problems import ProblemResponse
from entitlements.transports.http.request import HttpRequest, Reply, decoded

Handler = Callable[[HttpRequest, Any], Awaitable[Reply]]

BODY_MAX: Final = 1_048_576
LIMIT_HEADERS: Final = ("RateLimit", "RateLimit-Policy", "Retry-After")
"""The headers of a denial by a rate limit."""


@dataclass(frozen=True, slots=True)
class Roles:
    """The rule that callers need one of these roles. `roles` always adds admin."""

    allowed: frozenset[Role]


@dataclass(frozen=True, slots=True)
class Open:
    """The rule that no credential is needed; ``because`` gives the reason."""

    because: str


Rule = Roles | Open


def roles(*allowed: Role) -> Roles:
    assert allowed, "name at least one role"
    return Roles(frozenset((*allowed, Role.ADMIN)))


@dataclass(frozen=True, slots=True)
class Content:
    """A JSON body: its contract, and for the API document an example and additional headers.

    The headers of a status need not be listed.
    """

    contract: type
    example: Mapping[str, Any]
    headers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One operation, with the bodies of its request and of its responses by status.

    None in place of a Content means a body that is not JSON.
    """

    method: str
    path: str
    handler: Handler
    rule: Rule
    summary: str
    tag: str
    responses: Mapping[int, Content | None]
    request: Content | None = None
    query: type | None = None
    problems: tuple[int, ...] = ()
    takes_org: bool = False
    """Whether the header X-Org-ID is read."""
    any_host: bool = False
    """Whether any Host header is accepted."""
    body_max: int = BODY_MAX
    decoder: msgspec.json.Decoder[Any] | None = field(init=False, default=None)
    keying: Keying = field(init=False, default=Keying.IGNORED)

    def __post_init__(self) -> None:
        if not isinstance(self.rule, Roles | Open):
            raise TypeError(f"{self.method} {self.path} has no access rule")
        object.__setattr__(self, "keying", keying(self.method, self.path))
        if self.request is not None:
            object.__setattr__(self, "decoder", msgspec.json.Decoder(self.request.contract))


_PARAMETER: Final = re.compile(r"\{([a-z_]+)\}")


class Table:
    """The routes by method and path. HEAD uses the route of GET.

    A path is split into segments before it is decoded, so %2F is part of an id.
    """

    def __init__(self, routes: Iterable[Route]) -> None:
        self.routes = tuple(routes)
        self._static: dict[bytes, dict[str, Route]] = {}
        self._patterns: dict[str, tuple[re.Pattern[bytes], dict[str, Route]]] = {}
        for route in self.routes:
            methods = self._methods(route.path)
            assert route.method not in methods, f"{route.method} {route.path} is defined twice"
            methods[route.method] = route
            if route.method == "GET":
                methods["HEAD"] = route

    def _methods(self, path: str) -> dict[str, Route]:
        if "{" not in path:
            return self._static.setdefault(path.encode(), {})
        pattern = _PARAMETER.sub(r"(?P<\1>[^/]+)", path).encode()
        return self._patterns.setdefault(path, (re.compile(pattern), {}))[1]

    def find(self, method: str, path: bytes) -> tuple[Route, Mapping[str, str]]:
        """Return the route and its path parameters. Raise Rejected."""
        methods = self._static.get(path)
        if methods is not None:
            return _of_method(methods, method), {}

        for pattern, named in self._patterns.values():
            if match := pattern.fullmatch(path):
                parameters = {
                    name: decoded(unquote_to_bytes(raw), name)
                    for name, raw in match.groupdict().items()
                }
                return _of_method(named, method), parameters
        raise ProblemResponse("not_found", "no such route")


def _of_method(methods: Mapping[str, Route], method: str) -> Route:
    route = methods.get(method)
    if route is None:
        allow = ", ".join(sorted(methods)).encode()
        raise ProblemResponse(
            "method_not_allowed", f"use {allow.decode()}", headers=((b"allow", allow),)
        )
    return route
