"""
Settings: what an operator may choose, by flag, ``PORTERO_*`` environment variable and ``portero.toml``, in that order.

This module decides what a setting may be and reports every mistake at once, naming where the value came from. It
refuses to know what the settings are for. No secret is a setting: secrets are files, and settings name them.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from ipaddress import IPv6Address
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from policies.errors import SettingsError

ENVIRONMENT_PREFIX: Final = "PORTERO_"
DEFAULT_FILE: Final = "portero.toml"
_SERVICE_LINK: Final = re.compile(r"(?:.+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_.+)?|PORT(?:_[0-9]+_.+)?)")
"""
What Kubernetes puts into the environment of every pod beside a Service whose name begins with ``portero``
(``PORTERO_SERVICE_HOST``, ``PORTERO_PORT_8088_TCP_ADDR``): nobody chose these, so they are no mistakes.
"""


def _host_port(value: object) -> object:
    """``HOST:PORT``, ``[v6]:PORT`` or an already split pair."""
    if isinstance(value, tuple):
        return value
    host, colon, port = str(value).rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError("expected HOST:PORT with a port from 0 to 65535, such as 127.0.0.1:8088")
    return host, int(port)


_REDIS_EXPECTED: Final = "expected redis://HOST:PORT/DB, rediss://... (TLS) or unix:///path/to/socket"


def _redis_url(value: object) -> object:
    if value is None or not isinstance(value, str):
        return value
    parts = urlsplit(value)
    if parts.scheme not in {"redis", "rediss", "unix"} or not (parts.hostname or parts.path):
        raise ValueError(_REDIS_EXPECTED)
    try:
        _ = parts.port
    except ValueError:
        raise ValueError(f"{_REDIS_EXPECTED}, with a port from 0 to 65535") from None
    return value


_NAME_EXPECTED: Final = "expected a host's name or address, without a port"
_HOST_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,253}")


def _host(value: object) -> object:
    """A name, or an address without brackets."""
    if isinstance(value, str) and not _HOST_NAME.fullmatch(value):
        try:
            address = IPv6Address(value)
        except ValueError:
            raise ValueError(_NAME_EXPECTED) from None
        if address.scope_id is not None:
            raise ValueError(_NAME_EXPECTED)
    return value


_SOCKET_MODE: Final = re.compile(r"0?[67][0-7]{2}")


def _socket_mode(value: object) -> object:
    """Octal; TOML's 660 is a number. Who may connect must be able to write."""
    text = str(value)
    if not _SOCKET_MODE.fullmatch(text):
        raise ValueError("expected octal permissions with which Portero itself may connect, such as 600 or 660")
    return text


_EVERY_ADDRESS: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104 (compared with, not listened on)
HostPort = Annotated[tuple[str, int], BeforeValidator(_host_port)]
Seconds = Annotated[float, Field(gt=0, le=86400, allow_inf_nan=False)]


class Settings(BaseModel):
    """Every setting; docs/settings.md lists them and a test holds the two together."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    policies: Path = Field(description="Folder of the policy files (platform.yaml and one file a tenant).")
    secrets: Path | None = Field(None, description="Folder of secrets: platform/NAME and TENANT/NAME, one file each.")
    keys: Path | None = Field(
        None,
        description="Folder of Portero's own keys, for sessions and for what it signs (portero keys new DIR); "
        "without it sessions end with the process and nothing is signed.",
    )
    listen: HostPort = Field(("127.0.0.1", 8088), description="Address of the public listener.")
    admin: HostPort = Field(
        ("127.0.0.1", 8089), description="Address of the admin listener: health, metrics, policy status, explain."
    )
    internal: HostPort = Field(
        ("127.0.0.1", 8090),
        description="Address of the internal listener, where Kong sends what it cannot hand to a function by itself; "
        "only plugin servers listen on it.",
    )
    internal_name: Annotated[str | None, BeforeValidator(_host)] = Field(
        None,
        description="Host by which Kong reaches the internal listener; wanted where that listens on every address.",
    )
    kong_sockets: Path = Field(
        Path("/usr/local/kong"), description="Folder of the sockets that Kong asks the plugin server on."
    )
    kong_socket_mode: Annotated[str, BeforeValidator(_socket_mode)] = Field(
        "600",
        description="Permissions of the sockets for Kong, octal; 660 where Kong runs as another user of the group.",
    )
    admin_token: Path | None = Field(
        None, description="File with the token that /policy/status and /explain want from other hosts than this one."
    )
    tls_cert: Path | None = Field(
        None, description="Certificate chain (PEM) of the public listener; reloaded when it changes."
    )
    tls_key: Path | None = Field(None, description="Private key (PEM) of the public listener.")
    tls_client_ca: Path | None = Field(
        None,
        description="Certificates (PEM) that client certificates are verified with; clients may then show one, "
        "and tokens bound to it are taken.",
    )
    redis: Annotated[str | None, BeforeValidator(_redis_url)] = Field(
        None,
        description="Redis where replicas share limits, sessions, logouts, cold starts and results, such as "
        "redis://127.0.0.1:6379/0; without it, memory.",
    )
    redis_cluster: bool = Field(default=False, description="The Redis is a cluster: one command per hash slot.")
    redis_password: Path | None = Field(None, description="File with the password for Redis.")
    audit: str = Field("-", description="Where audit lines go: - for standard output, off, or a file.")
    audit_allows: Annotated[float, Field(ge=0, le=1)] = Field(
        1.0, description="Ratio of allowed requests that are audited; refusals always are."
    )
    drain: Seconds = Field(30.0, description="Seconds that requests held or running get to finish after SIGTERM.")
    keepalive: Seconds = Field(75.0, description="Seconds an idle client connection, or one sending its head, is kept.")
    body_timeout: Seconds = Field(30.0, description="Seconds a request body may stand still before 408.")
    max_connections: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        10_000, description="Client connections accepted at once."
    )
    max_upstream_connections: Annotated[int, Field(ge=1, le=100_000)] = Field(
        2_000, description="Connections to functions open at once."
    )
    max_held: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        10_000, description="Requests held for sleeping functions at once, over all tenants."
    )
    max_held_bytes: Annotated[int, Field(ge=0, le=1 << 40)] = Field(
        512 << 20, description="Bytes of their bodies kept at once, over all tenants; more is refused with 503."
    )
    reload_poll: Seconds = Field(15.0, description="Seconds between looks at the policy folder beside the watcher.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe line logged: debug, info, warning or error."
    )
    allow_loopback_http: bool = Field(
        default=False, exclude=True, description="Providers may speak http on loopback addresses. The demo only."
    )

    @model_validator(mode="after")
    def _together(self) -> Settings:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key go together: give both or neither")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise ValueError(
                "tls_client_ca without tls_cert and tls_key: a client can show a certificate over TLS only"
            )
        if self.internal_name is None and self.internal[0] in _EVERY_ADDRESS:
            raise ValueError(
                f"internal is every address ({self.internal[0]}): say by internal_name how Kong reaches it"
            )
        if self.redis_password is not None and self.redis is None:
            raise ValueError("redis_password without redis: say which Redis it is for")
        return self


HIDDEN: Final = frozenset({"allow_loopback_http"})
"""Settings that only code may set: they loosen a rule for the demo."""
MAY_HOLD_SECRETS: Final = frozenset({"redis"})
"""Settings that are not repeated in an error: a URL may hold a password, though it should not."""


def load_settings(
    flags: Mapping[str, Any], environment: Mapping[str, str], file: Path | None, file_is_required: bool = False
) -> Settings:
    """
    Merge the three sources, flags first, and validate the whole.

    Args:
        flags: setting name -> value; None means "not given".
        environment: usually ``os.environ``; only ``PORTERO_*`` is read, an unknown one is a mistake (Kubernetes'
            links to services called ``portero…`` are left aside).
        file: a TOML file with the same names; ``-`` and ``_`` are the same.
        file_is_required: whether its absence is a mistake.

    Raises: SettingsError with one line per mistake, each naming the source.
    """
    mistakes: list[str] = []
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}

    def take(name: str, value: Any, source: str) -> None:
        key = name.lower().replace("-", "_")
        if key not in Settings.model_fields or key in HIDDEN:
            mistakes.append(f"{source}: no such setting; known are {', '.join(known_settings())}")
            return
        if value == "":
            mistakes.append(f"{source}: is empty; give a value, or leave it out")
            return
        values[key] = value
        sources[key] = source

    for name, value in _read_file(file, file_is_required, mistakes).items():
        take(name, value, f"{file}: {name}")
    for name, text in sorted(environment.items()):
        setting = name.removeprefix(ENVIRONMENT_PREFIX)
        if setting not in (name, "SETTINGS") and not _SERVICE_LINK.fullmatch(setting):
            take(setting, text, name)
    for name, value in flags.items():
        if value is not None:
            take(name, value, "--" + name.replace("_", "-"))

    try:
        settings = Settings(**values)
    except ValidationError as error:
        mistakes.extend(_message(detail, sources) for detail in error.errors())
        raise SettingsError(mistakes) from None
    if mistakes:
        raise SettingsError(mistakes)
    return settings


def known_settings() -> list[str]:
    return sorted(set(Settings.model_fields) - HIDDEN)


def _read_file(file: Path | None, is_required: bool, mistakes: list[str]) -> Mapping[str, Any]:
    if file is None:
        return {}
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if is_required:
            mistakes.append(f"{file}: no such file")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8"
        mistakes.append(f"{file}: cannot be read ({why})")
    except tomllib.TOMLDecodeError as error:
        mistakes.append(f"{file}: not TOML: {error}")
    return {}


def _message(detail: Any, sources: Mapping[str, str]) -> str:
    location = detail["loc"]
    text = str(detail["msg"]).removeprefix("Value error, ")
    if not location:
        return text
    name = str(location[0])
    if detail["type"] == "missing":
        flag = "--" + name.replace("_", "-")
        return f"{name} is not set: give {flag}, {ENVIRONMENT_PREFIX}{name.upper()} or {name} in {DEFAULT_FILE}"
    got = "" if name in MAY_HOLD_SECRETS else f" (got {detail['input']!r})"
    return f"{sources.get(name, name)}: {text[:1].lower()}{text[1:]}{got}"
