"""Allowed targets of webhooks."""

import pytest

from entitlements.app.webhooks.targets import is_public, pattern_problem, url_problem


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "100.100.100.200",
        "0.0.0.0",  # noqa: S104 - a refused address
        "224.0.0.1",
        "255.255.255.255",
        "192.0.2.1",
        "192.88.99.1",
        "192.0.0.192",
        "168.63.129.16",
        "::",
        "::1",
        "fe80::1",
        "fe80::1%eth0",
        "fec0::1",
        "fd00:ec2::254",
        "ff02::1",
        "ff0e::1",
        "::ffff:127.0.0.1",
        "::ffff:8.8.8.8",
        "::127.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b:1::1",
        "2002:7f00:1::1",
        "2001:0:4136:e378::1",
        "2001:db8::1",
    ],
)
def test_private_and_reserved_addresses_are_refused(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "93.184.215.14", "2606:4700:4700::1111"])
def test_public_addresses_are_accepted(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.test/",
        "ftp://hooks.test/",
        "//hooks.test/",
        "hooks.test",
        "https://",
        "https://:443/",
        "https://hooks.test:0/",
        "https://hooks.test:99999/",
        "https://ada@hooks.test/",
        "https://ada:secret@hooks.test/",
        "https://hooks.test/#part",
        "https://hooks.test\\@inside.test/",
        "https://hooks.test/a b",
        "https://hooks.test/\r\nX: y",
        "https://bücher.test/",
        "https://[::1/",
        "https://hooks.test/" + "a" * 2_048,
        "",
    ],
)
def test_invalid_endpoint_urls_are_refused(url: str) -> None:
    assert url_problem(url, allow_http=False)


@pytest.mark.parametrize(
    "url", ["https://hooks.test", "https://hooks.test:8443/a?b=c", "https://[2606:4700::1]/"]
)
def test_valid_endpoint_urls_are_accepted(url: str) -> None:
    assert url_problem(url, allow_http=False) is None


def test_plain_http_must_be_allowed_explicitly() -> None:
    assert url_problem("http://hooks.test/", allow_http=True) is None


EVENTS = ("huleedu.entitlements.grant.revoked.v1", "huleedu.entitlements.usage.recorded.v1")


@pytest.mark.parametrize(
    "patterns", [(), ("",), ("a b",), ("a?",), ("[a]",), ("a%",), ("*",) * 51, ("a" * 256,)]
)
def test_invalid_patterns_are_refused(patterns: tuple[str, ...]) -> None:
    assert pattern_problem(patterns, EVENTS)


def test_valid_patterns_are_accepted() -> None:
    assert pattern_problem(("*", "huleedu.entitlements.grant.*.v1", *EVENTS), EVENTS) is None


def test_a_pattern_that_matches_no_event_is_refused_with_a_suggestion() -> None:
    why = pattern_problem(("*", "entitlements.grant.revoked.v1"), EVENTS)

    assert why == (
        "'entitlements.grant.revoked.v1' matches no event; did you mean"
        " huleedu.entitlements.grant.revoked.v1?"
    )
    assert pattern_problem(("nope",), EVENTS)
