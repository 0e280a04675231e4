"""
A browser without a screen: navigations, redirects, forms and cookies as browsers do them, over plain sockets.

It logs in at providers and through Portero like a person, and says exactly what was sent and what came: every hop of a
chain of redirects is kept. It runs no script. Names below ``localhost`` and ``test`` are connected to loopback and no
resolver is asked, so that nothing ever leaves the machine; any other host is refused.

Source: Fetch Standard (redirects), Fetch Metadata (Sec-Fetch-*), RFC 6265bis section 5.2 (same-site requests).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any, Final
from urllib.parse import SplitResult, urlencode, urljoin, urlsplit, urlunsplit

import httptools

from tests.fakes.cookie_jar import CookieJar, origin, site

MAX_HOPS: Final = 20
MAX_BODY_BYTES: Final = 8 * 1024 * 1024
ACCEPT_PAGE: Final = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
Fields = Sequence[tuple[str, str]]


class CannotBrowse(Exception):
    """Nothing that a browser would show: no such host, no answer, a loop of redirects."""


@dataclass(frozen=True, slots=True)
class Form:
    """One form of a page: where it goes and what its fields hold before anybody types."""

    action: str
    method: str
    values: tuple[tuple[str, str], ...]
    buttons: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Page:
    """What one request ended with. ``hops`` are the answers before it, first one first, without hops of their own."""

    url: str
    status: int
    fields: Fields
    body: bytes
    sent: Fields
    """The header fields of the request."""
    hops: tuple[Page, ...] = ()

    def field(self, name: str) -> str | None:
        """The first field of that name."""
        return next((value for key, value in self.fields if key.lower() == name.lower()), None)

    def every(self, name: str) -> list[str]:
        return [value for key, value in self.fields if key.lower() == name.lower()]

    def sent_field(self, name: str) -> str | None:
        return next((value for key, value in self.sent if key.lower() == name.lower()), None)

    @property
    def location(self) -> str | None:
        """Where this answer redirects to, absolute; None: it does not."""
        location = self.field("Location")
        return urljoin(self.url, location) if self.status in {301, 302, 303, 307, 308} and location else None

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "replace")

    @property
    def path(self) -> str:
        """Path and query of where the browser is."""
        split = urlsplit(self.url)
        return urlunsplit(("", "", split.path or "/", split.query, ""))

    @property
    def forms(self) -> list[Form]:
        reader = _FormReader()
        reader.feed(self.text)
        return reader.forms


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    url: str
    body: bytes | None
    initiator: str | None
    """The page that caused it; None: the person, in the address bar."""
    chain: tuple[str, ...]
    """All addresses of this chain of redirects, the present one last."""
    mode: str
    dest: str
    more: tuple[tuple[str, str], ...]

    @property
    def is_navigation(self) -> bool:
        return self.mode == "navigate"


@dataclass(slots=True)
class ScriptedBrowser:
    """
    One browser profile; each ``Page`` is a tab.

    Args:
        connect: host (with or without port) -> where to connect instead, where that differs from the URL's port.
        tls: for https; without it https is refused.
    """

    connect: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    tls: ssl.SSLContext | None = None
    timeout_s: float = 15.0
    jar: CookieJar = field(default_factory=CookieJar)

    async def go(self, url: str, *, follow: bool = True, stop_at: str | None = None, more: Fields = ()) -> Page:
        """
        Type an address. ``follow=False`` gives the first answer, whatever it is.

        With ``stop_at``, redirects are followed until one leads to an address that begins so; the answer that redirects
        there is what comes back, and ``Page.location`` of it is where the browser would have gone.
        """
        request = _Request("GET", url, None, None, (url,), "navigate", "document", tuple(more))
        return await self._run(request, follow, stop_at)

    async def click(self, page: Page, href: str, *, follow: bool = True, stop_at: str | None = None) -> Page:
        """Follow a link of a page."""
        url = urljoin(page.url, href)
        return await self._run(
            _Request("GET", url, None, page.url, (url,), "navigate", "document", ()), follow, stop_at
        )

    async def submit(
        self,
        page: Page,
        values: Mapping[str, str] | None = None,
        *,
        form: int | Form = 0,
        follow: bool = True,
        stop_at: str | None = None,
    ) -> Page:
        """
        Send a form of a page, with ``values`` typed in or, for a button, its name and value.

        Raises: CannotBrowse when there is no such form.
        """
        if isinstance(form, int):
            if form >= len(page.forms):
                raise CannotBrowse(f"{page.url} ({page.status}) has {len(page.forms)} forms: {page.text[:500]}")
            form = page.forms[form]
        kept = [(name, value) for name, value in form.values if name not in (values or {})]
        typed = urlencode([*kept, *(values or {}).items()])
        url = urljoin(page.url, form.action)
        if form.method == "get":
            url = urlunsplit(urlsplit(url)._replace(query=typed))
            request = _Request("GET", url, None, page.url, (url,), "navigate", "document", ())
        else:
            request = _Request("POST", url, typed.encode(), page.url, (url,), "navigate", "document", ())
        return await self._run(request, follow, stop_at)

    async def fetch(
        self, page: Page, url: str, *, method: str = "GET", body: bytes | None = None, more: Fields = ()
    ) -> Page:
        """As a script of the page does: ``fetch(url, {credentials: "include"})``, redirects followed."""
        url = urljoin(page.url, url)
        return await self._run(_Request(method, url, body, page.url, (url,), "cors", "empty", tuple(more)), True, None)

    async def _run(self, request: _Request, follow: bool, stop_at: str | None) -> Page:
        hops: list[Page] = []
        async with asyncio.timeout(self.timeout_s):
            while True:
                page = await self._ask(request)
                location = page.location
                is_end = location is None or not follow or (stop_at is not None and location.startswith(stop_at))
                if is_end or location is None:
                    return Page(page.url, page.status, page.fields, page.body, page.sent, tuple(hops))
                hops.append(page)
                if len(hops) > MAX_HOPS:
                    raise CannotBrowse(f"redirected more than {MAX_HOPS} times: {[hop.url for hop in hops[-4:]]}")
                request = _redirected(request, page.status, location)

    async def _ask(self, request: _Request) -> Page:
        url = urlsplit(request.url)
        host, port = self._where(url)
        sent = self._fields(request, url)
        head = f"{request.method} {urlunsplit(('', '', url.path or '/', url.query, ''))} HTTP/1.1\r\n"
        block = head + "".join(f"{name}: {value}\r\n" for name, value in sent) + "\r\n"
        context = self.tls if url.scheme == "https" else None
        try:
            reader, writer = await asyncio.open_connection(
                host, port, ssl=context, server_hostname=url.hostname if context else None
            )
        except OSError as error:
            raise CannotBrowse(f"nobody listens for {request.url}: {error.strerror}") from error
        try:
            writer.write(block.encode("latin-1") + (request.body or b""))
            answer = await _read_answer(reader, is_head=request.method == "HEAD")
        finally:
            writer.transport.abort()
        for name, value in answer.fields:
            if name.lower() == "set-cookie":
                self.jar.take(url, value)
        return Page(request.url, answer.status, answer.fields, bytes(answer.body), sent)

    def _where(self, url: SplitResult) -> tuple[str, int]:
        host = url.hostname or ""
        if url.scheme not in {"http", "https"} or (url.scheme == "https" and self.tls is None):
            raise CannotBrowse(f"{url.scheme} is not spoken here: {urlunsplit(url)}")
        port = url.port or (443 if url.scheme == "https" else 80)
        for known in (f"{host}:{port}", host):
            if known in self.connect:
                return self.connect[known]
        if host.startswith("127.") or host == "localhost" or host.endswith((".localhost", ".test")):
            return (host if host.startswith("127.") else "127.0.0.1"), port
        raise CannotBrowse(f"would leave this machine: {urlunsplit(url)}")

    def _fields(self, request: _Request, url: SplitResult) -> Fields:
        initiator = None if request.initiator is None else urlsplit(request.initiator)
        is_same_site = initiator is None or site(initiator) == site(url)
        fetch_site = _fetch_site(initiator, request.chain)
        cookie = self.jar.field(
            url,
            is_same_site=is_same_site,
            is_safe_navigation=request.is_navigation and request.method in {"GET", "HEAD"},
        )
        fields = [
            ("Host", url.netloc.rpartition("@")[2]),
            ("Connection", "close"),
            ("User-Agent", "ScriptedBrowser"),
            ("Accept", ACCEPT_PAGE if request.is_navigation else "*/*"),
            ("Accept-Language", "en"),
            ("Sec-Fetch-Site", fetch_site),
            ("Sec-Fetch-Mode", request.mode),
            ("Sec-Fetch-Dest", request.dest),
        ]
        if request.is_navigation:
            fields += [("Sec-Fetch-User", "?1"), ("Upgrade-Insecure-Requests", "1")]
        if initiator is not None and (request.method not in {"GET", "HEAD"} or request.mode == "cors"):
            is_tainted = any(origin(urlsplit(hop)) != origin(initiator) for hop in request.chain[:-1])
            is_cross = is_tainted and origin(url) != origin(urlsplit(request.chain[-2]))
            fields.append(("Origin", "null" if is_cross else origin(initiator)))
        if request.body is not None:
            if not any(name.lower() == "content-type" for name, _ in request.more):
                fields.append(("Content-Type", "application/x-www-form-urlencoded"))
            fields.append(("Content-Length", str(len(request.body))))
        if cookie is not None:
            fields.append(("Cookie", cookie))
        return [*fields, *request.more]


def _redirected(request: _Request, status: int, url: str) -> _Request:
    """303 of anything and 301 or 302 of a POST become GET without body (Fetch Standard, HTTP-redirect fetch)."""
    becomes_get = (status == 303 and request.method != "HEAD") or (status in {301, 302} and request.method == "POST")
    return _Request(
        "GET" if becomes_get else request.method,
        urlunsplit(urlsplit(url)._replace(fragment="")),
        None if becomes_get else request.body,
        request.initiator,
        (*request.chain, url),
        request.mode,
        request.dest,
        tuple(pair for pair in request.more if not becomes_get or pair[0].lower() != "content-type"),
    )


def _fetch_site(initiator: SplitResult | None, chain: Iterable[str]) -> str:
    """Source: Fetch Metadata section 2.4: the whole chain counts; what a person typed stays ``none``."""
    if initiator is None:
        return "none"
    said = "same-origin"
    for hop in map(urlsplit, chain):
        if origin(hop) == origin(initiator):
            continue
        if site(hop) != site(initiator):
            return "cross-site"
        said = "same-site"
    return said


class _Answer:
    """What httptools tells of one answer."""

    def __init__(self) -> None:
        self.status = 0
        self.fields: list[tuple[str, str]] = []
        self.body = bytearray()
        self.is_whole = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name.decode("latin-1"), value.decode("latin-1")))

    def on_body(self, data: bytes) -> None:
        self.body += data
        if len(self.body) > MAX_BODY_BYTES:
            raise CannotBrowse("an answer too large for a page")

    def on_message_complete(self) -> None:
        self.is_whole = True


async def _read_answer(reader: asyncio.StreamReader, *, is_head: bool) -> _Answer:
    answer = _Answer()
    parser: Any = httptools.HttpResponseParser(answer)
    while not answer.is_whole:
        data = await reader.read(65536)
        if not data:
            break
        try:
            parser.feed_data(data)
        except httptools.HttpParserError as error:
            raise CannotBrowse(f"no HTTP: {error}") from error
        if is_head and b"\r\n\r\n" in data:
            break
    try:
        answer.status = int(parser.get_status_code())
    except (AttributeError, TypeError) as error:
        raise CannotBrowse("the connection ended without an answer") from error
    if not answer.status:
        raise CannotBrowse("the connection ended without an answer")
    return answer


class _FormReader(HTMLParser):
    """Forms, their hidden and filled fields, and their buttons, also those tied to a form by ``form=``."""

    def __init__(self) -> None:
        super().__init__()
        self.forms: list[Form] = []
        self._by_id: dict[str, int] = {}
        self._is_inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        said = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.forms.append(Form(said.get("action", ""), said.get("method", "get").lower(), (), ()))
            self._is_inside = True
            if "id" in said:
                self._by_id[said["id"]] = len(self.forms) - 1
            return
        number = self._by_id.get(said["form"]) if "form" in said else (len(self.forms) - 1 if self._is_inside else None)
        if tag not in {"input", "button"} or number is None or "name" not in said:
            return
        form = self.forms[number]
        pair = (said["name"], said.get("value", ""))
        is_button = tag == "button" or said.get("type", "").lower() in {"submit", "image"}
        if said.get("type", "").lower() in {"checkbox", "radio"} and "checked" not in said:
            return
        self.forms[number] = Form(
            form.action,
            form.method,
            form.values if is_button else (*form.values, pair),
            (*form.buttons, pair) if is_button else form.buttons,
        )

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._is_inside = False
