"""
Which addresses of a caller's are taken for a callback: one grammar, and the hosts that policy lists.

A caller chooses the text, and two parsers that read it differently would be a way round the list
(``https://listed.example@169.254.169.254/``). So it is read once, by a grammar narrower than RFC 3986, and what is
dialled is put together from the parts that were judged. Whether the host's *addresses* may be dialled is judged at
each attempt (``sender.py``): a name may mean something else by then.

Source: RFC 3986 sections 3.2 and 3.3; OWASP Server-Side Request Forgery Prevention Cheat Sheet.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from authproxy.identity.providers.addresses import is_loopback
from policies.host import canonical_host

MAX_URL_CHARS: Final = 2048
"""Longer ones carry data, not an address; browsers and proxies cut off about here."""
HTTPS_PORT: Final = 443
"""The only port: listing a host lists its web server, not whatever else listens there."""
_URL: Final = re.compile(
    r"(?P<scheme>https?)://(?P<authority>[^/?#]+)(?P<path>/(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/]|%[0-9A-Fa-f]{2})*)?"
    r"(?P<query>\?(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/?]|%[0-9A-Fa-f]{2})*)?",
    re.ASCII | re.IGNORECASE,
)
"""No fragment, no backslash, no blank, nothing that RFC 3986 has no place for."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where one result goes; as judged, not as written."""

    host: str
    """Canonical: lower case, A-labels, no trailing dot; IPv6 in brackets."""
    port: int
    is_tls: bool
    path: str = field(repr=False)
    """With query. Often holds what lets the sender in, so it is never shown."""

    @property
    def url(self) -> str:
        """Secret, as ``path`` is."""
        if self.is_tls:
            return f"https://{self.host}{self.path}"
        return f"http://{self.host}:{self.port}{self.path}"


def read_target(text: str, allowed_hosts: frozenset[str], *, allow_loopback_http: bool = False) -> Target | str:
    """
    The address in ``text``, or one sentence why it is not taken; that sentence repeats nothing of it. Never raises.

    Args:
        text: the field's value.
        allowed_hosts: canonical hosts, or ``*.suffix`` for the names under one; nothing else is ever a target.
        allow_loopback_http: plain http on any port of a listed host that is loopback; the demo and tests only.
    """
    found = _URL.fullmatch(text) if len(text) <= MAX_URL_CHARS and text.isascii() else None
    if found is None:
        return "X-Callback-Url is not an https URL without fragment"
    authority = found["authority"]
    host = canonical_host(authority)
    if host is None:  # userinfo, escapes, numbers that some resolver takes for an address, broken IDNA
        return "X-Callback-Url names no host in its plain spelling"
    if not is_listed(host, allowed_hosts):
        return "X-Callback-Url names a host that policy does not list for callbacks"
    is_tls = found["scheme"].lower() == "https"
    port = _port(authority) or (HTTPS_PORT if is_tls else 80)
    if is_tls:
        if port != HTTPS_PORT:
            return "X-Callback-Url names another port than 443"
    elif not allow_loopback_http or not (host == "localhost" or is_loopback(host.strip("[]"))):
        return "X-Callback-Url is not an https URL"
    return Target(host, port, is_tls, (found["path"] or "/") + (found["query"] or ""))


def is_listed(host: str, allowed_hosts: frozenset[str]) -> bool:
    """Whether a canonical host is one of those, or stands under one that is written as ``*.suffix``."""
    if host in allowed_hosts:
        return True
    if host[0] == "[" or host.rpartition(".")[2].isdigit():
        return False  # an address stands under no name
    suffix = host
    while suffix:
        suffix = suffix.partition(".")[2]
        if suffix and f"*.{suffix}" in allowed_hosts:
            return True
    return False


def _port(authority: str) -> int | None:
    """Of an authority that ``canonical_host`` took."""
    port = authority.rpartition("]")[2].partition(":")[2]
    return int(port) if port else None
