"""
What a policy file may say: the shape of ``platform.yaml``, of a tenant's file and of the operators' tests.

Only the shape of one document is judged here. Whether a role exists, a host is taken or a rule can ever match is
``compiler.py``'s question; where in a file a value stood is ``documents.py``'s. Every scalar is strict: a number where
text is expected is a mistake, because readers of YAML 1.1 and of YAML 1.2 would not agree on what it says.

Lists are tuples and models are frozen: a document is a value, may travel between processes and is never edited. The
texts under the fields are also what an editor shows, by way of the JSON Schema: they speak to operators.
"""

# Longer than other modules: one declaration that reads from top to bottom as the format does.

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, StrictBool, StrictInt, Tag
from pydantic.json_schema import models_json_schema

from policies.quantities import (
    BodySize,
    Clock,
    Count,
    Duration,
    Email,
    FunctionPattern,
    Label,
    Method,
    Name,
    PathPattern,
    PathPrefix,
    Probe,
    Rate,
    RequestLine,
    SecretName,
    Size,
    Subject,
    Text,
    Title,
    Weight,
)

Action = Literal["invoke", "describe", "list", "deploy", "update", "delete", "scale", "logs", "secrets"]
AnyAction = Literal["*", "invoke", "describe", "list", "deploy", "update", "delete", "scale", "logs", "secrets"]
"""An action, or ``*`` for all of them."""

Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
"""Asymmetric only: who can verify an HS* token can forge one, and ``none`` proves nothing (RFC 8725 section 3.2)."""

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
Stage = Literal["policy", "limits", "identity"]

# An empty list where something must match is a rule that can never match; hence at least one item.
Names = Annotated[tuple[Name, ...], Field(min_length=1)]
Texts = Annotated[tuple[Text, ...], Field(min_length=1)]
Methods = Annotated[tuple[Method, ...], Field(min_length=1)]
Patterns = Annotated[tuple[FunctionPattern, ...], Field(min_length=1)]
SecretNames = Annotated[tuple[SecretName, ...], Field(min_length=1)]
Actions = Annotated[tuple[AnyAction, ...], Field(min_length=1)]
Algorithms = Annotated[tuple[Algorithm, ...], Field(min_length=1)]
Days = Annotated[tuple[Day, ...], Field(min_length=1)]
Stages = Annotated[tuple[Stage, ...], Field(min_length=1)]
Version = Annotated[StrictInt, Field(ge=1, le=1)]

AS_TEXT: Final = "<text>"
AS_MAPPING: Final = "<mapping>"
"""Tags of the places where either text or a mapping may stand; no key of a file can be spelt so there."""


def _form(value: object) -> str:
    return AS_MAPPING if isinstance(value, dict | BaseModel) else AS_TEXT


class Part(BaseModel):
    """Root of all models: unknown keys are mistakes, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, use_attribute_docstrings=True)


# --- conditions -----------------------------------------------------------------------------------------------------


class TimeWindow(Part):
    """A daily window in a time zone; ``from`` later than ``to`` spans midnight."""

    from_: Annotated[Clock, Field(alias="from")] = "00:00"
    """First minute of the window, HH:MM."""
    to: Clock = "24:00"
    """End of the window, HH:MM; the window ends just before it."""
    days: Days | None = None
    """Days on which the window opens; all when absent."""
    zone: Text = "UTC"
    """Time zone by its IANA name, such as Europe/Madrid."""


class ShortConditions(Part):
    """Conditions without CEL. Several keys: all must hold; several items of one key: any of them."""

    groups: Texts | None = None
    """The caller is in one of these groups."""
    source_ip: Texts | None = None
    """The client's address is in one of these networks (CIDR)."""
    methods: Methods | None = None
    """The request's method is one of these."""
    path_prefix: PathPrefix | None = None
    """The function-relative path is this one or lies below it."""
    time: TimeWindow | None = None
    """The request comes within this window."""


When = Annotated[Annotated[Text, Tag(AS_TEXT)] | Annotated[ShortConditions, Tag(AS_MAPPING)], Discriminator(_form)]
"""A CEL expression as text, or a mapping of short forms."""


# --- platform.yaml --------------------------------------------------------------------------------------------------


class Backend(Part):
    """One functions platform."""

    kind: Literal["openfaas", "knative", "riff", "http"]
    """What the platform is: OpenFaaS; Knative Serving, and riff from 0.1 on; riff 0.0.x; anything else by its URL."""
    url: Text
    """Address of its gateway; without path, but for http. knative and http: it may hold {function} and {namespace}."""
    credentials: SecretName | None = None
    """Name of a file or folder under --secrets DIR/platform/; http: they go to wake_url."""
    domain: Text | None = None
    """knative: functions are addressed as FUNCTION.NAMESPACE.DOMAIN at the ingress; absent for cluster-local URLs."""
    cluster: SecretName | None = None
    """knative: in-cluster, or the name of a kubeconfig under --secrets DIR/platform/: replicas are asked of its API."""
    probe: Probe | None = None
    """Path asked of a function that has just started, before anybody is let in; off: none; absent: the kind's own."""
    wake_url: Text | None = None
    """http: POSTed to when a function sleeps; may hold {function} and {namespace}."""
    direct_url: Text | None = None
    """Address of a function itself, such as http://{function}.{namespace}:8080, for those that say direct_url: true."""


class CeilingsEntry(Part):
    """What the platform grants one tenant at most; the tenant's own limits come on top and never raise these."""

    rate: Rate | None = None
    """Requests of the whole tenant."""
    burst: Count | None = None
    """Requests admitted at once after a silence; by default as many as ``rate`` names."""
    wakes: Rate | None = None
    """Wake-ups of the whole tenant."""
    held: Count = 1000
    """Requests held at once while functions wake."""
    held_bytes: Size = "64MiB"
    """Bodies buffered at once for held requests."""
    weight: Weight = 1
    """Its share where tenants compete for places, beside the weights of others."""
    results: Count = 1000
    """Results of requests that are answered later, pending or kept."""
    result_bytes: Size = "64MiB"
    """Bodies of those results."""


class TenantEntry(Part):
    """What the platform's operator says of one tenant."""

    hosts: Texts
    """Hosts that name the tenant: exact, or *.suffix for one label or more in front of it."""
    backend: Name
    """Name of the backend that runs its functions."""
    namespace: Label
    """Its namespace there."""
    owns: Patterns | None = None
    """Functions that are its own; required when another tenant shares backend and namespace."""
    images: Texts | None = None
    """Images it may deploy."""
    ceilings: CeilingsEntry = CeilingsEntry()
    """What it gets at most."""
    private_hosts: Texts | None = None
    """Hosts of its providers that may resolve to private addresses."""


class PlatformDocument(Part):
    """``platform.yaml``: the platform operator's own file."""

    version: Version
    """Always 1."""
    backends: Annotated[dict[Name, Backend], Field(min_length=1)]
    """The functions platforms, by name."""
    tenants: Annotated[dict[Label, TenantEntry], Field(min_length=1)]
    """The tenants, by name; each has a file of its own."""
    trusted_peers: tuple[Text, ...] = ()
    """Networks (CIDR) that may speak X-Forwarded-*; none by default."""
    client_certificates: Literal["none", "trusted-peers"] = "none"
    """trusted-peers: they may say which certificate a client has shown them (Client-Cert)."""


# --- a tenant's file ------------------------------------------------------------------------------------------------


class ShadowMode(Part):
    """Refusals of the named stages are counted and logged, and let through."""

    shadow: Stages
    """policy, limits, identity."""


Mode = Annotated[
    Annotated[Literal["enforce", "disabled"], Tag(AS_TEXT)] | Annotated[ShadowMode, Tag(AS_MAPPING)],
    Discriminator(_form),
]


class Claims(Part):
    """Where in a token's claims to look; a dot steps into an object."""

    groups: Text | None = None
    """The caller's groups; without it nobody of this provider has any."""
    email: Text = "email"
    """The caller's e-mail address."""
    name: Text = "name"
    """The name to show."""


class GroupsEntry(Part):
    """Where a caller's groups come from, and how the provider writes them."""

    from_: Annotated[Literal["id_token", "access_token", "userinfo"], Field(alias="from")] = "id_token"
    """Of a login; groups of a bearer token are its own, or userinfo's."""
    form: Literal["names", "object_ids", "distinguished_names"] = "names"
    """How the provider writes them; each form has one spelling here."""
    names: dict[Text, Text] = {}
    """Group as the provider writes it: its name in bindings."""
    unnamed: Literal["keep", "drop"] = "keep"
    """Groups that names does not have: kept as they are, or nobody's."""
    max_age: Duration = "15m"
    """A session's groups are fetched again after that."""


class Client(Part):
    """Portero as a client of the provider."""

    client_id: Text
    """Name of the client at the provider."""
    client_secret: SecretName | None = None
    """Name of a file under --secrets DIR/TENANT/ with the secret; none for a public client."""
    client_key: SecretName | None = None
    """Name of a PEM file there instead: a private key that signs who asks (private_key_jwt)."""
    client_auth: Literal["client_secret_basic", "client_secret_post", "private_key_jwt", "none"] | None = None
    """How the client shows who it is; by default as secret or key demand."""


class Login(Client):
    """Logins in the browser: authorization code with PKCE."""

    scopes: Texts = ("openid",)
    """Scopes to ask for, openid among them."""
    title: Title | None = None
    """What the page calls the provider where there are several; its name when absent."""
    par: Literal["auto", "require", "never"] = "auto"
    """Pushed authorization requests; auto: where the provider offers them."""


class Introspection(Client):
    """Tokens that are no JWT: the provider is asked what they are."""

    max_age: Duration = "60s"
    """An active answer is used for so long at most."""


class Endpoints(Part):
    """Addresses that are not what discovery says; they may be of another site."""

    authorization_endpoint: Text | None = None
    """Where the browser is sent to log in."""
    token_endpoint: Text | None = None
    """Where codes and refresh tokens are redeemed."""
    userinfo_endpoint: Text | None = None
    """Where claims about a person are asked for."""
    introspection_endpoint: Text | None = None
    """Where opaque tokens are asked about."""
    end_session_endpoint: Text | None = None
    """Where the browser is sent to log out."""
    pushed_authorization_request_endpoint: Text | None = None
    """Where requests for a login are pushed to."""
    revocation_endpoint: Text | None = None
    """Where refresh tokens are given up."""


class Provider(Part):
    """One OpenID Provider that may vouch for callers of the tenant. What security depends on has no default."""

    name: Name
    """First half of its subjects (NAME|sub)."""
    issuer: Text
    """Its issuer, byte for byte as in its tokens."""
    audiences: Texts
    """A token must be meant for one of these."""
    algorithms: Algorithms
    """Signature algorithms that are believed."""
    tenant_claim: Text | None = None
    """Claim of a shared issuer that names the token's tenants; absent: the issuer is this tenant's alone."""
    claims: Claims = Claims()
    """Where groups, e-mail and name are found."""
    email_domains: tuple[Text, ...] = ()
    """Domains whose verified addresses may be used in bindings."""
    jwks_uri: Text | None = None
    """Address of its keys; by default from its discovery document."""
    max_token_lifetime: Duration = "24h"  # noqa: S105  # a duration, no secret
    """Tokens issued for longer are refused."""
    endpoints: Endpoints = Endpoints()
    """Addresses that are not what discovery says."""
    bound_tokens: Literal["accept", "require"] = "accept"
    """require: only tokens bound to a key or certificate (DPoP, mTLS) are taken."""
    groups: GroupsEntry | None = None
    """Where groups come from and how they are written."""
    login: Login | None = None
    """Its login in the browser."""
    introspection: Introspection | None = None
    """Its opaque tokens; one provider of a tenant at most."""


class Sessions(Part):
    """Sessions of who has logged in."""

    store: Literal["cookie", "redis"] = "cookie"
    """In the browser, sealed; or in Redis, under a key that only the browser has."""
    idle: Duration = "1h"
    """A session ends when nothing was asked for so long."""
    absolute: Duration = "12h"
    """A session ends so long after the login."""


class ApiKey(Part):
    """A caller that shows a key of Portero's own (portero token issue --api-key)."""

    name: Name
    """Second half of its subject, api-key|NAME."""
    groups: tuple[Text, ...] = ()
    """Its groups."""
    expires: Text | None = None
    """2027-06-30 (at the beginning of that day, UTC) or an RFC 3339 instant; absent: until it is revoked."""


class ServiceAccount(Part):
    """A caller that is a program and signs its tokens with a key of its own."""

    name: Name
    """Its name in bindings and in iss: TENANT/NAME."""
    public_key: SecretName | None = None
    """Name of a PEM file under --secrets DIR/TENANT/."""
    public_keys: SecretNames | None = None
    """Several of them, while a key is being replaced."""
    audiences: tuple[Text, ...] = ()
    """A token must be meant for one of these."""
    groups: tuple[Text, ...] = ()
    """Its groups."""
    legacy_no_audience: StrictBool = False
    """Believe tokens without audience, as Dispatch issued them."""


class NoWakeEntry(Part):
    """Requests that a sleeping function is not woken for. Several keys: all must hold; several items: any of them."""

    methods: Methods | None = None
    """The request's method is one of these, such as HEAD."""
    paths: Annotated[tuple[PathPattern, ...], Field(min_length=1)] | None = None
    """The function-relative path: exact, or a prefix with * at its end."""
    user_agents: Texts | None = None
    """One of these stands anywhere in the User-Agent; case does not matter."""
    robots: StrictBool = False
    """The User-Agent is that of a well-known crawler."""
    status: Annotated[StrictInt, Field(ge=200, le=599)] | None = None
    """Answered while the function sleeps, without a body; by default 503 function-asleep with Retry-After."""


class WeightEntry(Part):
    """A share of the function for callers of some groups."""

    groups: Texts
    """The caller is in one of these."""
    weight: Weight
    """Its share beside other callers, who have 1."""


class ColdStartEntry(Part):
    """What happens to requests while the function wakes."""

    max_wait: Duration = "30s"
    """A request is held at most this long."""
    max_held: Count = 100
    """Requests held at once."""
    max_held_bytes: Size | None = None
    """Bodies buffered at once for this function; by default as many as the tenant may."""
    max_held_per_caller: Count | None = None
    """Requests of one caller held at once; without it a caller alone may take all places, and makes room for others."""
    max_held_bytes_per_caller: Size | None = None
    """Bodies buffered at once for one caller."""
    overflow: Literal["reject", "page", "async", "fallback"] = "reject"
    """What a request gets that cannot be held, or not long enough: a refusal, for browsers a page that comes back by
    itself, 202 and a result to fetch later, or the fallback function."""
    fallback: Label | None = None
    """The function that takes what overflows; the caller must be allowed to invoke it."""
    no_wake: tuple[NoWakeEntry, ...] = ()
    """Requests that do not wake the function."""
    body: Literal["spool", "stream"] = "spool"
    """spool: the body is read while the request is held, so that a client that leaves is noticed; stream: it is not."""
    probe: Probe | None = None
    """Path asked of the function when it has started, before anybody is let in; off: none; by default the backend's."""
    announce: StrictBool = True
    """Answers to requests that were held say so in X-Portero-Cold-Start and Server-Timing."""
    weights: tuple[WeightEntry, ...] = ()
    """Shares of callers; the largest that fits counts."""


class AsyncEntry(Part):
    """Requests that are accepted at once and answered later."""

    allow: StrictBool = True
    """Callers may ask for it: Prefer: respond-async, or /async-function/NAME."""
    max_wait: Duration = "10m"
    """How long such a request may wait for its function."""
    max_async: Count = 10
    """Under way at once, of one caller."""
    keep: Duration = "1h"
    """How long a result can be fetched."""
    max_result: Size = "1MiB"
    """Largest answer that is kept."""
    callbacks: Texts | None = None
    """Hosts that X-Callback-Url may name: exact, or *.suffix."""


class TimeoutsEntry(Part):
    """How long a request may take."""

    connect: Duration = "5s"
    """Until the connection stands."""
    first_byte: Duration = "60s"
    """Until the answer's head."""
    idle: Duration = "60s"
    """Between two bytes of the answer."""
    total: Duration | None = None
    """In all; unbounded when absent."""


class Function(Part):
    """How one function, or every function a pattern names, is treated."""

    access: Literal["public", "restricted"] = "restricted"
    """public: callers without credential may invoke it; restricted: roles decide."""
    i_mean_all: StrictBool = False
    """Needed to make "*" public."""
    concurrency: Count | None = None
    """Requests a replica serves at once."""
    concurrency_scope: Literal["local", "cluster"] = "local"
    """cluster: all Porteros count concurrency together, in Redis; local: each keeps to its share of it."""
    cold_start: ColdStartEntry = ColdStartEntry()
    """What happens to requests while it wakes."""
    async_: Annotated[AsyncEntry, Field(alias="async")] = AsyncEntry()
    """Requests that are answered later."""
    message: StrictBool = False
    """riff 0.0.x: requests are sent as messages, and answered when they were taken."""
    timeouts: TimeoutsEntry = TimeoutsEntry()
    """Bounds on the time of a request."""
    max_body: BodySize = "10MiB"
    """Largest request body."""
    direct: StrictBool = True
    """Reachable under /function/NAME and not only by routes."""
    direct_url: StrictBool = False
    """Call the function at the backend's direct_url instead of through its gateway (websockets need it)."""
    encoded_slash: Literal["refuse", "allow"] = "refuse"
    """What happens to %2F in a path."""
    forward_credentials: StrictBool = False
    """The function sees Authorization and session cookies."""
    assertion: StrictBool = True
    """The function is told its caller in X-Portero-Assertion, too, which it can verify; needs signing keys."""


class Cors(Part):
    """Cross-origin access by browsers."""

    origins: Texts
    """Origins that may, such as https://app.example."""


class Route(Part):
    """A path of the tenant's own for a function."""

    id: Name
    """Its name in logs and in explain."""
    path: Text
    """/literal/{parameter}; a final /* takes what follows."""
    function: Label
    """The function it leads to."""
    methods: Methods | None = None
    """Methods it takes, HEAD wherever GET; all when absent. Routing, never protection."""
    to: Text | None = None
    """The function-relative path; the request's own when absent."""
    https_only: StrictBool = False
    """Refuse plain HTTP."""
    enabled: StrictBool = True
    """false: 404, and no shorter route takes its place."""
    cors: Cors | None = None
    """Pages of which other origins may call it."""


class Grant(Part):
    """One allow rule of a role."""

    functions: Patterns
    """Functions by name, prefix* or *."""
    actions: Actions
    """Actions, or * for all."""
    methods: Methods | None = None
    """HTTP methods, exactly as written: GET does not include HEAD; all when absent."""
    when: When | None = None
    """The rule holds only when this does."""
    unless: When | None = None
    """The rule does not hold when this does."""


class Role(Part):
    """What its holders may do."""

    includes: tuple[Name, ...] = ()
    """Roles whose rules its holders have, too."""
    allow: tuple[Grant, ...] = ()
    """Its own rules."""


class Binding(Part):
    """Who holds roles: any of the named subjects, groups, e-mail addresses and service accounts."""

    id: Name
    """Its name in explain."""
    roles: Names
    """The roles held."""
    subjects: tuple[Subject, ...] = ()
    """provider|sub, or api-key|NAME."""
    groups: tuple[Text, ...] = ()
    """Groups, as the provider's groups claim or its groups.names call them."""
    emails: tuple[Email, ...] = ()
    """Verified addresses of a provider's email_domains."""
    service_accounts: tuple[Name, ...] = ()
    """Service accounts of this file."""


class DenyRule(Part):
    """A deny rule: any that matches wins over every allow."""

    id: Name
    """Its name in logs and in explain."""
    functions: Patterns
    """Functions by name, prefix* or *."""
    actions: Actions
    """Actions, or * for all."""
    methods: Methods | None = None
    """HTTP methods, exactly as written; all when absent."""
    when: When | None = None
    """The rule holds only when this does, or cannot be known."""
    unless: When | None = None
    """The rule does not hold when this surely does."""


class Limit(Part):
    """One limit: exactly one of rate, concurrent and wakes."""

    id: Name
    """Its name in RateLimit fields, logs and metrics."""
    per: Literal["tenant", "subject", "function", "ip", "identity-failure"]
    """Whom it counts apart."""
    rate: Rate | None = None
    """Requests."""
    burst: Count | None = None
    """Requests admitted at once after a silence; by default as many as the rate names."""
    concurrent: Count | None = None
    """Requests at the function at once."""
    wakes: Rate | None = None
    """Wake-ups of sleeping functions."""
    functions: Patterns | None = None
    """Functions whose requests it counts; all when absent."""
    on_store_failure: Literal["local", "open", "closed"] = "local"
    """What holds while the shared store is down: a local share, nothing, or a refusal."""


class TenantDocument(Part):
    """A tenant's own file."""

    version: Version
    """Always 1."""
    tenant: Label
    """The tenant, as platform.yaml names it."""
    mode: Mode = "enforce"
    """enforce, disabled (every request is refused) or shadow: [policy, limits]."""
    identity: tuple[Provider, ...] = ()
    """Who may vouch for callers."""
    service_accounts: tuple[ServiceAccount, ...] = ()
    """Callers that are programs."""
    api_keys: tuple[ApiKey, ...] = ()
    """Callers that show a key of Portero's own."""
    sessions: Sessions | None = None
    """Sessions of who has logged in."""
    token_lifetime: Duration = "5m"  # noqa: S105  # a duration, no secret
    """Tokens that /.portero/token gives out are good for so long; at most 1h."""
    functions: dict[FunctionPattern, Function] = {}
    """How functions are treated; an exact name beats the longest prefix beats "*"."""
    routes: tuple[Route, ...] = ()
    """Paths of the tenant's own."""
    roles: dict[Name, Role] = {}
    """What holders of a role may do."""
    bindings: tuple[Binding, ...] = ()
    """Who holds which roles."""
    deny: tuple[DenyRule, ...] = ()
    """What nobody may, whatever the roles."""
    limits: tuple[Limit, ...] = ()
    """How much is not too much."""


# --- the operators' tests -------------------------------------------------------------------------------------------


class Caller(Part):
    """Who asks: somebody a provider vouches for (provider and subject), a service account, or an API key."""

    provider: Name | None = None
    """Name of one of the tenant's providers."""
    subject: Text | None = None
    """The sub claim."""
    service_account: Name | None = None
    """Name of one of the tenant's service accounts."""
    api_key: Name | None = None
    """Name of one of the tenant's API keys."""
    groups: tuple[Text, ...] = ()
    """Groups of the caller."""
    email: Email | None = None
    """Verified address."""
    claims: dict[str, Any] = {}
    """Further claims, for CEL conditions."""


class Case(Part):
    """One case: this caller, this request, this answer."""

    name: Text
    """One sentence."""
    as_: Annotated[Caller | None, Field(alias="as")] = None
    """Who asks; absent: nobody, without a credential."""
    request: RequestLine
    """METHOD /path on the tenant's first host, or METHOD http://host/path."""
    action: Action = "invoke"
    """What to do with the function that the request names."""
    source_ip: Text = "192.0.2.1"
    """The client's address."""
    at: Text | None = None
    """RFC 3339 instant, for conditions on time."""
    expect: Literal["allow", "deny", "challenge"]
    """The answer; deny stands for every refusal, challenge for those that ask who the caller is (401)."""
    reason: Text | None = None
    """The refusal's reason."""
    rule: Text | None = None
    """Id of the rule that decides."""
    function: Text | None = None
    """The function that the request leads to."""


class TestDocument(Part):
    """``*_test.yaml``: what the operators expect of one tenant's policy."""

    __test__ = False  # whatever its name makes pytest think

    version: Version = 1
    """Always 1."""
    tenant: Label
    """The tenant whose policy is tested."""
    cases: Annotated[tuple[Case, ...], Field(min_length=1)]
    """Callers, requests, answers."""


# --- JSON Schema ----------------------------------------------------------------------------------------------------

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


@cache
def schema() -> dict[str, Any]:
    """JSON Schema of ``platform.yaml`` and tenants' files, for editors; ``policy.schema.json`` holds it."""
    refs, definitions = models_json_schema([(TenantDocument, "validation"), (PlatformDocument, "validation")])
    return {
        "$schema": _DIALECT,
        "title": "Portero policy file",
        "oneOf": [refs[TenantDocument, "validation"], refs[PlatformDocument, "validation"]],
        **{key: value for key, value in definitions.items() if key == "$defs"},
    }


@cache
def schema_of_tests() -> dict[str, Any]:
    """JSON Schema of ``*_test.yaml``, for editors; ``test.schema.json`` holds it."""
    return {"$schema": _DIALECT, **TestDocument.model_json_schema(), "title": "Portero policy test file"}
