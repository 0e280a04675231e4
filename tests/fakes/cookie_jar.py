"""
Cookies as a browser keeps them: by host and not by port, with ``Secure``, ``SameSite`` and the ``__Host-`` prefix.

Source: RFC 6265bis; Secure Contexts section 3.1 (loopback is trustworthy without TLS).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from urllib.parse import SplitResult


@dataclass(frozen=True, slots=True)
class Cookie:
    name: str
    value: str
    host: str
    is_host_only: bool
    path: str
    is_secure: bool
    is_http_only: bool
    same_site: str
    """``strict``, ``lax`` or ``none``; a cookie that says nothing is ``lax``."""
    expires_at: float | None
    """None: until the browser is closed."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A Set-Cookie that no browser takes, and why: tests look here when a login goes wrong."""

    line: str
    why: str


def is_trustworthy(url: SplitResult) -> bool:
    """Whether ``Secure`` cookies may be set and sent: TLS, or loopback by address or by name."""
    host = url.hostname or ""
    return (
        url.scheme == "https" or host in {"localhost", "::1"} or host.endswith(".localhost") or host.startswith("127.")
    )


def site(url: SplitResult) -> tuple[str, str]:
    """Scheme and registrable domain: the address, or the last two labels of a name (no test uses deeper suffixes)."""
    host = url.hostname or ""
    is_address = ":" in host or host.replace(".", "").isdigit()
    return url.scheme, host if is_address else ".".join(host.split(".")[-2:])


def origin(url: SplitResult) -> str:
    return f"{url.scheme}://{url.netloc.rpartition('@')[2]}"


class CookieJar:
    """One jar is one browser profile. Nothing is ever raised for what a server says."""

    def __init__(self) -> None:
        self._cookies: dict[tuple[str, str, str], Cookie] = {}
        self.refused: list[Refused] = []

    def take(self, url: SplitResult, line: str, *, now: float | None = None) -> None:
        """One Set-Cookie of an answer from ``url``."""
        cookie = _read(url, line, time.time() if now is None else now)
        if isinstance(cookie, Refused):
            self.refused.append(cookie)
            return
        key = (cookie.host, cookie.path, cookie.name)
        if cookie.expires_at is not None and cookie.expires_at <= (time.time() if now is None else now):
            self._cookies.pop(key, None)
        else:
            self._cookies[key] = cookie

    def field(self, url: SplitResult, *, is_same_site: bool, is_safe_navigation: bool) -> str | None:
        """The Cookie field of one request, longest path first; None: no cookie goes along."""
        going = [
            cookie
            for cookie in self.all(url.hostname or "")
            if _path_matches(url.path or "/", cookie.path)
            and (is_trustworthy(url) or not cookie.is_secure)
            and (is_same_site or cookie.same_site == "none" or (cookie.same_site == "lax" and is_safe_navigation))
        ]
        going.sort(key=lambda cookie: -len(cookie.path))
        return "; ".join(f"{cookie.name}={cookie.value}" for cookie in going) or None

    def all(self, host: str) -> list[Cookie]:
        """Every cookie that belongs to a host, unexpired."""
        now = time.time()
        return [
            cookie
            for cookie in self._cookies.values()
            if (cookie.host == host or (not cookie.is_host_only and host.endswith(f".{cookie.host}")))
            and (cookie.expires_at is None or cookie.expires_at > now)
        ]

    def values(self, host: str) -> dict[str, str]:
        return {cookie.name: cookie.value for cookie in self.all(host)}

    def plant(self, host: str, values: Mapping[str, str]) -> None:
        """As somebody does who stole or made cookies: ``Secure``, for every path, ``SameSite=Lax``."""
        for name, value in values.items():
            self._cookies[host, "/", name] = Cookie(name, value, host, True, "/", True, True, "lax", None)

    def forget(self, host: str | None = None) -> None:
        self._cookies = {key: cookie for key, cookie in self._cookies.items() if host not in {None, key[0]}}


def _read(url: SplitResult, line: str, now: float) -> Cookie | Refused:
    pair, *attributes = line.split(";")
    name, equals, value = pair.partition("=")
    name, value, host = name.strip(), value.strip(), url.hostname or ""
    if not equals or not name:
        return Refused(line, "no name")
    said = {key.strip().lower(): word.strip() for key, _, word in (part.partition("=") for part in attributes)}
    domain = said.get("domain", "").lstrip(".").lower()
    if domain and (("." not in domain and domain != host) or (host != domain and not host.endswith(f".{domain}"))):
        return Refused(line, f"Domain={domain} is not of {host}")
    path = said.get("path", "")
    path = path if path.startswith("/") else (url.path.rpartition("/")[0] or "/")
    is_secure, same_site = "secure" in said, said.get("samesite", "lax").lower()
    if is_secure and not is_trustworthy(url):
        return Refused(line, "Secure, but neither TLS nor loopback")
    if same_site == "none" and not is_secure:
        return Refused(line, "SameSite=None without Secure")
    lowered = name.lower()
    if lowered.startswith("__secure-") and not is_secure:
        return Refused(line, "__Secure- without Secure")
    if lowered.startswith("__host-") and not (is_secure and said.get("path") == "/" and "domain" not in said):
        return Refused(line, "__Host- wants Secure, Path=/ and no Domain")
    if len(name) + len(value) > 4096:
        return Refused(line, "longer than 4096 bytes")
    expires_at = _expiry(said, now)
    if isinstance(expires_at, str):
        return Refused(line, expires_at)
    same_site = same_site if same_site in {"strict", "lax", "none"} else "lax"
    return Cookie(name, value, domain or host, not domain, path, is_secure, "httponly" in said, same_site, expires_at)


def _expiry(said: Mapping[str, str], now: float) -> float | str | None:
    """Max-Age wins over Expires; a text says why neither can be read."""
    if "max-age" in said:
        try:
            return now + int(said["max-age"])
        except ValueError:
            return "Max-Age is not a number"
    if "expires" in said:
        try:
            return parsedate_to_datetime(said["expires"]).timestamp()
        except (ValueError, TypeError):
            return "Expires is not a date"
    return None


def _path_matches(path: str, of_cookie: str) -> bool:
    return path == of_cookie or path.startswith(of_cookie if of_cookie.endswith("/") else f"{of_cookie}/")
