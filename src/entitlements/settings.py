"""Settings from environment variables. The service does not start with an invalid setting."""

import re
import sys
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from importlib.util import find_spec
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import AliasChoices, Field, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from entitlements.adapters.kafka import options as kafka
from entitlements.adapters.postgres import address
from entitlements.adapters.sqlite import address as sqlite
from entitlements.app.process.redaction import masked

PREFIX: Final = "ENTITLEMENTS_"
_SECRET: Final = ("database_url", "redis_url")
LOOPBACK_HOSTS: Final = ("localhost", "127.0.0.1", "[::1]")
ANY_HOST: Final = ("*",)

ALIASES: Final = frozenset({f"{PREFIX}SERVICE_DATABASE_URL", f"{PREFIX}SERVICE_HOST"})
NOT_SETTINGS: Final = (f"{PREFIX}ACTOR", f"{PREFIX}FAILPOINT", f"{PREFIX}TEST_", f"{PREFIX}BENCH_")
"""Prefixes of variables that are not settings: failpoints, tests and benchmarks read them."""

FROM_FILES: Final = (
    f"{PREFIX}DATABASE_URL",
    f"{PREFIX}SERVICE_DATABASE_URL",
    f"{PREFIX}REDIS_URL",
    f"{PREFIX}KAFKA_OPTIONS",
)
"""Variables with secrets. With the suffix ``_FILE``, a variable names a file with the secret."""
_SERVICE_PORT: Final = re.compile(r"(?:tcp|udp|sctp)://\S+:[0-9]+")
_OF_A_SERVICE: Final = re.compile(
    r"(?P<service>\w+?)_(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT"
    r"(?:_[0-9]+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)?)"
)
SHUTDOWN_DELAY_S: Final = 5

Port = Annotated[int, Field(ge=1, le=65_535)]
Pool = Annotated[int, Field(ge=1, le=1_000)]
Name = Annotated[str, Field(min_length=1, max_length=255)]


class SettingsError(ValueError):
    """Raised for invalid settings; the text has a line for each, which begins with its variable."""


class Settings(BaseSettings):
    """The settings. A variable is ``ENTITLEMENTS_`` and the field's name in capitals.

    An empty variable counts as unset.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        populate_by_name=True,
        str_strip_whitespace=True,
    )

    service_name: Name = "entitlements_service"
    environment: Annotated[
        Name, Field(validation_alias=AliasChoices(f"{PREFIX}ENVIRONMENT", "ENVIRONMENT"))
    ] = "development"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    http_host: Annotated[
        Name,
        Field(validation_alias=AliasChoices(f"{PREFIX}HTTP_HOST", f"{PREFIX}SERVICE_HOST")),
    ] = "127.0.0.1"
    http_port: Port = 8083
    metrics_port: Port = Field(default_factory=lambda read: read["http_port"])
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        default_factory=lambda read: _hosts_known_at(read["http_host"])
    )
    root_path: Annotated[str, Field(pattern=r"^(/[A-Za-z0-9._~-]+)*$", max_length=255)] = ""
    workers: Annotated[int, Field(ge=1, le=64)] = 1
    keepalive_s: Annotated[int, Field(ge=1, le=3_600)] = 75
    shutdown_delay_s: Annotated[int, Field(ge=0, le=300)] = Field(
        default_factory=lambda _: 0 if sys.stdin.isatty() else SHUTDOWN_DELAY_S
    )

    database_url: Annotated[
        str,
        Field(
            validation_alias=AliasChoices(f"{PREFIX}DATABASE_URL", f"{PREFIX}SERVICE_DATABASE_URL")
        ),
    ] = "sqlite:///entitlements.db"
    database_pool_min: Pool = 1
    database_pool_max: Pool = 10
    database_statement_cache: bool = True

    redis_url: str | None = None
    rate_limit_enabled: bool = True

    kafka_bootstrap_servers: str | None = None
    kafka_options: Annotated[dict[str, str], NoDecode] = {}
    kafka_topic_partitions: Annotated[int, Field(ge=1, le=10_000)] = 6
    producer_client_id: Name = "entitlements-service-producer"
    consumer_enabled: bool = True
    consumer_group: Name = "entitlements-resource-consumer"
    topic_prefix: Annotated[
        str, Field(pattern=r"^[a-zA-Z0-9_-]+(\.[a-zA-Z0-9_-]+)*$", max_length=100)
    ] = "huleedu"

    relay_enabled: bool = True
    outbox_retention_hours: Annotated[int, Field(ge=0, le=8_760)] = 24

    policy_file: Path | None = None
    policy_cache_ttl: Annotated[int, Field(ge=1, le=2_592_000)] | None = None
    receipts_retention_days: Annotated[int, Field(ge=1, le=3_650)] = 30
    check_deadline_s: Annotated[int, Field(ge=1, le=300)] = 3
    command_deadline_s: Annotated[int, Field(ge=1, le=300)] = 6
    verify_every_hours: Annotated[int, Field(ge=0, le=8_760)] = 0

    webhook_allow_http: bool = False
    webhook_allow_private: bool = False
    webhook_retention_days: Annotated[int, Field(ge=1, le=3_650)] = 7

    auth: Literal["keys", "none"] = "keys"
    auth_none_force: bool = False
    bootstrap_key_file: Path | None = None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        assert isinstance(env_settings, EnvSettingsSource)
        found = {name.upper(): value or "" for name, value in env_settings.env_vars.items()}
        env_settings.env_vars = {
            name.lower(): value for name, value in with_files(without_services(found)).items()
        }
        return init_settings, env_settings

    @property
    def is_loopback(self) -> bool:
        """Return whether only this machine can reach the service."""
        return _is_loopback(self.http_host)

    def __repr_args__(self) -> Iterator[tuple[str | None, object]]:
        for name, value in super().__repr_args__():
            if name == "kafka_options" and isinstance(value, dict):
                yield name, dict.fromkeys(value, "***")
                continue
            yield name, masked(value) if name in _SECRET and isinstance(value, str) else value

    @field_validator("log_level", mode="before")
    @classmethod
    def _in_capitals(cls, level: object) -> object:
        return level.upper() if isinstance(level, str) else level

    @field_validator("allowed_hosts", mode="before")
    @classmethod
    def _split(cls, hosts: object) -> object:
        if isinstance(hosts, str):
            return tuple(host.strip() for host in hosts.split(",") if host.strip())
        return hosts

    @field_validator("database_url")
    @classmethod
    def _usable_url(cls, url: str) -> str:
        """Return the URL in the form that the stores read; errors do not show its secrets."""
        url = usual_scheme(url)
        if url.startswith("sqlite:"):
            if why := sqlite.problem(url):
                raise ValueError(why)
            return url
        if why := address.problem(url):
            raise ValueError(why)
        _require("asyncpg", extra="postgres")
        return url

    @field_validator("redis_url")
    @classmethod
    def _usable_redis(cls, url: str | None) -> str | None:
        """Validate the URL; errors do not show its secrets."""
        if url is None:
            return None
        _require("redis", extra="redis")
        try:
            parts = urlsplit(url)
            is_there = bool(parts.path if parts.scheme == "unix" else parts.hostname)
            _ = parts.port
        except ValueError:
            raise ValueError("is not a URL") from None
        if parts.scheme not in ("redis", "rediss", "unix") or not is_there:
            raise ValueError(
                "must begin with redis:// or rediss:// and a host, or with unix:// and a path"
            )
        if not re.fullmatch(r"(/\d*)?", parts.path) and parts.scheme != "unix":
            raise ValueError("must name the database by its number, as in redis://host/1")
        return url

    @field_validator("kafka_bootstrap_servers")
    @classmethod
    def _usable_servers(cls, servers: str | None) -> str | None:
        if servers is None:
            return None
        _require("confluent_kafka", extra="kafka")
        return kafka.parse_servers(servers)

    @field_validator("kafka_options", mode="before")
    @classmethod
    def _usable_options(cls, options: object) -> object:
        return kafka.parse(options) if isinstance(options, str) else options

    @field_validator("policy_file")
    @classmethod
    def _is_there(cls, path: Path | None) -> Path | None:
        if path is not None and not path.is_file():
            raise ValueError(f"the file {path} does not exist")
        return path

    @field_validator("bootstrap_key_file")
    @classmethod
    def _has_a_folder(cls, path: Path | None) -> Path | None:
        if path is not None and not path.parent.is_dir():
            raise ValueError(f"the folder {path.parent} does not exist")
        if path is not None and path.exists() and not path.is_file():
            raise ValueError(f"{path} is not a regular file")
        return path

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.database_pool_min > self.database_pool_max:
            raise ValueError(f"{PREFIX}DATABASE_POOL_MIN: must not be above DATABASE_POOL_MAX")
        if self.workers > 1 and self.database_url.startswith("sqlite:"):
            raise ValueError(
                f"{PREFIX}WORKERS: must be 1 on SQLite; more need PostgreSQL in DATABASE_URL"
            )
        if self.workers > 1 and self.rate_limit_enabled and self.redis_url is None:
            raise ValueError(
                f"{PREFIX}WORKERS: must be 1 without REDIS_URL, because each worker would count "
                "rate limits separately; RATE_LIMIT_ENABLED=false turns rate limits off"
            )
        if self.auth == "none" and not (self.is_loopback or self.auth_none_force):
            raise ValueError(
                f"{PREFIX}AUTH: none would expose the API on {self.http_host} without "
                f"authentication; set {PREFIX}AUTH_NONE_FORCE=true to allow it"
            )
        return self


def load(**given: Any) -> Settings:
    """Return the settings of the environment; ``given`` takes precedence.

    Raise ``SettingsError`` with every invalid setting; its text contains no values.
    """
    try:
        return Settings(**given)
    except ValidationError as error:
        lines = [
            _line(problem["loc"], problem["msg"])
            for problem in error.errors()
            if problem["type"] != "default_factory_not_called"  # follows from another problem
        ]
        raise SettingsError("\n".join(lines)) from None


def without_services(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without the variables that Kubernetes sets for a Service.

    A Service ``entitlements-http`` would set ``ENTITLEMENTS_HTTP_PORT`` to ``tcp://…``.
    """

    def is_of_a_service(name: str) -> bool:
        match = _OF_A_SERVICE.fullmatch(name)
        port = environment.get(f"{match['service']}_PORT", "") if match is not None else ""
        return _SERVICE_PORT.fullmatch(port) is not None

    return {name: value for name, value in environment.items() if not is_of_a_service(name.upper())}


def with_files(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment with the secrets of ``_FILE`` variables. Raise SettingsError."""
    found = dict(environment)
    for name in FROM_FILES:
        path = found.pop(f"{name}_FILE", "")
        if not path:
            continue
        if found.get(name):
            raise SettingsError(f"{name}_FILE: cannot be set together with {name}")
        try:
            found[name] = Path(path).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "is not text"
            raise SettingsError(f"{name}_FILE: cannot read {path}: {reason}") from None
    return found


def usual_scheme(url: str) -> str:
    """Return the database's URL with the scheme that the stores read, instead of SQLAlchemy's."""
    url = re.sub(r"^sqlite\+\w+:", "sqlite:", url)
    return re.sub(r"^(postgres|postgresql\+asyncpg)://", "postgresql://", url)


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """Return a message for each variable that has the prefix of settings and is unknown."""
    files = {f"{name}_FILE" for name in FROM_FILES}
    names = {PREFIX + name.upper() for name in Settings.model_fields} | ALIASES | files
    problems = []
    for variable in sorted(without_services(environment)):
        name = variable.upper()
        if not name.startswith(PREFIX) or name in names or name.startswith(NOT_SETTINGS):
            continue
        near = get_close_matches(name, sorted(names), n=1, cutoff=0.8)
        hint = f"; did you mean {near[0]}?" if near else ""
        problems.append(f"{variable}: unknown setting, ignored{hint}")
    return problems


def _require(package: str, *, extra: str) -> None:
    if find_spec(package) is None:
        raise ValueError(f"needs the extra `{extra}` of this package, which is not installed")


def _line(where: tuple[int | str, ...], reason: str) -> str:
    reason = reason.removeprefix("Value error, ")
    if not where:
        return reason
    name = str(where[0]).upper()
    return f"{PREFIX}{name.removeprefix(PREFIX)}: {reason}"


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _hosts_known_at(host: str) -> tuple[str, ...]:
    """Return the allowed hosts by default: on loopback only its names, elsewhere any.

    On loopback, another Host header means that a web page tries to reach the service.
    """
    return LOOPBACK_HOSTS if _is_loopback(host) else ANY_HOST
