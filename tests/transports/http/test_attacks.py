"""Bad input gets a 4xx with a problem, and moves nothing."""

from typing import Any

import pytest

from entitlements.app.access import Role
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
    """The good body with one field replaced, as text that no encoder would make."""
    import json

    fields = {name: json.dumps(value) for name, value in GOOD[path].items()} | {field: literal}
    return ("{" + ",".join(f'"{name}":{text}' for name, text in fields.items()) + "}").encode()


async def refused(api: Api, path: str, content: bytes, **headers: str) -> None:
    await api.give("user:ada", 100)
    before = await api.ledger()

    answer = await api.call("POST", path, content=content, headers=JSON | headers)

    assert 400 <= answer.status_code < 500, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] in {"validation_failed", "invalid_json"}
    assert await api.ledger() == before
    assert await api.balance("ada") == (100, None)


@pytest.mark.parametrize("literal", BAD_IDS)
@pytest.mark.parametrize(("path", "field"), [(CONSUME, "user_id"), (ADJUST, "subject_id")])
async def test_an_id_that_cannot_be_kept(api: Api, path: str, field: str, literal: str) -> None:
    await refused(api, path, with_field(path, field, literal))


@pytest.mark.parametrize("literal", BAD_TEXT)
@pytest.mark.parametrize(
    "field",
    ["org_id", "metric", "correlation_id", "batch_id", "service_name", "processing_id"],
)
async def test_text_that_cannot_be_kept(api: Api, field: str, literal: str) -> None:
    await refused(api, CONSUME, with_field(CONSUME, field, literal))


@pytest.mark.parametrize("literal", BAD_AMOUNTS)
async def test_an_amount_that_is_no_whole_number_in_range(api: Api, literal: str) -> None:
    await refused(api, CONSUME, with_field(CONSUME, "amount", literal))
    if literal != "-1":
        await api_refuses_only(api, ADJUST, with_field(ADJUST, "amount", literal))
    await api_refuses_only(
        api, BULK, with_field(BULK, "requirements", f'{{"cj_comparison":{literal}}}')
    )


async def api_refuses_only(api: Api, path: str, content: bytes) -> None:
    answer = await api.call("POST", path, content=content, headers=JSON)
    assert answer.status_code == 400, answer.text


async def test_zero_units_are_no_consumption(api: Api) -> None:
    await refused(api, CONSUME, with_field(CONSUME, "amount", "0"))


@pytest.mark.parametrize(
    "content",
    [
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
    ],
    ids=range(11),
)
async def test_what_is_no_proper_json(api: Api, content: bytes) -> None:
    await refused(api, CONSUME, content)


@pytest.mark.parametrize("size", [1_048_577, 5_000_000])
async def test_a_body_that_is_too_large(api: Api, size: int) -> None:
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


@pytest.mark.parametrize(
    "content_type",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "application/json; charset=utf-16",
        "application/jsonp",
        "",
    ],
)
async def test_another_content_type(api: Api, content_type: str) -> None:
    body = with_field(CONSUME, "amount", "1")

    answer = await api.call("POST", CONSUME, content=body, headers={"Content-Type": content_type})

    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")
    assert await api.ledger() == []


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "Application/JSON"])
async def test_json_by_its_other_spellings(api: Api, content_type: str) -> None:
    body = with_field(CONSUME, "amount", "1")

    answer = await api.call("POST", CONSUME, content=body, headers={"Content-Type": content_type})

    assert answer.status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "localhost:x", ""])
async def test_a_host_that_is_not_ours(api: Api, host: str) -> None:
    answer = await api.call("GET", "/healthz", headers={"Host": host})

    assert (answer.status_code, answer.json()["code"]) == (400, "unknown_host")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8083", "127.0.0.1:1", "[::1]:8083"])
async def test_a_host_that_is_ours(api: Api, host: str) -> None:
    assert (await api.call("GET", "/livez", headers={"Host": host})).status_code == 200


@pytest.mark.parametrize("key", ["", "with space", "å", "x" * 256, "tab\there"])
async def test_an_idempotency_key_that_is_none(api: Api, key: str) -> None:
    answer = await api.call(
        "POST", CONSUME, json=GOOD[CONSUME], headers={"Idempotency-Key": key.encode()}
    )

    assert answer.status_code == 400
    assert answer.json()["errors"][0]["field"] == "Idempotency-Key"
    assert await api.ledger() == []


@pytest.mark.parametrize("value", [b"a\r\nSet-Cookie: x", b"a\x00", b"x" * 256, b"\xff"])
async def test_a_correlation_header_that_cannot_be_kept(api: Api, value: bytes) -> None:
    answer = await api.call("GET", "/livez", headers={b"X-Correlation-ID": value})

    assert answer.status_code == 400
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("path", ["/v1/entitlements/balance/%00", "/v1/entitlements/balance/%FF"])
async def test_a_path_that_cannot_be_kept(api: Api, path: str) -> None:
    assert (await api.call("GET", path)).status_code == 400


async def test_unknown_fields_are_ignored(api: Api) -> None:
    answer = await api.post(CONSUME, GOOD[CONSUME] | {"colour": {"deep": [1, 2.5, None]}})

    assert answer.status_code == 200


async def test_composed_and_decomposed_letters_are_one_subject(api: Api) -> None:
    await api.give("user:Sk\u00e5ne", 3)
    await api.give("user:Ska\u030ane", 4)

    assert await api.balance("Ska%CC%8Ane") == (7, None)


@pytest.mark.parametrize(
    "name", ["Host", "Authorization", "Idempotency-Key", "X-Org-ID", "X-Correlation-ID"]
)
async def test_a_header_that_counts_is_given_once(api: Api, name: str) -> None:
    client = await api.as_role(Role.ADMIN)
    given = client.headers.get(name, "localhost" if name == "Host" else "a")
    twice = [(name, given), (name, given)]
    others = [item for item in client.headers.items() if item[0].lower() != name.lower()]

    bare = await api.with_headers({})
    answer = await bare.get("/v1/entitlements/balance/ada", headers=[*others, *twice])

    assert (answer.status_code, answer.json()["code"]) == (400, "validation_failed")


async def test_other_headers_may_come_twice(api: Api) -> None:
    twice = [("Accept", "application/json"), ("Accept", "*/*")]

    assert (await api.call("GET", "/v1/entitlements/balance/ada", headers=twice)).status_code == 200
