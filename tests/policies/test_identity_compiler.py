"""Who may vouch for callers, as the file says it: every mistake at its place, and what the tables hold in the end."""

from __future__ import annotations

import pytest

from policies.compiler import compile_files
from policies.tables import (
    ApiKeySpec,
    ClientSpec,
    GroupsSpec,
    IntrospectionSpec,
    LoginSpec,
    ProviderSpec,
    SessionsSpec,
)
from policies.tenancy import function_spec
from tests.policies.identity_mistakes import IDENTITY_MISTAKES, PROVIDER, WITH_GROUPS, WITH_INTROSPECTION, WITH_LOGIN
from tests.policies.test_compiler import (
    OURS,
    PLATFORM,
    THEIRS,
    acme_of,
    folder,
    mistakes_of,
    two_tenants,
    warnings_of,
)


@pytest.mark.parametrize("name", IDENTITY_MISTAKES)
def test_a_mistake_has_its_line_and_column(name: str) -> None:
    """What is wrong is said where it stands, with what was expected; nothing is repaired in silence."""
    text, expected = IDENTITY_MISTAKES[name]
    listed = [expected] if isinstance(expected, str) else expected
    assert mistakes_of(folder(text)) == [f"acme.yaml:{mistake}" for mistake in listed]


def test_mistakes_come_all_at_once() -> None:
    """One run tells everything that is wrong with one provider, and beside it."""
    text = (
        "identity:\n  - name: api-key\n    issuer: https://a.example\n    audiences: [a]\n    algorithms: [RS256]\n"
        "    endpoints: {token_endpoint: 'http://b.example/'}\n    groups: {form: object_ids}\n"
        "    login: {client_id: c, client_secret: s, client_key: k, scopes: [email]}\n"
        "    introspection: {client_id: c}\nsessions: {idle: 1s}\ntoken_lifetime: 2h\n"
        "api_keys: [{name: k, expires: x}]\n"
    )
    assert [mistake.partition(": ")[0] for mistake in mistakes_of(folder(text))] == [
        f"acme.yaml:{place}" for place in ("4:11", "8:33", "9:5", "10:45", "10:68", "11:20", "12:18", "13:17", "14:31")
    ]


# --- what the tables hold -------------------------------------------------------------------------------------------


def provider_of(text: str) -> ProviderSpec:
    (provider,) = acme_of(text).providers
    return provider


def test_a_provider_that_says_nothing_has_no_login() -> None:
    """Absent is off: no login, no introspection, groups as the token names them, bound tokens taken as they come."""
    provider = provider_of(PROVIDER + "}]\n")
    assert (provider.login, provider.introspection, provider.endpoints) == (None, None, {})
    assert (provider.groups, provider.requires_bound_tokens) == (GroupsSpec(), False)


@pytest.mark.parametrize(
    ("text", "auth", "secret"),
    [
        ("}", "none", None),
        ("client_auth: none}", "none", None),
        ("client_secret: s}", "client_secret_basic", "s"),
        ("client_secret: s, client_auth: client_secret_post}", "client_secret_post", "s"),
        ("client_key: k.pem}", "private_key_jwt", "k.pem"),
        ("client_key: k.pem, client_auth: private_key_jwt}", "private_key_jwt", "k.pem"),
    ],
)
def test_how_a_client_says_who_it_is(text: str, auth: str, secret: str | None) -> None:
    """By its secret, by its key, or not at all: what is given decides."""
    login = provider_of(WITH_LOGIN + text + "}]\n").login
    assert login is not None
    assert (login.client.client_id, login.client.auth, login.client.secret) == ("c", auth, secret)


def test_login_and_introspection_become_specs() -> None:
    """Every key arrives, and what is left out has the documented default."""
    text = (
        "client_secret: s, scopes: [openid, email, email, offline_access], title: 'Acme staff', par: require}, "
        "introspection: {client_id: i, client_key: k.pem, max_age: 5m}, bound_tokens: require, "
        "endpoints: {token_endpoint: 'https://oauth.other.example/token?v=2', end_session_endpoint: "
        "'https://a.example/end'}}]\n"
    )
    provider = provider_of(WITH_LOGIN + text)
    client = ClientSpec("c", "client_secret_basic", "s")
    assert provider.login == LoginSpec(client, ("openid", "email", "offline_access"), "Acme staff", "require")
    assert provider.introspection == IntrospectionSpec(ClientSpec("i", "private_key_jwt", "k.pem"), 300.0)
    assert provider.requires_bound_tokens
    assert provider.endpoints == {
        "token_endpoint": "https://oauth.other.example/token?v=2",
        "end_session_endpoint": "https://a.example/end",
    }
    assert provider_of(WITH_LOGIN + "}}]\n").login == LoginSpec(ClientSpec("c", "none", None), ("openid",), "p", "auto")
    introspection = provider_of(WITH_INTROSPECTION + "client_secret: s}}]\n").introspection
    assert introspection == IntrospectionSpec(ClientSpec("c", "client_secret_basic", "s"), 60.0)


def test_login_is_no_longer_warned_of() -> None:
    """A login works: a policy with one has no warning."""
    assert warnings_of(folder(WITH_LOGIN + "client_secret: s}}]\n")) == []


def test_a_client_that_is_an_audience_is_warned_of() -> None:
    """Its ID tokens are for the client, and would be for the functions, too."""
    text = (WITH_LOGIN + "client_secret: s}}]\n").replace("client_id: c,", "client_id: a,")
    (warning,) = warnings_of(folder(text))
    assert "an ID token may then pass for an access token" in warning


def test_endpoints_may_be_plain_on_loopback_for_the_demo() -> None:
    """As issuers may, and nowhere else."""
    text = PROVIDER + "endpoints: {token_endpoint: 'http://127.0.0.1:1/t'}}]\n"
    assert mistakes_of(folder(text), allow_loopback_http=True) == []
    text = text.replace("127.0.0.1", "a.example")
    assert len(mistakes_of(folder(text), allow_loopback_http=True)) == 1


def test_groups_become_a_spec() -> None:
    """Groups as the provider writes them are looked up in their one spelling."""
    text = (
        "from: userinfo, form: distinguished_names, unnamed: drop, max_age: 1h, "
        "names: {'CN=Analysts, OU=Groups,DC=Acme': analysts, 'cn=R\\26D,dc=acme': research}}}]\n"
    )
    names = {"cn=analysts,ou=groups,dc=acme": "analysts", "cn=r&d,dc=acme": "research"}
    assert provider_of(WITH_GROUPS + text).groups == GroupsSpec("userinfo", "distinguished_names", names, True, 3600.0)
    assert provider_of(WITH_GROUPS + "form: names}}]\n").groups == GroupsSpec()


def test_one_group_may_be_named_twice_alike() -> None:
    """Two spellings of one group with one name are no contradiction."""
    text = WITH_GROUPS + "form: distinguished_names, names: {'CN=a': one, 'cn=A': one}}}]\n"
    assert provider_of(text).groups.names == {"cn=a": "one"}


def test_a_name_that_the_provider_may_use_itself_is_told() -> None:
    """Who may make groups at the provider could make one that is called like a renamed one."""
    text = WITH_GROUPS + "names: {'ACME\\analysts': analysts, sre: sre}}}]\n"
    said = "a group that the provider itself calls 'analysts' is taken for this one; unnamed: drop prevents it"
    assert warnings_of(folder(text)) == [f"acme.yaml:3:143: {said}"]
    assert warnings_of(folder(text.replace("sre: sre}", "sre: sre}, unnamed: drop"))) == []


def test_sessions_become_a_spec() -> None:
    """Defaults are an hour without use and twelve in all; a shorter whole shortens the idle time, too."""
    assert acme_of("").sessions == SessionsSpec("cookie", 3600.0, 12 * 3600.0)
    login = WITH_LOGIN + "}}]\n"
    assert acme_of(login + "sessions: {store: redis, idle: 10m, absolute: 8h}\n").sessions == SessionsSpec(
        "redis", 600.0, 8 * 3600.0
    )
    assert acme_of(login + "sessions: {absolute: 30m}\n").sessions == SessionsSpec("cookie", 1800.0, 1800.0)


@pytest.mark.parametrize(
    ("expires", "instant"),
    [
        ("2027-06-30", 1814313600.0),
        ("2027-06-30T00:00:00Z", 1814313600.0),
        ("'2027-06-30T02:00:00+02:00'", 1814313600.0),
        ("2027-06-30T00:00:00.5Z", 1814313600.5),
    ],
)
def test_an_api_key_expires_at_an_instant(expires: str, instant: float) -> None:
    """A day is its beginning in UTC: never longer than somebody could have meant."""
    (key,) = acme_of(f"api_keys: [{{name: reporting, groups: [ci], expires: {expires}}}]\n").api_keys
    assert key == ApiKeySpec("reporting", frozenset({"ci"}), instant, "acme.yaml:3")


def test_an_api_key_without_date_is_good_until_it_is_revoked() -> None:
    """Its groups may be bound though no provider has any."""
    text = "roles: {r: {allow: [{functions: [x], actions: [invoke]}]}}\napi_keys: [{name: k, groups: [ci]}]\n"
    text += "bindings: [{id: b, roles: [r], groups: [ci]}, {id: c, roles: [r], subjects: ['api-key|k']}]\n"
    acme = acme_of(text)
    assert [key.expires_at for key in acme.api_keys] == [None]
    assert warnings_of(folder(text)) == []
    assert acme.rbac.by_subject == {"api-key|k": 1}


def test_lifetime_of_tokens_and_assertions() -> None:
    """Five minutes, and every function is told who its caller is, unless the file says otherwise."""
    assert acme_of("").token_lifetime_s == 300.0
    assert acme_of("token_lifetime: 1h\n").token_lifetime_s == 3600.0
    table = acme_of("functions: {quiet: {assertion: false}}\n").functions
    assert not function_spec(table, "quiet").has_assertion
    assert function_spec(table, "other").has_assertion


def test_client_certificates_are_believed_of_trusted_peers_alone() -> None:
    """Nobody's by default; without trusted peers the key is a mistake."""
    assert not compile_files(folder()).believes_client_certificates
    trusting = PLATFORM + "trusted_peers: [10.0.0.0/8]\nclient_certificates: trusted-peers\n"
    assert compile_files(folder("", trusting)).believes_client_certificates
    assert not compile_files(folder("", trusting.replace(": trusted-peers", ": none"))).believes_client_certificates
    assert mistakes_of(folder("", PLATFORM + "client_certificates: trusted-peers\n")) == [
        "platform.yaml:6:22: nobody could say it: expected trusted_peers: [...] with the proxies that end TLS"
    ]


# --- issuers that tenants share -------------------------------------------------------------------------------------


def shared(audience: str, client: str | None, claim: str = "") -> str:
    login = f", login: {{client_id: {client}}}" if client else ""
    return PROVIDER.replace("[a]", f"[{audience}]").removesuffix(", ") + f"{login}{claim}}}]\n"


CLAIM = ", tenant_claim: org"


@pytest.mark.parametrize(
    ("acme", "globex", "noun"),
    [
        (shared("a", "portero"), shared("b", "portero"), "client_id 'portero'"),
        (shared("a", "portero", CLAIM), shared("b", "portero"), "client_id 'portero'"),
        (shared("portero", None), shared("b", "portero"), "audience 'portero'"),
        (shared("a", "x"), shared("a", "y"), "audience 'a'"),
    ],
    ids=["two clients", "one without claim", "client as audience", "audience"],
)
def test_tenants_that_share_issuer_and_client_need_a_claim(acme: str, globex: str, noun: str) -> None:
    """T3: an ID token is meant for its client; two tenants with one client could not tell whose login it was."""
    found = mistakes_of(folder(acme, two_tenants(OURS, THEIRS), globex=globex))
    assert found
    assert any(noun in mistake for mistake in found)
    assert all("expected tenant_claim" in mistake for mistake in found)


@pytest.mark.parametrize(
    ("acme", "globex"),
    [
        (shared("a", "portero", CLAIM), shared("b", "portero", CLAIM)),
        (shared("a", "acme-client"), shared("b", "globex-client")),
        (shared("a", "a"), shared("b", "b")),
    ],
    ids=["claims", "clients of their own", "client is audience"],
)
def test_tenants_may_share_an_issuer_when_tokens_tell_them_apart(acme: str, globex: str) -> None:
    """By a claim, or by audiences and clients of their own."""
    assert mistakes_of(folder(acme, two_tenants(OURS, THEIRS), globex=globex)) == []
