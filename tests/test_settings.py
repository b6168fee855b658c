import re
import sys
from pathlib import Path
from typing import Any

import pytest

from entitlements.app.process.redaction import masked
from entitlements.settings import PREFIX, Settings, SettingsError, load, unknown_variables

REFERENCE = Path(__file__).parents[1] / "docs" / "reference" / "settings.md"


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*Settings.model_fields, "service_database_url"]:
        monkeypatch.delenv(PREFIX + name.upper(), raising=False)


def refusal(monkeypatch: pytest.MonkeyPatch, **variables: str) -> list[str]:
    for name, value in variables.items():
        monkeypatch.setenv(PREFIX + name, value)
    with pytest.raises(SettingsError) as refused:
        load()
    return str(refused.value).splitlines()


def test_nothing_has_to_be_configured() -> None:
    settings = load()

    assert settings.service_name == "entitlements_service"
    assert (settings.http_host, settings.http_port) == ("127.0.0.1", 8083)
    assert settings.database_url == "sqlite:///entitlements.db"
    assert settings.auth == "keys"
    assert settings.receipts_retention_days == 30


def test_the_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENTITLEMENTS_HTTP_PORT", "9000")
    monkeypatch.setenv("ENTITLEMENTS_LOG_LEVEL", "debug")

    settings = load()

    assert settings.http_port == 9000
    assert settings.log_level == "DEBUG"


def test_an_empty_variable_is_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENTITLEMENTS_HTTP_PORT", "")

    assert load().http_port == 8083


def test_metrics_share_the_http_port_unless_given_their_own() -> None:
    assert load(http_port=9000).metrics_port == 9000
    assert load(http_port=9000, metrics_port=9001).metrics_port == 9001


@pytest.mark.parametrize(
    "given", ["postgresql://db/x", "postgres://db/x", "postgresql+asyncpg://db/x"]
)
@pytest.mark.parametrize("variable", ["DATABASE_URL", "SERVICE_DATABASE_URL"])
def test_every_spelling_of_a_postgresql_url(
    monkeypatch: pytest.MonkeyPatch, variable: str, given: str
) -> None:
    monkeypatch.setenv(PREFIX + variable, given)

    assert load().database_url == "postgresql://db/x"


def test_names_of_other_services_environments_are_understood(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ENVIRONMENT", "production")
    monkeypatch.setenv("ENTITLEMENTS_SERVICE_HOST", "10.0.0.1")

    assert (load().environment, load().http_host) == ("production", "10.0.0.1")
    assert unknown_variables({"ENTITLEMENTS_SERVICE_HOST": "10.0.0.1"}) == []

    monkeypatch.setenv("ENTITLEMENTS_ENVIRONMENT", "staging")
    monkeypatch.setenv("ENTITLEMENTS_HTTP_HOST", "127.0.0.1")
    assert (load().environment, load().http_host) == ("staging", "127.0.0.1")


def test_what_other_libraries_call_sqlite_is_understood() -> None:
    assert load(database_url="sqlite+aiosqlite:///x.db").database_url == "sqlite:///x.db"


def test_an_option_that_the_driver_does_not_know_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    (line,) = refusal(monkeypatch, DATABASE_URL="postgresql://h/x?channel_binding=require")

    assert line == (
        "ENTITLEMENTS_DATABASE_URL: must not have the option channel_binding,"
        " which the driver asyncpg does not know"
    )


def test_the_shorter_name_of_the_database_url_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENTITLEMENTS_DATABASE_URL", "sqlite:///a.db")
    monkeypatch.setenv("ENTITLEMENTS_SERVICE_DATABASE_URL", "sqlite:///b.db")

    assert load().database_url == "sqlite:///a.db"


@pytest.mark.parametrize(
    "url",
    [
        "mysql://u:hush@db/x",
        "sqlite://",
        "sqlite:///",
        "sqlite:hush.db",
        "sqlite://hush.db",
        "sqlite:///:memory:",
        "sqlite:///file:hush.db",
        "sqlite:///hush.db?mode=ro",
        "postgresql:db",
        "x",
        "postgresql://u:hush@h:p/x",
        "postgresql://u:hush@h:0/x",
        "postgresql://u:hush@a:1,b:65536/x",
        "postgresql://u:hush@[::1/x",
        "postgresql://u:hu/hush@h/x",
        "postgresql://u:12/hush@h/x",
        "postgresql://u:12?hush@h/x",
        "postgresql://u:12#hush@h/x",
        "postgresql://u:12@hush@h/x",
        "postgresql://h/x?sslmode=hush",
        "postgresql://h/x?target_session_attrs=hush",
        "postgresql://h/x?connect_timeout=hush",
        "postgresql://h/x?sslmode=require&channel_binding=hush",
        "postgresql://h/x?keepalives=hush",
    ],
)
def test_an_unusable_database_url(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    (line,) = refusal(monkeypatch, DATABASE_URL=url)

    assert line.startswith("ENTITLEMENTS_DATABASE_URL: ")
    assert "hush" not in line


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///~/books.db",
        "sqlite:////var/lib/books.db",
        "postgresql://",
        "postgresql://%2Frun%2Fpostgresql/x",
        "postgresql://h/x?options=-csearch_path%3Dbooks",
        "postgresql:///x?host=/run/postgresql",
        "postgresql://u:p%40%2F%3F%23@[::1]:1/x?sslmode=require",
        "postgresql://a:1,b:2,[::1]/x?target_session_attrs=primary&user=me@tenant",
    ],
)
def test_every_form_of_a_database_url(url: str) -> None:
    assert load(database_url=url).database_url == url


@pytest.mark.parametrize(
    "url", ["redis://h", "redis://u:p@h:7/3", "rediss://h:1/?ssl_cert_reqs=none", "unix:///run/r"]
)
def test_every_way_to_a_redis(url: str) -> None:
    assert load(redis_url=url).redis_url == url


@pytest.mark.parametrize("servers", ["h", "h:1", "a:1,b.c:65535", "SASL_SSL://h:1", "[::1]:9092"])
def test_every_way_to_a_kafka(servers: str) -> None:
    assert load(kafka_bootstrap_servers=servers).kafka_bootstrap_servers == servers


def test_options_of_kafka_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENTITLEMENTS_KAFKA_OPTIONS", r"sasl.username=ada, sasl.password=a\,b=c")

    assert load().kafka_options == {"sasl.username": "ada", "sasl.password": "a,b=c"}


@pytest.mark.parametrize(
    ("missing", "given"),
    [
        ("SQLite", {"REDIS_URL": "redis://h"}),
        ("SQLite", {"RATE_LIMIT_ENABLED": "false"}),
        ("REDIS_URL", {"DATABASE_URL": "postgresql://h/d"}),
    ],
)
def test_several_processes_need_postgresql_and_redis(
    monkeypatch: pytest.MonkeyPatch, missing: str, given: dict[str, str]
) -> None:
    (line,) = refusal(monkeypatch, WORKERS="4", **given)

    assert line.startswith("ENTITLEMENTS_WORKERS: must be 1 ")
    assert missing in line


@pytest.mark.parametrize("given", [{"redis_url": "redis://h"}, {"rate_limit_enabled": False}])
def test_several_processes_share_redis_or_have_no_limits(given: dict[str, Any]) -> None:
    assert load(workers=4, database_url="postgresql://h/d", **given).workers == 4


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SERVICE_NAME", " "),
        ("HTTP_PORT", "0"),
        ("HTTP_PORT", "65536"),
        ("HTTP_PORT", "http"),
        ("METRICS_PORT", "-1"),
        ("LOG_LEVEL", "loud"),
        ("WORKERS", "0"),
        ("WORKERS", "65"),
        ("DATABASE_POOL_MAX", "0"),
        ("DATABASE_POOL_MIN", "11"),
        ("REDIS_URL", "localhost:6379"),
        ("REDIS_URL", "http://localhost"),
        ("REDIS_URL", "redis://"),
        ("REDIS_URL", "redis://h:port"),
        ("REDIS_URL", "redis://h/first"),
        ("REDIS_URL", "unix://"),
        ("RATE_LIMIT_ENABLED", "perhaps"),
        ("KAFKA_BOOTSTRAP_SERVERS", "kafka:port"),
        ("KAFKA_BOOTSTRAP_SERVERS", "kafka:0"),
        ("KAFKA_BOOTSTRAP_SERVERS", "one:9092,,two:9092"),
        ("KAFKA_OPTIONS", "linger.ms"),
        ("KAFKA_OPTIONS", "linger.ms=1,linger.ms=2"),
        ("KAFKA_OPTIONS", "acks=1"),
        ("KAFKA_OPTIONS", "partition.assignment.strategy=range"),
        ("KAFKA_OPTIONS", "stats_cb=print"),
        ("KAFKA_OPTIONS", "logger=mine"),
        ("KAFKA_TOPIC_PARTITIONS", "0"),
        ("TOPIC_PREFIX", "ends.in.a.dot."),
        ("POLICY_FILE", "/nowhere/policy.yaml"),
        ("BOOTSTRAP_KEY_FILE", "/nowhere/key"),
        ("BOOTSTRAP_KEY_FILE", "/dev/null"),
        ("RECEIPTS_RETENTION_DAYS", "0"),
        ("CHECK_DEADLINE_S", "0"),
        ("COMMAND_DEADLINE_S", "0"),
        ("AUTH", "off"),
        ("AUTH_NONE_FORCE", "perhaps"),
    ],
)
def test_a_setting_that_cannot_work_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    (line,) = refusal(monkeypatch, **{name: value})

    assert line.startswith(f"{PREFIX}{name}: ")


def test_all_settings_that_cannot_work_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = refusal(monkeypatch, HTTP_PORT="0", LOG_LEVEL="loud")

    assert [line.partition(":")[0] for line in lines] == [
        "ENTITLEMENTS_LOG_LEVEL",
        "ENTITLEMENTS_HTTP_PORT",
    ]


def test_a_misspelt_name_in_code_is_refused() -> None:
    with pytest.raises(SettingsError, match="ENTITLEMENTS_HTTP_PROT"):
        load(http_prot=9000)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_without_credentials_on_loopback(host: str) -> None:
    assert load(auth="none", http_host=host).auth == "none"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org"])  # noqa: S104
def test_without_credentials_elsewhere_only_by_force(host: str) -> None:
    with pytest.raises(SettingsError, match=r"^ENTITLEMENTS_AUTH: none would expose the API"):
        load(auth="none", http_host=host)

    assert load(auth="none", http_host=host, auth_none_force=True).auth == "none"


def test_on_loopback_only_local_names_are_known_hosts() -> None:
    assert load().allowed_hosts == ("localhost", "127.0.0.1", "[::1]")
    assert load(http_host="0.0.0.0").allowed_hosts == ("*",)  # noqa: S104


def test_known_hosts_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENTITLEMENTS_ALLOWED_HOSTS", "a.example, b.example,")

    assert load().allowed_hosts == ("a.example", "b.example")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sqlite:///x.db", "sqlite:///x.db"),
        ("postgresql://u@db/x", "postgresql://u@db/x"),
        ("postgresql://u:hush@db/x", "postgresql://u:***@db/x"),
        ("postgresql://u:hu@sh@db/x", "postgresql://u:***@db/x"),
        ("postgresql://db/x?password=hush&ssl=on", "postgresql://db/x?password=***&ssl=on"),
        ("postgresql://db/x?sslpassword=hush", "postgresql://db/x?sslpassword=***"),
    ],
)
def test_passwords_are_starred(url: str, shown: str) -> None:
    assert masked(url) == shown


def test_settings_never_show_a_password() -> None:
    settings = load(
        database_url="postgresql://u:hush@db/x?password=hush",
        redis_url="rediss://:hush@r:1/2",
        kafka_options={"sasl.password": "hush"},
    )

    assert settings.database_url == "postgresql://u:hush@db/x?password=hush"
    assert "hush" not in repr(settings)
    assert "hush" not in str(settings)


@pytest.mark.parametrize(
    ("package", "setting", "value", "extra"),
    [
        ("asyncpg", "DATABASE_URL", "postgresql://db/x", "postgres"),
        ("redis", "REDIS_URL", "redis://r", "redis"),
        ("confluent_kafka", "KAFKA_BOOTSTRAP_SERVERS", "k:9092", "kafka"),
    ],
)
def test_what_needs_a_package_that_is_not_there_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, package: str, setting: str, value: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)

    (line,) = refusal(monkeypatch, **{setting: value})

    assert line == (
        f"ENTITLEMENTS_{setting}: needs the extra `{extra}` of this package, which is not installed"
    )


def test_a_refusal_never_shows_a_password(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = refusal(
        monkeypatch,
        DATABASE_URL="mysql://u:hush@db/x",
        REDIS_URL="http://:hush@redis",
        KAFKA_OPTIONS="acks=all,sasl.password=hush",
        HTTP_PORT="0",
    )

    assert len(lines) == 4
    assert "hush" not in "".join(lines)


def test_a_variable_that_is_no_setting_is_told_of_with_what_was_meant() -> None:
    misspelt, invented = unknown_variables(
        dict.fromkeys(["ENTITLEMENTS_HTTP_PROT", "entitlements_colour", "HTTP_PROT"], "1")
    )

    assert misspelt.startswith("ENTITLEMENTS_HTTP_PROT: unknown setting")
    assert misspelt.endswith("did you mean ENTITLEMENTS_HTTP_PORT?")
    assert invented == "entitlements_colour: unknown setting, ignored"


def test_variables_that_are_read_are_not_told_of() -> None:
    settings = [PREFIX + name.upper() for name in Settings.model_fields]
    others = ["SERVICE_DATABASE_URL", "FAILPOINT", "TEST_POSTGRES_URL", "BENCH_SECONDS"]

    named = [*settings, *(PREFIX + name for name in others), "PATH", "entitlements_http_port"]
    assert unknown_variables(dict.fromkeys(named, "1")) == []


def of_a_service(name: str) -> dict[str, str]:
    """What Kubernetes sets for a Service in every container of its namespace."""
    return {
        f"{name}_SERVICE_HOST": "10.96.0.7",
        f"{name}_SERVICE_PORT": "8083",
        f"{name}_SERVICE_PORT_HTTP": "8083",
        f"{name}_PORT": "tcp://10.96.0.7:8083",
        f"{name}_PORT_8083_TCP": "tcp://10.96.0.7:8083",
        f"{name}_PORT_8083_TCP_PROTO": "tcp",
        f"{name}_PORT_8083_TCP_PORT": "8083",
        f"{name}_PORT_8083_TCP_ADDR": "10.96.0.7",
    }


@pytest.mark.parametrize(
    "service", ["ENTITLEMENTS", "ENTITLEMENTS_HTTP", "ENTITLEMENTS_METRICS", "ENTITLEMENTS_WORKER"]
)
def test_variables_of_a_kubernetes_service_are_ignored(
    monkeypatch: pytest.MonkeyPatch, service: str
) -> None:
    for name, value in of_a_service(service).items():
        monkeypatch.setenv(name, value)

    assert load().http_port == 8083
    assert unknown_variables(of_a_service(service)) == []


def test_a_port_that_is_none_is_refused_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENTITLEMENTS_HTTP_PORT", "eighty")

    with pytest.raises(SettingsError, match="ENTITLEMENTS_HTTP_PORT: "):
        load()
    assert len(unknown_variables({"ENTITLEMENTS_PORT": "8083"})) == 1


@pytest.mark.parametrize("name", ["DATABASE_URL", "SERVICE_DATABASE_URL"])
def test_a_secret_may_be_in_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("sqlite:///elsewhere.db\n")
    monkeypatch.setenv(f"{PREFIX}{name}_FILE", str(secret))

    assert load().database_url == "sqlite:///elsewhere.db"
    assert unknown_variables({f"{PREFIX}{name}_FILE": str(secret)}) == []


def test_a_file_of_a_secret_that_cannot_be_used_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(f"{PREFIX}REDIS_URL_FILE", str(tmp_path / "missing"))
    with pytest.raises(SettingsError, match=r"REDIS_URL_FILE: cannot read .*: No such file"):
        load()

    monkeypatch.setenv(f"{PREFIX}REDIS_URL", "redis://:hush@redis")
    with pytest.raises(SettingsError, match="REDIS_URL_FILE: cannot be set together") as refusal:
        load()
    assert "hush" not in str(refusal.value)


def test_the_reference_lists_every_setting_and_no_other() -> None:
    listed = re.findall(r"^\| `ENTITLEMENTS_(\w+)`", REFERENCE.read_text("utf-8"), re.MULTILINE)

    settings = [name.lower() for name in listed if name != "ACTOR"]
    assert settings == list(Settings.model_fields)
