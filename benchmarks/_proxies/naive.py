"""The proxy one writes with aiohttp in an afternoon: Application, ClientSession, a token compared as a string."""

from __future__ import annotations

import sys
from pathlib import Path

import aiohttp
from aiohttp import web

from benchmarks._proxies.process import Running, free_port, python

_UPSTREAM: web.AppKey[str] = web.AppKey("upstream", str)
_SESSION: web.AppKey[aiohttp.ClientSession] = web.AppKey("session", aiohttp.ClientSession)
_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "host", "content-length"}


async def handle(request: web.Request) -> web.StreamResponse:
    if not request.headers.get("Authorization", "").startswith("Bearer "):
        return web.Response(status=401)
    headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP}
    async with request.app[_SESSION].request(
        request.method,
        request.app[_UPSTREAM] + request.path_qs,
        headers=headers,
        data=request.content if request.can_read_body else None,
        allow_redirects=False,
    ) as answer:
        kept = {name: value for name, value in answer.headers.items() if name.lower() not in _HOP}
        return web.Response(status=answer.status, headers=kept, body=await answer.read())


async def make(upstream: str) -> web.Application:
    app = web.Application()
    app[_UPSTREAM] = upstream
    app[_SESSION] = aiohttp.ClientSession(
        cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False, connector=aiohttp.TCPConnector(limit=256)
    )
    app.router.add_route("*", "/{path:.*}", handle)
    return app


def start_proxy(core: int, folder: Path, upstream: int) -> Running:
    port = free_port()
    command = python("benchmarks._proxies.naive", f"http://127.0.0.1:{upstream}", str(port))
    running = Running("naive", command, core, folder, port)
    running.wait_until_up()
    return running


if __name__ == "__main__":
    web.run_app(make(sys.argv[1]), host="127.0.0.1", port=int(sys.argv[2]), access_log=None, print=None)
