"""
Portero's own pages: which page answers, to which methods, and what becomes of what cannot be known.

``Pages.answer`` never raises and never answers more than a page has decided: a part that is down is a refusal (503),
and a defect is ``internal-error``, whose text stays in the log (AP-R52). Refuses to know what any page is about.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, NamedTuple

from authproxy.audit import get_logger
from authproxy.gate.verdict import PageCall
from authproxy.identity.providers.oidc import LoginRefused
from authproxy.identity.shared.state import StateStore
from authproxy.limits.store import LimitStore
from authproxy.pages import backchannel, callback, keys, login, logout, result, token, whoami
from authproxy.pages.parts import (
    Answered,
    BrowserSessions,
    CookieSealer,
    Exchanger,
    Identify,
    KeptResults,
    LoginClient,
    PageMetrics,
    Parts,
    Revoker,
    Visit,
)
from policies.decision import Deny, Reason
from policies.errors import CannotKnow, KeysUnavailable, StoreUnavailable
from policies.tenancy import RESULT

MAX_BODY_BYTES: Final = 64 * 1024
"""Of a form: a token of 16 KiB is the longest that is looked at."""

_log = get_logger("pages")


class _Served(NamedTuple):
    methods: tuple[str, ...]
    answer: Callable[[Parts, Visit], Awaitable[Answered]]


_PAGES: Final[Mapping[str, _Served]] = {
    "login": _Served(login.METHODS, login.answer),
    "callback": _Served(callback.METHODS, callback.answer),
    "logout": _Served(logout.METHODS, logout.answer),
    "backchannel-logout": _Served(backchannel.METHODS, backchannel.answer),
    "whoami": _Served(whoami.METHODS, whoami.answer),
    "token": _Served(token.METHODS, token.answer),
    "jwks.json": _Served(keys.METHODS, keys.answer),
    RESULT: _Served(result.METHODS, result.answer),
}


class Pages:
    """
    All pages of one process.

    Args:
        identify: who is asking, as the gate asks it, guard against guessing included.
        jwks: the JWK Set of our signing keys.
        store: counts how often one address begins logins and exchanges.
        allow_loopback_http: for trials: logins over plain http, whatever the host.
        results: what deferred requests came to; None: nothing is answered later here.
        forget_job: told tenant and id of a result that was deleted, so that nobody goes on working on it.
        clock: Unix seconds.
    """

    max_body_bytes = MAX_BODY_BYTES

    def __init__(
        self,
        *,
        identify: Identify,
        sessions: BrowserSessions,
        client: LoginClient,
        own_tokens: Exchanger,
        jwks: Callable[[], Mapping[str, Any]],
        state: StateStore,
        revocations: Revoker,
        sealer: CookieSealer,
        store: LimitStore,
        allow_loopback_http: bool,
        clock: Callable[[], float] = time.time,
        metrics: PageMetrics | None = None,
        results: KeptResults | None = None,
        forget_job: Callable[[str, str], None] | None = None,
    ) -> None:
        self._clock = clock
        self._parts = Parts(
            identify=identify,
            sessions=sessions,
            client=client,
            own_tokens=own_tokens,
            jwks=jwks,
            state=state,
            revocations=revocations,
            sealer=sealer,
            store=store,
            allow_loopback_http=allow_loopback_http,
            metrics=metrics,
            results=results,
            forget_job=forget_job,
        )

    async def answer(self, call: PageCall, body: bytes) -> Answered:
        """Answer one request for a page; ``body`` is whole. Never raises."""
        try:
            served = _PAGES.get(call.page.name)
            if served is None:
                return Deny(Reason.ROUTE_UNKNOWN, "nothing is served under this path")
            request = call.request
            if request.method not in served.methods:
                return Deny(
                    Reason.METHOD_NOT_ALLOWED, "the page does not take this method", allowed_methods=served.methods
                )
            if len(body) > MAX_BODY_BYTES:
                return Deny(Reason.BODY_TOO_LARGE, f"this page takes at most {MAX_BODY_BYTES} bytes")
            return await served.answer(self._parts, Visit(call, request, body, self._clock()))
        except LoginRefused as refused:
            return refused.refusal
        except StoreUnavailable:
            return Deny(Reason.SESSION_STORE_UNAVAILABLE)
        except KeysUnavailable:
            return Deny(Reason.KEYS_UNAVAILABLE)
        except CannotKnow as error:
            # A secret that cannot be read keeps us from the provider as much as a provider that is down.
            _log.warning(
                "a page could not ask the provider",
                page=call.page.name,
                tenant=call.page.tenant.name,
                why=str(error),
                request_id=call.case.request_id,
            )
            return Deny(Reason.PROVIDER_UNAVAILABLE)
        except Exception:  # noqa: BLE001 (whatever broke, nothing is answered but that; its text stays in the log)
            _log.exception("a page failed", page=call.page.name, request_id=call.case.request_id)
            return Deny(Reason.INTERNAL_ERROR)
