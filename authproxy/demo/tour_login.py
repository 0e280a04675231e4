"""The tour's steps in a browser: a person logs in, is known, and is out again."""

from __future__ import annotations

from typing import Final

from authproxy.demo.people import PASSWORD
from authproxy.demo.tour import Answer, Walk
from authproxy.demo.tour_browser import Page

_REPORT: Final = "/reports/es"
_WHOAMI: Final = "/.portero/whoami"
_LOGOUT: Final = "/.portero/logout"


async def log_in(walk: Walk) -> None:
    asked = walk.demo.origin("acme") + _REPORT
    walk.note(f"a browser opens {asked}", style="cyan")
    form = await walk.browser.go(asked)
    _show(walk, form)
    walk.promise(
        form.url.startswith(walk.demo.provider.issuer), "the provider's login page", f"{form.status} {form.url}"
    )
    walk.note("ana types her password", style="cyan")
    landed = await walk.browser.submit(form, {"person": "ana", "password": PASSWORD})
    _show(walk, landed)
    walk.promise((landed.status, landed.url) == (200, asked), f"200 at {asked}", _at(landed))
    walk.promise('"asked_by": "login|ana"' in landed.body, "asked_by login|ana", landed.body)
    walk.promise_whoami(await _whoami(walk), "login|ana", ["analyst"])


async def no_session_elsewhere(walk: Walk) -> None:
    answer = await walk.ask("/reports/pt", tenant="globex", cookie=_cookie(walk))
    walk.promise_answer(answer, 401, "credential-missing")


async def log_out(walk: Walk) -> None:
    stolen, origin = _cookie(walk), walk.demo.origin("acme")
    walk.note(f"ana presses the button of {origin}{_LOGOUT}", style="cyan")
    landed = await walk.browser.submit(await walk.browser.go(origin + _LOGOUT), {})
    _show(walk, landed)
    is_back = landed.status == 200 and landed.url.startswith(origin + _LOGOUT)
    walk.promise(is_back, f"to come back to {_LOGOUT}", _at(landed))
    walk.note("a copy of the cookies, kept from before, is of no use any more")
    walk.promise_answer(await walk.ask(_REPORT, cookie=stolen), 401, "session-expired")
    again = await walk.browser.go(origin + _REPORT)
    is_asked = again.url.startswith(walk.demo.provider.issuer) and "<form" in again.body
    walk.promise(is_asked, "the provider to ask who it is", _at(again))


async def _whoami(walk: Walk) -> Answer:
    answer = await walk.ask(_WHOAMI, cookie=_cookie(walk))
    walk.promise_answer(answer, 200)
    walk.promise(b"eyJ" not in answer.body, "no token in whoami", "one")
    return answer


def _cookie(walk: Walk) -> str:
    return walk.browser.cookie_field(walk.demo.files.hosts["acme"])


def _at(page: Page) -> str:
    """Without the query, in which a code may stand."""
    return f"{page.status} at {page.url.partition('?')[0]}"


def _show(walk: Walk, page: Page) -> None:
    for hop in page.hops:
        walk.note(hop, style="dim")
