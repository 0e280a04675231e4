r"""
Where an attacker would like a login to return to: forms of open redirects, each refused for a reason of its own.

A form is the value of ``return_to`` after the query was decoded once. Every one of them either leads a browser to
another host (browsers read ``\`` as ``/``, drop tabs and line breaks, and strip blanks at both ends), or smuggles
something into an answer, or runs in a circle through Portero's own pages, or is not a path of ours at all. Those of
``HARMLESS`` look alike and are paths of ours: a judge that refuses them as well refuses too much.

Source: WHATWG URL Standard (basic URL parser); RFC 3986 section 4.2; RFC 3629 section 3 (overlong forms).
"""

from __future__ import annotations

from itertools import chain, product
from typing import Final

EVIL: Final = "evil.example"
OURS: Final = "acme.localhost:8088"


def _joined(*parts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple("".join(chosen) for chosen in product(*parts))


# What a browser takes for the two slashes before a host.
_SLASHES: Final = ("//", "///", "////", "/\\", "\\/", "\\\\", "/\\/", "//\\", "/\\\\", "\\/\\/", "/\\/\\", "\\\\\\")
# What names another host, or seems to name ours.
_HOSTS: Final = (
    EVIL,
    f"{EVIL}/reports/es",
    f"{EVIL}:443",
    f"user:pass@{EVIL}",
    f"{OURS}@{EVIL}",
    f"acme.localhost.{EVIL}",
    f"{EVIL}?{OURS}",
    f"{EVIL}#@{OURS}",
)
_SCHEME_RELATIVE: Final = _joined(_SLASHES, _HOSTS)

# Addresses instead of names: loopback and cloud metadata in the spellings that URL parsers take.
_ADDRESSES: Final = _joined(
    ("//", "http://"),
    (
        "127.0.0.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "127.1",
        "169.254.169.254",
        "[::1]",
        "[::ffff:7f00:1]",
        "[fe80::1%25eth0]",
    ),
)

# Whole addresses: other schemes, mixed case, fewer or more slashes, and our own host (only paths are returned to).
_SCHEMES: Final = (
    *_joined(("http:", "https:", "HTTPS:", "hTtP:", "ftp:", "ws:"), ("", "/", "//", "///", "\\\\", "/\\"), (EVIL,)),
    *_joined(
        ("http://", "https://"), (OURS, f"{OURS}/reports/es", f"{OURS}@{EVIL}", f"{OURS}\\@{EVIL}", f"{EVIL}\\{OURS}")
    ),
    "javascript:alert(1)",
    "JavaScript:alert(1)",
    "javascript://%0aalert(1)",
    f"javascript://{OURS}/%0aalert(1)",
    "java\tscript:alert(1)",
    "java\nscript:alert(1)",
    "\x01javascript:alert(1)",
    "javascript\t:alert(1)",
    "javascript&colon;alert(1)",
    "data:text/html,<script>alert(1)</script>",
    "data:text/html;base64,PHNjcmlwdD4=",
    "DATA:text/html,x",
    "vbscript:msgbox(1)",
    "file:///etc/passwd",
    f"blob:https://{EVIL}/1",
    "about:blank",
    f"view-source:https://{EVIL}",
    f"mailto:ana@{EVIL}",
    f"intent://{EVIL}#Intent;scheme=https;end",
    "tel:112",
    f"jar:https://{EVIL}!/",
    f"feed:https://{EVIL}",
    f"filesystem:https://{EVIL}/temporary/",
    f"://{EVIL}",
    f":{EVIL}",
    f"http:@{EVIL}",
    f"https:;@{EVIL}",
)

# Blanks and controls that browsers strip, drop, or that break a header field: before, within and after the slashes.
_BLANKS: Final = (
    "\t",
    "\n",
    "\r",
    "\r\n",
    " ",
    "\x00",
    "\x0b",
    "\x0c",
    "\x1f",
    "\x7f",
    "\x85",
    "\xa0",
    "\u2028",
    "\u3000",
    "\ufeff",
)
_BLANKED: Final = (
    *(f"{blank}//{EVIL}" for blank in _BLANKS),
    *(f"/{blank}/{EVIL}" for blank in _BLANKS),
    *(f"//{blank}{EVIL}" for blank in _BLANKS),
    *(f"/reports{blank}" for blank in _BLANKS),
    *(f"{blank}https://{EVIL}" for blank in ("\t", "\n", " ", "\x00")),
    "/\u200b/" + EVIL,
    "/\u00ad/" + EVIL,
    "/\u202e/" + EVIL,
)

# The same behind percent-encoding, once and twice, in the case that a later hop decodes again.
_ENCODED: Final = (
    *_joined(
        ("/%2f", "/%2F", "/%5c", "/%5C", "/%2f%2f", "/%5c%5c", "/%2f%5c", "%2f%2f", "%2f/", "%5c%5c", "%5c/"), (EVIL,)
    ),
    *_joined(("/%2f/", "/%5c/", "/reports/%2f..%2f/", "/reports%2f%2f", "/reports%5c", "/a/%2f/"), (EVIL,)),
    *_joined(("/%09/", "/%0a/", "/%0d/", "/%00/", "/%0b/", "/%7f/", "/%1f/", "/%0d%0a/"), (EVIL,)),
    f"%68ttps://{EVIL}",
    f"https%3a//{EVIL}",
    f"https%3A%2F%2F{EVIL}",
    f"%252f%252f{EVIL}",
    f"%09//{EVIL}",
    f"%00//{EVIL}",
    f"%20//{EVIL}",
    f"/%0d%0aLocation:%20//{EVIL}",
    "/%0d%0aSet-Cookie:%20__Host-portero-session=x",
    "/reports%0aX:1",
    "/reports%00.html",
)

# Overlong and invalid UTF-8, half escapes, and signs that look like a slash, a dot or a colon until they are folded.
_BROKEN_ESCAPES: Final = (
    f"/%c0%af%c0%af{EVIL}",
    f"/%c0%afs{EVIL}",
    f"/%e0%80%af{EVIL}",
    f"/%f0%80%80%af{EVIL}",
    "/%c0%ae%c0%ae/",
    "/%ff",
    "/%80",
    "/%ed%a0%80",
    "/%f5%80%80%80",
    "/%",
    "/%2",
    "/%zz",
    "/%%32f",
    f"/%u002f{EVIL}",
    "/reports/%2",
)
_LOOKALIKES: Final = (
    *(f"{sign}{sign}{EVIL}" for sign in "\uff0f\u2044\u2215\u29f8\u2571\uff3c\ufe68"),
    *(f"/{sign}{EVIL}" for sign in "\uff0f\u2044\u2215\u29f8\u2571\uff3c\ufe68"),
    "//evil\u3002example",
    "//evil\uff0eexample",
    "https\uff1a//" + EVIL,
    f"//{OURS}\uff20{EVIL}",
    "//\u24d4vil.example",
    "//\u0435vil.example",
    "/reports/\u00e9",
    "/\ud800",
)

# Dot segments and empty segments: what is left of the path when they are gone begins with two slashes.
_SEGMENTS: Final = (
    *_joined(
        ("/..", "/.", "/../..", "/a/..", "/./.", "/%2e%2e", "/%2e", "/%2E.", "/.%2e"), ("//", "/\\", "/"), (EVIL,)
    ),
    *_joined(("/reports//", "/reports///", "/a//b//"), (EVIL,)),
    f"/;@{EVIL}",
    f"/;/{EVIL}",
    f"/;//{EVIL}",
    f"/;/..//{EVIL}",
    f"/a;b//{EVIL}",
    "/reports/..",
    "/reports/.",
    "/..",
    "/.",
)

# Fragments are the browser's own business and come back to whoever reads the page.
_FRAGMENTS: Final = (
    f"/#//{EVIL}",
    "/reports/es#x",
    f"#//{EVIL}",
    f"/#@{EVIL}",
    "/reports#/../..",
    "#",
    "/#",
    "/?a=1#b",
)

# In a circle: our own pages, other than those that a login may return to.
_CIRCLES: Final = (
    "/.portero",
    "/.portero/",
    "/.portero/login",
    "/.portero/login?return_to=/.portero/login",
    f"/.portero/login?return_to=//{EVIL}",
    "/.portero/login/",
    "/.portero/callback",
    "/.portero/callback?code=x&state=y",
    "/.portero/callback?error=access_denied",
    "/.portero/token",
    "/.portero/jwks.json",
    "/.portero/backchannel-logout",
    "/.portero/result/1",
    "/.portero/whoami/",
    "/.portero/whoami/x",
    "/%2eportero/login",
    "/.%70ortero/login",
    "/.portero%2flogin",
    "/.portero/%6cogin",
    "/./.portero/login",
    "/a/../.portero/login",
    "//.portero/login",
)

# Not a path of ours at all.
_NO_PATH: Final = (
    "",
    " ",
    "\t",
    EVIL,
    f"www.{EVIL}",
    f"{EVIL}/reports/es",
    "reports/es",
    ".",
    "..",
    "./reports/es",
    "../reports/es",
    f"@{EVIL}",
    f".{EVIL}",
    f"-.{EVIL}",
    ":443/",
    "[::1]",
    "*",
    "?a=1",
    f"?//{EVIL}",
    f";//{EVIL}",
    f"&//{EVIL}",
    "null",
    '"/reports/es"',
    "<//evil.example>",
    "/reports es",
    "/<script>alert(1)</script> x",
)

# Longer than anybody's address: remembered, they would fill a state, a cookie or a header field.
_OVERLONG: Final = (
    "/" + "a" * 2048,
    "/?" + "a=1&" * 700,
    "/" + "../" * 900 + EVIL,
    "/" + "%2f" * 800 + EVIL,
    f"//{EVIL}/" + "a" * 5000,
    "/" * 3000,
    "/" + "a/" * 40_000,
    "\\" * 3000,
)

FORMS: Final[tuple[str, ...]] = tuple(
    dict.fromkeys(
        chain(
            _SCHEME_RELATIVE,
            _ADDRESSES,
            _SCHEMES,
            _BLANKED,
            _ENCODED,
            _BROKEN_ESCAPES,
            _LOOKALIKES,
            _SEGMENTS,
            _FRAGMENTS,
            _CIRCLES,
            _NO_PATH,
            _OVERLONG,
        )
    )
)
"""Every one has to be refused."""

HARMLESS: Final[tuple[str, ...]] = (
    "/",
    "/reports/es",
    "/reports/",
    "/reports/es?from=2026-01-01&to=2026-02-01",
    f"/{EVIL}",
    f"/@{EVIL}",
    f"/reports;a=b/{EVIL}",
    f"/?next=//{EVIL}",
    f"/?next=https://{EVIL}/%0d%0a",
    "/reports/%C3%A9",
    f"/:80@{EVIL}",
    f"/https:{EVIL}",
    "/.portero/whoami",
    "/.porteros/login",
    "/.well-known/x",
)
"""Paths of our own host, whatever they look like: a login returns to them."""
