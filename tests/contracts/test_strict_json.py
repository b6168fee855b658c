import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entitlements.contracts.errors import InvalidRequest
from entitlements.contracts.http import BulkCheckRequest
from entitlements.contracts.strict_json import DEPTH_MAX, decode, depth

DECODER = msgspec.json.Decoder(BulkCheckRequest)


def test_depth_counts_brackets_outside_of_strings() -> None:
    assert depth(b'{"a": [[1], {"b": "[[[[{{{{"}], "\\"[[": "\\\\"}') == 3


@given(st.recursive(st.text() | st.none(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))  # fmt: skip  # noqa: E501
def test_depth_is_that_of_the_value(value: object) -> None:
    def deep(item: object) -> int:
        match item:
            case list():
                return 1 + max(map(deep, item), default=0)
            case dict():
                return 1 + max(map(deep, item.values()), default=0)
            case _:
                return 0

    assert depth(json.dumps(value).encode()) == deep(value)


@pytest.mark.parametrize("levels", [DEPTH_MAX, 900, 100_000])
def test_deep_nesting_is_refused_even_in_fields_that_are_ignored(levels: int) -> None:
    body = b'{"user_id": "a", "requirements": {}, "x": ' + b"[" * levels + b"]" * levels + b"}"

    with pytest.raises(InvalidRequest) as refusal:
        decode(body, DECODER)

    assert refusal.value.code == "invalid_json"


def test_many_brackets_side_by_side_are_fine() -> None:
    body = b'{"user_id": "a", "requirements": {}, "x": [' + b"[]," * 500 + b"[]]}"

    assert decode(body, DECODER).user_id == "a"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"requirements": {}}', "user_id"),
        (b'{"user_id": true, "requirements": {}}', "user_id"),
        (b'{"user_id": 1.5, "requirements": {}}', "user_id"),
        (b'{"user_id": "a", "requirements": {"m": -1}}', "requirements[...]"),
        (b'{"user_id": "a", "requirements": {"": 1}}', "requirements"),
        (b'{"user_id": "a", "requirements": []}', "requirements"),
        (b"[]", "body"),
    ],
)
def test_a_refusal_names_the_field(body: bytes, field: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        decode(body, DECODER)

    assert [error.field for error in refusal.value.errors] == [field]


@pytest.mark.parametrize("key", ["user_id", "ignored"])
@pytest.mark.parametrize("text", [b"\xff", b"\xed\xa0\x80", b"\xc0\xaf"])
def test_invalid_utf8_is_refused_in_any_field(key: str, text: bytes) -> None:
    fields = b'"user_id": "a", "requirements": {}'
    body = b"{" + fields + b', "' + key.encode() + b'": "' + text + b'"}'

    with pytest.raises(InvalidRequest) as refusal:
        decode(body, DECODER)

    assert refusal.value.code == "invalid_json"
