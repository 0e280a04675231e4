"""All pages together: methods, keys, what cannot be known, how HTML is written."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from typing import Any

import jinja2
import pytest

from authproxy.gate.verdict import Case, PageCall
from authproxy.pages.pages import MAX_BODY_BYTES
from authproxy.pages.render import TEMPLATES, render
from authproxy.results.result import Owner
from authproxy.results.store import ResultBounds
from policies.decision import Deny, Page, Reason
from policies.problem import problem
from policies.tenancy import PAGES
from tests.fakes.pages import PagesWorld, Reply
from tests.fakes.tenancy import a_head, a_request

METHODS = {
    "login": "GET",
    "callback": "GET",
    "logout": "GET, HEAD, POST",
    "whoami": "GET, HEAD",
    "jwks.json": "GET, HEAD",
    "token": "POST",
    "backchannel-logout": "POST",
}


def call_for(world: PagesWorld, name: str, **head: Any) -> PageCall:
    raw = a_head(f"/.portero/{name}", **head)
    request = a_request(f"/.portero/{name}", **head)
    return PageCall(Case(raw, request, world.policies, "req-1", world.clock()), Page(world.tenants[0], name))


def test_every_page_is_served() -> None:
    """The core's list is this room's."""
    assert set(METHODS) == PAGES


@pytest.mark.parametrize("name", sorted(METHODS))
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"])
async def test_each_page_judges_its_method(name: str, method: str) -> None:
    """405 with Allow for every other one."""
    reply = await PagesWorld().ask(f"/.portero/{name}", method=method)
    if method in METHODS[name].split(", "):
        assert reply.status != 405
    else:
        assert (reply.status, reply.field("Allow")) == (405, METHODS[name])


async def test_keys_are_everybodys() -> None:
    """RFC 7517; caches and pages of any origin may have them."""
    reply = await PagesWorld().ask("/.portero/jwks.json")
    assert json.loads(reply.body) == {"keys": [{"kty": "OKP", "kid": "k1"}]}
    assert reply.field("Cache-Control") == "public, max-age=300"
    assert reply.field("Access-Control-Allow-Origin") == "*"
    assert not reply.cookies


async def test_a_body_that_is_too_long_is_not_looked_at() -> None:
    """The edge bounds it; so does the page."""
    world = PagesWorld()
    reply = await world.ask("/.portero/token", method="POST", body=b"x" * (MAX_BODY_BYTES + 1))
    assert reply.reason is Reason.BODY_TOO_LARGE


async def test_a_page_that_is_not_ours_is_none() -> None:
    """Even if the core's list grew."""
    world = PagesWorld()
    answered = await world.pages.answer(call_for(world, "other"), b"")
    assert isinstance(answered, Deny)
    assert answered.reason is Reason.ROUTE_UNKNOWN


async def test_a_defect_is_told_to_the_log_alone() -> None:
    """AP-R52: never raises, whatever breaks."""
    world = PagesWorld()

    async def broken(*_: object) -> Any:
        raise ZeroDivisionError("canary")

    world.pages._parts = replace(world.pages._parts, identify=broken)
    for name in ("whoami", "login"):
        reply = await world.browser().navigate(f"/.portero/{name}")
        assert (reply.status, reply.reason) == (500, Reason.INTERNAL_ERROR)
        assert "canary" not in reply.text


async def test_a_call_without_a_request_is_a_defect() -> None:
    """No gate makes one; it is refused, not raised."""
    world = PagesWorld()
    call = call_for(world, "whoami")
    call.case.request = None
    answered = await world.pages.answer(call, b"")
    assert isinstance(answered, Deny)
    assert answered.reason is Reason.INTERNAL_ERROR


async def _every_html_page(world: PagesWorld) -> dict[str, Reply]:
    browser = world.browser()
    found = {"logged_out.html": await browser.navigate("/.portero/logout")}
    found["failed.html"] = await browser.navigate("/.portero/callback?state=x")
    await browser.log_in()
    found["logout.html"] = await browser.navigate("/.portero/logout")
    found["whoami.html"] = await browser.navigate("/.portero/whoami")
    pending = await world.results.open(Owner("acme", None), "f", ResultBounds(9, 9, 9), 9.0)
    found["pending.html"] = await browser.navigate(f"/.portero/result/{pending}")
    return found


async def test_html_lets_in_nothing_but_its_own_style() -> None:
    """The style by its hash; no script, no asset, no frame; readable on a phone, light and dark."""
    for reply in (await _every_html_page(PagesWorld())).values():
        policy = reply.field("Content-Security-Policy") or ""
        for part in ("default-src 'none'", "base-uri 'none'", "frame-ancestors 'none'", "form-action "):
            assert part in policy
        assert "unsafe" not in policy
        style = re.search(r"<style>(.*?)</style>", reply.text, re.DOTALL)
        assert style is not None
        digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
        assert f"style-src 'sha256-{digest}'" in policy
        assert reply.field("X-Content-Type-Options") == "nosniff"
        assert reply.field("Cache-Control") == "no-store"
        assert reply.field("Referrer-Policy") in {"no-referrer", "same-origin"}
        assert "acme" in reply.text
        for needed in ('lang="en"', 'name="viewport"', "prefers-color-scheme: dark", ":focus-visible", "<h1>"):
            assert needed in reply.text
        for loaded in ("<script", " style=", " src=", "@import", "url("):
            assert loaded not in reply.text
        assert not re.search(r"<[^>]+\son\w+=", reply.text)


def test_the_error_page_has_the_same_look() -> None:
    """One style for all of Portero, admitted by its hash there too."""
    document = problem(Deny(Reason.NO_RULE_ALLOWS), "r", accepts_html=True)
    style = re.search(rb"<style>(.*?)</style>", document.body, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1]).digest()).decode()
    assert f"'sha256-{digest}'" in dict(document.fields)["Content-Security-Policy"]


def _luminance(colour: str) -> float:
    digits = colour.lstrip("#")
    digits = "".join(c * 2 for c in digits) if len(digits) == 3 else digits
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    ("ink", "ground"),
    [("ink", "card"), ("soft", "card"), ("accent", "card"), ("on-accent", "accent"), ("on-accent", "hover")],
)
def test_text_can_be_read(scheme: str, ink: str, ground: str) -> None:
    """WCAG 2.2 section 1.4.3: at least 4.5 to 1."""
    page = problem(Deny(Reason.NO_RULE_ALLOWS), "r", accepts_html=True).body.decode()
    blocks = re.findall(r":root \{([^}]*)\}", page)
    colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]+)", blocks[0 if scheme == "light" else 1]))
    light, dark = sorted((_luminance(colours[ink]), _luminance(colours[ground])), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 4.5


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_value_that_is_missing_is_an_error(template: str) -> None:
    """Never an empty place on a page."""
    with pytest.raises(jinja2.UndefinedError):
        render(template, {})


def test_values_are_text() -> None:
    """Escaped in content and attributes; a link cannot be closed."""
    values = {"tenant": "<b>", "host": '"', "choices": [{"title": "<i>", "href": '"><script>'}]}
    page = render("choose.html", values).decode()
    assert "<script" not in page
    assert "<i>" not in page
    assert "&#34;&gt;&lt;script&gt;" in page
