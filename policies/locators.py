"""
Addresses that operators write: hosts, URLs of providers and platforms, origins, networks. Each function answers with
what is wrong and what was expected, or with None: which file it stood in is not known here.

Nothing is repaired: an address in another spelling than its canonical one would be two names for one thing.
"""

from __future__ import annotations

import re
from ipaddress import ip_address, ip_network
from typing import Final
from urllib.parse import SplitResult, quote, urlsplit

from policies.decision import Deny
from policies.host import canonical_host
from policies.quantities import PLAIN_PATH
from policies.target import canonical_target

_MERGED: Final = re.compile(r"\{(?:function\}[-a-z0-9]*\{namespace|namespace\}[-a-z0-9]*\{function)\}", re.IGNORECASE)
"""Names with nothing between them that could not be a part of either."""
_PLAIN_PATH: Final = re.compile(rf"(?:{PLAIN_PATH})")
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


def is_private(host: str) -> bool:
    """Whether a canonical host shows by its spelling that not everybody can reach it; names are not looked up."""
    if is_address(host):
        return not ip_address(host.strip("[]")).is_global
    return host == "localhost" or host.endswith(".localhost")


def flaw_of_issuer(text: str, *, allow_loopback_http: bool) -> str | None:
    """An issuer or key address: https, no user, query or fragment (OpenID Connect Discovery 1.0 section 3)."""
    example = "https://id.acme.example/realms/acme"
    return _flaw_of_scheme(text, example, allow_loopback_http=allow_loopback_http) or _extras(text)


def flaw_of_endpoint(text: str, *, allow_loopback_http: bool) -> str | None:
    """A provider's endpoint: as an issuer, but a query may belong to it (RFC 6749 sections 3.1 and 3.2)."""
    example = "https://id.acme.example/token"
    return _flaw_of_scheme(text, example, allow_loopback_http=allow_loopback_http) or _flaw_of_path(text)


def flaw_of_domain(text: str) -> str | None:
    """What stands behind functions' names in the hosts of a platform: one canonical name."""
    if flaw := flaw_of_host(text):
        return flaw
    if text.startswith("*.") or is_address(text):
        return f"{text!r} is no domain that a function's name could stand before; expected such as fn.example"
    return None


def flaw_of_backend(text: str) -> str | None:
    """A platform's own address: http or https, host, port, and nothing behind."""
    parts = _split(text)
    if parts is not None and "@" in parts.netloc:  # not shown: a password may stand there
        return "the address names a user before its host; expected none, and credentials: NAME of a secret"
    if parts is None or parts.scheme not in _DEFAULT_PORT or _host(parts) is None:
        return f"{text!r} is no URL; expected such as http://gateway.openfaas:8080"
    if parts.path not in ("", "/"):
        return f"{text!r} has a path; expected scheme, host and port alone"
    return _extras(text)


def address_of(url: str) -> str:
    """What a backend's sound URL or template reaches: host and port, however it is spelt; an unsound one is itself."""
    parts = _split(_filled(url, "xfunctionx", "xnamespacex"))
    host = _host(parts)
    if parts is None or host is None:
        return url
    return f"{host}:{parts.port or _DEFAULT_PORT.get(parts.scheme, 0)}"


def flaw_of_direct_url(text: str) -> str | None:
    """A backend's template for the address of one function: what two functions never share."""
    host = text.partition("//")[2]
    filled = _filled(text, "f", "n")
    if "{function}" not in host or "{" in filled or "}" in filled:
        return f"{text!r} is no template; expected such as http://{{function}}.{{namespace}}:8080"
    if _MERGED.search(text):
        return f"{text!r}: a-b in c and a in b-c would be one; expected such as http://{{function}}.{{namespace}}:8080"
    flaw = flaw_of_backend(filled)
    return flaw.replace(repr(filled), repr(text), 1) if flaw else None


def flaw_of_service_url(text: str) -> str | None:
    """Where functions are that stand on no platform: an address that may have a path; host or path may name them."""
    expected = "expected such as http://legacy:8080/api or http://{function}.{namespace}:8080"
    if "{namespace}" in text and "{function}" not in text:
        return f"{text!r} names the namespace alone; {expected}"
    return _flaw_with_path(text, expected)


def flaw_of_wake_url(text: str) -> str | None:
    """Where a wake is POSTed to: a platform's address that may have a path, and name the function in it."""
    expected = "expected such as http://scaler:8080/wake/{namespace}/{function}"
    if "{" in text.partition("//")[2].partition("/")[0]:
        return f"{text!r} is no URL; {expected}"
    return _flaw_with_path(text, expected)


def _flaw_with_path(text: str, expected: str) -> str | None:
    """Of a backend's address that may have a path, and names in it."""
    filled = _filled(text, "f", "n")
    parts = _split(filled)
    if parts is None or "{" in filled or "}" in filled:
        return f"{text!r} is no URL; {expected}"
    if _MERGED.search(text):
        return f"{text!r}: a-b in c and a in b-c would be one; {expected}"
    if parts.path and not _PLAIN_PATH.fullmatch(parts.path):
        return f"{text!r} has a path with escapes, empty or dot segments; {expected}"
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


def flaw_of_path_pattern(text: str) -> str | None:
    """A path, or with ``*`` at its end the beginning of one, that a judged path can be equal to, or begin with."""
    whole = text.removesuffix("*") + "x" * text.endswith("*")
    target = canonical_target(quote(whole, safe="%/!$&'()*+,;=:@").encode())
    if isinstance(target, Deny):
        return f"{text!r} can never match: {target.detail}"
    written = target.path[:-1] + "*" if text.endswith("*") else target.path
    return None if written == text else f"{text!r} is never how a path is judged; write {written!r}"


def _filled(template: str, function: str, namespace: str) -> str:
    return template.replace("{function}", function).replace("{namespace}", namespace)


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
