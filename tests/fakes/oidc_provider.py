"""
An OpenID Provider that others wrote: panva's ``oidc-provider`` on Node.js, several issuers in one process.

``tests/oidc_provider/`` holds the JavaScript around it. Each issuer has a port of its own on 127.0.0.1; what a test may
want to happen at the provider (other keys, other claims, a fault, the end of a session) is a method here.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import aiohttp

FOLDER: Final = Path(__file__).resolve().parents[1] / "oidc_provider"
START_S: Final = 20.0
"""For Node.js to load; it takes half a second on a quiet machine."""
STOP_S: Final = 5.0
MAX_LOG_BYTES: Final = 64 * 1024

Client = Mapping[str, Any]
"""Client metadata as RFC 7591 names them: client_id, client_secret, redirect_uris, backchannel_logout_uri ..."""

PEOPLE: Final[Mapping[str, Mapping[str, Any]]] = {
    "ana": {
        "name": "Ana Alba",
        "email": "ana@acme.example",
        "email_verified": True,
        "groups": ["analysts"],
        "organization": "acme",
    },
    "bob": {"name": "Bob Berg", "groups": [], "organization": "acme"},
    "gil": {"name": "Gil Grau", "groups": ["analysts"], "organization": "globex"},
}


@dataclass(frozen=True, slots=True)
class Ttl:
    """Whole seconds."""

    access_token: int = 300
    id_token: int = 300
    refresh_token: int = 3600
    session: int = 3600
    code: int = 60


@dataclass(frozen=True, slots=True)
class IssuerSettings:
    """One issuer. ``clients`` and ``accounts`` can be changed while it runs."""

    name: str = "login"
    clients: Sequence[Client] = ()
    accounts: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: PEOPLE)
    """Subject -> its claims."""
    client_claims: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Client -> claims of the tokens it gets by client credentials."""
    access_tokens: Literal["jwt", "opaque", "userinfo"] = "jwt"
    """JWT or opaque for ``audience``; or opaque without audience, the only kind that its userinfo endpoint takes."""
    audience: str = "survey"
    algorithm: Literal["ES256", "RS256", "EdDSA"] = "ES256"
    id_token_claims: bool = True
    """Whether ID tokens carry all claims, or ``sub`` alone as OpenID Connect Core section 5.4 has it."""
    access_token_claims: bool = True
    par: Literal["offer", "require", "none"] = "offer"
    login_as: str | None = None
    """Logs everybody in as this account without a page; None: a form with one button an account."""
    rotates_refresh_tokens: bool = True
    ends_tokens_with_session: bool = True
    dpop_nonce: bool = False
    mtls: bool = False
    """Certificate-bound tokens; the certificate comes percent-encoded in the field ``Client-Cert``."""
    ttl: Ttl = field(default_factory=Ttl)
    port: int = 0


class Issuer:
    """One running issuer. Methods raise AssertionError with the provider's own words when it refuses."""

    def __init__(self, name: str, issuer: str, provider: OidcProvider) -> None:
        self.name = name
        self.issuer = issuer
        self._provider = provider

    async def counts(self) -> dict[str, int]:
        """Requests a path (interactions together), and ends of grants: ``refresh_token invalid_grant`` ...."""
        every = await self._provider.control("/counts")
        return dict(every[self.name])

    async def set_clients(self, *clients: Client) -> None:
        """Add clients, or replace those with the same client_id."""
        await self._ask("/clients", clients=clients)

    async def set_accounts(self, accounts: Mapping[str, Mapping[str, Any]]) -> None:
        """All accounts anew: claims of the next tokens."""
        await self._ask("/accounts", accounts=accounts)

    async def login_as(self, sub: str | None) -> None:
        await self._ask("/login-as", sub=sub)

    async def rotate(self, how: Literal["announce", "sign", "replace"] = "sign") -> str:
        """
        New signing key; its kid. ``announce`` publishes it, ``sign`` signs with it (with the one announced, if any)
        and goes on publishing the old ones, ``replace`` publishes it alone.
        """
        return str((await self._ask("/rotate", how=how))["kid"])

    async def revoke(self, sub: str) -> int:
        """Withdraw all grants of a person without telling anybody; how many there were."""
        return int((await self._ask("/revoke", sub=sub))["grants"])

    async def end_sessions(self, sub: str) -> list[dict[str, Any]]:
        """End a person's sessions and tell the clients: one entry a client (client_id, sid, told, status, error)."""
        return list((await self._ask("/end-sessions", sub=sub))["told"])

    async def tell_logout(self, client_id: str, sub: str, sid: str | None = None) -> dict[str, Any]:
        """Send one logout token, whether or not there is such a session."""
        return await self._ask("/tell-logout", client_id=client_id, sub=sub, sid=sid)

    async def logouts(self) -> list[dict[str, Any]]:
        """What came of each back-channel call that a person's own logout made."""
        return list((await self._ask("/logouts"))["logouts"])

    async def fault(
        self, path: str, *, delay_s: float = 0, status: int | None = None, body: str = "{}", times: int = 1
    ) -> None:
        """The next ``times`` requests of ``path`` are delayed, and answered with ``status`` if one is given."""
        await self._ask("/fault", path=path, delay_ms=round(delay_s * 1000), status=status, body=body, times=times)

    async def _ask(self, what: str, **words: Any) -> dict[str, Any]:
        return await self._provider.control(what, {"issuer": self.name, **words})


class OidcProvider:
    """The running process; ``provider["login"]`` is the issuer of that name."""

    def __init__(self, process: asyncio.subprocess.Process, session: aiohttp.ClientSession) -> None:
        self._process = process
        self._session = session
        self._control = ""
        self._issuers: dict[str, Issuer] = {}
        self.log = bytearray()
        """Standard error of the process: unexpected errors inside the provider."""

    def __getitem__(self, name: str) -> Issuer:
        return self._issuers[name]

    async def control(self, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        async with self._session.post(self._control + path, json=body or {}) as response:
            answer: dict[str, Any] = await response.json()
        if response.status != 200:
            raise AssertionError(f"the provider's control refused {path}: {answer}")
        return answer

    async def forget_counts(self) -> None:
        await self.control("/forget-counts")

    async def start(self, issuers: Sequence[IssuerSettings]) -> None:
        """Raises: RuntimeError with the process's own words when it does not come up."""
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("the process has no pipes")
        said = json.dumps({"issuers": [asdict(issuer) for issuer in issuers]})
        self._process.stdin.write(f"{said}\n".encode())
        try:
            async with asyncio.timeout(START_S):
                line = await self._process.stdout.readline()
            ready = json.loads(line)
        except (TimeoutError, ValueError, OSError):
            await asyncio.sleep(0.1)
            raise RuntimeError(f"oidc-provider did not start: {self.log.decode(errors='replace')[-2000:]}") from None
        self._control = f"http://127.0.0.1:{ready['control']}"
        self._issuers = {name: Issuer(name, issuer, self) for name, issuer in ready["issuers"].items()}

    async def read_log(self) -> None:
        if self._process.stderr is None:
            return
        while line := await self._process.stderr.readline():
            if len(self.log) < MAX_LOG_BYTES:
                self.log += line


def node() -> str:
    """Raises: RuntimeError, never skips: what is missing is installed by ``make test`` or said there."""
    found = shutil.which("node") or shutil.which("nodejs")
    if found is None:
        raise RuntimeError(
            "Node.js is not on the PATH: run `make test`, or install the package nodejs (20.12 or newer)"
        )
    if not (FOLDER / "node_modules" / "oidc-provider").is_dir():
        raise RuntimeError("oidc-provider is not installed: run `sh tests/system-packages.sh` (part of `make test`)")
    return found


@contextlib.asynccontextmanager
async def running_oidc_provider(issuers: Sequence[IssuerSettings] = (IssuerSettings(),)) -> AsyncIterator[OidcProvider]:
    """A process with these issuers until the block ends."""
    process = await asyncio.create_subprocess_exec(
        node(),
        str(FOLDER / "server.mjs"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"PATH": "/usr/bin:/bin", "NODE_ENV": "production"},
    )
    timeout = aiohttp.ClientTimeout(total=20)
    async with aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as session:
        provider = OidcProvider(process, session)
        reading = asyncio.create_task(provider.read_log())
        try:
            await provider.start(issuers)
            yield provider
        finally:
            await _end(process)
            await asyncio.wait([reading], timeout=STOP_S)


async def _end(process: asyncio.subprocess.Process) -> None:
    """It ends with its standard input; what does not is killed."""
    if process.stdin is not None:
        process.stdin.close()
    try:
        async with asyncio.timeout(STOP_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
