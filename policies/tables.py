"""
Documents, compiled: the values that the hot path reads. Built once per reload by ``compiler.py``, never changed after.

Every lookup here is a dict probe or a bounded number of them: nothing on the path of a request walks a list of rules.
Patterns are exact, ``prefix*`` or ``*`` and nothing else; that is what keeps it so (design: lookups stay O(1)).

Longer than other modules: it declares every value of the hot path, and does nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from policies.decision import RuleRef

if TYPE_CHECKING:
    from policies.decision import Deny
    from policies.principal import Principal
    from policies.rbac_table import BindingInput
    from policies.request import AccessRequest

ACTIONS: Final = ("invoke", "describe", "list", "deploy", "update", "delete", "scale", "logs", "secrets")
"""The closed set of actions; the data path only ever asks ``invoke``."""

Per = Literal["tenant", "subject", "function", "ip", "identity-failure"]


class Pattern(NamedTuple):
    """``exact``, ``prefix*`` or ``*``: an exact beats the longest prefix beats ``*``."""

    text: str
    """Without the star."""
    is_prefix: bool

    def matches(self, name: str) -> bool:
        return name.startswith(self.text) if self.is_prefix else name == self.text


class Facts(NamedTuple):
    """What a condition may look at. Made only when a rule that could match has a condition."""

    request: AccessRequest
    principal: Principal
    function: str
    path: str
    """Function-relative canonical path."""
    now: float


Condition = Callable[[Facts], bool]
"""True when it holds; raises when it cannot be known (missing claim): that matches in ``deny`` and not in ``allow``."""


@dataclass(frozen=True, slots=True)
class NoWake:
    """Requests that are answered without waking the function; what is None does not matter, the rest must all hold."""

    methods: frozenset[str] | None
    paths: tuple[Pattern, ...] | None
    """Function-relative."""
    user_agents: tuple[str, ...] | None
    """Lower case; one of them stands anywhere in the User-Agent."""
    status: int | None
    """What they get while it sleeps; None: the refusal ``function-asleep``."""


@dataclass(frozen=True, slots=True)
class ColdStart:
    """What happens to requests while the function wakes. Bounds that are None do not bound beyond the others."""

    max_wait_s: float = 30.0
    max_held: int = 100
    overflow: Literal["reject", "page", "async", "fallback"] = "reject"
    max_held_bytes: int | None = None
    max_held_per_caller: int | None = None
    max_held_bytes_per_caller: int | None = None
    no_wake: tuple[NoWake, ...] = ()
    fallback: str | None = None
    """Function that takes what overflows; set exactly when ``overflow`` says so."""
    holds_body: bool = True
    """False: the body of a held request is not read before the function can take it."""
    probe: str | None = None
    """Path asked of the function before anybody is let in; None: the backend's own, empty: none."""
    announces: bool = True
    """The answer to a held request says so in ``X-Portero-Cold-Start`` and ``Server-Timing``."""
    weights: tuple[tuple[frozenset[str], int], ...] = ()
    """Shares of callers in these groups; the largest of those that fit, else 1."""


@dataclass(frozen=True, slots=True)
class AsyncSpec:
    """Requests that are accepted at once and answered later."""

    is_allowed: bool = True
    max_wait_s: float = 600.0
    """How long one may wait for its function."""
    max_async: int = 10
    """Under way at once, of one subject."""
    keep_s: float = 3600.0
    """How long a result is kept."""
    max_result_bytes: int = 1024 * 1024
    callback_hosts: frozenset[str] = frozenset()
    """Canonical hosts, or ``*.suffix``, that results may be delivered to."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds. ``total_s`` None: no bound (streams)."""

    connect_s: float = 5.0
    first_byte_s: float = 60.0
    idle_s: float = 60.0
    total_s: float | None = None


@dataclass(frozen=True, slots=True)
class FunctionSpec:
    """How one function, or every function a pattern names, is treated."""

    pattern: Pattern
    is_public: bool = False
    concurrency: int | None = None
    """Requests a replica serves at once; None: unbounded once the function is warm."""
    cold_start: ColdStart = ColdStart()
    timeouts: Timeouts = Timeouts()
    max_body_bytes: int | None = 10 * 1024 * 1024
    """None: unbounded."""
    is_direct: bool = True
    """Reachable under ``/function/<name>`` and not only by its routes."""
    allows_encoded_slash: bool = False
    forwards_credentials: bool = False
    direct_url: str | None = None
    is_concurrency_shared: bool = False
    """``concurrency`` is counted over all Porteros together."""
    deferred: AsyncSpec = AsyncSpec()
    is_message: bool = False
    """riff 0.0.x: sent as a message, whose answer says only that it was taken."""
    has_assertion: bool = True
    """Requests bring ``X-Portero-Assertion`` when Portero has signing keys."""


class RoutePart(NamedTuple):
    """One segment of a route's path: a literal, or a parameter ``{name}`` that takes exactly one segment."""

    text: str
    is_parameter: bool


@dataclass(frozen=True, slots=True)
class RouteSpec:
    id: str
    parts: tuple[RoutePart, ...]
    has_trailing_slash: bool
    takes_rest: bool
    """The path ended in ``/*``: further segments are appended to ``to``."""
    methods: frozenset[str] | None
    """None: any but TRACE and CONNECT. Routing, never protection."""
    function: str
    to: tuple[RoutePart, ...] | None
    """The function-relative path; None: the request's own path."""
    to_has_trailing_slash: bool
    is_https_only: bool
    is_enabled: bool
    cors_origins: frozenset[str]
    where: str


@dataclass(frozen=True, slots=True)
class ClientSpec:
    """How Portero shows a provider who it is: the tenant's client there (RFC 6749 section 2.3, RFC 7523)."""

    client_id: str
    auth: Literal["none", "client_secret_basic", "client_secret_post", "private_key_jwt"]
    secret: str | None
    """Name under ``--secrets DIR/<tenant>/`` of the client secret, or of the private key (PEM) of private_key_jwt."""


@dataclass(frozen=True, slots=True)
class LoginSpec:
    """Login in the browser: authorization code with PKCE."""

    client: ClientSpec
    scopes: tuple[str, ...]
    """With ``openid``."""
    title: str
    """What the page calls the provider when there are several."""
    pushes: Literal["auto", "require", "never"] = "auto"
    """Pushed authorization requests (RFC 9126); ``auto``: where the provider offers them."""


@dataclass(frozen=True, slots=True)
class IntrospectionSpec:
    """Opaque tokens of the provider are asked about (RFC 7662)."""

    client: ClientSpec
    max_age_s: float = 60.0
    """How long an active answer is used; never beyond the token's own ``exp``."""


@dataclass(frozen=True, slots=True)
class GroupsSpec:
    """Where a caller's groups come from and how they are written."""

    source: Literal["id_token", "access_token", "userinfo"] = "id_token"
    """Of a login. A bearer token's groups are its own, or userinfo's. Overage is always answered by userinfo."""
    form: Literal["names", "object_ids", "distinguished_names"] = "names"
    names: Mapping[str, str] = field(default_factory=dict)
    """Group as the provider writes it, normalised -> name in bindings."""
    drops_unnamed: bool = False
    """Groups without a name in ``names`` are nobody's."""
    max_age_s: float = 900.0
    """After that they are fetched again."""


@dataclass(frozen=True, slots=True)
class SessionsSpec:
    """A tenant's sessions in the browser. Seconds."""

    store: Literal["cookie", "redis"] = "cookie"
    idle_s: float = 3600.0
    absolute_s: float = 12 * 3600.0


@dataclass(frozen=True, slots=True)
class ApiKeySpec:
    """A caller that shows a key of Portero's own. Digests of its keys stand in ``--secrets DIR/<tenant>/api-keys``."""

    name: str
    groups: frozenset[str]
    expires_at: float | None
    """Unix seconds; None: until it is revoked."""
    where: str


@dataclass(frozen=True, slots=True)
class ProviderSpec:
    """One OpenID Provider of one tenant. No defaults where security depends on it."""

    name: str
    issuer: str
    audiences: frozenset[str]
    algorithms: frozenset[str]
    tenant_claim: str | None
    groups_claim: str | None
    """Dotted path into the claims."""
    email_claim: str
    name_claim: str
    email_domains: frozenset[str]
    jwks_uri: str | None
    """None: from discovery."""
    allowed_private_hosts: frozenset[str]
    """Hosts that may resolve to private addresses (AP-R43)."""
    max_token_lifetime_s: float
    login: LoginSpec | None
    where: str
    introspection: IntrospectionSpec | None = None
    groups: GroupsSpec = GroupsSpec()
    endpoints: Mapping[str, str] = field(default_factory=dict)
    """Addresses that are not what discovery says, by its names (``token_endpoint`` ...); may be on another site."""
    requires_bound_tokens: bool = False
    """Only tokens bound to a key or certificate (``cnf``) are taken."""


@dataclass(frozen=True, slots=True)
class ServiceAccountSpec:
    name: str
    public_keys: tuple[str, ...]
    """Names of PEM files under ``--secrets DIR/<tenant>/``."""
    audiences: frozenset[str]
    groups: frozenset[str]
    allows_missing_audience: bool
    """``legacy_no_audience``: Dispatch's tokens had none."""
    where: str


@dataclass(frozen=True, slots=True)
class LimitSpec:
    """One limit. Exactly one of ``rate_per_s``, ``concurrent`` and ``wakes_per_s`` is set."""

    id: str
    per: Per
    functions: tuple[Pattern, ...] | None
    """None: all."""
    rate_per_s: float | None
    burst: int
    """Requests admitted at once after a long silence; at least 1."""
    window_s: int
    """The window the operator wrote (``/s`` 1, ``/m`` 60, ``/h`` 3600): ``w`` of RateLimit-Policy."""
    quota: int
    """Requests per window, as written."""
    concurrent: int | None
    wakes_per_s: float | None
    on_store_failure: Literal["local", "open", "closed"]
    where: str


@dataclass(frozen=True, slots=True)
class Ceilings:
    """What the platform operator grants a tenant at most; a tenant's own limits come on top and never raise these."""

    rate: LimitSpec | None = None
    wakes: LimitSpec | None = None
    held: int = 1000
    held_bytes: int = 64 * 1024 * 1024
    weight: int = 1
    """Its share where tenants compete for places."""
    results: int = 1000
    """Results of deferred requests, pending or kept."""
    result_bytes: int = 64 * 1024 * 1024


BackendKind = Literal["openfaas", "knative", "riff", "http"]


@dataclass(frozen=True, slots=True)
class BackendSpec:
    name: str
    kind: BackendKind
    url: str
    """May hold ``{function}`` and ``{namespace}`` where the kind allows it."""
    credentials: str | None
    """Name of a file or folder under ``--secrets DIR/platform/``; None: no credentials."""
    domain: str | None = None
    """Knative: functions are addressed as ``<function>.<namespace>.<domain>``."""
    cluster: str | None = None
    """Knative: ``in-cluster``, or the name of a kubeconfig among the platform's secrets; None: no cluster API."""
    probe: str | None = None
    """Path asked of a function before anybody is let in; None: the kind's own, empty: none."""
    wake_url: str | None = None
    """http: POSTed to wake; may hold ``{function}`` and ``{namespace}``."""


class RuleSpec(NamedTuple):
    """One conditional allow or deny rule. Unconditional rules are merged into ``Holders`` and need no value each."""

    ref: RuleRef
    condition: Condition
    methods: frozenset[str] | None
    """None: any."""


class Holders(NamedTuple):
    """Who an unconditional rule of one pattern, action and method speaks of."""

    mask: int
    """Bits of the roles that hold such a rule (allow); 1 when there is one (deny, which knows no roles)."""
    sole: RuleRef | None
    """The rule when there is but one: two reads of memory less than by ``refs``."""
    refs: Mapping[int, RuleRef]
    """``bit_length`` of a role's bit -> its rule; of several the one with the least id, so that order never matters."""


@dataclass(frozen=True, slots=True)
class TenantTable:
    """Everything one tenant's file says, compiled; nothing of another tenant is reachable from here."""

    name: str
    namespace: str
    backend: str
    owns: tuple[Pattern, ...] | None
    """None: the namespace is this tenant's alone."""
    is_disabled: bool
    shadow: frozenset[str]
    """Stages whose refusals are let through: ``policy``, ``limits``, ``identity``."""
    providers: tuple[ProviderSpec, ...]
    service_accounts: tuple[ServiceAccountSpec, ...]
    functions: FunctionTable
    routes: RouteTable
    rbac: RbacTable
    limits: tuple[LimitSpec, ...]
    ceilings: Ceilings
    hosts: tuple[str, ...]
    where: str
    providers_by_issuer: Mapping[str, ProviderSpec] = field(default_factory=dict)
    sessions: SessionsSpec = SessionsSpec()
    api_keys: tuple[ApiKeySpec, ...] = ()
    token_lifetime_s: float = 300.0
    """Of tokens that ``/.portero/token`` gives out."""
    limit_checks: dict[Any, Any] = field(default_factory=dict, init=False, compare=False, repr=False)
    """``limits.py``'s memo: (function, caller, address) -> what is counted. Callers choose the keys: bounded."""


@dataclass(frozen=True, slots=True)
class FunctionTable:
    """Function name -> spec; ``memo`` is a bounded cache of names seen."""

    exact: Mapping[str, FunctionSpec]
    prefixes: tuple[tuple[int, Mapping[str, FunctionSpec]], ...]
    """(length of the prefix, specs by prefix), longest first, ``*`` last: one probe for each length, however many."""
    memo: dict[str, FunctionSpec] = field(default_factory=dict, init=False, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class RouteShape:
    """
    Routes whose literals stand at the same places: one dict probe finds those that match, however many there are.

    ``routes`` maps the literals in order to the routes of that path; several differ in their methods.
    """

    literal_at: tuple[int, ...]
    routes: Mapping[tuple[str, ...], tuple[RouteSpec, ...]]


@dataclass(frozen=True, slots=True)
class RouteTable:
    """Routes by shape; ``routes.py`` builds it and matches."""

    exact: Mapping[tuple[int, bool], tuple[RouteShape, ...]] = field(default_factory=dict)
    """(number of segments, trailing slash) -> shapes, most specific first."""
    open_ended: tuple[tuple[int, tuple[RouteShape, ...]], ...] = ()
    """Routes ending in ``/*`` by number of segments before it, longest first."""


@dataclass(frozen=True, slots=True)
class RbacTable:
    """
    Role bits and rule lookups of one tenant (``rbac.py`` builds and reads it).

    A subject's mask has the bits of all its roles, included ones too; a rule has the bit of the role that states it.
    """

    role_names: tuple[str, ...]
    """Sorted; the role at index ``i`` has the bit ``1 << i``."""
    role_closures: Mapping[str, int]
    """Role -> its own bit and those of every role it includes, at any depth."""
    by_subject: Mapping[str, int]
    """``provider|sub`` -> role mask."""
    by_group: Mapping[str, int]
    by_email: Mapping[str, int]
    """Lower case."""
    by_service_account: Mapping[str, int]
    rules: Mapping[str, RuleIndex]
    """Action -> index."""
    invoke: RuleIndex
    """That of ``invoke``, the one action of the data path (empty when no rule speaks of it): one probe less."""
    bindings: tuple[BindingInput, ...] = ()
    """As written, for ``explain``."""
    refusals: dict[RuleRef | None, Deny] = field(default_factory=dict, init=False, compare=False, repr=False)
    """The ``Deny`` values given before, by rule; None: no rule allows. Bounded by the number of deny rules."""


@dataclass(frozen=True, slots=True)
class PatternRules:
    """The rules of one pattern, action and effect, merged: one probe by method, however many rules were written."""

    by_method: Mapping[str, Holders]
    """Only methods that a rule names; they include the rules for any method."""
    any_method: Holders
    """For every other method."""
    conditional: Mapping[int, tuple[RuleSpec, ...]]
    """``bit_length`` of a role's bit -> its conditional rules, by id."""
    conditional_mask: int


class Matching(NamedTuple):
    """The rules of every pattern that matches one name, most specific pattern first."""

    deny: tuple[PatternRules, ...]
    allow: tuple[PatternRules, ...]


@dataclass(frozen=True, slots=True)
class RuleIndex:
    """
    Rules of one action by function pattern, both effects at once.

    A value holds what its own pattern says and what every shorter pattern says that matches whatever it matches. So a
    function that a rule names is found by one probe, any other by its longest prefix.
    """

    exact: Mapping[str, Matching]
    prefixes: Mapping[str, Matching]
    """``""`` is ``*``."""
    prefix_lengths: tuple[int, ...]
    """The distinct lengths that occur in ``prefixes``, longest first: one dict probe each."""
    memo: dict[str, Matching] = field(default_factory=dict, init=False, compare=False, repr=False)
    """Functions that no rule names. Callers choose the names, so ``rbac.py`` bounds it."""


@dataclass(frozen=True, slots=True)
class PolicySet:
    """One generation of policy: immutable, swapped as a whole; a request keeps the set it started with."""

    revision: str
    """Hash of the documents: equal content, equal revision (H6, H7)."""
    tenants: Mapping[str, TenantTable]
    hosts: Mapping[str, TenantTable]
    """Canonical host -> tenant."""
    wildcard_hosts: Mapping[str, TenantTable]
    """Suffix after ``*`` with its dot (``.acme.example``) -> tenant; longest suffix wins, one label or more."""
    backends: Mapping[str, BackendSpec]
    trusted_peers: tuple[str, ...]
    """CIDRs that may speak X-Forwarded-*."""
    believes_client_certificates: bool = False
    """Trusted peers may also say which certificate the client has shown them (``Client-Cert``, RFC 9440)."""
    rule_count: int = 0
    places: dict[str, dict[tuple[str, str], Place]] = field(default_factory=dict, init=False, compare=False, repr=False)
    """
    ``tenancy.resolve``'s memo, by tenant, then (method, path); bounded. It stands here and not in the tenant's table,
    because a place refers to its tenant: a cycle would keep an old generation alive behind ``gc.freeze``.
    """


@dataclass(frozen=True, slots=True)
class Place:
    """Answer to question 1: which tenant, which function, under which route, by which function-relative path."""

    tenant: TenantTable
    function: str
    spec: FunctionSpec
    route: RouteSpec | None
    """None: reached by ``/function/<name>``."""
    segments: tuple[str, ...]
    """Function-relative, decoded."""
    has_trailing_slash: bool
    path: str
    """Function-relative, canonical, starting with ``/``: what policy judges."""
    is_deferred: bool = False
    """Reached by ``/async-function/<name>``: answered later."""
