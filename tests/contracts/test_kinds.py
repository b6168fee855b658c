"""A decoded body is normalised, or refused with the field, by the kinds of its fields."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest
from msgspec import Struct

from entitlements.contracts.errors import InvalidRequest, invalid
from entitlements.contracts.http import (
    AccountItem,
    AdjustItem,
    BulkCheckRequest,
    BulkConsumeRequest,
    CheckRequest,
    ConsumeItem,
    ConsumeRequest,
    HoldRequest,
    OperationsFilter,
    SetItem,
    SetRequest,
    SettleHoldRequest,
)
from entitlements.contracts.kinds import normalised, parameters
from entitlements.transports.http.app import ROUTES

WORK: dict[str, Any] = {"user_id": "ada", "metric": "cj_comparison", "amount": 1}
EAST = timezone(timedelta(hours=14))
BLANK = "\u00a0 "
CONTRACTS = sorted(
    {route.request.contract for route in ROUTES if route.request is not None}
    | {route.query for route in ROUTES if route.query is not None}
    | {AccountItem, AdjustItem, ConsumeItem, SetItem},
    key=repr,
)


def refused(body: Struct) -> tuple[str, str]:
    """Return the field of the error, and its message."""
    with pytest.raises(InvalidRequest) as raised:
        normalised(body, invalid)
    (error,) = raised.value.errors
    return error.field, error.message


def test_a_body_that_is_normal_already_is_returned_itself() -> None:
    body = BulkConsumeRequest(items=[ConsumeItem(**WORK, batch_id="b-1", correlation_id="c")])

    assert normalised(body, invalid) is body


def test_ids_become_composed_text_and_blank_optional_text_none() -> None:
    body = ConsumeRequest(
        user_id="Ska\u030ane",
        org_id=17,
        metric="cj_comparison",
        amount=1,
        batch_id=BLANK,
        correlation_id="",
        service_name=BLANK,
    )

    assert normalised(body, invalid) == ConsumeRequest(
        user_id="Sk\u00e5ne", org_id="17", metric="cj_comparison", amount=1
    )


def test_times_are_in_utc() -> None:
    wanted = normalised(OperationsFilter(since=datetime(2026, 9, 1, 14, tzinfo=EAST)), invalid)

    assert wanted.since is not None
    assert (wanted.since.hour, wanted.since.tzinfo) == (0, UTC)


def test_items_are_normalised_each() -> None:
    body = BulkConsumeRequest(items=[ConsumeItem(**WORK), ConsumeItem(**WORK | {"user_id": 7})])

    assert [item.user_id for item in normalised(body, invalid).items] == ["ada", "7"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (ConsumeRequest(**WORK | {"user_id": BLANK}), "user_id"),
        (ConsumeRequest(**WORK, batch_id=" b"), "batch_id"),
        (ConsumeRequest(**WORK | {"user_id": " a"}, correlation_id="\n"), "correlation_id"),
        (CheckRequest(**WORK | {"metric": "a "}), "metric"),
        (BulkCheckRequest(user_id="ada", requirements={"ok": 1, "å\n": 1}),
         r"requirements.'\xe5\n'"),
        (HoldRequest(user_id="ada", credits=1, credit_type=" gold"), "credit_type"),
        (SettleHoldRequest(requirements={" ": 1}), "requirements.' '"),
        (BulkConsumeRequest(items=[ConsumeItem(**WORK), ConsumeItem(**WORK, org_id="a\x00")]),
         "items[1].org_id"),
        (OperationsFilter(subject_id=BLANK), "subject_id"),
        (OperationsFilter(batch_id=""), "batch_id"),
        (OperationsFilter(since=datetime(1, 1, 1, tzinfo=EAST)), "since"),
    ],
)  # fmt: skip
def test_an_error_names_the_field(body: Struct, field: str) -> None:
    assert refused(body)[0] == field


def test_ids_of_existing_wallets_may_have_white_space_at_an_end() -> None:
    body = SetRequest(subject_type="user", subject_id=" ada", balance=1)

    assert normalised(body, invalid) is body


OTHER_RULES = {"content", "cursor", "description", "events", "idempotency_key", "items", "url"}
BAD_OBJECTS: dict[str, Any] = {
    "requirements": {"a\nb": 1},
    "metadata": {"a": "\0"},
    "entitlement_metadata": {"a": "\0"},
    "usage_context": {"a": "\0"},
}


@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda contract: contract.__name__)
def test_every_text_of_a_request_has_a_kind(contract: type[Struct]) -> None:
    fields = msgspec.structs.fields(contract)
    empty = {field.name: None for field in fields if field.required}

    for field in fields:
        has_text = "str" in repr(field.type) and "Literal" not in repr(field.type)
        if has_text and field.name not in OTHER_RULES:
            bad = BAD_OBJECTS.get(field.name, "a\nb")
            assert refused(contract(**empty | {field.name: bad}))[0].startswith(field.encode_name)


@pytest.mark.parametrize(
    ("named", "kept"),
    [
        ({"user_id": "a\u030a"}, {"user_id": "\u00e5"}),
        ({"hold_id": "a\u030a"}, {"hold_id": "a\u030a"}),
        ({}, {}),
    ],
)
def test_parameters_of_a_path(named: dict[str, Any], kept: dict[str, Any]) -> None:
    assert parameters(named, invalid) == kept


@pytest.mark.parametrize("name", ["user_id", "hold_id"])
def test_a_blank_parameter_of_a_path_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match="must not be blank"):
        parameters({name: " "}, invalid)
