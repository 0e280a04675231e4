"""
Addresses that operators write: hosts, URLs of providers and platforms, origins, networks. Each function answers with
what is wrong and what was expected, or with None: which file it stood in is not known here.

Nothing is repaired: an address in another spelling than its canonical one would be two names for one thing.
"""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Final
from urllib.parse import SplitResult, urlsplit

from policies.host import canonical_host

_DEFAULT_PORT: Final = {"http": 80, "https": 443}


def flaw_of_host(text: str) -> str | None:
    """A tenant's host: canonical, or ``*.`` before a canonical suffix."""
    suffix = text.removeprefix("*.")
    canonical = canonical_host(suffix)
    if canonical is None or "*" in suffix:
        return (
            f"{text!r} is no host; expected such as app.acme.example or *.acme.example, without scheme, port and path"
        )
    wanted = text[: len(text) - len(suffix)] + canonical
    if wanted != text:
        return f"{text!r} is not how the host is spelt on the wire; write {wanted!r}"
    if text != suffix and (is_address(canonical) or canonical.startswith("[")):
        return f"{text!r} can never match: nothing stands before an address"
    return None


def is_address(host: str) -> bool:
    """Whether a host (IPv6 in brackets) is an IP address."""
    try:
        ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether a canonical host is this machine by its spelling (RFC 6761 section 6.3), without asking a resolver."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    return is_address(host) and ip_address(host.strip("[]")).is_loopback


def flaw_of_issuer(text: str, *, allow_loopback_http: bool) -> str | None:
    """An issuer or key address: https, no user, query or fragment (OpenID Connect Discovery 1.0 section 3)."""
    example = "https://id.acme.example/realms/acme"
    return _flaw_of_scheme(text, example, allow_loopback_http=allow_loopback_http) or _extras(text)


def flaw_of_endpoint(text: str, *, allow_loopback_http: bool) -> str | None:
    """A provider's endpoint: as an issuer, but a query may belong to it (RFC 6749 sections 3.1 and 3.2)."""
    example = "https://id.acme.example/token"
    return _flaw_of_scheme(text, example, allow_loopback_http=allow_loopback_http) or _flaw_of_path(text)


def flaw_of_backend(text: str) -> str | None:
    """A platform's own address: http or https, host, port, and nothing behind."""
    parts = _split(text)
    if parts is None or parts.scheme not in _DEFAULT_PORT or _host(parts) is None:
        return f"{text!r} is no URL; expected such as http://gateway.openfaas:8080"
    if parts.path not in ("", "/"):
        return f"{text!r} has a path; expected scheme, host and port alone"
    return _extras(text)


def address_of(url: str) -> str:
    """What a backend's sound URL reaches: host and port, whatever its spelling; an unsound one is itself."""
    parts = _split(url)
    host = _host(parts)
    if parts is None or host is None:
        return url
    return f"{host}:{parts.port or _DEFAULT_PORT.get(parts.scheme, 0)}"


def flaw_of_direct_url(text: str) -> str | None:
    """A backend's template for the address of one function."""
    host = text.partition("//")[2]
    filled = text.replace("{function}", "f").replace("{namespace}", "n")
    if "{function}" not in host or "{" in filled or "}" in filled:
        return f"{text!r} is no template; expected such as http://{{function}}.{{namespace}}:8080"
    flaw = flaw_of_backend(filled)
    return flaw.replace(repr(filled), repr(text), 1) if flaw else None


def flaw_of_wake_url(text: str) -> str | None:
    """Where a wake is POSTed to: a platform's address that may have a path, and name the function in it."""
    filled = text.replace("{function}", "f").replace("{namespace}", "n")
    parts = _split(filled)
    if parts is None or "{" in filled or "}" in filled or "{" in text.partition("//")[2].partition("/")[0]:
        return f"{text!r} is no URL; expected such as http://scaler:8080/wake/{{namespace}}/{{function}}"
    flaw = flaw_of_backend(parts._replace(path="").geturl())
    return flaw.replace(repr(parts._replace(path="").geturl()), repr(text), 1) if flaw else None


def flaw_of_origin(text: str) -> str | None:
    """An origin as browsers send it (RFC 6454 section 6.2): byte for byte, so in that spelling only."""
    expected = "expected such as https://app.acme.example"
    if text in ("*", "null"):
        return f"{text!r} would let any site act for the caller; {expected}"
    parts = _split(text)
    host = _host(parts)
    if parts is None or host is None or parts.scheme not in _DEFAULT_PORT:
        return f"{text!r} is no origin; {expected}"
    port = parts.port
    is_default = port is None or port == _DEFAULT_PORT[parts.scheme]
    wanted = f"{parts.scheme}://{host}" + ("" if is_default else f":{port}")
    return None if text == wanted else f"{text!r} is never what a browser sends; write {wanted!r}"


def flaw_of_network(text: str) -> str | None:
    """A CIDR, or one address."""
    try:
        ip_network(text)
    except ValueError:
        try:
            hint = f"; did you mean {ip_network(text, strict=False)}?"
        except ValueError:
            hint = ""
        return f"{text!r} is no network; expected such as 10.0.0.0/8 or 2001:db8::/32{hint}"
    return None


def _split(text: str) -> SplitResult | None:
    """The parts of a URL; None for what ``urlsplit`` would repair or cannot read."""
    if not text.isascii() or not text.isprintable() or set(text) & set(' "<>\\^`|'):
        return None
    try:
        parts = urlsplit(text)
        is_port_sound = parts.port != 0
    except ValueError:
        return None
    return parts if is_port_sound else None


def _host(parts: SplitResult | None) -> str | None:
    """The canonical host of a URL without user information, else None."""
    if parts is None or "@" in parts.netloc:
        return None
    return canonical_host(parts.netloc)


def _flaw_of_scheme(text: str, example: str, *, allow_loopback_http: bool) -> str | None:
    """Whether it is a URL without user information, and https; plain http on loopback for the demo alone."""
    parts = _split(text)
    host = _host(parts)
    if parts is not None and "@" in parts.netloc:  # not shown: a password may stand there
        return f"the address names a user before its host; expected none, such as {example}"
    if parts is None or host is None or parts.scheme not in _DEFAULT_PORT:
        return f"{text!r} is no URL; expected such as {example}"
    if parts.scheme == "http" and not is_loopback(host):
        return f"{text!r} must be https: what came over plain http could be anybody's"
    if parts.scheme == "http" and not allow_loopback_http:
        return f"{text!r} must be https: plain http is for the demo alone"
    return None


def _extras(text: str) -> str | None:
    if "?" in text:
        return f"{text!r} has a query; expected none"
    return _flaw_of_path(text)


def _flaw_of_path(text: str) -> str | None:
    if "#" in text:
        return f"{text!r} has a fragment; expected none"
    parts = _split(text)
    if parts is None or any(segment in (".", "..") for segment in parts.path.split("/")):
        return f"{text!r} has dot segments in its path"
    return None
