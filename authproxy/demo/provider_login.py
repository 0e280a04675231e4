"""
The browser's side of the demo's provider: authorization, login form, logout.

It decides whether a request of a client is one (code with PKCE S256, state and nonce, and nothing less), who is logged
in in this browser, and where the browser goes then. An answer goes to an address that is registered letter by letter;
a request that names another, or another client, is never redirected. Refuses to know what a code is worth.

Source: RFC 6749 sections 3.1 and 4.1; RFC 7636 sections 4.3 and 4.4.1; RFC 9207 section 2; OpenID Connect Core section
3.1.2; OpenID Connect RP-Initiated Logout 1.0 sections 2 and 3.
"""

from __future__ import annotations

import hmac
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from aiohttp import web
from authlib.common.urls import add_params_to_uri
from authlib.oauth2 import OAuth2Error
from authlib.oauth2.rfc6749 import InvalidRequestError, InvalidScopeError, UnsupportedResponseTypeError

from authproxy.demo.people import PASSWORD, PEOPLE, find_by_sub
from authproxy.demo.provider_client import Client, single_words
from authproxy.demo.provider_grants import MAX_KEPT, AuthorizationRequest, Grants, ProviderSession
from authproxy.demo.provider_logout import BackChannel
from authproxy.demo.provider_pages import login_page, logout_page, sentence_page
from authproxy.demo.provider_tokens import ID_JWT, Signer

PENDING_S: Final = 600.0
"""For a person to fill in the form."""
MAX_VALUE_CHARS: Final = 2048
_CHALLENGE: Final = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)
"""SHA-256 in base64url."""
_FORM_TYPE: Final = "application/x-www-form-urlencoded"


@dataclass(frozen=True, slots=True)
class _Pending:
    """An authorization request or a wish to log out that waits for its form, bound to the browser that brought it."""

    cookie: str
    """Each form has one of its own: tabs that begin at the same moment do not take each other's."""
    expires_at: float
    request: AuthorizationRequest | None
    destination: str | None
    """Of a logout: where to go afterwards."""


class LoginPages:
    """All pages of one provider. ``client`` is replaced when more of it is known."""

    def __init__(self, client: Client, grants: Grants, signer: Signer, back_channel: BackChannel) -> None:
        self.client = client
        self._grants = grants
        self._signer = signer
        self._back_channel = back_channel
        self._pending: OrderedDict[str, _Pending] = OrderedDict()

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/authorize", self._authorize),
            web.post("/authorize", self._authorize),
            web.post("/login", self._log_in),
            web.get("/end-session", self._end_session),
            web.post("/end-session", self._end_session),
            web.post("/logout", self._log_out),
        ]

    # ---- login

    async def _authorize(self, request: web.Request) -> web.StreamResponse:
        try:
            words = await read_words(request)
        except OAuth2Error as error:
            return _refused(error)
        redirect_uri = words.get("redirect_uri", "")
        if words.get("client_id") != self.client.client_id or redirect_uri not in self.client.redirect_uris:
            return sentence_page("No such client", "The client or its address is not registered here.", 400)
        try:
            asked = read_authorization(words)
            prompts = _prompts(words)
        except OAuth2Error as error:
            return self._answer(redirect_uri, words.get("state"), dict(error.get_body()))
        session = self._session(request)
        is_forced = bool(prompts & {"login", "select_account"}) or _is_too_old(words, session)
        if session is not None and not is_forced:
            return self._with_code(session, asked)
        if "none" in prompts:
            return self._answer(redirect_uri, asked.state, {"error": "login_required"})
        hint = words.get("login_hint", "")
        return self._ask_who(request, asked, chosen=hint if find_by_sub(hint) else PEOPLE[0].sub)

    async def _log_in(self, request: web.Request) -> web.StreamResponse:
        try:
            words = await read_words(request)
        except OAuth2Error as error:
            return _refused(error)
        pending = self._take(request, words.get("request", ""))
        if pending is None or pending.request is None:
            sentence = "This login was not begun in this browser, or too long ago. Go back to where you came from."
            return sentence_page("This login is over", sentence, 400)
        person = find_by_sub(words.get("person", ""))
        is_password = hmac.compare_digest(words.get("password", "").encode(), PASSWORD.encode())
        if person is None or not is_password:
            chosen = PEOPLE[0].sub if person is None else person.sub
            response = self._ask_who(request, pending.request, chosen=chosen, problem="That is not the password.")
            return _without_form(response, request, words["request"])
        session = self._grants.log_in(person)
        response = _without_form(self._with_code(session, pending.request), request, words["request"])
        # Not Secure: the demo has no TLS, and not every browser takes such a cookie from loopback.
        response.set_cookie(_cookie("session", request), session.id, httponly=True, samesite="Lax", path="/")
        return response

    def _ask_who(
        self, request: web.Request, asked: AuthorizationRequest, *, chosen: str, problem: str = ""
    ) -> web.Response:
        origin = _origin(asked.redirect_uri)
        name = self._keep(asked, None)
        response = login_page(name, urlsplit(origin).netloc, [origin], chosen=chosen, problem=problem)
        return self._with_form(response, request, name)

    def _with_code(self, session: ProviderSession, asked: AuthorizationRequest) -> web.Response:
        return self._answer(asked.redirect_uri, asked.state, {"code": self._grants.give_code(session, asked)})

    def _answer(self, redirect_uri: str, state: str | None, words: Mapping[str, str]) -> web.Response:
        """303, so that a browser that posted a form asks by GET. The issuer is always named (RFC 9207)."""
        every = {**words, **({} if state is None else {"state": state}), "iss": self._signer.issuer}
        return _redirect(add_params_to_uri(redirect_uri, list(every.items())))

    # ---- logout

    async def _end_session(self, request: web.Request) -> web.StreamResponse:
        try:
            words = await read_words(request)
        except OAuth2Error as error:
            return _refused(error)
        hint = self._signer.read(words.get("id_token_hint", ""), ID_JWT, self.client.client_id, may_be_expired=True)
        if hint is None and "id_token_hint" in words:
            return sentence_page("Not logged out", "The request to log out is not of a client.", 400)
        is_of_client = hint is not None or words.get("client_id") == self.client.client_id
        destination = words.get("post_logout_redirect_uri")
        if destination is not None:
            if not is_of_client or destination not in self.client.post_logout_redirect_uris:
                return sentence_page("Not logged out", "The address to go to afterwards is not registered here.", 400)
            state = words.get("state")
            destination = destination if state is None else add_params_to_uri(destination, [("state", state)])
        session = self._session(request)
        if session is None:
            return _left(destination)
        if hint is not None and hint.get("sid") == session.sid:
            return await self._leave(request, session, destination)
        name = self._keep(None, destination)
        targets = [] if destination is None else [_origin(destination)]
        return self._with_form(logout_page(name, session.person.name, targets), request, name)

    async def _log_out(self, request: web.Request) -> web.StreamResponse:
        try:
            words = await read_words(request)
        except OAuth2Error as error:
            return _refused(error)
        pending, session = self._take(request, words.get("request", "")), self._session(request)
        if pending is None or pending.request is not None:
            return sentence_page("Not logged out", "This was not asked in this browser, or too long ago.", 400)
        destination = pending.destination
        response = _left(destination) if session is None else await self._leave(request, session, destination)
        return _without_form(response, request, words["request"])

    async def _leave(self, request: web.Request, session: ProviderSession, destination: str | None) -> web.Response:
        self._grants.end(session)
        await self._back_channel.tell(self.client, session)
        response = _left(destination)
        response.del_cookie(_cookie("session", request), path="/")
        return response

    # ---- browsers

    def _session(self, request: web.Request) -> ProviderSession | None:
        return self._grants.session(request.cookies.get(_cookie("session", request), ""))

    def _keep(self, asked: AuthorizationRequest | None, destination: str | None) -> str:
        """The name of what waits."""
        name = secrets.token_urlsafe(24)
        self._pending[name] = _Pending(secrets.token_urlsafe(24), time.time() + PENDING_S, asked, destination)
        while len(self._pending) > MAX_KEPT:
            self._pending.popitem(last=False)
        return name

    def _with_form(self, response: web.Response, request: web.Request, name: str) -> web.Response:
        cookie = self._pending[name].cookie
        response.set_cookie(
            _form_cookie(request, name), cookie, max_age=int(PENDING_S), httponly=True, samesite="Lax", path="/"
        )
        return response

    def _take(self, request: web.Request, name: str) -> _Pending | None:
        """Once, and only by the browser that it was kept for: a page elsewhere cannot log this browser in or out."""
        pending = self._pending.get(name)
        cookie = request.cookies.get(_form_cookie(request, name), "")
        if pending is None or not hmac.compare_digest(pending.cookie.encode(), cookie.encode()):
            return None
        del self._pending[name]
        return pending if time.time() < pending.expires_at else None


def read_authorization(words: Mapping[str, str]) -> AuthorizationRequest:
    """
    The request of a client and redirect_uri that are known already.

    Raises: OAuth2Error (invalid_request, unsupported_response_type, invalid_scope, request_not_supported).
    """
    for name in ("request", "request_uri", "registration"):
        if name in words:
            raise OAuth2Error(f"{name} is not supported", error=f"{name}_not_supported")
    if words.get("response_type") != "code" or words.get("response_mode", "query") != "query":
        raise UnsupportedResponseTypeError("that")
    if "openid" not in words.get("scope", "").split():
        raise InvalidScopeError("scope must have openid")
    for name in ("state", "nonce", "code_challenge"):
        if not 0 < len(words.get(name, "")) <= MAX_VALUE_CHARS:
            raise InvalidRequestError(f"{name} is missing or too long")
    if words.get("code_challenge_method") != "S256" or _CHALLENGE.fullmatch(words["code_challenge"]) is None:
        raise InvalidRequestError("PKCE by S256 is wanted")
    return AuthorizationRequest(
        words["redirect_uri"], words["state"], words["nonce"], words["code_challenge"], "openid"
    )


async def read_words(request: web.Request) -> dict[str, str]:
    """Parameters of the query (GET) or of the form (POST), and never of both. Raises: InvalidRequestError."""
    if request.method == "GET":
        return single_words(request.query.items())
    if request.content_type != _FORM_TYPE:
        raise InvalidRequestError("a form is wanted")
    return single_words((await request.post()).items())


def _prompts(words: Mapping[str, str]) -> set[str]:
    """Raises: InvalidRequestError."""
    prompts = set(words.get("prompt", "").split())
    if "none" in prompts and len(prompts) > 1:
        raise InvalidRequestError("prompt=none goes alone")
    return prompts


def _is_too_old(words: Mapping[str, str], session: ProviderSession | None) -> bool:
    """Source: OpenID Connect Core section 3.1.2.1, max_age. What is no number asks for a login now."""
    if session is None or "max_age" not in words:
        return False
    text = words["max_age"]
    max_age_s = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0
    return time.time() - session.logged_in_at > max_age_s


def _refused(error: OAuth2Error) -> web.Response:
    return sentence_page("This cannot be", f"{error.description}.", 400)


def _left(destination: str | None) -> web.Response:
    return sentence_page("Logged out", "You have left.") if destination is None else _redirect(destination)


def _redirect(location: str) -> web.Response:
    fields = {"Location": location, "Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
    return web.Response(status=303, headers=fields)


def _origin(url: str) -> str:
    split = urlsplit(url)
    return f"{split.scheme}://{split.netloc}"


def _without_form(response: web.Response, request: web.Request, name: str) -> web.Response:
    """The form was sent: browsers do not collect cookies of old ones."""
    response.del_cookie(_form_cookie(request, name), path="/")
    return response


def _form_cookie(request: web.Request, name: str) -> str:
    return _cookie(f"form-{name[:12]}", request)


def _cookie(what: str, request: web.Request) -> str:
    """Browsers tell cookies apart by host and not by port: two demos on one machine need names of their own."""
    return f"portero-demo-{what}-{request.url.port}"
