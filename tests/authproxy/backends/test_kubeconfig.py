"""How a cluster's API is reached: kubeconfigs, service accounts, and what of them is refused."""

from __future__ import annotations

import tempfile
from base64 import b64encode
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from authproxy.backends.backend import Readiness
from authproxy.backends.cluster_api import REREAD_S, ClusterApi
from authproxy.backends.kubeconfig import ClusterAccess, InCluster, read_kubeconfig
from policies.errors import BackendUnavailable, SettingsError
from tests.fakes.cluster_keys import ClusterKeys
from tests.fakes.knative import FakeKnative

SECRET = "TOP-SECRET-d6a0"


def base64(text: str) -> str:
    return b64encode(text.encode()).decode()


def kubeconfig(
    server: str = "https://10.0.0.1:6443", user: dict[str, Any] | None = None, cluster: dict[str, Any] | None = None
) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "prod",
        "contexts": [{"name": "prod", "context": {"cluster": "main", "user": "portero", "namespace": "x"}}],
        "clusters": [{"name": "main", "cluster": {"server": server, **(cluster or {})}}],
        "users": [{"name": "portero", "user": {"token": SECRET} if user is None else user}],
        "preferences": {},
    }


def read(document: Any) -> ClusterAccess:
    return read_kubeconfig(yaml.safe_dump(document).encode())


# -- what is taken ------------------------------------------------------------------------------------


def test_a_token_is_taken() -> None:
    """With the authorities of the document and no others."""
    keys = ClusterKeys()
    access = read(kubeconfig(cluster={"certificate-authority-data": base64(keys.authority)}))
    assert (access.url, access.token, access.authorities) == ("https://10.0.0.1:6443", SECRET, keys.authority)
    assert len(access.tls().get_ca_certs()) == 1


def test_a_client_certificate_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its key passes through a file, of which nothing is left."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    pair = ClusterKeys().pair("portero")
    user = {"client-certificate-data": base64(pair.certificate), "client-key-data": base64(pair.key)}
    access = read(kubeconfig(user=user))
    assert (access.certificate, access.key) == (pair.certificate, pair.key)
    access.tls()
    assert not list(tmp_path.iterdir())


def test_an_address_may_have_a_path() -> None:
    """As those of managers of many clusters do."""
    assert (
        read(kubeconfig("https://rancher.example/k8s/clusters/c-1/")).url == "https://rancher.example/k8s/clusters/c-1"
    )


def test_a_pod_finds_its_own_cluster(tmp_path: Path) -> None:
    """By environment and mounted files; an IPv6 address gets its brackets."""
    (tmp_path / "token").write_text(SECRET + "\n")
    (tmp_path / "ca.crt").write_text(ClusterKeys().authority)
    found = InCluster.found_in({"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"})
    access = InCluster(found.host, found.port, tmp_path).read()
    assert (access.url, access.token) == ("https://[fd00::1]:443", SECRET)


# -- what is refused ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "says"),
    [
        pytest.param(kubeconfig(user={"exec": {"command": "sh", "args": [SECRET]}}), "exec", id="a program"),
        pytest.param(kubeconfig(user={"auth-provider": {"name": SECRET}}), "auth-provider", id="a plugin"),
        pytest.param(kubeconfig(user={"tokenFile": f"/etc/{SECRET}"}), "tokenFile", id="a token elsewhere"),
        pytest.param(
            kubeconfig(user={"token": SECRET, "client-key": f"/etc/{SECRET}"}), "client-key", id="a key elsewhere"
        ),
        pytest.param(kubeconfig(user={"client-certificate": "/x"}), "client-certificate", id="certificate elsewhere"),
        pytest.param(kubeconfig(user={"username": "u", "password": SECRET}), "username", id="basic auth"),
        pytest.param(kubeconfig(user={"token": SECRET, "as": "system:admin"}), "(as)", id="impersonation"),
        pytest.param(kubeconfig(user={"token": SECRET, "as-groups": ["system:masters"]}), "as-groups", id="as groups"),
        pytest.param(kubeconfig(user={"token": SECRET, "newfangled": SECRET}), "newfangled", id="what nobody knows"),
        pytest.param(kubeconfig(user={}), "neither", id="nobody"),
        pytest.param(kubeconfig(user={"token": ""}), "neither", id="empty token"),
        pytest.param(kubeconfig(user={"token": f"{SECRET}\r\nX: y"}), "token", id="a token with a field in it"),
        pytest.param(kubeconfig(user={"token": f"{SECRET} é"}), "token", id="a token that is no word"),
        pytest.param(kubeconfig(user={"token": 123456}), "token", id="a token that is a number"),
        pytest.param(kubeconfig(user={"client-key-data": base64(SECRET)}), "together", id="a key alone"),
        pytest.param(kubeconfig(cluster={"insecure-skip-tls-verify": True}), "insecure-skip", id="no verification"),
        pytest.param(kubeconfig(cluster={"proxy-url": f"http://u:{SECRET}@p"}), "proxy-url", id="a proxy"),
        pytest.param(kubeconfig(cluster={"tls-server-name": "x"}), "tls-server-name", id="another name"),
        pytest.param(
            kubeconfig(cluster={"certificate-authority": "/x"}), "certificate-authority", id="authority elsewhere"
        ),
        pytest.param(kubeconfig(cluster={"certificate-authority-data": "%%"}), "base64", id="no base64"),
        pytest.param(kubeconfig("http://10.0.0.1:6443"), "https", id="a token in the open"),
        pytest.param(kubeconfig("https://u:p@10.0.0.1"), "user name", id="credentials in the address"),
        pytest.param(kubeconfig("https://10.0.0.1/?x"), "query", id="a query in the address"),
        pytest.param(kubeconfig("unix:///run/x"), "address", id="no address"),
        pytest.param(kubeconfig() | {"current-context": "dev"}, "context", id="no such context"),
        pytest.param(kubeconfig() | {"users": []}, "user", id="no such user"),
        pytest.param(
            kubeconfig() | {"users": [{"name": "portero", "user": {"token": name}} for name in (SECRET, "b")]},
            "exactly one",
            id="two of a name",
        ),
        pytest.param({"apiVersion": "v1"}, "current-context", id="no kubeconfig"),
        pytest.param([SECRET], "object", id="a list"),
    ],
)
def test_what_would_change_who_asks_or_whom_is_believed_is_refused(document: Any, says: str) -> None:
    """By its name, and without a word of the document's secrets."""
    with pytest.raises(SettingsError) as refused:
        read(document)
    assert says in str(refused.value)
    assert SECRET not in str(refused.value)
    assert refused.value.__cause__ is None


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(f"users: [{{token: {SECRET}".encode(), id="broken YAML"),
        pytest.param(f"!!python/object/apply:os.system ['echo {SECRET}']".encode(), id="a YAML tag that runs"),
        pytest.param(b"\xff\xfe\x00", id="no UTF-8"),
        pytest.param(b"[" * 2000, id="deep"),
        pytest.param(b"", id="empty"),
        pytest.param(b"x" * 300_000, id="large"),
    ],
)
def test_what_is_no_kubeconfig_is_refused_without_quoting_it(content: bytes) -> None:
    """YAML's own words show the line they stumbled over."""
    with pytest.raises(SettingsError) as refused:
        read_kubeconfig(content)
    assert SECRET not in str(refused.value)


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_no_document_raises_anything_else(content: bytes) -> None:
    """Whatever stands in the file."""
    with suppress(SettingsError):
        read_kubeconfig(content)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=8,
    ),
    st.sampled_from(["current-context", "contexts", "clusters", "users"]),
)
def test_no_part_of_another_form_raises_anything_else(part: Any, name: str) -> None:
    """One part replaced by what it may not be."""
    with suppress(SettingsError):
        read(kubeconfig() | {name: part})


def test_no_secret_is_in_the_text_of_an_access() -> None:
    """It ends up in tracebacks and logs."""
    access = ClusterAccess("https://x", SECRET, SECRET, SECRET, SECRET)
    assert SECRET not in f"{access!r} {access}"


@pytest.mark.parametrize("trouble", ["encrypted", "foreign", "garbage"])
def test_a_key_that_cannot_be_used_is_refused(trouble: str) -> None:
    """Encrypted (nobody is asked for a password), of another certificate, or none at all."""
    keys = ClusterKeys()
    pair, other = keys.pair("portero"), keys.pair("other", password=b"x" if trouble == "encrypted" else None)
    certificate = other.certificate if trouble == "encrypted" else pair.certificate
    key = SECRET if trouble == "garbage" else other.key
    with pytest.raises(SettingsError) as refused:
        ClusterAccess("https://x", None, keys.authority, certificate, key).tls()
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("authorities", ["", "no certificate", "-----BEGIN CERTIFICATE-----\nAA==\n"])
def test_authorities_that_are_none_are_refused(authorities: str) -> None:
    """Never "then those of the system"."""
    with pytest.raises(SettingsError):
        ClusterAccess("https://x", "t", authorities).tls()


def test_what_is_no_pod_says_so() -> None:
    """With what would do instead."""
    with pytest.raises(SettingsError, match="kubeconfig"):
        InCluster.found_in({})


@pytest.mark.parametrize("missing", ["token", "ca.crt", "empty token"])
def test_a_pod_without_its_files_is_refused(tmp_path: Path, missing: str) -> None:
    """A service account that is not mounted."""
    (tmp_path / "token").write_text("" if missing == "empty token" else SECRET)
    (tmp_path / "ca.crt").write_text("x")
    (tmp_path / missing).unlink(missing_ok=True)
    with pytest.raises(SettingsError):
        InCluster("10.0.0.1", "443", tmp_path).read()


# -- on the wire ------------------------------------------------------------------------------------


async def test_the_api_is_verified_and_shown_a_certificate(tmp_path: Path) -> None:
    """Mutual TLS with the cluster's own authority."""
    keys = ClusterKeys()
    tls, pair = keys.server(tmp_path, asks_for_certificates=True), keys.pair("portero")
    async with FakeKnative(tls=tls) as cluster:
        cluster.add("f")
        user = {"client-certificate-data": base64(pair.certificate), "client-key-data": base64(pair.key)}
        document = kubeconfig(cluster.api_url, user, cluster={"certificate-authority-data": base64(keys.authority)})
        api = ClusterApi("kn", lambda: read(document), timeout_s=20)
        assert await api.readiness("acme", "f") == Readiness(1)
        await api.close()


async def test_another_authority_gets_no_token(tmp_path: Path) -> None:
    """Somebody in between learns nothing."""
    async with FakeKnative(tls=ClusterKeys().server(tmp_path)) as cluster:
        cluster.add("f")
        document = kubeconfig(cluster.api_url, cluster={"certificate-authority-data": base64(ClusterKeys().authority)})
        api = ClusterApi("kn", lambda: read(document), timeout_s=20)
        with pytest.raises(BackendUnavailable) as failed:
            await api.readiness("acme", "f")
        assert SECRET not in str(failed.value)
        assert not cluster.api_calls
        await api.close()


class Rotating:
    """A service account whose files change."""

    def __init__(self, url: str) -> None:
        self.url, self.token, self.is_torn = url, "first", False
        self.now = 0.0

    def read(self) -> ClusterAccess:
        if self.is_torn:
            raise SettingsError(["half written"])
        return ClusterAccess(self.url, self.token)

    def clock(self) -> float:
        return self.now


async def test_a_rotated_token_is_taken_up_when_the_old_one_is_refused() -> None:
    """Without a reload, and without a refusal to anybody."""
    async with FakeKnative(tokens={"first"}) as cluster:
        cluster.add("f")
        account = Rotating(cluster.api_url)
        api = ClusterApi("kn", account.read, clock=account.clock)
        assert await api.readiness("acme", "f") == Readiness(1)
        cluster.tokens, account.token, account.now = {"second"}, "second", 5.0
        assert await api.readiness("acme", "f") == Readiness(1)
        await api.close()


async def test_a_rotated_token_is_taken_up_before_the_old_one_is_refused() -> None:
    """A minute at most; half a rotation leaves things as they are."""
    async with FakeKnative(tokens={"first", "second"}) as cluster:
        cluster.add("f")
        account = Rotating(cluster.api_url)
        api = ClusterApi("kn", account.read, clock=account.clock)
        account.now, account.is_torn = REREAD_S, True
        assert await api.readiness("acme", "f") == Readiness(1)
        account.now, account.is_torn, account.token = 2 * REREAD_S, False, "second"
        assert await api.readiness("acme", "f") == Readiness(1)
        cluster.tokens = {"second"}
        assert await api.readiness("acme", "f") == Readiness(1)
        await api.close()


async def test_a_token_that_stays_refused_is_unknown_not_missing() -> None:
    """And the files are not read for every question."""
    async with FakeKnative(tokens=set()) as cluster:
        cluster.add("f")
        account = Rotating(cluster.api_url)
        api = ClusterApi("kn", account.read, clock=account.clock)
        for _ in range(3):
            with pytest.raises(BackendUnavailable, match="401"):
                await api.readiness("acme", "f")
        await api.close()


async def test_rotated_certificates_are_used_too(tmp_path: Path) -> None:
    """A new authority means a new connection."""
    old, new = ClusterKeys("old"), ClusterKeys("new")
    async with FakeKnative(tls=new.server(tmp_path)) as cluster:
        cluster.add("f")
        trusted, now = [old.authority], [0.0]
        api = ClusterApi("kn", lambda: ClusterAccess(cluster.api_url, "t", trusted[0]), clock=lambda: now[0])
        with pytest.raises(BackendUnavailable):
            await api.readiness("acme", "f")
        trusted[0], now[0] = new.authority, REREAD_S
        assert await api.readiness("acme", "f") == Readiness(1)
        await api.close()
