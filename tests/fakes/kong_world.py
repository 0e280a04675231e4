"""A Portero behind Kong over real sockets: rendered config, stand-in for Kong, plugin server, provider, platform."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import AsyncIterator
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest

from authproxy.kong_app import KongApp
from authproxy.settings import Settings
from gateway_plugins.plugins import PLUGINS, dump
from gateway_plugins.render import render
from policies.compiler import compile_files
from tests.fakes.kong import KongFront, RequestTrace
from tests.fakes.kong_config import Dumps
from tests.fakes.openfaas import FakeOpenFaas
from tests.fakes.provider import FakeProvider, Key
from tests.fakes.real_kong import WITHOUT_KONG, RealKong
from tests.fakes.world import (
    PLAIN,
    RawAnswer,
    World,
    a_function_named_localhost,
    direct_function,
    send_raw,
    write_world,
)

FRONTS: Final = [
    pytest.param(KongFront, id="stand-in"),
    pytest.param(RealKong, id="kong", marks=[pytest.mark.kong, WITHOUT_KONG]),
]
"""What a test of Kong is run with: parameters."""
Front = type[KongFront] | type[RealKong]
DUMPS: Final[Dumps] = {name: dump(name) for name in PLUGINS}


def rendered(policies: Path, *, chain: bool = False) -> str:
    """``kong.yml`` of a policy folder."""
    files = {file.name: file.read_bytes() for file in policies.glob("*.yaml")}
    [text] = render(compile_files(files, allow_loopback_http=True), chain=chain).values()
    return text


@cache
def _rendered_once(source: Path, *, chain: bool) -> str:
    """Of a folder that does not change; addresses of the fakes do not stand in what is rendered."""
    return rendered(source, chain=chain)


class KongWorld(World):
    """Kong in front of Portero's plugins and internal listener; ``send`` and ``get`` ask Kong."""

    def __init__(
        self, folder: Path, provider: FakeProvider, faas: FakeOpenFaas, app: KongApp, kong: KongFront | RealKong
    ) -> None:
        super().__init__(folder, provider, faas, app)
        self.kong = kong

    @property
    def sockets(self) -> Path:
        return self.folder / "sockets"

    @property
    def trace(self) -> RequestTrace:
        """What became of the last request that Kong got."""
        return self.kong.requests[-1]

    async def send(self, data: bytes, *, timeout_s: float = 20.0) -> RawAnswer:
        """Raises: ConnectionError when Kong closed without an answer."""
        answer = await send_raw(self.kong.address, data, timeout_s=timeout_s)
        if answer is None:
            raise ConnectionError("the connection was closed without an answer")
        return answer


@contextlib.asynccontextmanager
async def running_kong_world(
    source: Path = PLAIN,
    *,
    chain: bool = False,
    front: Front = KongFront,
    kong: dict[str, Any] | None = None,
    **settings: Any,
) -> AsyncIterator[KongWorld]:
    """Everything started. ``chain``: the four plugins instead of one; ``kong``: more arguments of ``front``."""
    with tempfile.TemporaryDirectory(prefix="portero-kong-") as name, a_function_named_localhost():
        folder = Path(name)
        async with (
            FakeProvider(audience="survey") as provider,
            FakeOpenFaas() as faas,
            direct_function(faas) as direct_port,
        ):
            write_world(source, folder / "policies", issuer=provider.issuer, backend=faas.url, direct_port=direct_port)
            secrets = folder / "secrets" / "acme"
            secrets.mkdir(parents=True)
            (secrets / "ci.pem").write_bytes(Key(None, "EC", 77).public_pem())
            (folder / "sockets").mkdir()
            app = KongApp(Settings(**{**settings_of(folder), **settings}))
            await app.start()
            try:
                config = _rendered_once(source, chain=chain)
                options = {"counts": True} if front is RealKong else {}
                async with front(config, folder / "sockets", dumps=DUMPS, **options, **(kong or {})) as running:
                    yield KongWorld(folder, provider, faas, app, running)
            finally:
                await app.stop(0.5)


def settings_of(folder: Path) -> dict[str, Any]:
    """As ``running_world`` has them, with every listener on a free port."""
    return {
        "policies": folder / "policies",
        "secrets": folder / "secrets",
        "internal": ("127.0.0.1", 0),
        "admin": ("127.0.0.1", 0),
        "kong_sockets": folder / "sockets",
        "audit": str(folder / "audit.log"),
        "allow_loopback_http": True,
        "drain": 1.0,
    }
