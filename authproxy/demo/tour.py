"""
The guided tour: what it takes to ask, show and check one step. The steps themselves stand in ``tour_steps.py``.

Each step says what is promised before it asks, prints the request as a curl line and what came back, and ends the
tour at the first answer that is not as promised.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
from multidict import CIMultiDictProxy
from rich.console import Console
from rich.text import Text
from yarl import URL

from authproxy.demo.run import Demo
from authproxy.demo.tour_browser import CannotBrowse, TourBrowser

STEP_TIMEOUT_S: Final = 20.0
MAX_BODY_SHOWN: Final = 160
TELLING_FIELDS: Final = (
    "WWW-Authenticate",
    "X-Portero-Reason",
    "X-Portero-Cold-Start",
    "Server-Timing",
    "Location",
    "Preference-Applied",
    "X-Portero-Result",
    "Retry-After",
    "RateLimit-Policy",
    "RateLimit",
    "Content-Type",
)


class NotAsPromised(Exception):
    """An answer was not what the step promised; the text says what was expected and what came."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    fields: CIMultiDictProxy[str]
    body: bytes
    duration_s: float

    @property
    def reason(self) -> str | None:
        """Portero's own word for a refusal."""
        return self.fields.get("X-Portero-Reason")

    def json(self) -> Any:
        try:
            return json.loads(self.body)
        except ValueError:
            raise NotAsPromised(f"expected JSON, got {self.body[:MAX_BODY_SHOWN]!r}") from None


@dataclass(frozen=True, slots=True)
class Step:
    title: str
    walk: Callable[[Walk], Awaitable[None]]
    timeout_s: float = STEP_TIMEOUT_S


class Walk:
    """One tour through one demo. Tokens and cookies are named in what is printed (``$ANA``), never shown."""

    def __init__(self, demo: Demo, console: Console, session: aiohttp.ClientSession) -> None:
        self.demo = demo
        self.console = console
        self.session = session
        self.browser = TourBrowser(session, demo.public_url)
        self.cold_start_s = 0.0
        """What the last one of acme's form took, seconds."""
        self.tokens = {
            "ANA": demo.provider.issue_token("acme", "ana"),
            "BOB": demo.provider.issue_token("acme", "bob"),
            "DAN": demo.provider.issue_token("acme", "dan"),
            "CI": demo.files.account_token("acme", "survey-ci", 3600),
        }

    async def ask(
        self,
        path: str,
        *,
        tenant: str = "acme",
        host: str | None = None,
        caller: str | None = None,
        cookie: str | None = None,
        json_body: Any = None,
        method: str | None = None,
        more: Mapping[str, str] | None = None,
        is_shown: bool = True,
    ) -> Answer:
        """
        One request to the public listener, by its address and with the tenant's host: no name is resolved.

        ``more`` are further fields; without ``method`` it is a GET, or a POST of ``json_body``.
        """
        host, more = host or self.demo.files.hosts[tenant], more or {}
        method = method or ("GET" if json_body is None else "POST")
        if is_shown:
            has_cookie = cookie is not None
            self.show_request(
                path, host=host, caller=caller, has_cookie=has_cookie, json_body=json_body, method=method, more=more
            )
        started = time.perf_counter()
        async with self.session.request(
            method,
            URL(self.demo.public_url + path, encoded=True),
            headers={**self.fields(host, caller), **more, **({} if cookie is None else {"Cookie": cookie})},
            json=json_body,
            allow_redirects=False,
        ) as response:
            body = await response.read()
        answer = Answer(response.status, response.headers, body, time.perf_counter() - started)
        if is_shown:
            self.show_answer(answer)
        return answer

    def fields(self, host: str, caller: str | None) -> dict[str, str]:
        return {"Host": host} | ({"Authorization": f"Bearer {self.tokens[caller]}"} if caller else {})

    async def admin(self, path: str, *, is_shown: bool = True) -> bytes:
        """A page of the admin listener."""
        if is_shown:
            self.note(f"$ curl {self.demo.admin_url}{path}", style="cyan")
        async with self.session.get(self.demo.admin_url + path) as response:
            body = await response.read()
            self.promise(response.status == 200, f"200 from {path} of the admin listener", f"{response.status}")
        return body

    async def metric(self, name: str, **labels: str) -> float:
        """The value of one counter, 0 when it was never counted."""
        for line in (await self.admin("/metrics", is_shown=False)).decode().splitlines():
            if line.startswith(name) and all(f'{label}="{value}"' in line for label, value in labels.items()):
                return float(line.rsplit(" ", 1)[1])
        return 0.0

    def promise(self, is_kept: bool, expected: str, got: object) -> None:
        """Raises: NotAsPromised."""
        if not is_kept:
            raise NotAsPromised(f"expected {expected}, got {got}")

    def promise_answer(self, answer: Answer, status: int, reason: str | None = None) -> None:
        """Raises: NotAsPromised."""
        wanted = f"{status} {reason}" if reason else f"{status}"
        self.promise(
            (answer.status, answer.reason) == (status, reason), wanted, f"{answer.status} {answer.reason or ''}"
        )

    def promise_whoami(self, answer: Answer, subject: str, roles: list[str]) -> None:
        """Raises: NotAsPromised."""
        told = answer.json()
        self.promise((told.get("subject"), told.get("roles")) == (subject, roles), f"{subject}, {roles}", told)

    def show_request(
        self,
        path: str,
        *,
        host: str,
        caller: str | None = None,
        has_cookie: bool = False,
        json_body: Any = None,
        method: str = "GET",
        more: Mapping[str, str] | None = None,
    ) -> None:
        parts = ["$ curl -I" if method == "HEAD" else "$ curl -i", f"-H 'Host: {host}'"]
        parts += [f"-H '{name}: {value}'" for name, value in (more or {}).items()]
        if caller:
            parts.append(f'-H "Authorization: Bearer ${caller}"')
        if has_cookie:
            parts.append('-H "Cookie: $COOKIES"')
        if json_body is not None:
            parts.append(f"-H 'Content-Type: application/json' -d '{json.dumps(json_body)}'")
        self.note(" ".join([*parts, self.demo.public_url + path]), style="cyan")

    def show_answer(self, answer: Answer) -> None:
        self.note(f"HTTP {answer.status}  ({answer.duration_s * 1000:.0f} ms)", style="bold")
        self.show_fields(answer.fields)
        text = " ".join(answer.body.decode("utf-8", "replace").split())
        if text:
            self.note(text if len(text) <= MAX_BODY_SHOWN else text[:MAX_BODY_SHOWN] + " ...")

    def show_fields(self, fields: Mapping[str, str]) -> None:
        for name in TELLING_FIELDS:
            if name in fields:
                self.note(f"{name}: {fields[name]}", style="dim")

    def note(self, text: str, style: str = "") -> None:
        self.console.print(Text("   " + text, style=style))


async def take_tour(demo: Demo, console: Console, steps: tuple[Step, ...]) -> bool:
    """Walk all steps; True when every promise was kept, False at the first that was not."""
    timeout = aiohttp.ClientTimeout(total=STEP_TIMEOUT_S)
    async with aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as session:
        walk = Walk(demo, console, session)
        names = ", ".join(f"${name}" for name in walk.tokens)
        console.print(Text(f"{names} stand for tokens of these people and of acme's service account.", style="dim"))
        for number, step in enumerate(steps, 1):
            console.print()
            console.print(Text(f"{number:2} {step.title}", style="bold"))
            try:
                async with asyncio.timeout(step.timeout_s):
                    await step.walk(walk)
            except (NotAsPromised, CannotBrowse, TimeoutError, aiohttp.ClientError, OSError) as failure:
                why = str(failure) or f"no end within {step.timeout_s:.0f} s"
                console.print(Text(f"   NOT AS PROMISED: {why}", style="red"))
                return False
            console.print(Text("   as promised", style="green"))
    return True
