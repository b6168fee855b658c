import pytest

from entitlements.app.access.keys import Role
from entitlements.contracts.errors import InvalidRequest
from entitlements.transports.http.problems import ProblemResponse
from entitlements.transports.http.request import HttpRequest, Reply
from entitlements.transports.http.routes import Open, Route, Table, roles


async def handler(_request: HttpRequest, _: None) -> Reply:
    return Reply({})


def a_route(method: str, path: str, **differing: object) -> Route:
    fields = {"rule": Open("a test"), "summary": "s", "tag": "t", "responses": {200: None}}
    return Route(method=method, path=path, handler=handler, **(fields | differing))  # type: ignore[arg-type]


@pytest.mark.parametrize("rule", [None, "admin", frozenset()])
def test_a_route_must_declare_an_access_rule(rule: object) -> None:
    with pytest.raises(TypeError, match="access rule"):
        a_route("GET", "/x", rule=rule)

    with pytest.raises(AssertionError):
        roles()


def test_admin_may_do_everything() -> None:
    assert Role.ADMIN in roles(Role.SERVICE).allowed
    assert Role.OPERATOR not in roles(Role.SERVICE).allowed


def test_an_encoded_slash_belongs_to_the_segment() -> None:
    table = Table([a_route("GET", "/balance/{user_id}")])

    _, parameters = table.find("GET", b"/balance/a%2Fb%C3%A5")

    assert parameters == {"user_id": "a/bå"}


@pytest.mark.parametrize("path", [b"/balance/", b"/balance/a/b", b"/balance", b"/nowhere"])
def test_other_paths_are_not_found(path: bytes) -> None:
    with pytest.raises(ProblemResponse) as refusal:
        Table([a_route("GET", "/balance/{user_id}")]).find("GET", path)

    assert refusal.value.code == "not_found"


@pytest.mark.parametrize("path", [b"/fixed", b"/named/7"])
def test_a_wrong_method_is_refused_with_the_allowed_ones(path: bytes) -> None:
    table = Table(
        [a_route(method, where) for where in ("/fixed", "/named/{id}") for method in ("PUT", "GET")]
    )

    with pytest.raises(ProblemResponse) as refusal:
        table.find("POST", path)

    assert refusal.value.code == "method_not_allowed"
    assert refusal.value.headers == ((b"allow", b"GET, HEAD, PUT"),)


def test_a_path_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(InvalidRequest) as refusal:
        Table([a_route("GET", "/balance/{user_id}")]).find("GET", b"/balance/%FF")

    assert refusal.value.code == "validation_failed"


def test_two_handlers_of_one_route_are_an_error() -> None:
    with pytest.raises(AssertionError):
        Table([a_route("GET", "/x"), a_route("GET", "/x")])
