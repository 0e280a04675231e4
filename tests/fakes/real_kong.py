"""
A real Kong, DB-less, in place of its stand-in: what ``kong`` on the PATH is, with the rendered settings.

    async with RealKong(kong_yml, sockets, dumps=dumps) as kong: ... kong.address ... kong.requests[-1]

What became of a request is read from nginx's access log; what was called meanwhile, where it is counted, from the
messages themselves, which pass through a relay. It has one worker, as the stand-in.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self

import pytest
import yaml

from gateway_plugins.render_conf import ALL_PLUGINS, conf_lines
from tests.fakes.kong import RequestTrace
from tests.fakes.kong_config import Dumps
from tests.fakes.kong_relay import KongRelay

KONG: Final = shutil.which("kong")
WITHOUT_KONG: Final = pytest.mark.skipif(KONG is None, reason="there is no kong on the PATH")
START_S: Final = 60.0
_LOG: Final = "$status\t$upstream_addr\t$sent_http_x_request_id\t$request"
_SETTLED_S: Final = 0.02
"""nginx writes the line after the last byte of the answer."""


class RealKong:
    """
    Started and stopped as ``tests.fakes.kong.KongFront`` is.

    Args:
        config: a declarative config, as YAML or read from it.
        sockets: folder of the plugin servers' sockets; they run already.
        dumps: not wanted; Kong itself asks the plugins for what they say.
        read_timeout_s: ``lua_socket_read_timeout``; milliseconds are what nginx takes.
        counts: the last one of ``requests`` knows its calls. A relay answers for a server that is down, differently.
    """

    def __init__(
        self,
        config: str | Mapping[str, Any],
        sockets: Path,
        *,
        dumps: Dumps,
        read_timeout_s: float = 60.0,
        counts: bool = False,
    ) -> None:
        self._config = config if isinstance(config, str) else yaml.safe_dump(config, sort_keys=False)
        self._sockets = sockets
        self._patience = f"{max(1, round(read_timeout_s * 1000))}ms"
        self._folder = tempfile.TemporaryDirectory(prefix="kong-")
        self._prefix = Path(self._folder.name) / "prefix"
        names = {plugin["name"] for plugin in _plugins(yaml.safe_load(self._config))}
        self._plugins = [name for name in ALL_PLUGINS if name in names]
        self._relay = KongRelay(sockets, Path(self._folder.name), self._plugins) if counts else None
        self.address: tuple[str, int] = ("", 0)

    @property
    def requests(self) -> list[RequestTrace]:
        """What nginx has written down so far."""
        time.sleep(_SETTLED_S)
        traces = [_trace(line) for line in (self._prefix / "requests.log").read_text("latin-1").splitlines()]
        if traces and self._relay is not None:
            traces[-1].round_trips, traces[-1].pdk_calls = self._relay.round_trips, list(self._relay.calls)
        return traces

    def said(self, text: str) -> int:
        """How many lines of the error log have ``text`` in them."""
        lines = (self._prefix / "logs" / "error.log").read_text(errors="replace").splitlines()
        return sum(text in line for line in lines)

    async def start(self) -> None:
        self._prefix.mkdir()
        if self._relay is not None:
            await self._relay.start()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = probe.getsockname()
        (self._prefix / "kong.yml").write_text(self._config)
        (self._prefix / "kong.conf").write_text(self._conf())
        await _kong("start", "-c", str(self._prefix / "kong.conf"), "-p", str(self._prefix))
        await _until_it_listens(self.address)

    def _conf(self) -> str:
        """As ``portero kong conf`` says it, with addresses and a patience for tests."""
        lines = conf_lines(
            self._plugins,
            declarative_config=str(self._prefix / "kong.yml"),
            socket_folder=str(self._sockets if self._relay is None else self._folder.name),
            start_cmd=None,
            query_cmd=f"{Path(sys.executable).parent / 'portero'} kong-plugin-server --dump {{name}}",
        )
        own = {
            "proxy_listen": f"127.0.0.1:{self.address[1]}",
            "admin_listen": "off",
            "status_listen": "off",
            "nginx_worker_processes": "1",
            "anonymous_reports": "off",
            "nginx_http_lua_socket_read_timeout": self._patience,
            "nginx_http_log_format": f"requests '{_LOG}'",
            "proxy_access_log": f"{self._prefix / 'requests.log'} requests",
        }
        if os.geteuid() == 0:  # else its workers are somebody who may not come in
            own["nginx_user"] = "root root"
        return "\n".join([lines, *(f"{name} = {value}" for name, value in own.items()), ""])

    async def stop(self) -> None:
        await _kong("stop", "-p", str(self._prefix))
        if self._relay is not None:
            await self._relay.stop()
        self._folder.cleanup()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()


def _plugins(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from document.get("plugins", ())
    for service in document["services"]:
        for entity in (service, *service.get("routes", ())):
            yield from entity.get("plugins", ())


def _trace(line: str) -> RequestTrace:
    status, upstream, request_id, request = line.split("\t", 3)
    verdict: Literal["nginx", "exit", "proxied"] = "exit" if request_id != "-" else "nginx"
    trace = RequestTrace(line=request.encode("latin-1"), verdict=verdict, status=int(status))
    if upstream != "-":
        host, _, port = upstream.split(", ")[-1].rpartition(":")
        trace.verdict, trace.target = "proxied", (host, int(port))
    return trace


async def _kong(*words: str) -> None:
    assert KONG is not None
    done = await asyncio.to_thread(subprocess.run, [KONG, *words], capture_output=True, text=True, timeout=START_S)
    assert done.returncode == 0, done.stdout + done.stderr


async def _until_it_listens(address: tuple[str, int]) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            _, writer = await asyncio.open_connection(*address)
        except OSError:
            assert time.monotonic() < deadline, "Kong does not listen"
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return
