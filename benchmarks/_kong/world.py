"""
What the plugin ``portero`` judges in the benchmark: a tenant like the survey's, an awake function, a caller with a key.

The caller is a service account, whose tokens Portero verifies with a key it has: no provider is asked.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from authproxy.settings import Settings, load_settings
from benchmarks._proxies.process import free_port

HOST: Final = "acme.localhost"

_PLATFORM = """version: 1
backends:
  faas: {{kind: openfaas, url: "http://127.0.0.1:{upstream}"}}
tenants:
  acme:
    hosts: [{host}]
    backend: faas
    namespace: acme
    ceilings: {{rate: 10000000/s, wakes: 120/m, held: 1000, held_bytes: 64MiB}}
trusted_peers: []
"""
_TENANT = """version: 1
tenant: acme
service_accounts:
  - {name: survey-ci, public_key: survey-ci.pem, audiences: [survey], groups: [analysts]}
functions:
  survey-web:    {access: public}
  survey-submit: {access: public, max_body: 64KiB}
  survey-report: {timeouts: {first_byte: 30s}}
  survey-stream: {timeouts: {idle: 60s}}
routes:
  - {id: form,    path: /,                    methods: [GET],  function: survey-web}
  - {id: answers, path: /answers,             methods: [POST], function: survey-submit, to: /}
  - {id: reports, path: /reports,             methods: [GET],  function: survey-report, to: /}
  - {id: country, path: "/reports/{country}", methods: [GET],  function: survey-report, to: "/by-country/{country}"}
  - {id: live,    path: /live,                methods: [GET],  function: survey-stream, to: /}
roles:
  analyst: {allow: [{functions: [survey-report, survey-stream], actions: [invoke], methods: [GET, HEAD]}]}
  developer: {includes: [analyst], allow: [{functions: ["survey-*"], actions: [invoke, describe, list, deploy]}]}
bindings:
  - {id: analysts, roles: [analyst],   groups: [analysts]}
  - {id: ci,       roles: [developer], service_accounts: [survey-ci]}
deny:
  - {id: keep-answers, functions: [survey-submit], actions: [delete], unless: {groups: [sre]}}
  - id: embargo
    functions: [survey-report]
    actions: [invoke]
    when: path.startsWith("/by-country/xx") && !("developers" in groups)
limits:
  - {id: total,      per: tenant,  rate: 1000000/s, burst: 1000000}
  - {id: per-caller, per: subject, rate: 1000000/s, burst: 1000000}
"""


@dataclass(frozen=True, slots=True)
class World:
    """Files of a running server, and the requests that it is asked about."""

    settings: Path
    allowed: bytes
    """Facts of a request that is allowed: its function is awake."""
    refused: bytes
    """Of the same request without a credential."""


def write_world(folder: Path, upstream: int) -> World:
    policies, secrets = folder / "policies", folder / "secrets" / "acme"
    policies.mkdir(exist_ok=True)
    secrets.mkdir(parents=True, exist_ok=True)
    (policies / "platform.yaml").write_text(_PLATFORM.format(upstream=upstream, host=HOST))
    (policies / "acme.yaml").write_text(_TENANT)
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (secrets / "survey-ci.pem").write_bytes(public)
    now = int(time.time())
    claims = {"iss": "acme/survey-ci", "sub": "acme/survey-ci", "aud": "survey", "iat": now, "exp": now + 3600}
    token = jwt.encode(claims, key, algorithm="ES256")
    settings = folder / "settings.json"
    settings.write_text(
        json.dumps(
            {
                "policies": str(policies),
                "secrets": str(folder / "secrets"),
                "admin": f"127.0.0.1:{free_port()}",
                "internal": f"127.0.0.1:{free_port()}",
                "audit": str(folder / "audit.log"),
                "kong_sockets": str(folder),
            }
        )
    )
    return World(settings, _facts(f"authorization: Bearer {token}"), _facts())


def _facts(*more: str) -> bytes:
    """As ``facts.lua`` writes them, of a browser's request."""
    fields = (
        f"host: {HOST}",
        "user-agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
        "accept: application/json",
        "accept-language: en,es;q=0.7",
        "accept-encoding: gzip, deflate, br",
        "x-request-id: 4f0c2b5d8a6e4a0f9d1c3b2a19087f6e",
        *more,
    )
    return "\n".join(("portero/1", "127.0.0.1", "http", "", "GET /reports/es?since=2026-01 HTTP/1.1", *fields)).encode()


def read_settings(file: Path) -> Settings:
    """With the one setting that only code may set: the platform speaks http on loopback."""
    settings = load_settings(json.loads(file.read_text()), {}, None)
    return settings.model_copy(update={"allow_loopback_http": True})
