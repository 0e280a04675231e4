"""The demo's copy of the example: real addresses, secrets of its own, and nothing outside of its folder."""

from __future__ import annotations

import stat
from pathlib import Path

import jwt
import pytest

from authproxy.demo.files import AccountUnknown, DemoFiles, example_folder, namespaces_of_example, prepare
from authproxy.identity.tokens.keyring import KeyFolder
from policies.errors import PorteroError

ISSUER = "http://127.0.0.1:1111"
PLATFORM = "http://127.0.0.1:2222"


@pytest.fixture
def files(tmp_path: Path) -> DemoFiles:
    return prepare(tmp_path, issuer=ISSUER, platform_url=PLATFORM, platform_password="pass", client_secret="client")


def test_addresses_are_filled_in_and_the_example_is_untouched(files: DemoFiles) -> None:
    """The copy names provider and platform of this run; the example still names none."""
    before = {file.name: file.read_text() for file in example_folder().glob("*.yaml")}
    copied = {file.name: file.read_text() for file in files.policies.glob("*.yaml")}
    assert set(before) == set(copied)
    assert ISSUER in copied["acme.yaml"]
    assert PLATFORM in copied["platform.yaml"]
    assert not any("https://id.example" in text or "gateway.openfaas" in text for text in copied.values())
    assert not any("127.0.0.1" in text for text in before.values())


def test_secrets_are_for_this_user_alone(files: DemoFiles) -> None:
    """Credentials and private keys are 0600; the platform's are where the policies say."""
    for file in (files.secrets / "platform" / "faas-admin", files.account_key("acme", "survey-ci")):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert (files.secrets / "platform" / "faas-admin").read_text() == "admin:pass\n"
    assert not list(files.secrets.rglob("*.key.pem"))


def test_a_login_has_its_client_secret_and_portero_its_own_keys(files: DemoFiles) -> None:
    """The secret lies where the policy says, for each tenant; the keys are what Portero reads, for this user alone."""
    for tenant in ("acme", "globex"):
        secret = files.secrets / tenant / "login-client"
        assert (secret.read_text(), stat.S_IMODE(secret.stat().st_mode)) == ("client\n", 0o600)
    keys = KeyFolder(files.own_keys)
    assert keys.signing_key() is not None
    assert (len(keys.session_keys().accepted), len(keys.jwks()["keys"]), keys.problem) == (1, 1, None)
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in files.own_keys.glob("*/*"))


@pytest.mark.parametrize("tenant", ["acme", "globex"])
def test_each_tenants_account_has_a_key_of_its_own(files: DemoFiles, tenant: str) -> None:
    """A token verifies by its own tenant's public key and by no other's."""
    token = files.account_token(tenant, "survey-ci", 60)
    for other in ("acme", "globex"):
        key = (files.secrets / other / "survey-ci.pem").read_bytes()
        if other == tenant:
            assert jwt.decode(token, key, algorithms=["ES256"], audience="survey")["iss"] == f"{tenant}/survey-ci"
        else:
            with pytest.raises(jwt.InvalidSignatureError):
                jwt.decode(token, key, algorithms=["ES256"], audience="survey")


def test_unknown_accounts_and_long_lives_are_refused(files: DemoFiles) -> None:
    """The refusal says which accounts there are, and how long a token may live."""
    with pytest.raises(AccountUnknown, match="--tenant acme --service-account survey-ci"):
        files.account_token("acme", "../globex/survey-ci", 60)
    for ttl_s in (0, 3601):
        with pytest.raises(ValueError, match="from 1 to 3600"):
            files.account_token("acme", "survey-ci", ttl_s)


def test_an_example_without_the_addresses_is_a_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A demo that would judge by the example's addresses does not start."""
    monkeypatch.setattr("authproxy.demo.files.ISSUER_IN_EXAMPLE", "https://another.example")
    with pytest.raises(PorteroError, match=r"another\.example"):
        prepare(tmp_path, issuer=ISSUER, platform_url=PLATFORM, platform_password="pass", client_secret="client")


def test_every_namespace_of_the_example_has_the_functions() -> None:
    """What the platform starts is what the policies speak of."""
    assert set(namespaces_of_example()) == {"acme", "globex"}
    assert "survey-report" in namespaces_of_example()["acme"]
