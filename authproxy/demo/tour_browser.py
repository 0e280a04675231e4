"""
The tour's browser: navigations with redirects, cookies by host, and forms. It shows where it is sent, never a cookie.

Just enough of a browser to log in as a person does: it says that it navigates, follows redirects between Portero and
the provider, and fills in the one form of a page. Nothing is resolved: a tenant's host is asked at the address that
Portero listens on. It decides nothing about what an answer should be.

Source: Fetch Standard (redirects of navigations), Fetch Metadata section 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from http.cookies import CookieError, SimpleCookie
from typing import Final
from urllib.parse import urljoin, urlsplit

import aiohttp
from yarl import URL

MAX_HOPS: Final = 12
NAVIGATION: Final = {"Accept": "text/html,*/*;q=0.8", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}


class CannotBrowse(Exception):
    """No page came of it; the text says why."""


@dataclass(frozen=True, slots=True)
class Page:
    """Where a navigation ended."""

    url: str
    status: int
    reason: str | None
    """Portero's own word, for a refusal."""
    body: str
    hops: tuple[str, ...]
    """What led here: method, address without query, and status of each answer."""


@dataclass(slots=True)
class TourBrowser:
    """
    One person's browser.

    Args:
        session: without a cookie jar of its own.
        public_url: where every host below ``localhost`` is asked.
    """

    session: aiohttp.ClientSession
    public_url: str
    cookies: dict[str, dict[str, str]] = field(default_factory=dict)
    """Host -> its cookies."""

    async def go(self, url: str) -> Page:
        """Type an address. Raises: CannotBrowse."""
        return await self._navigate("GET", url, None, "none")

    async def submit(self, page: Page, values: Mapping[str, str]) -> Page:
        """Fill in the form of a page and send it. Raises: CannotBrowse when there is none."""
        reader = _FormReader()
        reader.feed(page.body)
        if reader.action is None:
            raise CannotBrowse(f"no form at {page.url}")
        target = urljoin(page.url, reader.action)
        return await self._navigate("POST", target, {**reader.hidden, **values}, "same-origin")

    def cookie_field(self, host: str) -> str:
        return "; ".join(f"{name}={value}" for name, value in self.cookies.get(host, {}).items())

    async def _navigate(self, method: str, url: str, form: Mapping[str, str] | None, site: str) -> Page:
        hops: list[str] = []
        while len(hops) <= MAX_HOPS:
            split = urlsplit(url)
            host = split.hostname or ""
            asked = f"{self.public_url}{split.path or '/'}{'?' * bool(split.query)}{split.query}"
            fields = {**NAVIGATION, "Host": split.netloc, "Sec-Fetch-Site": site}
            if form is not None:
                fields["Origin"] = f"{split.scheme}://{split.netloc}"
            if cookie := self.cookie_field(host):
                fields["Cookie"] = cookie
            async with self.session.request(
                method,
                URL(asked if host.endswith(".localhost") else url, encoded=True),
                headers=fields,
                data=form,
                allow_redirects=False,
            ) as answer:
                body = await answer.text(errors="replace")
                self._take(host, answer.headers.getall("Set-Cookie", []))
            hops.append(f"{method} {split.scheme}://{split.netloc}{split.path}  {answer.status}")
            location = answer.headers.get("Location")
            if answer.status not in {302, 303} or location is None:
                return Page(url, answer.status, answer.headers.get("X-Portero-Reason"), body, tuple(hops))
            # A person who typed an address stays "none"; what a form began is another site's from the first hop on.
            following = urljoin(url, location)
            is_elsewhere = urlsplit(following).netloc != split.netloc
            site = "cross-site" if is_elsewhere and site != "none" else site
            method, url, form = "GET", following, None
        raise CannotBrowse(f"sent on more than {MAX_HOPS} times, at last to {urlsplit(url).path}")

    def _take(self, host: str, lines: list[str]) -> None:
        jar = self.cookies.setdefault(host, {})
        for line in lines:
            try:
                read = SimpleCookie(line)
            except CookieError:
                continue
            for name, morsel in read.items():
                if morsel["max-age"] == "0" or not morsel.value:
                    jar.pop(name, None)
                else:
                    jar[name] = morsel.value


class _FormReader(HTMLParser):
    """The first form of a page: where it goes, and what its hidden fields hold."""

    def __init__(self) -> None:
        super().__init__()
        self.action: str | None = None
        self.hidden: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        said = {name: value or "" for name, value in attrs}
        if tag == "form" and self.action is None:
            self.action = said.get("action", "")
        elif tag == "input" and said.get("type") == "hidden" and "name" in said:
            self.hidden[said["name"]] = said.get("value", "")
