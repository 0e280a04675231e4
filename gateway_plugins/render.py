"""
Policy files as Kong's declarative configuration (``_format_version: "3.0"``), closed from the start.

One service for each tenant and one for hosts that nobody has. Each points at a dead address with ``retries: 0``: only
``lua/admit.lua`` names another one, and only with a verdict. So whatever is missing (the plugin, its server, a
snippet), the answer is a refusal. On each service stand ``pre-function`` (what nginx has read, then away with what is
spoofable), ``portero`` (or the four plugins in a chain) and ``post-function`` (the verdict, applied; the function's
answer, filtered). They stand on the service and not on its routes: of two configurations of one plugin Kong takes the
one on the route, so that whoever attaches a ``pre-function`` to a route closes it, and ``kong check`` says so.

There is no ``cors`` plugin: preflights are answered by Portero itself, per route, as the proxy does. Nothing of a
policy but hosts, paths and names stands in the output; rules, limits and secrets stay where they are. The output
depends on the policies alone: equal policies, equal text. It refuses to know files and Kong's Admin API.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import yaml

from gateway_plugins.render_conf import CHAIN, conf_lines, environment_lines, environment_text
from gateway_plugins.render_lua import ADMIT, ANSWER, FACTS, snippet
from gateway_plugins.render_routes import catch_all, host_groups, tenant_routes
from policies.tables import PolicySet, TenantTable

__all__ = [
    "CATCH_ALL",
    "CHAIN",
    "TENANT_FILE",
    "all_services",
    "conf_lines",
    "environment_lines",
    "environment_text",
    "render",
]

FORMAT_VERSION: Final = "3.0"
"""Since Kong 3.0: there only paths that begin with ``~`` are expressions."""
DEAD_ADDRESS: Final = "http://127.0.0.1:1"
"""tcpmux, where nothing listens: 502 at once."""
CONNECT_TIMEOUT_MS: Final = 1000
"""Of the dead address; a verdict brings its function's own."""
TAG: Final = "portero"
TENANT_TAG: Final = "portero-tenant-"
WHOLE_FILE: Final = "kong.yml"
TENANT_FILE: Final = "tenant-"
CATCH_ALL: Final = "portero-catch-all"
"""No tenant's service has this name: theirs begin with ``portero.``."""
_Configs = Mapping[str, Mapping[str, Any]]
_HEAD: Final = """\
# Made by "portero kong render" from policy files; "portero kong check" compares. Do not edit: change the policies.
# Entities without the tag "portero" are yours, and neither command minds them.
"""


def render(policies: PolicySet, *, split: bool = False, chain: bool = False, direct: bool = True) -> dict[str, str]:
    """
    File name -> text of the declarative configuration.

    Args:
        policies: one generation of them.
        split: a self-contained file for each tenant (``tenant-acme.yml``) and ``catch-all.yml``, as decK takes several
            state files; else ``kong.yml`` alone, as Kong's ``declarative_config`` does.
        chain: the four plugins instead of ``portero``; the same answers, four times the calls.
        direct: False: ``portero`` sends every request by the internal listener. No business of a chain's.
    """
    services = all_services(policies, chain=chain, direct=direct)
    if split:
        names = [*(f"{TENANT_FILE}{name}.yml" for name in sorted(policies.tenants)), "catch-all.yml"]
        return {name: dump([service]) for name, service in zip(names, services, strict=True)}
    return {WHOLE_FILE: dump(services)}


def all_services(policies: PolicySet, *, chain: bool = False, direct: bool = True) -> list[dict[str, Any]]:
    """Each tenant's service by its name, and last the one of all other hosts."""
    configs = _configs(chain=chain, direct=direct)
    tenants = [policies.tenants[name] for name in sorted(policies.tenants)]
    return [*(_tenant_service(policies, tenant, configs) for tenant in tenants), _catch_all_service(configs)]


def _tenant_service(policies: PolicySet, tenant: TenantTable, configs: _Configs) -> dict[str, Any]:
    """One tenant's service with its routes and plugins: nothing of another tenant changes it."""
    name = f"portero.{tenant.name}"
    tags = [TAG, TENANT_TAG + tenant.name]
    groups = host_groups(_hosts_of(policies.hosts, tenant), _hosts_of(policies.wildcard_hosts, tenant))
    return _service(name, tenant_routes(name, tenant.routes, groups, tags), tags, configs)


def _catch_all_service(configs: _Configs) -> dict[str, Any]:
    """What answers for hosts that nobody has: the same plugin, so that the answer is the proxy's."""
    return _service(CATCH_ALL, [catch_all(CATCH_ALL, [TAG])], [TAG], configs)


def dump(services: list[dict[str, Any]]) -> str:
    """The configuration of ``services`` as YAML, Lua in blocks that can be read."""
    document = {"_format_version": FORMAT_VERSION, "services": services}
    return _HEAD + yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10_000)


def _service(name: str, routes: list[dict[str, Any]], tags: list[str], configs: _Configs) -> dict[str, Any]:
    return {
        "name": name,
        "url": DEAD_ADDRESS,
        "retries": 0,
        "connect_timeout": CONNECT_TIMEOUT_MS,
        "tags": tags,
        "plugins": [
            {
                "name": plugin,
                "instance_name": f"{name}.{plugin}",
                "tags": tags,
                "config": config,
            }
            for plugin, config in configs.items()
        ],
        "routes": routes,
    }


def _configs(*, chain: bool, direct: bool) -> _Configs:
    """Of each service's plugins, by their names, in the order they run."""
    configs: dict[str, dict[str, Any]] = {"pre-function": {"access": [snippet(FACTS)]}}
    if chain:
        for at, name in enumerate(CHAIN):
            configs[name] = {"after": list(CHAIN[:at])} if at else {}
        configs[CHAIN[-1]]["final"] = True
    else:
        configs["portero"] = {} if direct else {"direct": False}
    configs["post-function"] = {"access": [snippet(ADMIT)], "header_filter": [snippet(ANSWER)]}
    return configs


def _hosts_of(hosts: Mapping[str, TenantTable], tenant: TenantTable) -> list[str]:
    return sorted(host for host, owner in hosts.items() if owner.name == tenant.name)


class _Dumper(yaml.SafeDumper):
    """Texts of several lines in literal blocks, short lists on one line, each thing written out where it stands."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002  (PyYAML's signature)
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002  (PyYAML's)
        return super().increase_indent(flow, indentless=False)


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


def _list(dumper: yaml.SafeDumper, items: list[Any]) -> yaml.SequenceNode:
    is_short = all(isinstance(item, str) and "\n" not in item for item in items)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=is_short)


_Dumper.add_representer(str, _text)
_Dumper.add_representer(list, _list)
