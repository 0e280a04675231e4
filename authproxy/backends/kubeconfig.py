"""
How a cluster's API is reached and who asks there: from a kubeconfig, or as a pod finds it in its own cluster.

It decides which of a kubeconfig's many ways are taken: a token, or a client's certificate and key, all inside of the
document. Everything else that would change who asks or whom is believed is refused by name: programs to run, files
elsewhere, proxies, impersonation, certificates that nobody checks. It refuses to know what is asked.

Source: the kubeconfig (v1) reference of Kubernetes; "Accessing the Kubernetes API from a Pod".
"""

from __future__ import annotations

import ssl
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, TypeVar

import msgspec
import yaml

from authproxy.backends.platform_api import parts_of
from policies.errors import SettingsError
from policies.locators import is_loopback

MAX_BYTES: Final = 256 * 1024
"""Of a kubeconfig, a token or the authorities; a kubeconfig of one cluster has 6 KiB."""
SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where a pod finds its token and its cluster's authorities."""
_T = TypeVar("_T")
_TOKEN_CHARS: Final = frozenset(range(0x21, 0x7F))


@dataclass(frozen=True, slots=True)
class ClusterAccess:
    """One cluster's API, and as whom it is asked. Its text holds no secret."""

    url: str
    """Without a slash at its end."""
    token: str | None = field(default=None, repr=False)
    authorities: str | None = field(default=None, repr=False)
    """PEM, the only ones believed; None: the system's."""
    certificate: str | None = field(default=None, repr=False)
    """PEM; set exactly when ``key`` is."""
    key: str | None = field(default=None, repr=False)

    def tls(self) -> ssl.SSLContext:
        """
        How the API is verified, and shown who asks. Blocks: the key passes through a file of its own (OpenSSL takes no
        other way), which is gone before this returns.

        Raises: SettingsError when authorities, certificate or key are none.
        """
        try:
            if self.authorities is None:
                context = ssl.create_default_context()
            else:  # not so with an empty text, which would be "those of the system"
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
                context.load_verify_locations(cadata=self.authorities)
        except (ssl.SSLError, ValueError):
            raise SettingsError(["the cluster's certificate authorities are no certificates"]) from None
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.certificate is None or self.key is None:
            return context
        try:
            with TemporaryDirectory(prefix="portero-") as folder:  # 0700
                file = Path(folder, "client.pem")
                file.touch(0o600)
                file.write_text(f"{self.certificate}\n{self.key}\n")
                context.load_cert_chain(file, password=_no_password)
        except (ssl.SSLError, OSError, ValueError):
            raise SettingsError(["the client certificate and its key cannot be used, or not together"]) from None
        return context


@dataclass(frozen=True, slots=True)
class InCluster:
    """
    How a pod reaches the API of its own cluster: the service account's token and authorities, which are rotated.

    Args:
        host: ``KUBERNETES_SERVICE_HOST``.
        port: ``KUBERNETES_SERVICE_PORT``.
    """

    host: str
    port: str
    folder: Path = SERVICE_ACCOUNT

    @classmethod
    def found_in(cls, environment: Mapping[str, str]) -> InCluster:
        """Raises: SettingsError when this is no pod."""
        host, port = (environment.get(f"KUBERNETES_SERVICE_{part}", "") for part in ("HOST", "PORT"))
        if not host or not port:
            text = "cluster: in-cluster works in a pod only; expected the name of a kubeconfig among the platform's"
            raise SettingsError([f"{text} secrets"])
        return cls(host, port)

    def read(self) -> ClusterAccess:
        """Blocks. Raises: SettingsError when a file cannot be read, or holds no token."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        url = f"https://{host}:{self.port}"
        parts_of(url)
        token, authorities = self._file("token"), self._file("ca.crt")
        return ClusterAccess(url, _sound_token(token.strip(), "the service account's token"), authorities)

    def _file(self, name: str) -> str:
        try:
            with (self.folder / name).open("rb") as file:
                return file.read(MAX_BYTES).decode("ascii")
        except (OSError, ValueError):
            raise SettingsError([f"the service account's file {name!r} cannot be read"]) from None


class _Cluster(msgspec.Struct, rename="kebab"):
    server: str
    certificate_authority_data: str | None = None
    certificate_authority: Any = None
    insecure_skip_tls_verify: bool = False
    tls_server_name: Any = None
    proxy_url: Any = None


class _User(msgspec.Struct, rename="kebab", forbid_unknown_fields=True):
    """Whatever of it is not understood could change who asks; hence no unknown fields."""

    token: str | None = None
    client_certificate_data: str | None = None
    client_key_data: str | None = None
    token_file: Any = msgspec.field(default=None, name="tokenFile")
    client_certificate: Any = None
    client_key: Any = None
    username: Any = None
    password: Any = None
    exec: Any = None
    auth_provider: Any = None
    impersonated: Any = msgspec.field(default=None, name="as")
    as_uid: Any = None
    as_groups: Any = None
    as_user_extra: Any = None
    extensions: Any = None


class _Context(msgspec.Struct):
    cluster: str
    user: str


class _NamedCluster(msgspec.Struct):
    name: str
    cluster: _Cluster


class _NamedUser(msgspec.Struct):
    name: str
    user: _User | None = None


class _NamedContext(msgspec.Struct):
    name: str
    context: _Context


class _KubeConfig(msgspec.Struct, rename="kebab"):
    current_context: str
    contexts: list[_NamedContext]
    clusters: list[_NamedCluster]
    users: list[_NamedUser]


_REFUSED_OF_CLUSTER: Final = {
    "certificate_authority": "certificate-authority names a file; expected certificate-authority-data",
    "insecure_skip_tls_verify": "insecure-skip-tls-verify would hand the credentials to anybody in between",
    "tls_server_name": "tls-server-name is not supported; expected the name of the certificate in server",
    "proxy_url": "proxy-url is not supported",
}
_REFUSED_OF_USER: Final = {
    "exec": "exec runs a program, which Portero never does; expected a token, or a client certificate and key",
    "auth_provider": "auth-provider is not supported; expected a token, or a client certificate and key",
    "token_file": "tokenFile names a file; expected token",
    "client_certificate": "client-certificate names a file; expected client-certificate-data",
    "client_key": "client-key names a file; expected client-key-data",
    "username": "username and password are not supported; expected a token, or a client certificate and key",
    "password": "username and password are not supported; expected a token, or a client certificate and key",
    "impersonated": "impersonation (as) is not supported",
    "as_uid": "impersonation (as-uid) is not supported",
    "as_groups": "impersonation (as-groups) is not supported",
    "as_user_extra": "impersonation (as-user-extra) is not supported",
}


def read_kubeconfig(content: bytes) -> ClusterAccess:
    """
    What the current context of a kubeconfig says.

    Raises: SettingsError with every mistake at once, none with a value of the document in its words.
    """
    config = _parse(content)
    context = _named([(entry.name, entry.context) for entry in config.contexts], config.current_context, "context")
    cluster = _named([(entry.name, entry.cluster) for entry in config.clusters], context.cluster, "cluster")
    user = _named([(entry.name, entry.user or _User()) for entry in config.users], context.user, "user")
    mistakes = [text for name, text in _REFUSED_OF_CLUSTER.items() if getattr(cluster, name)]
    mistakes += dict.fromkeys(text for name, text in _REFUSED_OF_USER.items() if getattr(user, name))
    if (user.client_certificate_data is None) != (user.client_key_data is None):
        mistakes.append("client-certificate-data and client-key-data go together")
    if mistakes:
        raise SettingsError([f"kubeconfig: {mistake}" for mistake in mistakes])
    url = cluster.server.rstrip("/")
    parts = parts_of(url)
    is_local = parts.scheme == "http" and is_loopback(parts.hostname or "")
    if parts.scheme != "https" and not is_local:
        raise SettingsError(["kubeconfig: server is not https; expected such as https://10.0.0.1:6443"])
    if not user.token and user.client_key_data is None and not is_local:
        raise SettingsError(["kubeconfig: the user has neither a token nor a client certificate"])
    return ClusterAccess(
        url,
        _sound_token(user.token, "kubeconfig: token") if user.token else None,
        _decoded(cluster.certificate_authority_data, "certificate-authority-data"),
        _decoded(user.client_certificate_data, "client-certificate-data"),
        _decoded(user.client_key_data, "client-key-data"),
    )


def _parse(content: bytes) -> _KubeConfig:
    if len(content) > MAX_BYTES:
        raise SettingsError([f"kubeconfig: it is longer than {MAX_BYTES} bytes"])
    try:
        return msgspec.convert(yaml.safe_load(content.decode()), type=_KubeConfig)
    except msgspec.ValidationError as error:  # names fields and types, never values
        raise SettingsError([f"kubeconfig: {error}"]) from None
    except (yaml.YAMLError, ValueError, RecursionError, TypeError):  # their words quote the document
        raise SettingsError(["kubeconfig: it is no YAML"]) from None


def _named(entries: list[tuple[str, _T]], name: str, what: str) -> _T:
    found = [entry for entry_name, entry in entries if entry_name == name]
    if len(found) != 1:
        raise SettingsError([f"kubeconfig: expected exactly one {what} of the name {name!r}, there are {len(found)}"])
    return found[0]


def _decoded(text: str | None, what: str) -> str | None:
    if text is None:
        return None
    try:
        return b64decode("".join(text.split()), validate=True).decode("ascii")
    except ValueError:
        raise SettingsError([f"kubeconfig: {what} is not base64 of PEM"]) from None


def _sound_token(token: str, what: str) -> str:
    if not token or not _TOKEN_CHARS.issuperset(token.encode("utf-8", "surrogatepass")):
        raise SettingsError([f"{what} is not one word of visible ASCII"])
    return token


def _no_password() -> str:
    """Instead of OpenSSL's question on the terminal."""
    raise ValueError("the key is encrypted; give one that is not")
