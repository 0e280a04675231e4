"""
A whole Portero that people log in at: app, functions platform, providers that others wrote, and browsers.

Two tenants, ``acme`` and ``globex``, share what issuers a test names; policies are made from plain values and written
as JSON, which is YAML too. Hosts are names below ``localhost``, so that browsers keep the cookies.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

from authproxy.app import App
from authproxy.kong_app import KongApp
from authproxy.settings import Settings
from tests.fakes.kong import KongFront
from tests.fakes.kong_world import DUMPS, Front, rendered
from tests.fakes.oidc_provider import Issuer, IssuerSettings, OidcProvider, running_oidc_provider
from tests.fakes.openfaas import FakeOpenFaas
from tests.fakes.scripted_browser import ScriptedBrowser

TENANTS: Final = ("acme", "globex")
SECRET: Final = "client-secret-canary-5d1f"
CLIENT: Final[Mapping[str, Any]] = {
    "client_id": "portero",
    "client_secret": SECRET,
    "grant_types": ["authorization_code", "refresh_token", "client_credentials"],
    "backchannel_logout_session_required": True,
}


@dataclass(slots=True)
class LoginWorld:
    """What runs. ``origin`` is a tenant's address as browsers have it."""

    folder: Path
    provider: OidcProvider
    faas: FakeOpenFaas
    app: App
    address: tuple[str, int]
    """Where browsers come in: Portero's own listener, or Kong's."""

    @property
    def issuer(self) -> Issuer:
        return self.provider["login"]

    def origin(self, tenant: str = "acme") -> str:
        return f"http://{tenant}.localhost:{self.address[1]}"

    @property
    def browser(self) -> ScriptedBrowser:
        """A new one, with no cookies."""
        return ScriptedBrowser()

    @property
    def audit(self) -> str:
        return (self.folder / "audit.log").read_text()

    def client(self, tenant: str = "acme") -> dict[str, Any]:
        """How Portero is registered: several tenants are one client, whose back channel leads to one of them."""
        origins = [self.origin(name) for name in TENANTS]
        return {
            **CLIENT,
            "redirect_uris": [f"{origin}/.portero/callback" for origin in origins],
            "post_logout_redirect_uris": [f"{origin}/.portero/logout" for origin in origins],
            "backchannel_logout_uri": f"{self.origin(tenant)}/.portero/backchannel-logout",
        }


def tenant_file(name: str, identity: Sequence[Mapping[str, Any]], **more: Any) -> dict[str, Any]:
    """A tenant with one function for analysts, one for programs and one for everybody."""
    return {
        "version": 1,
        "tenant": name,
        "identity": list(identity),
        "functions": {"open": {"access": "public"}},
        "routes": [{"id": "report", "path": "/reports/{country}", "function": "report", "to": "/{country}"}],
        "roles": {
            "analyst": {"allow": [{"functions": ["report", "live"], "actions": ["invoke"]}]},
            "program": {"allow": [{"functions": ["job"], "actions": ["invoke"]}]},
        },
        "bindings": [
            {"id": "analysts", "roles": ["analyst"], "groups": ["analysts"]},
            {"id": "programs", "roles": ["program"], "groups": ["ci"]},
        ],
        **more,
    }


def provider_entry(name: str, issuer: Issuer, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "issuer": issuer.issuer,
        "audiences": ["survey"],
        "algorithms": ["ES256"],
        "tenant_claim": "organization",
        "claims": {"groups": "groups", "name": "name", "email": "email"},
        "login": {"client_id": "portero", "client_secret": "login-client"},
        **more,
    }


@contextlib.asynccontextmanager
async def running_login_world(
    issuers: Sequence[IssuerSettings] = (IssuerSettings(),),
    *,
    entries: Mapping[str, Mapping[str, Any]] | None = None,
    tenant: Mapping[str, Any] | None = None,
    kong: Literal["portero", "chain"] | None = None,
    front: Front = KongFront,
    **settings: Any,
) -> AsyncIterator[LoginWorld]:
    """
    Everything started, and stopped at the end of the block.

    Args:
        issuers: each becomes an entry of ``identity`` of the same name.
        entries: issuer's name -> members of that entry.
        tenant: members of both tenants' files.
        kong: which plugins stand before it, in Kong; None: it is its own front.
        front: what is Kong then.
        settings: of Portero.
    """
    with tempfile.TemporaryDirectory(prefix="portero-login-") as name:
        folder = Path(name)
        named = [replace(issuer, clients=[*issuer.clients]) for issuer in issuers]
        async with running_oidc_provider(named) as provider, FakeOpenFaas() as faas:
            for tenant_name in TENANTS:
                for function in ("report", "live", "job", "open"):
                    faas.add(function, tenant_name)
                identity = [
                    provider_entry(one.name, provider[one.name], **(entries or {}).get(one.name, {})) for one in issuers
                ]
                _write(folder, f"policies/{tenant_name}.yaml", tenant_file(tenant_name, identity, **(tenant or {})))
                _write(folder, f"secrets/{tenant_name}/login-client", SECRET)
            backends = {"faas": {"kind": "openfaas", "url": faas.url}}
            hosts = {one: {"hosts": [f"{one}.localhost"], "backend": "faas", "namespace": one} for one in TENANTS}
            _write(folder, "policies/platform.yaml", {"version": 1, "backends": backends, "tenants": hosts})
            async with _running_app(
                folder, Settings.model_validate(_settings(folder) | settings), kong, front
            ) as running:
                world = LoginWorld(folder, provider, faas, *running)
                for one in issuers:
                    await provider[one.name].set_clients(world.client())
                yield world


@contextlib.asynccontextmanager
async def _running_app(
    folder: Path, settings: Settings, kong: str | None, front: Front
) -> AsyncIterator[tuple[App, tuple[str, int]]]:
    app = App(settings) if kong is None else KongApp(settings)
    await app.start()
    try:
        if kong is None:
            yield app, app.public_address
            return
        config = rendered(folder / "policies", chain=kong == "chain")
        async with front(config, settings.kong_sockets, dumps=DUMPS) as running:
            yield app, running.address
    finally:
        await app.stop(0.5)


def _settings(folder: Path) -> dict[str, Any]:
    return {
        "policies": folder / "policies",
        "secrets": folder / "secrets",
        "listen": ("127.0.0.1", 0),
        "admin": ("127.0.0.1", 0),
        "internal": ("127.0.0.1", 0),
        "kong_sockets": folder,
        "audit": str(folder / "audit.log"),
        "allow_loopback_http": True,
        "drain": 1.0,
    }


def _write(folder: Path, name: str, content: Any) -> None:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch(mode=0o600)
    file.write_text(content if isinstance(content, str) else json.dumps(content))
