"""The backends of the policy set in force."""

from __future__ import annotations

from dataclasses import replace

import pytest
from aiohttp import encode_basic_auth

from authproxy.backends import Backends, OpenFaasBackend
from policies.errors import CannotKnow, SettingsError
from policies.tables import BackendSpec


class Files(dict[str, bytes]):
    def read(self, name: str) -> bytes:
        try:
            return self[name]
        except KeyError:
            raise CannotKnow(f"secret platform/{name}: No such file") from None


def spec(name: str = "faas", url: str = "http://gateway:8080", credentials: str | None = None) -> BackendSpec:
    return BackendSpec(name, "openfaas", url, credentials)


async def test_a_reload_keeps_what_did_not_change() -> None:
    """Connections survive a reload that is about something else."""
    backends = Backends(Files().read)
    backends.replace({"one": spec("one"), "two": spec("two")})
    one, two = backends["one"], backends["two"]
    backends.replace({"one": spec("one"), "two": spec("two", "http://other:8080")})
    assert backends["one"] is one
    assert backends["two"] is not two
    backends.replace({})
    assert list(backends) == []
    await backends.close()


@pytest.mark.parametrize(
    "files",
    [
        Files({"admin/basic-auth-user": b"admin", "admin/basic-auth-password": b"s3cret\n"}),
        Files({"admin": b"admin:s3cret"}),
    ],
    ids=["a folder as OpenFaaS mounts it", "one file"],
)
def test_credentials_are_a_folder_or_a_file(files: Files) -> None:
    """Both forms give the same user and password."""
    backends = Backends(files.read)
    backends.replace({"faas": spec(credentials="admin")})
    made = backends["faas"]
    assert isinstance(made, OpenFaasBackend)
    assert made._credentials.authorization == encode_basic_auth("admin", "s3cret")


def test_a_changed_password_makes_a_new_backend() -> None:
    """Rotation takes effect with the next reload."""
    files = Files({"admin": b"admin:old"})
    backends = Backends(files.read)
    backends.replace({"faas": spec(credentials="admin")})
    before = backends["faas"]
    files["admin"] = b"admin:new"
    backends.replace({"faas": spec(credentials="admin")})
    assert backends["faas"] is not before


@pytest.mark.parametrize("content", [None, b"no colon", b"\xff:\xff"])
def test_credentials_that_cannot_be_had_keep_the_old_backends(content: bytes | None) -> None:
    """All mistakes at once, with the backend's name, and nothing has changed."""
    files = Files({"bad": content} if content is not None else {})
    backends = Backends(files.read)
    backends.replace({"faas": spec()})
    before = backends["faas"]
    with pytest.raises(SettingsError) as raised:
        backends.replace({"a": spec("a", credentials="bad"), "b": spec("b", "nowhere")})
    assert [mistake.split(":")[0] for mistake in raised.value.mistakes] == ["backend 'a'", "backend 'b'"]
    assert list(backends) == ["faas"]
    assert backends["faas"] is before


@pytest.mark.parametrize(
    "made",
    [
        BackendSpec("faas", "openfaas", "http://gateway:8080", None),
        BackendSpec("faas", "knative", "http://ingress:80", None, domain="example.com"),
        BackendSpec("faas", "riff", "http://gateway:8080", None),
        BackendSpec("faas", "http", "http://{function}.{namespace}:8080", None),
    ],
    ids=lambda made: made.kind,
)
async def test_every_kind_is_made_of_its_entry_and_connects_to_nothing(made: BackendSpec) -> None:
    """One constructor for all of them; an event loop belongs to whoever asks first."""
    backends = Backends(Files().read)
    backends.replace({"faas": made})
    assert backends["faas"].name == "faas"
    with pytest.raises(SettingsError, match="backend 'faas'"):
        backends.replace({"faas": replace(made, url="ftp://gateway")})
    await backends.close()


def test_a_secret_that_vanishes_keeps_the_old_backends() -> None:
    """Half a rotation is a mistake that can be read, not an outage."""
    files = Files({"admin": b"admin:old"})
    backends = Backends(files.read)
    backends.replace({"faas": spec(credentials="admin")})
    before = backends["faas"]
    content = files.pop("admin")
    with pytest.raises(SettingsError):
        backends.replace({"faas": spec(credentials="admin")})
    files["admin"] = content
    backends.replace({"faas": spec(credentials="admin")})
    assert backends["faas"] is before


def test_secrets_show_nowhere() -> None:
    """What is kept to see a change is a digest."""
    backends = Backends(Files({"admin": b"admin:s3cret"}).read)
    backends.replace({"faas": spec(credentials="admin")})
    shown = repr(backends._made) + repr(vars(backends._made["faas"].backend))
    assert "s3cret" not in shown
