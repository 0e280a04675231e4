"""
Portero with everything on: JWT verified, RBAC over 1,000 rules, two limits, metrics, audit log of every request.

It is started as ``portero serve`` starts it, but for one setting that only code may set: the benchmark's provider
speaks http on loopback.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks._proxies.process import Running, binary, free_port, python
from benchmarks._proxies.provider import AUDIENCE

HOST = "acme.example"
FUNCTION = "bench"
RULES = 1000
_ROLES = 100

_PLATFORM = """version: 1
backends:
  faas: {{kind: openfaas, url: "http://127.0.0.1:{upstream}"}}
tenants:
  acme: {{hosts: ["{host}"], backend: faas, namespace: acme}}
"""

_TENANT = """version: 1
tenant: acme
identity:
  - name: login
    issuer: "{issuer}"
    audiences: [{audience}]
    algorithms: [ES256]
    claims: {{groups: groups}}
functions:
{functions}
roles:
{roles}
bindings:
{bindings}
limits:
  - {{id: total, per: tenant, rate: 1000000/s, burst: 1000000}}
  - {{id: per-caller, per: subject, rate: 1000000/s, burst: 1000000}}
"""


def write_policies(folder: Path, upstream: int, issuer: str) -> Path:
    """A tenant of 1,000 allow rules in 100 roles, bound to 100 groups; the caller holds a dozen of them."""
    policies = folder / f"policies-{upstream}"
    policies.mkdir(exist_ok=True)
    each = RULES // _ROLES
    roles, functions = [], [f"  {FUNCTION}: {{}}"]
    for number in range(_ROLES):
        names = [f"fn-{number}-{n}" for n in range(each)]
        if number == _ROLES - 1:
            names[-1] = FUNCTION
        functions += [f"  {name}: {{}}" for name in names if name != FUNCTION]
        rules = "".join(
            f"\n      - {{functions: [{name}], actions: [invoke], methods: [GET, HEAD, POST]}}" for name in names
        )
        roles.append(f"  role-{number}:\n    allow:{rules}")
    bindings = [f"  - {{id: b-{n}, roles: [role-{n}], groups: [group-{n}]}}" for n in range(_ROLES)]
    (policies / "platform.yaml").write_text(_PLATFORM.format(upstream=upstream, host=HOST))
    (policies / "acme.yaml").write_text(
        _TENANT.format(
            issuer=issuer,
            audience=AUDIENCE,
            functions="\n".join(functions),
            roles="\n".join(roles),
            bindings="\n".join(bindings),
        )
    )
    return policies


def start_portero(core: int, folder: Path, upstream: int, issuer: str, redis: int | None = None) -> Running:
    """Raises: Unmeasurable."""
    port, admin = free_port(), free_port()
    policies = write_policies(folder, upstream, issuer)
    arguments = [str(policies), f"127.0.0.1:{port}", f"127.0.0.1:{admin}", str(folder / f"audit-{port}.log")]
    if redis is not None:
        arguments.append(f"redis://127.0.0.1:{redis}/0")
    name = "portero" if redis is None else "portero+redis"
    running = Running(name, python("benchmarks._proxies.portero", *arguments), core, folder, port)
    running.wait_until_up()
    return running


def start_redis(core: int, folder: Path) -> Running:
    port = free_port()
    command = [binary("redis-server", "redis-server"), "--port", str(port), "--bind", "127.0.0.1"]
    command += ["--save", "", "--appendonly", "no", "--dir", str(folder)]
    running = Running("redis", command, core, folder, port)
    running.wait_until_up()
    return running


if __name__ == "__main__":
    import uvloop

    from authproxy.app import run
    from authproxy.settings import load_settings

    flags = dict(zip(("policies", "listen", "admin", "audit", "redis"), sys.argv[1:], strict=False))
    settings = load_settings(flags, {}, Path("portero.toml"))
    uvloop.run(run(settings.model_copy(update={"allow_loopback_http": True})))
