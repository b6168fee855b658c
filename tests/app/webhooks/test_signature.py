"""Verification of signatures by a receiver."""

import hashlib
import hmac
from base64 import b64decode, b64encode

import pytest

from entitlements.webhooks import NotVerified, new_secret, signatures, verify

SECRET = "whsec_" + b64encode(bytes(range(32))).decode()
BODY = '{"data": "grüße"}'.encode()
NOW = 1_788_249_600


def headers(body: bytes = BODY, *, of: str = SECRET, at: int = NOW) -> dict[str, str]:
    """Return headers computed from the specification alone."""
    digest = hmac.new(b64decode(of[6:]), f"m-1.{at}.".encode() + body, hashlib.sha256).digest()
    return {
        "webhook-id": "m-1",
        "webhook-timestamp": str(at),
        "webhook-signature": f"v1,{b64encode(digest).decode()}",
    }


def test_verification_returns_the_message_id() -> None:
    assert verify(BODY, headers(), SECRET, now=NOW) == "m-1"


def test_header_names_are_case_insensitive() -> None:
    shouted = {name.upper(): value for name, value in headers().items()}

    assert verify(BODY, shouted, SECRET, now=NOW) == "m-1"


def test_signatures_follow_the_specification() -> None:
    assert signatures("m-1", NOW, BODY, [SECRET]) == headers()["webhook-signature"]


@pytest.mark.parametrize("signer", [0, 1])
def test_each_of_two_secrets_verifies_a_message_signed_with_both(signer: int) -> None:
    secrets = [new_secret(), new_secret()]
    signed = headers() | {"webhook-signature": signatures("m-1", NOW, BODY, secrets)}

    assert verify(BODY, signed, secrets[signer], now=NOW) == "m-1"


@pytest.mark.parametrize(
    ("change", "body"),
    [
        ({}, BODY + b" "),
        ({"webhook-id": "m-2"}, BODY),
        ({"webhook-timestamp": str(NOW + 1)}, BODY),
        ({"webhook-timestamp": "soon"}, BODY),
        ({"webhook-timestamp": "-1"}, BODY),
        ({"webhook-signature": ""}, BODY),
        ({"webhook-signature": headers()["webhook-signature"].replace("v1,", "v2,")}, BODY),
        ({"webhook-signature": headers()["webhook-signature"].replace("v1,", "")}, BODY),
        ({"webhook-signature": "v1,ö"}, BODY),
    ],
)
def test_a_changed_message_is_not_verified(change: dict[str, str], body: bytes) -> None:
    with pytest.raises(NotVerified):
        verify(body, headers() | change, SECRET, now=NOW)


def test_another_secret_verifies_nothing() -> None:
    with pytest.raises(NotVerified, match="no matching signature"):
        verify(BODY, headers(of=new_secret()), SECRET, now=NOW)


@pytest.mark.parametrize("missing", ["webhook-id", "webhook-timestamp", "webhook-signature"])
def test_without_a_header_nothing_is_verified(missing: str) -> None:
    given = headers()
    del given[missing]

    with pytest.raises(NotVerified, match=missing):
        verify(BODY, given, SECRET, now=NOW)


@pytest.mark.parametrize("sent_at", ["", "now", "-5", "1e9", "\u0661", "1" * 5_000])
def test_an_invalid_timestamp_is_not_verified(sent_at: str) -> None:
    with pytest.raises(NotVerified, match="not a number of seconds"):
        verify(BODY, headers() | {"webhook-timestamp": sent_at}, SECRET, now=NOW)


@pytest.mark.parametrize(("late_s", "is_fresh"), [(300, True), (301, False), (-301, False)])
def test_a_message_is_valid_for_five_minutes(late_s: int, is_fresh: bool) -> None:  # noqa: FBT001
    try:
        verify(BODY, headers(), SECRET, now=NOW + late_s)
    except NotVerified:
        assert not is_fresh
    else:
        assert is_fresh


def test_the_receiver_can_choose_the_tolerance() -> None:
    assert verify(BODY, headers(), SECRET, 3_600, now=NOW + 3_000) == "m-1"


def test_only_a_limited_number_of_signatures_is_checked() -> None:
    padded = headers() | {"webhook-signature": "v1,A " * 1_000 + headers()["webhook-signature"]}

    with pytest.raises(NotVerified):
        verify(BODY, padded, SECRET, now=NOW)


def test_white_space_around_a_secret_is_stripped() -> None:
    assert verify(BODY, headers(), f" {SECRET}\n", now=NOW) == "m-1"


@pytest.mark.parametrize("secret", ["", "\n", "whsec_"])
def test_an_empty_secret_verifies_nothing(secret: str) -> None:
    with pytest.raises(ValueError, match="empty"):
        verify(BODY, headers(of="whsec_"), secret, now=NOW)


def test_a_truncated_secret_raises_value_error() -> None:
    with pytest.raises(ValueError, match="malformed"):
        verify(BODY, headers(), SECRET[:-3], now=NOW)


def test_secrets_are_256_random_bits() -> None:
    first, second = new_secret(), new_secret()

    assert first != second
    assert len(b64decode(first.removeprefix("whsec_"), validate=True)) == 32
