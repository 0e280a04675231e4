"""
Portero's own pages without sockets: real sessions, seals, stores and templates, a provider of words, browsers with
jars.

``PagesWorld`` does what the edge and the gate do around ``Pages.answer``: reads the head, finds the tenant, writes
refusals. ``Browser`` keeps cookies as browsers do. ``WordClient`` is the provider's side: it says what it is told to.
"""

from __future__ import annotations

import secrets
from collections import Counter
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from authproxy.gate.verdict import Case, PageAnswer, PageCall
from authproxy.identity.providers.oidc import LoginRefused
from authproxy.identity.sessions.cookies import SESSION
from authproxy.identity.sessions.seal import Sealer, SessionKeys
from authproxy.identity.sessions.session import Session, Tokens
from authproxy.identity.sessions.sessions import Sessions
from authproxy.identity.shared.state_memory import MemoryState
from authproxy.limits.memory import MemoryStore
from authproxy.pages.pages import Pages
from authproxy.results.memory import MemoryResults
from policies.decision import Challenge, Deny, Page, Reason, Refusal
from policies.id_token import LogoutNotice
from policies.navigation import login_location
from policies.principal import Principal, anonymous
from policies.problem import login_redirect, problem
from policies.request import AccessRequest, read_head
from policies.tables import ClientSpec, LoginSpec, PolicySet, ProviderSpec, TenantTable
from policies.tenancy import resolve
from policies.tokens import refuse
from tests.fakes.cookie_jar import CookieJar
from tests.fakes.identity import Clock, a_provider
from tests.fakes.tenancy import NOBODY, a_head, a_policy_set, a_tenant

FORM = (b"Content-Type", b"application/x-www-form-urlencoded")
NAVIGATION = ((b"Sec-Fetch-Mode", b"navigate"), (b"Accept", b"text/html,*/*;q=0.8"))
KEY = (b"key1", bytes(range(32)))


def a_login(title: str = "Acme staff") -> LoginSpec:
    return LoginSpec(ClientSpec("portero", "client_secret_basic", "a-secret"), ("openid",), title)


def a_login_provider(name: str = "login", issuer: str = "https://id.example", **changes: Any) -> ProviderSpec:
    return a_provider(issuer, name=name, **{"login": a_login(), **changes})


class WordClient:
    """Stands in for ``OidcClient``: remembers what it was asked and says what it is told to."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.begun: list[dict[str, Any]] = []
        self.redeemed: list[dict[str, Any]] = []
        """Codes that reached the provider; a refused callback adds none."""
        self.revoked: list[str] = []
        self.sub = "ana"
        self.refresh_token: str | None = "rt-canary"
        self.failure: Exception | None = None
        """Raised by whatever is asked next."""
        self.issuer_in_answers: str | None = None
        """Wanted as ``iss`` (RFC 9207); None: the provider does not send it."""
        self.location = "https://id.example/authorize"
        self.end_session: str | None = "https://id.example/end"
        self.notices: dict[str, LogoutNotice] = {}

    def _fail(self) -> None:
        if self.failure is not None:
            raise self.failure

    async def begin(self, tenant: TenantTable, provider: ProviderSpec, **asked: Any) -> str:
        self._fail()
        self.begun.append({"tenant": tenant.name, "provider": provider.name, **asked})
        return f"{self.location}?{urlencode({'state': asked['state'], 'client_id': 'portero'})}"

    async def names_issuer(self, tenant: TenantTable, provider: ProviderSpec) -> bool:
        self._fail()
        return self.issuer_in_answers is not None

    async def check_response_issuer(self, tenant: TenantTable, provider: ProviderSpec, iss: str | None) -> bool:
        return iss == self.issuer_in_answers

    async def redeem(self, tenant: TenantTable, provider: ProviderSpec, **asked: Any) -> Tokens:
        self._fail()
        self.redeemed.append({"tenant": tenant.name, "provider": provider.name, **asked})
        now = self._clock()
        claims = {"sub": self.sub, "name": "Ana Ábrego", "groups": ["analysts"], "iss": provider.issuer}
        return Tokens(
            issuer=provider.issuer,
            sub=self.sub,
            sid="s-1",
            claims=claims,
            id_token="idt-canary",
            access_token="at-canary",
            refresh_token=self.refresh_token,
            expires_at=now + 3600,
            fetched_at=now,
        )

    async def end_session_url(self, tenant: TenantTable, provider: ProviderSpec, **asked: Any) -> str | None:
        self._fail()
        return self.end_session and f"{self.end_session}?{urlencode(asked)}"

    async def revoke_refresh_token(self, tenant: TenantTable, provider: ProviderSpec, refresh_token: str) -> None:
        self.revoked.append(refresh_token)

    async def judge_logout_token(self, tenant: TenantTable, token: str, now: float) -> LogoutNotice:
        self._fail()
        if token not in self.notices:
            raise LoginRefused(Deny(Reason.LOGIN_FAILED, "the logout token is not good", tenant=tenant.name))
        return self.notices[token]


class WordRevocations:
    """What was revoked, in the order told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.failure: Exception | None = None
        self._sessions: set[str] = set()
        self.generation = 0

    def is_revoked(
        self,
        tenant: str,
        *,
        session_id: str | None,
        issuer: str | None,
        sub: str | None,
        sid: str | None,
        established_at: float,
    ) -> bool:
        return session_id in self._sessions

    async def revoke_session(self, tenant: str, session_id: str, until: float) -> None:
        self._tell("session", session_id)
        self._sessions.add(session_id)

    async def revoke_subject(self, tenant: str, issuer: str, sub: str, at: float, until: float) -> None:
        self._tell("subject", tenant, issuer, sub, at, until)

    async def revoke_sid(self, tenant: str, issuer: str, sid: str, at: float, until: float) -> None:
        self._tell("sid", tenant, issuer, sid, at, until)

    def _tell(self, *words: Any) -> None:
        if self.failure is not None:
            raise self.failure
        self.told.append(words)
        self.generation += 1


class NoRefresher:
    """Nothing is ever refreshed here."""

    def known_now(self, session: Session, now: float) -> Session | None:
        return None

    async def refresh(self, tenant: TenantTable, provider: ProviderSpec, session: Session, now: float) -> Session:
        raise NotImplementedError


class WordTokens:
    """Stands in for ``OwnTokens``."""

    def __init__(self) -> None:
        self.exchanged: list[tuple[str, str, str]] = []
        self.failure: Exception | None = None

    def exchange(self, tenant: TenantTable, principal: Principal, function: str, now: float) -> tuple[str, float]:
        if self.failure is not None:
            raise self.failure
        self.exchanged.append((tenant.name, principal.subject, function))
        return "own.token.canary", 300.0


class CountedMetric:
    def __init__(self) -> None:
        self.counts: Counter[tuple[str, ...]] = Counter()

    def add(self, labels: tuple[str, ...], /) -> None:
        self.counts[labels] += 1


class PageMetrics:
    def __init__(self) -> None:
        self.logins_total = CountedMetric()
        self.logouts_total = CountedMetric()
        self.tokens_exchanged_total = CountedMetric()


@dataclass
class Reply:
    """One answer as it leaves: what a page answered, or the refusal as the gate writes it."""

    status: int
    fields: tuple[tuple[str, str], ...]
    body: bytes
    reason: Reason | None
    subject: str | None = None

    def field(self, name: str) -> str | None:
        """The one field of that name."""
        found = [value for key, value in self.fields if key.lower() == name.lower()]
        assert len(found) < 2, found
        return found[0] if found else None

    @property
    def cookies(self) -> list[str]:
        return [value for key, value in self.fields if key.lower() == "set-cookie"]

    @property
    def text(self) -> str:
        return self.body.decode()


@dataclass
class PagesWorld:
    """One process of Portero, as far as its own pages go."""

    tenants: tuple[TenantTable, ...] = ()
    clock: Clock = field(default_factory=Clock)
    allow_loopback_http: bool = False

    def __post_init__(self) -> None:
        self.tenants = self.tenants or (
            a_tenant("acme", providers=(a_login_provider(),)),
            a_tenant("globex", providers=(a_login_provider(),)),
        )
        self.policies: PolicySet = a_policy_set(*self.tenants)
        self.client = WordClient(self.clock)
        self.state = MemoryState()
        self.store = MemoryStore()
        self.revocations = WordRevocations()
        self.own_tokens = WordTokens()
        self.metrics = PageMetrics()
        self.sealer = Sealer(lambda: self.keys)
        self.keys = SessionKeys(KEY, {KEY[0]: KEY[1]})
        self.sessions = Sessions(self.sealer, self.state, self.revocations, NoRefresher(), clock=self.clock)
        self.bearers: dict[str, Principal | Refusal] = {}
        self.identified: list[AccessRequest] = []
        self.results = MemoryResults(monotonic=self.clock)
        self.forgotten: list[tuple[str, str]] = []
        """Jobs that were told to stop: tenant and id."""
        self.pages = Pages(
            identify=self.identify,
            sessions=self.sessions,
            client=self.client,
            own_tokens=self.own_tokens,
            jwks=lambda: {"keys": [{"kty": "OKP", "kid": "k1"}]},
            state=self.state,
            revocations=self.revocations,
            sealer=self.sealer,
            store=self.store,
            allow_loopback_http=self.allow_loopback_http,
            clock=self.clock,
            metrics=self.metrics,
            results=self.results,
            forget_job=lambda tenant, result_id: self.forgotten.append((tenant, result_id)),
        )

    async def identify(self, tenant: TenantTable, request: AccessRequest, now: float) -> Principal | Refusal:
        self.identified.append(request)
        if request.authorization is not None:
            token = request.authorization.removeprefix(b"Bearer ").decode()
            return self.bearers.get(token) or refuse("the token's signature does not verify")
        if self.sessions.has_session(request):
            return await self.sessions.identify(tenant, request, now)
        return anonymous()

    async def ask(
        self, target: str, *fields: tuple[bytes, bytes], host: str = "acme.localhost", body: bytes = b"", **head: Any
    ) -> Reply:
        """One request, judged as the gate would."""
        raw = a_head(target, *fields, host=host.encode(), **head)
        request = read_head(raw, NOBODY)
        if isinstance(request, Deny):
            document = problem(request, "req-1")
            return Reply(document.status, document.fields, document.body, request.reason)
        page = resolve(request, self.policies)
        assert isinstance(page, Page), page
        case = Case(raw, request, self.policies, "req-1", self.clock())
        answered = await self.pages.answer(PageCall(case, page), body)
        if isinstance(answered, PageAnswer):
            return Reply(answered.status, answered.fields, answered.body, answered.reason, answered.subject)
        return _refused(answered, request, page.tenant, case.principal)

    def browser(self, **options: Any) -> Browser:
        return Browser(self, **options)


def _refused(refusal: Refusal, request: AccessRequest, tenant: TenantTable, principal: Principal | None) -> Reply:
    document = problem(refusal, "req-1", accepts_html=request.accepts_html)
    if isinstance(refusal, Challenge):
        location = login_location(request, refusal, tenant)
        document = document if location is None else login_redirect(refusal, location, "req-1")
    lines = principal.set_cookie.decode().split("\r\n") if principal is not None else []
    cookies = [("Set-Cookie", line[12:]) for line in lines if line.startswith("Set-Cookie: ")]
    return Reply(document.status, (*document.fields, *cookies), document.body, refusal.reason)


@dataclass
class Browser:
    """One browser with its cookies; ``host`` is where it looks unless told otherwise."""

    world: PagesWorld
    host: str = "acme.localhost"
    scheme: str = "http"
    peer: str = "198.51.100.7"
    jar: CookieJar = field(default_factory=CookieJar)

    async def navigate(
        self, target: str, *fields: tuple[bytes, bytes], host: str | None = None, site: str = "none", **head: Any
    ) -> Reply:
        """GET, as by a click or the address bar."""
        return await self._send(target, *NAVIGATION, *fields, host=host, site=site, **head)

    async def post(
        self,
        target: str,
        *fields: tuple[bytes, bytes],
        host: str | None = None,
        site: str = "same-origin",
        body: bytes = b"",
        **head: Any,
    ) -> Reply:
        """A form of a page of ``site`` is sent."""
        return await self._send(
            target, *NAVIGATION, FORM, *fields, host=host, site=site, body=body, **{"method": "POST", **head}
        )

    async def fetch(self, target: str, *fields: tuple[bytes, bytes], site: str = "same-origin", **head: Any) -> Reply:
        """A script asks."""
        return await self._send(target, (b"Sec-Fetch-Mode", b"cors"), *fields, host=None, site=site, **head)

    async def begin(self, return_to: str | None = None, host: str | None = None, **asked: str) -> str:
        """Begin a login; its state."""
        query = urlencode({**({} if return_to is None else {"return_to": return_to}), **asked})
        reply = await self.navigate(f"/.portero/login?{query}", host=host)
        assert reply.status == 303, (reply.status, reply.text)
        return state_of(reply)

    async def come_back(self, state: str, host: str | None = None, **answer: str) -> Reply:
        """The provider sends the browser back with a code, or with what ``answer`` says."""
        query = urlencode({"state": state, **(answer or {"code": f"code-{secrets.token_hex(4)}"})})
        known = (begun["redirect_uri"] for begun in self.world.client.begun if begun["state"] == state)
        path = urlsplit(next(known, "")).path or "/.portero/callback"
        return await self.navigate(f"{path}?{query}", host=host, site="cross-site")

    async def log_in(self, return_to: str | None = None, host: str | None = None) -> Reply:
        return await self.come_back(await self.begin(return_to, host, prompt="login"), host)

    @property
    def session(self) -> str | None:
        return self.cookies().get(SESSION)

    def cookies(self, host: str | None = None) -> dict[str, str]:
        return self.jar.values(host or self.host)

    async def _send(self, target: str, *fields: tuple[bytes, bytes], host: str | None, site: str, **head: Any) -> Reply:
        host = host or self.host
        url = urlsplit(f"{self.scheme}://{host}{target}")
        is_same = site in {"none", "same-origin", "same-site"}
        is_safe = head.get("method", "GET") == "GET" and NAVIGATION[0] in fields
        cookie = self.jar.field(url, is_same_site=is_same, is_safe_navigation=is_safe)
        own = () if cookie is None else ((b"Cookie", cookie.encode()),)
        fetch_site = (b"Sec-Fetch-Site", site.encode())
        reply = await self.world.ask(
            target, *fields, fetch_site, *own, host=host, **{"scheme": self.scheme, "peer": self.peer, **head}
        )
        for line in reply.cookies:
            self.jar.take(url, line)
        return reply


def state_of(reply: Reply) -> str:
    """``state`` as the provider is told it."""
    return parse_qs(urlsplit(reply.field("Location") or "").query)["state"][0]


def form_body(**values: str) -> bytes:
    return urlencode(values).encode()
