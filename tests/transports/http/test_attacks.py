"""Bad input gets a 4xx with a problem, and changes nothing."""

from typing import Any

import pytest

from entitlements.app.access.keys import Role
from tests.transports.http.api import Api

CONSUME = "/v1/entitlements/consume-credits"
BULK = "/v1/entitlements/check-credits/bulk"
ADJUST = "/v1/admin/credits/adjust"
GOOD: dict[str, dict[str, Any]] = {
    CONSUME: {"user_id": "ada", "metric": "cj_comparison", "amount": 1, "correlation_id": "c"},
    BULK: {"user_id": "ada", "requirements": {"cj_comparison": 1}},
    ADJUST: {"subject_type": "user", "subject_id": "ada", "amount": 1, "reason": "x"},
}
JSON = {"Content-Type": "application/json"}
BAD_TEXT = [
    '"a\\u0000b"', '"\\u0007"', '"a\\nb"', '"\\ud800"', '"\\udc00\\ud800"', '"a\\u0085"',
    f'"{"x" * 256}"', f'"{"å" * 2000}"', "[]", "{}", "1.5", "true",
]  # fmt: skip
BAD_IDS = [*BAD_TEXT, '""', '"  "', "null", "1e3", "9223372036854775808", "1" * 5000]
BAD_AMOUNTS = [
    "-1", "1.0", "1e2", '"5"', "true", "null", "NaN", "Infinity", "1000000000000001",
    "1" + "0" * 30, "1" + "0" * 5000, "[1]", "01", "0x1", "-",
]  # fmt: skip


def with_field(path: str, field: str, literal: str) -> bytes:
    """Return a valid body with one field replaced by raw text that no encoder produces."""
    import json

    fields = {name: json.dumps(value) for name, value in GOOD[path].items()} | {field: literal}
    return ("{" + ",".join(f'"{name}":{text}' for name, text in fields.items()) + "}").encode()


BAD_JSON = [
    b"",
    b"{",
    b"null",
    b'"text"',
    b"[]",
    b"\xff\xfe{\x00}\x00",
    b"\xef\xbb\xbf{}",
    b'{"user_id": "ada"} {}',
    b'{"user_id": "ada", "x": "\xff"}',
    b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    b'{"x":' * 5_000 + b"1" + b"}" * 5_000,
]


async def refused(api: Api, path: str, *contents: bytes) -> None:
    """Assert that each body gets a 400 with a problem and changes nothing."""
    await api.give("user:ada", 100)
    before = await api.ledger()
    for content in contents:
        answer = await api.call("POST", path, content=content, headers=JSON)

        assert answer.status_code == 400, (content[:300], answer.text)
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["code"] in {"validation_failed", "invalid_json"}, content[:300]
        assert await api.ledger() == before, content[:300]
        assert await api.balance("ada") == (100, None), content[:300]


@pytest.mark.parametrize(("path", "field"), [(CONSUME, "user_id"), (ADJUST, "subject_id")])
async def test_an_id_that_cannot_be_stored(api: Api, path: str, field: str) -> None:
    await refused(api, path, *(with_field(path, field, literal) for literal in BAD_IDS))


@pytest.mark.parametrize(
    "field",
    ["org_id", "metric", "correlation_id", "batch_id", "service_name", "processing_id"],
)
async def test_text_that_cannot_be_stored(api: Api, field: str) -> None:
    await refused(api, CONSUME, *(with_field(CONSUME, field, literal) for literal in BAD_TEXT))


async def test_an_amount_that_is_not_a_whole_number_in_range(api: Api) -> None:
    await refused(api, CONSUME, *(with_field(CONSUME, "amount", one) for one in BAD_AMOUNTS))


async def test_an_adjustment_that_is_not_a_whole_number_in_range(api: Api) -> None:
    bad = [literal for literal in BAD_AMOUNTS if literal != "-1"]

    await refused(api, ADJUST, *(with_field(ADJUST, "amount", literal) for literal in bad))


async def test_a_requirement_that_is_not_a_whole_number_in_range(api: Api) -> None:
    required = [f'{{"cj_comparison":{literal}}}' for literal in BAD_AMOUNTS]

    await refused(api, BULK, *(with_field(BULK, "requirements", one) for one in required))


async def test_zero_units_cannot_be_consumed(api: Api) -> None:
    await refused(api, CONSUME, with_field(CONSUME, "amount", "0"))


async def test_invalid_json(api: Api) -> None:
    await refused(api, CONSUME, *BAD_JSON)


async def test_a_body_that_is_too_large(api: Api) -> None:
    for size in (1_048_577, 5_000_000):
        body = with_field(CONSUME, "padding", '"' + "x" * size + '"')

        answer = await api.call("POST", CONSUME, content=body, headers=JSON)

        assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
        assert await api.ledger() == []


async def test_a_large_body_in_pieces_without_a_length(api: Api) -> None:
    async def pieces() -> Any:
        for _ in range(50):
            yield b" " * 100_000

    answer = await api.call("POST", CONSUME, content=pieces(), headers=JSON)

    assert answer.status_code == 413


async def test_another_content_type(api: Api) -> None:
    body = with_field(CONSUME, "amount", "1")
    for content_type in (
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "application/json; charset=utf-16",
        "application/jsonp",
        "",
    ):
        headers = {"Content-Type": content_type}

        answer = await api.call("POST", CONSUME, content=body, headers=headers)

        assert answer.status_code == 415, content_type
        assert answer.json()["code"] == "unsupported_media_type"
        assert await api.ledger() == []


async def test_a_body_that_is_encoded(api: Api) -> None:
    for encoding, status in (("gzip", 415), ("br", 415), ("identity", 200)):
        headers = {"Content-Type": "application/json", "Content-Encoding": encoding}
        body = with_field(CONSUME, "amount", "1")

        answer = await api.call("POST", CONSUME, content=body, headers=headers)

        assert answer.status_code == status, encoding
        assert answer.headers.get("accept-encoding") == ("identity" if status == 415 else None)


async def test_white_space_around_the_values_of_headers(api: Api) -> None:
    headers = {
        "Content-Type": "\tapplication/json ",
        "Host": " localhost\t",
        "Idempotency-Key": " k ",
        "X-Correlation-ID": " c ",
        "X-Identity-Encoding": " url ",
    }
    body = with_field(CONSUME, "amount", "1")

    spaced = await api.call("POST", CONSUME, content=body, headers=headers)
    plain = await api.call("POST", CONSUME, json=GOOD[CONSUME], headers={"Idempotency-Key": "k"})

    assert spaced.status_code == 200
    assert spaced.headers["x-correlation-id"] == "c"
    assert plain.status_code == 422 or plain.json()["replayed"]


async def test_json_with_other_spellings_of_its_content_type(api: Api) -> None:
    body = with_field(CONSUME, "amount", "1")
    for content_type in (
        "application/json; charset=utf-8",
        "Application/JSON",
        "application/json;charset=utf8",
        'application/json; v=1; charset="UTF-8"',
    ):
        headers = {"Content-Type": content_type}

        answer = await api.call("POST", CONSUME, content=body, headers=headers)

        assert answer.status_code == 200, content_type


async def test_a_host_that_is_not_allowed(api: Api) -> None:
    for host in ("evil.example", "localhost.evil.example", "localhost:x", ""):
        answer = await api.call("GET", "/docs", headers={"Host": host})

        assert (answer.status_code, answer.json()["code"]) == (400, "unknown_host"), host


async def test_a_host_that_is_allowed(api: Api) -> None:
    for host in ("localhost", "LOCALHOST:8083", "127.0.0.1:1", "[::1]:8083"):
        assert (await api.call("GET", "/docs", headers={"Host": host})).status_code == 200, host


async def test_an_invalid_idempotency_key(api: Api) -> None:
    for key in ("", "with space", "å", "x" * 256, "tab\there"):
        headers = {"Idempotency-Key": key.encode()}

        answer = await api.call("POST", CONSUME, json=GOOD[CONSUME], headers=headers)

        assert answer.status_code == 400, key
        assert answer.json()["errors"][0]["field"] == "Idempotency-Key"
        assert await api.ledger() == []


async def test_a_correlation_header_that_cannot_be_stored(api: Api) -> None:
    for value in (b"a\r\nSet-Cookie: x", b"a\x00", b"x" * 256, b"\xff"):
        answer = await api.call("GET", "/livez", headers={b"X-Correlation-ID": value})

        assert answer.status_code == 400, value
        assert "set-cookie" not in answer.headers


async def test_a_path_that_cannot_be_stored(api: Api) -> None:
    for name in ("%00", "%FF"):
        path = f"/v1/entitlements/balance/{name}"

        assert (await api.call("GET", path)).status_code == 400, name


async def test_unknown_fields_are_ignored(api: Api) -> None:
    answer = await api.post(CONSUME, GOOD[CONSUME] | {"colour": {"deep": [1, 2.5, None]}})

    assert answer.status_code == 200


async def test_unknown_fields_are_refused_where_a_misspelt_one_would_give_more(api: Api) -> None:
    await api.give("user:ada", 100)
    consumed = (await api.post(CONSUME, GOOD[CONSUME] | {"user_id": "ada"})).json()
    reverse = f"/v1/entitlements/operations/{consumed['operation_id']}/reverse"
    member = "/v1/admin/orgs/school/members/ada"

    answers = [
        await api.post(reverse, {"reason": "too much", "amonut": 1}),
        await api.call("PUT", member, json={"monthly_caps": 5}),
    ]

    assert [answer.status_code for answer in answers] == [400, 400]
    assert ["`amonut`" in answers[0].text, "`monthly_caps`" in answers[1].text] == [True, True]
    assert (await api.call("GET", member)).status_code == 404


async def test_composed_and_decomposed_letters_are_one_subject(api: Api) -> None:
    await api.give("user:Sk\u00e5ne", 3)
    await api.give("user:Ska\u030ane", 4)

    assert await api.balance("Ska%CC%8Ane") == (7, None)


async def test_a_significant_header_cannot_be_repeated(api: Api) -> None:
    client = await api.as_role(Role.ADMIN)
    bare = await api.with_headers({})
    for name in ("Host", "Authorization", "Idempotency-Key", "X-Org-ID", "X-Correlation-ID"):
        given = client.headers.get(name, "localhost" if name == "Host" else "a")
        twice = [(name, given), (name, given)]
        others = [item for item in client.headers.items() if item[0].lower() != name.lower()]

        answer = await bare.get("/v1/entitlements/balance/ada", headers=[*others, *twice])

        assert (answer.status_code, answer.json()["code"]) == (400, "validation_failed"), name


async def test_other_headers_can_be_repeated(api: Api) -> None:
    twice = [("Accept", "application/json"), ("Accept", "*/*")]

    assert (await api.call("GET", "/v1/entitlements/balance/ada", headers=twice)).status_code == 200
