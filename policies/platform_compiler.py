"""
``platform.yaml``: which hosts are whose, which platform runs whose functions, and who may stand beside whom.

Everything that keeps two tenants apart before any of their own files is read is judged here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Final

from policies.documents import Source
from policies.findings import Findings
from policies.host import canonical_host
from policies.locators import (
    address_of,
    flaw_of_backend,
    flaw_of_direct_url,
    flaw_of_domain,
    flaw_of_host,
    flaw_of_network,
    flaw_of_service_url,
    flaw_of_wake_url,
)
from policies.model import Backend, PlatformDocument
from policies.rule_compiler import unknown
from policies.scope import Claim, overlaps
from policies.tables import BackendSpec

SECRETS_OF_PLATFORM: Final = "platform"
"""Folder under --secrets with the backends' credentials: a tenant of that name could send them to its own provider."""
_SETTINGS_OF_KINDS: Final = {
    "credentials": ("openfaas", "http"),
    "direct_url": ("openfaas",),
    "domain": ("knative",),
    "cluster": ("knative",),
    "probe": ("openfaas", "knative", "http"),
    "wake_url": ("http",),
}
RIFF_NAMESPACE: Final = "default"
"""riff 0.0.x finds a topic by its bare name, in whichever namespace it is."""
_TEMPLATES: Final = frozenset({"knative", "http"})
"""Kinds whose address may name the function."""
_EVERYBODY: Final = frozenset({"0.0.0.0/0", "::/0"})


def check_platform(platform: Source[PlatformDocument], findings: Findings) -> None:
    """Every mistake of ``platform.yaml`` that its shape does not show."""
    document = platform.document
    for name, backend in document.backends.items():
        if flaw := _flaw_of_url(backend):
            findings.mistake(platform, flaw, "backends", name, "url")
        if backend.wake_url is not None and (flaw := flaw_of_wake_url(backend.wake_url)):
            findings.mistake(platform, flaw, "backends", name, "wake_url")
        if backend.direct_url is not None and (flaw := flaw_of_direct_url(backend.direct_url)):
            findings.mistake(platform, flaw, "backends", name, "direct_url")
        _check_kind(platform, name, findings)
    for name, entry in document.tenants.items():
        if name == SECRETS_OF_PLATFORM:
            text = f"the name {name!r} is Portero's own: the platform's secrets stand in a folder of that name"
            findings.mistake_of_key(platform, text, "tenants", name)
        if entry.backend not in document.backends:
            text = unknown("backend", entry.backend, document.backends)
            findings.mistake(platform, text, "tenants", name, "backend")
        for index, host in enumerate(entry.private_hosts or ()):
            if canonical_host(host) != host:
                text = f"{host!r} is no host in the spelling of the wire; expected such as id.internal.example"
                findings.mistake(platform, text, "tenants", name, "private_hosts", index)
    for index, network in enumerate(document.trusted_peers):
        if flaw := flaw_of_network(network):
            findings.mistake(platform, flaw, "trusted_peers", index)
        elif network in _EVERYBODY:
            text = f"{network} lets everybody say what address and scheme a request comes from"
            findings.warning(platform, text, "trusted_peers", index)
    if document.client_certificates == "trusted-peers" and not document.trusted_peers:
        text = "nobody could say it: expected trusted_peers: [...] with the proxies that end TLS"
        findings.mistake(platform, text, "client_certificates")
    _check_hosts(platform, findings)
    _check_namespaces(platform, findings)


def hosts_of(platform: Source[PlatformDocument]) -> tuple[dict[str, str], dict[str, str]]:
    """Exact host -> tenant, and suffix with its dot -> tenant. Of sound documents only."""
    exact: dict[str, str] = {}
    wildcards: dict[str, str] = {}
    for name, entry in platform.document.tenants.items():
        for host in entry.hosts:
            if host.startswith("*."):
                wildcards[host[1:]] = name
            else:
                exact[host] = name
    return exact, wildcards


def compile_backends(platform: Source[PlatformDocument]) -> dict[str, BackendSpec]:
    return {
        name: BackendSpec(
            name,
            backend.kind,
            backend.url.rstrip("/"),
            backend.credentials,
            domain=backend.domain,
            cluster=backend.cluster,
            probe=read_probe(backend.probe),
            wake_url=backend.wake_url,
        )
        for name, backend in platform.document.backends.items()
    }


def read_probe(written: str | None) -> str | None:
    """``off`` is the empty path: nothing is asked."""
    return "" if written == "off" else written


def _flaw_of_url(backend: Backend) -> str | None:
    if backend.kind == "http":
        return flaw_of_service_url(backend.url)
    return flaw_of_direct_url(backend.url) if "{" in backend.url else flaw_of_backend(backend.url)


def _check_kind(platform: Source[PlatformDocument], name: str, findings: Findings) -> None:
    """Each kind of platform has settings of its own; one that would have no effect is a mistake."""
    backend = platform.document.backends[name]
    for setting, kinds in _SETTINGS_OF_KINDS.items():
        if getattr(backend, setting) is not None and backend.kind not in kinds:
            text = f"{setting} has no meaning for kind: {backend.kind}; expected {' or '.join(kinds)}"
            findings.mistake_of_key(platform, text, "backends", name, setting)
    if backend.kind == "http" and backend.credentials is not None and backend.wake_url is None:
        text = "credentials go to wake_url and nowhere else; expected wake_url beside them"
        findings.mistake_of_key(platform, text, "backends", name, "credentials")
    if backend.domain is not None and (flaw := flaw_of_domain(backend.domain)):
        findings.mistake(platform, flaw, "backends", name, "domain")
    is_template = "{" in backend.url
    if is_template and backend.kind not in _TEMPLATES:
        findings.mistake(platform, "expected an address without {...}", "backends", name, "url")
    elif is_template and backend.domain is not None:
        text = "functions are addressed by domain or by a url with {function}, not by both"
        findings.mistake(platform, text, "backends", name, "domain")
    elif backend.kind == "knative" and is_template and "{namespace}" not in backend.url:
        text = f"{backend.url!r}: every namespace would be one; expected {{namespace}} in it"
        findings.mistake(platform, text, "backends", name, "url")
    elif backend.kind == "knative" and backend.domain is None and not is_template:
        text = "expected domain, or a url such as http://{function}.{namespace}.svc.cluster.local"
        findings.mistake(platform, text, "backends", name, "url")


def _check_hosts(platform: Source[PlatformDocument], findings: Findings) -> None:
    """Each host is one tenant's; inside another's wildcard it is allowed, and told."""
    claimed: dict[str, tuple[str, int]] = {}
    for name, entry in platform.document.tenants.items():
        for index, host in enumerate(entry.hosts):
            path = ("tenants", name, "hosts", index)
            if flaw := flaw_of_host(host):
                findings.mistake(platform, flaw, *path)
            elif host in claimed:
                other, at = claimed[host]
                whose = "this tenant" if other == name else f"the tenant {other!r}"
                where = platform.where("tenants", other, "hosts", at)
                findings.mistake(platform, f"the host {host!r} belongs to {whose} already ({where})", *path)
            else:
                claimed[host] = (name, index)
    for host, (name, index) in claimed.items():
        for suffix in _suffixes(host):
            other, _ = claimed.get(suffix, (name, 0))
            if other != name:
                text = f"the host {host!r} is taken out of {suffix}, which belongs to the tenant {other!r}"
                findings.warning(platform, text, "tenants", name, "hosts", index)
                break


def _suffixes(host: str) -> list[str]:
    """``a.b.c`` -> ``*.b.c``, ``*.c``: the wildcards that would match it, longest first."""
    labels = host.removeprefix("*.").split(".")
    return [f"*.{'.'.join(labels[i:])}" for i in range(1, len(labels))]


def _check_namespaces(platform: Source[PlatformDocument], findings: Findings) -> None:
    """Two tenants in one namespace of one platform say what is whose, and nothing is both's."""
    document = platform.document
    neighbours: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name, entry in document.tenants.items():
        backend = document.backends.get(entry.backend)
        if backend is None:
            continue
        if backend.kind == "riff" and entry.namespace != RIFF_NAMESPACE:
            text = (
                f"riff 0.0.x knows no namespaces: expected namespace: {RIFF_NAMESPACE}, and owns where tenants share it"
            )
            findings.mistake(platform, text, "tenants", name, "namespace")
        for reached in _reached(backend, entry.namespace):
            neighbours[reached].append(name)
    _check_fixed_urls(platform, findings)
    told: set[tuple[str, ...]] = set()
    for (_, namespace), some in neighbours.items():
        names = tuple(some)
        if len(names) > 1 and names not in told:
            told.add(names)
            _check_neighbours(platform, names, is_namespace=bool(namespace), findings=findings)


def _reached(backend: Backend, namespace: str) -> set[tuple[str, str]]:
    """
    By what a tenant's functions are reached, and in which namespace: who has one of these in common with another has a
    platform in common, whatever its names and spellings.
    """
    urls = [] if _is_fixed(backend) else [backend.url]
    if backend.direct_url is not None and flaw_of_direct_url(backend.direct_url) is None:
        urls.append(backend.direct_url)
    reached = {(address_of(url), namespace if _is_told_namespace(backend, url) else "") for url in urls}
    return reached if backend.cluster is None else {*reached, (f"cluster {backend.cluster}", namespace)}


def _is_told_namespace(backend: Backend, url: str) -> bool:
    return "{namespace}" in url or ("{" not in url and backend.kind != "http")


def _is_fixed(backend: Backend) -> bool:
    """All functions are one service, whatever its paths lead to."""
    return backend.kind == "http" and "{function}" not in backend.url


def _check_fixed_urls(platform: Source[PlatformDocument], findings: Findings) -> None:
    """Who reaches all that is at an address, in any namespace, is alone there."""
    document = platform.document
    at: dict[str, list[str]] = defaultdict(list)
    for name, entry in document.tenants.items():
        if entry.backend in document.backends:
            at[address_of(document.backends[entry.backend].url)].append(name)
    for names in at.values():
        for name in names if len(names) > 1 else ():
            if _is_fixed(document.backends[document.tenants[name].backend]):
                text = "other tenants reach the same service by this url: expected {function} in it, or another kind"
                findings.mistake(platform, text, "tenants", name, "backend")


def _check_neighbours(
    platform: Source[PlatformDocument], names: Sequence[str], *, is_namespace: bool, findings: Findings
) -> None:
    """Tenants whose functions would be one's where they have the same name."""
    tenants = platform.document.tenants
    claims = []
    for name in names:
        owns = tenants[name].owns
        if owns is None:
            others = ", ".join([repr(other) for other in names[:4] if other != name])
            text = (
                f"shares its namespace with {others}; expected owns: [...] with functions of its own"
                if is_namespace
                else f"its functions have the addresses of those of {others}; expected {{namespace}} in the backend's "
                "url, or owns: [...] with functions of its own"
            )
            findings.mistake(platform, text, "tenants", name, "namespace")
            continue
        claims += [Claim(text.rstrip("*"), text.endswith("*"), name, i) for i, text in enumerate(owns)]
        backend = platform.document.backends[tenants[name].backend]
        if backend.kind == "knative" and backend.cluster is None:
            text = "a tag X of another tenant's function F is reached as X-F; with cluster on the backend it is not"
            findings.warning(platform, text, "tenants", name, "owns")
    for one, other in overlaps(claims):
        where = platform.where("tenants", one.tenant, "owns", one.place)
        text = f"meets {one.text}{'*' * one.is_prefix} of the tenant {one.tenant!r} ({where}); expected no overlap"
        findings.mistake(platform, text, "tenants", other.tenant, "owns", other.place)
