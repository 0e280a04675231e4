"""
The vectors' first edge: the decision core alone, asked by hand.

What the world would say is answered as simply as can be from the case's ``state``: a signature is verified with the one
key there is, a limit that is spent is spent, a function that sleeps wakes at once unless the case says otherwise.
Everything else is the core's own.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Final
from unittest.mock import patch

import jwt

from authproxy.backends.openfaas import OpenFaasBackend
from authproxy.upstream.departure import Destination
from policies.compiler import compile_files
from policies.decision import Allow, Answer, Challenge, Decision, Defer, Deny, Page, Reason, Refusal
from policies.gcra import SECOND_US, spend_all
from policies.header_fields import filter_answer
from policies.limits import Check, Parallel, Spent, checks_for, concurrency_for, failure_check, wake_check
from policies.pipeline import Identify, Ready, Spend, judge, judge_again
from policies.principal import Principal, anonymous
from policies.problem import problem
from policies.request import AccessRequest, Head, TrustedPeers, read_head
from policies.tables import Place, PolicySet, ServiceAccountSpec, TenantTable
from policies.tenancy import resolve
from policies.tokens import inspect, judge_claims, read_authorization, refuse
from policies.upstream_identity import answer_block, request_block
from tests.fakes.gopath import SystemCall, read_target
from tests.fakes.provider import Key
from tests.fakes.vector_tokens import ACCOUNT_KEYS, PROVIDER_KEY, authorization
from tests.fakes.vectors import Outcome, Received, State, Vector, fields_of, request_line

REQUEST_ID: Final = "0123456789abcdef0123456789abcdef"
LOOPBACK: Final = "127.0.0.1"


@cache
def policies_of(world: Path) -> PolicySet:
    """The policy set of a world's folder. Raises: PolicyError."""
    files = {file.name: file.read_bytes() for file in world.glob("*.yaml")}
    return compile_files(files)


def decide(vector: Vector) -> Outcome:
    """Judge one case. A function of the vectors is named as the one host that every machine resolves."""
    with patch("authproxy.backends.openfaas.leads_elsewhere", return_value=False):
        return _Judge(vector).outcome()


def limits_of(vector: Vector) -> tuple[str, tuple[Check, ...], tuple[Parallel, ...]]:
    """
    The limits that the case's ``state.spent`` names, as they were used up, with the tenant's name.

    Raises: AssertionError when one of them could not have been used up like that.
    """
    tenant, checks, parallels = _Judge(vector.as_spent()).limits()
    wanted = set(vector.state.spent)
    if unknown := wanted - {check.id for check in checks} - {limit.id for limit in parallels}:
        raise AssertionError(f"{vector.name}: no such limit applies: {unknown}")
    return (
        tenant,
        tuple(check for check in checks if check.id in wanted),
        tuple(limit for limit in parallels if limit.id in wanted),
    )


def whereto(vector: Vector) -> tuple[str, str] | None:
    """Function and namespace that the case's request leads to, whether or not it gets there."""
    policies = policies_of(vector.world)
    request = read_head(_head(vector), TrustedPeers(policies.trusted_peers))
    place = None if isinstance(request, Deny) else resolve(request, policies)
    return (place.function, place.tenant.namespace) if isinstance(place, Place) else None


class _Judge:
    def __init__(self, vector: Vector) -> None:
        self._vector = vector
        self._state: State = vector.state
        self._policies = policies_of(vector.world)
        self._now = time.time()
        self._request = read_head(_head(vector), TrustedPeers(self._policies.trusted_peers))
        self._used_up: frozenset[str] = frozenset()
        if self._state.spent:
            _, checks, parallels = limits_of(vector)
            self._used_up = frozenset(one.key for one in checks) | frozenset(one.key for one in parallels)

    def outcome(self) -> Outcome:
        request = self._request
        if isinstance(request, Deny):
            return _refused(request)
        decided = self._decide(request)
        result = self._leave(decided, request) if isinstance(decided, Allow) else decided
        if isinstance(result, Outcome):
            return result
        if isinstance(result, Answer):
            return Outcome("answer", result.status, tenant=result.tenant, fields=result.fields)
        if isinstance(result, Defer):
            fields = (("Preference-Applied", "respond-async"),)
            return Outcome("answer", 202, tenant=result.allow.place.tenant.name, fields=fields)
        if isinstance(result, Page):
            text = f"{self._vector.name}: Portero's own pages have tests of their own"
            raise AssertionError(text)  # noqa: TRY004 - a wrong vector
        return _refused(result, accepts_html=request.accepts_html)

    def _decide(self, request: AccessRequest) -> Decision:
        judging = judge(request, self._policies, self._now)
        answer: Principal | Refusal | Spent | None = None
        try:
            need = next(judging)
            while True:
                match need:
                    case Identify():
                        answer = self._identify(need.place.tenant, need.request)
                    case Spend():
                        answer = self._spend(need.checks)
                    case Ready():
                        answer = self._ready(need)
                need = judging.send(answer)
        except StopIteration as end:
            decision: Decision = end.value
            return decision

    # -- the three answers of the world ------------------------------------------------------------------------------

    def _identify(self, tenant: TenantTable, request: AccessRequest) -> Principal | Refusal:
        if request.authorization is None:
            return anonymous()
        check = failure_check(tenant, request.client_ip)
        if check is not None and check.key in self._used_up:
            return Deny(Reason.TOO_MANY_FAILURES, rule=check.ref, retry_after_s=1, tenant=tenant.name)
        credential = read_authorization(request.authorization)
        if credential is None or isinstance(credential, Challenge):
            return credential or refuse("the Authorization field is empty")
        token = credential.token
        if credential.scheme != "Bearer":
            return refuse("the token is not bound to a key")
        header = inspect(token)
        if isinstance(header, Challenge):
            return header
        key: Key | None = PROVIDER_KEY
        spec = tenant.providers_by_issuer.get(header.issuer)
        account = _account(tenant, header.issuer)
        if account is not None:
            key = ACCOUNT_KEYS[account.name]
        elif spec is None or header.alg not in spec.algorithms:
            return refuse("the token is of no issuer of this tenant")
        elif self._state.keys == "unavailable":
            return Deny(Reason.KEYS_UNAVAILABLE, retry_after_s=1, tenant=tenant.name)
        elif header.kid != PROVIDER_KEY.kid:
            key = None
        if key is None or not _is_signed(token, key, header.payload):
            return refuse("the token is not signed by its issuer")
        judged = account or spec
        if judged is None:
            return refuse("the token is of no issuer of this tenant")
        return judge_claims(header.claims, judged, tenant.name, self._now)

    def _spend(self, checks: Sequence[Check]) -> Spent:
        now_us = int(self._now * SECOND_US)
        used_up = {check.key: now_us + check.tolerance_us for check in checks if check.key in self._used_up}
        return spend_all(used_up, now_us, checks)[1]

    def _ready(self, need: Ready) -> Refusal | None:
        state, place, tenant = self._state, need.place, need.place.tenant.name
        if isinstance(destination := self._destination(place, need.request), Deny):
            return destination
        if place.function in state.missing:
            return Deny(Reason.FUNCTION_UNKNOWN, tenant=tenant)
        if place.function not in state.asleep:
            return None
        if state.held.get(place.function, 0) >= place.spec.cold_start.max_held:
            return Deny(Reason.QUEUE_FULL, retry_after_s=1, tenant=tenant)
        checks = wake_check(place)
        if not checks and "identity" in place.tenant.shadow:
            return Deny(Reason.WAKE_LIMITED, tenant=tenant)
        spent = self._spend(checks)
        if spent.refused is not None:
            rule = checks[spent.refused].ref
            return Deny(Reason.WAKE_LIMITED, rule=rule, retry_after_s=spent.retry_after_s, tenant=tenant)
        if state.wake == "fails":
            return Deny(Reason.WAKE_FAILED, retry_after_s=1, tenant=tenant)
        if state.wake == "never":
            return Deny(Reason.COLD_START_TIMEOUT, retry_after_s=1, tenant=tenant)
        return self._release(need)

    def _release(self, need: Ready) -> Refusal | None:
        """Questions 2 and 3 are asked again."""
        judging = judge_again(need.request, need.place, self._now)
        try:
            again = next(judging)
            while isinstance(again, Identify):
                again = judging.send(self._identify(again.place.tenant, again.request))
        except StopIteration as end:
            return None if isinstance(end.value, Principal) else end.value
        raise AssertionError(f"a held request asks for {again}")

    # -- leaving for the function ------------------------------------------------------------------------------------

    def _leave(self, allow: Allow, request: AccessRequest) -> Outcome | Deny:
        place, principal = allow.place, allow.principal
        destination = self._destination(place, request)
        if isinstance(destination, Deny):
            return destination
        shadowed = tuple(deny.reason for deny in allow.shadowed)
        taken = [one for one in concurrency_for(place, principal, request) if one.key in self._used_up]
        if taken and "limits" not in place.tenant.shadow:
            name = place.tenant.name
            return Deny(Reason.CONCURRENCY_LIMITED, rule=taken[0].ref, limits=allow.limits, tenant=name)
        if taken:
            shadowed += (Reason.CONCURRENCY_LIMITED,)
        most = place.spec.max_body_bytes
        if most is not None and (request.content_length or 0) > most:
            return Deny(Reason.BODY_TOO_LARGE, tenant=place.tenant.name)
        block = request_block(request, place, principal, REQUEST_ID, destination.target, destination.host)
        line, fields = _parsed(block.decode("latin-1"))
        method, target, _ = line.split(" ")
        if place.spec.direct_url is None:
            accept = "".join(value for name, value in fields if name.lower() == "accept")
            seen = read_target(target.encode(), accept=accept.encode())
            if isinstance(seen, SystemCall):
                raise AssertionError(f"{self._vector.name}: the platform takes {target} for a call of its API")
            target = seen.target.decode()
        status, passed_on = self._answered(place)
        block = passed_on + answer_block(place, request, REQUEST_ID, allow.limits)
        _, answered = _parsed("\r\n" + block.decode("latin-1"))
        return Outcome(
            "allow",
            status,
            None,
            place.tenant.name,
            place.function,
            allow.rule.id if allow.rule is not None else None,
            answered,
            Received(f"{method} {target}", fields),
            shadowed,
        )

    def _answered(self, place: Place) -> tuple[int, bytes]:
        """Status and fields of the function's answer, as far as they pass."""
        answers = self._state.answers
        if answers is None:
            return 200, b""
        fields = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in answers.fields]
        replaces_cors = place.route is not None and bool(place.route.cors_origins)
        passed_on = filter_answer(fields, replaces_cors=replaces_cors)
        if passed_on is None:
            raise AssertionError(f"{self._vector.name}: garbled answers have tests of their own")
        return answers.status, passed_on.block

    def _destination(self, place: Place, request: AccessRequest) -> Destination | Deny:
        backend = OpenFaasBackend(self._policies.backends[place.tenant.backend])
        destination = backend.destination(place, request.target.query, request)
        return replace(destination, tenant=place.tenant.name) if isinstance(destination, Deny) else destination

    # -- limits ------------------------------------------------------------------------------------------------------

    def limits(self) -> tuple[str, tuple[Check, ...], tuple[Parallel, ...]]:
        """All that this request, or a wake or failure of its, would spend."""
        request = self._request
        place = None if isinstance(request, Deny) else resolve(request, self._policies)
        if isinstance(request, Deny) or not isinstance(place, Place):
            raise AssertionError(f"{self._vector.name}: the request spends nothing")  # noqa: TRY004 - a wrong vector
        checks = [*wake_check(place)]
        if (failure := failure_check(place.tenant, request.client_ip)) is not None:
            checks.append(failure)
        parallels: tuple[Parallel, ...] = ()
        principal = self._identify(place.tenant, request)
        if isinstance(principal, Principal):
            checks += checks_for(place, principal, request)
            parallels = concurrency_for(place, principal, request)
        return place.tenant.name, tuple(checks), parallels


def _head(vector: Vector) -> Head:
    case, state = vector.case, vector.state
    method, _, rest = request_line(case).partition(" ")
    target, _, version = rest.rpartition(" ")
    major, _, minor = version.removeprefix("HTTP/").partition(".")
    fields = [
        (name.encode("latin-1"), value.encode("latin-1")) for name, value in fields_of(case, authorization(case.as_))
    ]
    return Head(
        method,
        target.encode("latin-1"),
        fields,
        (int(major), int(minor)),
        state.peer or LOOPBACK,
        "http" if state.tls is None else "https",
        state.tls,
    )


def _refused(refusal: Refusal, *, accepts_html: bool = False) -> Outcome:
    document = problem(refusal, REQUEST_ID, accepts_html=accepts_html)
    rule = refusal.rule.id if isinstance(refusal, Deny) and refusal.rule is not None else None
    kind = "challenge" if isinstance(refusal, Challenge) else "deny"
    return Outcome(kind, document.status, refusal.reason, refusal.tenant, None, rule, document.fields)


def _account(tenant: TenantTable, issuer: str) -> ServiceAccountSpec | None:
    return next((one for one in tenant.service_accounts if issuer == f"{tenant.name}/{one.name}"), None)


def _is_signed(token: str, key: Key, payload: bytes) -> bool:
    try:
        return bool(jwt.PyJWS().decode(token, key.private.public_key(), algorithms=[key.alg]) == payload)
    except jwt.PyJWTError:
        return False


def _parsed(block: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """First line and fields of a block of lines."""
    line, *lines = block.removesuffix("\r\n").split("\r\n")
    pairs = [text.partition(": ") for text in lines if text]
    return line, tuple((name, value) for name, _, value in pairs)
