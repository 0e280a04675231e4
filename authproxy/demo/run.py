"""
One demo: provider, functions platform, a copy of the example policies, and Portero itself in front of them.

Everything runs on loopback and without network; what has a fixed address is what people paste into a terminal, all
else binds free ports. Whatever ends a demo, its processes end with it (``replicas.py``) and its folder is removed,
at the latest by the next demo.
"""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import shutil
import socket
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from authproxy.app import App
from authproxy.demo.control import Control
from authproxy.demo.files import PLATFORM_USER, DemoFiles, namespaces_of_example, prepare
from authproxy.demo.functions_platform import FunctionsPlatform
from authproxy.demo.provider import Provider
from authproxy.demo.state import FOLDER_PREFIX, RunningDemo, remove_leftovers, write_state
from authproxy.settings import Settings
from policies.errors import PorteroError

DRAIN_S: Final = 2.0
"""For requests that still run when the demo ends; nobody wants to wait for a demo's end."""

Address = tuple[str, int]


class AddressTaken(PorteroError):
    """An address that was asked for cannot be bound; the message says what to do."""


class Demo:
    """
    A demo as an async context: running inside, gone after.

    Args:
        listen, admin: addresses of Portero's two listeners; port 0 takes a free one.
        start_delay_s: seconds that a function takes to start beyond what a process takes.

    Raises (on entering): AddressTaken; PorteroError. What was started is stopped again.
    """

    provider: Provider
    platform: FunctionsPlatform
    files: DemoFiles
    app: App

    def __init__(
        self,
        listen: Address = ("127.0.0.1", 8088),
        admin: Address = ("127.0.0.1", 8089),
        *,
        start_delay_s: float = 1.0,
    ) -> None:
        self._listen = listen
        self._admin = admin
        self._start_delay_s = start_delay_s
        self._started: list[Provider | FunctionsPlatform | Control] = []
        self._app: App | None = None
        self._folder: Path | None = None
        self._state: Path | None = None

    @property
    def public_url(self) -> str:
        return _url(self.app.public_address)

    def origin(self, tenant: str) -> str:
        """A tenant's address as a browser has it: names below ``localhost`` need no resolver there."""
        host, port = self.files.hosts[tenant], self.app.public_address[1]
        return f"http://{host}" if port == 80 else f"http://{host}:{port}"

    @property
    def admin_url(self) -> str:
        return _url(self.app.admin_address)

    async def __aenter__(self) -> Self:
        for flag, address in (("--listen", self._listen), ("--admin", self._admin)):
            _refuse_taken(flag, address)
        remove_leftovers()
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def _start(self) -> None:
        self._folder = folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX))
        password = secrets.token_urlsafe(18)
        namespaces = namespaces_of_example()
        self.provider = Provider()
        self.platform = FunctionsPlatform(
            namespaces,
            user=PLATFORM_USER,
            password=password,
            environment={name: {"SURVEY_ANSWERS": str(folder / "answers" / f"{name}.jsonl")} for name in namespaces},
            start_delay_s=self._start_delay_s,
        )
        self._started += [self.provider, self.platform]
        await self.provider.start()
        await self.platform.start()
        self.files = prepare(
            folder,
            issuer=self.provider.issuer,
            platform_url=self.platform.url,
            platform_password=password,
            client_secret=self.provider.client_secret,
        )
        settings = Settings.model_validate(
            {
                "policies": self.files.policies,
                "secrets": self.files.secrets,
                "keys": self.files.own_keys,
                "listen": self._listen,
                "admin": self._admin,
                "audit": str(self.files.audit),
                "allow_loopback_http": True,
            }
        )
        self.app = self._app = App(settings)
        await self._app.start()
        self.provider.register(
            [self.origin(tenant) for tenant in self.files.hosts], _reachable(self.app.public_address)
        )
        control = Control(self.provider, self.platform, self.files)
        self._started.append(control)
        await control.start()
        await self.platform.settled()
        self._state = write_state(
            RunningDemo(
                pid=os.getpid(),
                started_at=time.time(),
                public=self.public_url,
                admin=self.admin_url,
                control_port=control.port,
                control_secret=control.secret,
                folder=str(folder),
            )
        )

    async def stop(self) -> None:
        """Stop what runs, front door first. Idempotent."""
        if self._state is not None:
            self._state.unlink(missing_ok=True)
        if self._app is not None:
            await self._app.stop(DRAIN_S)
        for part in reversed(self._started):
            await part.stop()
        self._started.clear()
        if self._folder is not None:
            await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)


def _refuse_taken(flag: str, address: Address) -> None:
    """Say so before anything is started. Raises: AddressTaken."""
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            is_taken = error.errno == errno.EADDRINUSE
            why = "is taken, perhaps by another demo" if is_taken else f"cannot be bound ({error.strerror})"
            hint = f"choose another with {flag} {address[0]}:PORT; port 0 takes a free one"
            raise AddressTaken(f"{address[0]}:{address[1]} {why}: {hint}") from None


def _reachable(address: Address) -> Address:
    """Where to connect for what listens on every address."""
    host, port = address
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port  # noqa: S104 - it is what is replaced


def _url(address: Address) -> str:
    host, port = address
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
