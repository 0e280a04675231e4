"""
Attack family A14, secrets: canaries on every way through, answered and refused; then every place that is written to is
searched: answers, audit, operational log, metrics, policy status (AP-R14, R27, R52).
"""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

import aiohttp
import pytest

from authproxy.audit import configure_logging
from tests.attacks.test_headers import head
from tests.attacks.test_smuggled_bodies import WEBSOCKET
from tests.fakes.provider import Key
from tests.fakes.siege import Siege, besieged
from tests.fakes.world import request_bytes

COOKIE: Final = "CANARY-cookie-51c0"
QUERY: Final = "CANARY-query-8d2e"
FIELD: Final = "CANARY-field-77aa"
BODY: Final = "CANARY-body-03f9"
PASSWORD: Final = "CANARY-password-e6b1"
SHARED: Final = [COOKIE, QUERY, FIELD, BODY, PASSWORD]
FIELDS: Final = [
    ("Cookie", f"theme={COOKIE}; __Host-portero-session={COOKIE}"),
    ("X-Api-Key", FIELD),
    ("Proxy-Authorization", f"Basic {FIELD}"),
    ("X-Portero-Subject", FIELD),
    ("Referer", f"https://acme.test/?{FIELD}"),
]


@pytest.fixture
def noisy_log() -> Iterator[None]:
    """The operational log at its most talkative, as it was before afterwards."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    configure_logging("debug")
    yield
    configure_logging("info")
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
async def siege(noisy_log: None) -> AsyncIterator[Siege]:
    async with besieged() as running:
        secrets = running.world.folder / "secrets" / "platform" / "faas-admin"
        secrets.mkdir(parents=True)
        (secrets / "basic-auth-user").write_text("admin")
        (secrets / "basic-auth-password").write_text(PASSWORD)
        running.faas.credentials = ("admin", PASSWORD)
        platform = running.world.policies / "platform.yaml"
        platform.write_text(platform.read_text().replace("kind: openfaas,", "kind: openfaas, credentials: faas-admin,"))
        acme = running.world.policies / "acme.yaml"
        guessing = "  - {id: guessing, per: identity-failure, rate: 6/h, burst: 6}\n"
        acme.write_text(acme.read_text() + guessing)
        folder = running.world.app.parts.folder
        assert await folder.reload(), folder.status.mistakes
        yield running


def request(line: str, token: str | None = None, host: str = "acme.test", body: bytes = b"") -> bytes:
    separator = "&" if "?" in line else "?"
    return request_bytes(f"{line}{separator}token={QUERY}", host=host, token=token, fields=FIELDS, body=body)


def ways_through(siege: Siege) -> dict[str, tuple[bytes, int]]:
    """Each way a request can end, with its status."""
    token, forged = siege.token, siege.world.provider.mint(key=Key("CANARY-kid-19aa", "EC", 9), jti="CANARY-jti-3d3d")
    canary = BODY.encode()
    return {
        "allowed": (request("GET /function/survey-report", token), 200),
        "public": (request("POST /function/survey-submit", body=canary), 200),
        "forwarded": (request("GET /function/raw", token), 200),
        "path": (request(f"GET /function/survey-web/../{FIELD}"), 400),
        "parser": (b"GET / HTTP/1.1\r\nHost: acme.test\r\nX\x01: %b\r\n\r\n" % FIELD.encode(), 400),
        "line": (b"GET /%b HTTP/7.0\r\nHost: %b\r\n\r\n" % (FIELD.encode(), FIELD.encode()), 400),
        "ambiguous": (
            head(
                b"GET /?%b" % QUERY.encode(),
                b"Connection: close\r\n" + b"Authorization: Bearer %b\r\n" % FIELD.encode() * 2,
            )
            + b"\r\n",
            400,
        ),
        "control": (head(b"GET /", b"Cookie: %b\x1b\r\nConnection: close\r\n" % COOKIE.encode()) + b"\r\n", 400),
        "body-malformed": (
            head(b"POST /function/survey-web", b"Transfer-Encoding: chunked\r\n\r\nzz\r\n" + canary),
            400,
        ),
        "missing": (request("GET /function/survey-report"), 401),
        "forged": (request("GET /function/survey-report", forged), 401),
        "opaque": (request("GET /function/survey-report", FIELD), 401),
        "basic": (
            head(b"GET /function/raw", b"Authorization: Basic %b\r\nConnection: close\r\n\r\n" % FIELD.encode()),
            401,
        ),
        "denied": (request("GET /function/survey-web/internal"), 403),
        "no-rule": (request("GET /function/hidden-thing", token), 403),
        "mismatch": (request("GET /function/survey-report", token, host="globex.test"), 403),
        "unknown-host": (request("GET /", token, host="evil.test"), 404),
        "unknown-route": (request("GET /nowhere/x", token), 404),
        "method": (request("TRACE /function/survey-web", token), 405),
        "too-large": (request("POST /function/survey-submit", body=canary * 200), 413),
        "too-long": (request("GET /function/survey-web/" + "a" * 9000, token), 414),
        "https": (request("GET /secure"), 426),
        "head-too-large": (head(b"GET /", b"X: %b\r\n" % (FIELD.encode() * 4000)) + b"\r\n", 431),
        "websocket": (head(b"GET /function/survey-report?t=%b" % QUERY.encode(), WEBSOCKET) + b"\r\n" + canary, 401),
    }


def read(file: Path) -> str:
    return file.read_text()


def without_the_fakes(log: str) -> str:
    """The log without the access lines of the fake platform, which lives in this process."""
    is_its_own = ('"area": "aiohttp.access"', "/function/", "/system/")
    lines = log.splitlines()
    return "\n".join(x for x in lines if not (is_its_own[0] in x and (is_its_own[1] in x or is_its_own[2] in x)))


async def read_admin(siege: Siege) -> str:
    """Everything the admin listener says."""
    host, port = siege.world.app.admin_address
    text = ""
    async with aiohttp.ClientSession() as session:
        for page in ("/metrics", "/policy/status", "/livez", "/readyz", f"/nowhere?{QUERY}"):
            async with session.get(f"http://{host}:{port}{page}", headers={"Cookie": f"a={COOKIE}"}) as answer:
                text += await answer.text()
    return text


async def test_secrets_reach_no_place_that_is_written_to(
    siege: Siege, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """R14, R27, R52: 24 ways through, a guesser's 429, parts that are down, a defect of ours; nothing of it is told."""
    segments = siege.token.split(".")
    wires: dict[str, bytes] = {}
    for name, (wire, status) in ways_through(siege).items():
        answered = await siege.throw(wire)
        assert answered.answers, name
        assert answered.answers[0].status == status, (name, answered.wire)
        if status != 200:  # a function may tell its caller what the caller said
            wires[name] = answered.wire

    for number in range(8):
        wires["guess"] = (await siege.throw(request("GET /function/raw", f"{FIELD}{number}"))).wire
    assert b"too-many-failures" in wires["guess"]

    with monkeypatch.context() as patch:
        patch.setattr(siege.world.app.parts.gate._asking, "_backends", None)  # a defect: every use of it raises
        wires["defect"] = (await siege.throw(request("GET /function/survey-report", siege.token))).wire
    assert b"internal-error" in wires["defect"]

    file = siege.world.policies / "acme.yaml"
    file.write_text(file.read_text().replace("max_wait: 5s", "max_wait: 1s"))
    assert await siege.world.app.parts.folder.reload()
    siege.faas.awake["survey-web.acme"] = 0
    siege.faas.api.status = siege.faas.wake.status = 500
    siege.faas.proxy.hangs = True
    pending = asyncio.create_task(siege.throw(request("GET /function/mapped/public", siege.token)))
    await asyncio.sleep(0.1)
    await siege.faas.stop()
    wires["down"] = (await pending).wire
    wires["down-warm"] = (await siege.throw(request("GET /function/survey-report", siege.token))).wire
    assert {int(wires[name][9:12]) for name in ("down", "down-warm")} <= {502, 503, 504}

    file.write_text(file.read_text() + "nonsense: true\n")
    assert not await siege.world.app.parts.folder.reload()
    audit = siege.world.app.parts.audit
    assert audit is not None
    audit.flush()
    log = capsys.readouterr()
    places = {
        "audit": read(siege.world.folder / "audit.log"),
        "log": without_the_fakes(log.err + log.out),
        "admin": await read_admin(siege),
        **{f"answer {name}": wire.decode("latin-1") for name, wire in wires.items()},
    }
    assert places["audit"].count("\n") > 24
    assert "internal-error" in places["audit"]
    assert "judging failed" in places["log"]
    assert "portero_decisions_total" in places["admin"]
    forbidden = [*SHARED, *segments, "CANARY-kid", "CANARY-jti", base64.b64encode(PASSWORD.encode()).decode()[:12]]
    for place, text in places.items():
        for secret in forbidden:
            assert secret not in text, (place, secret, text[max(0, text.find(secret) - 300) : text.find(secret) + 60])


async def test_the_platforms_password_goes_to_its_api_alone(siege: Siege) -> None:
    """R55: ``/system`` gets it; a function never does, in whatever way it is called."""
    siege.tap.forget()
    siege.faas.awake["survey-report.acme"] = 0
    siege.faas.add("survey-report", "acme", replicas=0, start_s=0.05)
    await siege.throw(request("GET /function/survey-report", siege.token))
    await siege.throw(request("GET /function/raw", siege.token))
    basic = base64.b64encode(f"admin:{PASSWORD}".encode())
    heads = [part for stream in siege.tap.streams for part in bytes(stream).split(b"\r\n\r\n") if part]
    holders = [part for part in heads if basic in part]
    assert holders, "the API is asked with it"
    for part in holders:
        line = part[: part.index(b" HTTP/1.1\r\n")].rpartition(b"}")[2]
        assert line.startswith((b"GET /system/function/", b"POST /system/scale-function/")), line


async def test_the_audit_holds_what_it_should(siege: Siege) -> None:
    """The searches above look at a file that says something: who, what and why, without the query."""
    await siege.throw(request("GET /function/survey-report/x", siege.token))
    await siege.throw(request("GET /function/survey-web/internal"))
    audit = siege.world.app.parts.audit
    assert audit is not None
    audit.flush()
    text = read(siege.world.folder / "audit.log")
    for word in ('"subject":"login|ana"', '"path":"/function/survey-report/x"', '"rule":"keep-out"', '"status":403'):
        assert word in text
    assert "?" not in text
