"""No command shows the password of a URL, however malformed the URL is."""

import pytest

from tests.transports.cli.conftest import Entitlements

CANARY = "hush4f1c"
UNREADABLE = [
    f"postgresql://ada:{CANARY}@h:x/d",
    f"postgresql://ada:1/{CANARY}@h/d",
    f"postgresql://ada:1?{CANARY}@h/d",
    f"postgresql://ada:1#{CANARY}@h/d",
    f"postgresql://ada:{CANARY}@[::1/d",
    f"postgresql://ada:{CANARY}@h/d?sslmode={CANARY}",
    f"postgresql://ada:{CANARY}@127.0.0.1:9/d?target_session_attrs={CANARY}",
    f"postgresql://ada:{CANARY}@127.0.0.1:9/d?gsslib={CANARY}",
    f"mysql://ada:{CANARY}@h/d",
]
COMMANDS = [
    ("migrate",),
    ("serve",),
    ("keys", "list"),
    ("verify",),
    ("worker", "relay"),
    ("outbox", "status"),
    ("webhooks", "list"),
]


@pytest.mark.parametrize("url", UNREADABLE)
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_an_invalid_database_url_is_reported_in_one_line_without_its_password(
    entitlements: Entitlements, command: tuple[str, ...], url: str
) -> None:
    answer = entitlements(*command, "--database", url)

    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("entitlements: ")
    assert len(answer.err.splitlines()) == 1
    assert CANARY not in answer.err


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("?socket_timeout=hush4f1c", "an option with a value that the client"),
        ("?bogus=1", "the option bogus, which the client"),
        ("?protocol=hush4f1c", "an option with a value that the client"),
        ("/0?hush4f1c=1", "an option, which the client"),
    ],
)
@pytest.mark.parametrize("limited", ["true", "false"])
def test_an_invalid_redis_url_is_reported_in_one_line_without_its_password(
    entitlements: Entitlements,
    monkeypatch: pytest.MonkeyPatch,
    options: str,
    named: str,
    limited: str,
) -> None:
    monkeypatch.setenv("ENTITLEMENTS_REDIS_URL", f"redis://:{CANARY}@127.0.0.1:9{options}")
    monkeypatch.setenv("ENTITLEMENTS_RATE_LIMIT_ENABLED", limited)

    answer = entitlements("serve", "--port", "18083")

    assert answer.code == 2
    assert answer.err.startswith(f"entitlements: the URL of Redis has {named} redis-py does not ")
    assert answer.err.count("\n") == 1
    assert CANARY not in answer.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("migrate", f"postgresql://ada:{CANARY}@h/d"),
        ("migrate", "--database", f"postgresql://ada:{CANARY}@127.0.0.1:9/d"),
        (f"postgresql://ada:{CANARY}@h/d",),
        ("check", "ada", "--database", f"postgresql://h/d?password={CANARY}", "a", "b", "c"),
    ],
)
def test_a_misplaced_url_is_quoted_without_its_password(
    entitlements: Entitlements, arguments: tuple[str, ...]
) -> None:
    answer = entitlements(*arguments)

    assert answer.code != 0
    assert CANARY not in answer.out + answer.err
