"""
Which addresses Portero may be sent to by a URL: the guard against server-side request forgery (AP-R43).

It decides about addresses that are about to be connected to, never about names: a name may answer differently each time
it is asked (DNS rebinding), so the addresses vetted here are the very ones that aiohttp then dials. It refuses to know
URLs, providers and why anybody wants to go there.

Source: RFC 6890, RFC 6598, RFC 6052 (NAT64), RFC 4291 section 2.5.5.2 (mapped addresses); the metadata addresses are
those of the large clouds.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from enum import Enum
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from aiohttp.abc import AbstractResolver, ResolveResult

Lookup = Callable[[str, int], Awaitable[list[str]]]
"""Name and port -> addresses as text. Raises OSError."""

MAX_ADDRESSES: Final = 16
"""Addresses of one name that are looked at; more are not needed to reach a provider."""

_METADATA: Final = frozenset(
    map(ip_address, ("169.254.169.254", "100.100.100.200", "192.0.0.192", "168.63.129.16", "fd00:ec2::254"))
)
"""AWS/GCP/Azure/OpenStack, Alibaba, Oracle, Azure's wire server, AWS over IPv6: they hand out credentials."""
_PRIVATE: Final = tuple(
    map(ip_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "127.0.0.0/8"))
)
_PRIVATE_6: Final = tuple(map(ip_network, ("fc00::/7", "::1/128")))
_NAT64: Final = IPv6Network("64:ff9b::/96")
_GLOBAL_6: Final = IPv6Network("2000::/3")


class AddressRefused(OSError):
    """No address of this name may be connected to. An OSError, so that aiohttp treats it as any failed look-up."""


class Reach(Enum):
    """How far away an address is."""

    PUBLIC = "public"
    PRIVATE = "private"
    """Of somebody's own network, or loopback: only for hosts that the operator listed."""
    NEVER = "never"
    """Metadata services, link-local, multicast, reserved, documentation, tunnels: no provider lives there."""


def reach_of(address: str) -> Reach:
    """Judge one address; what is not an address is NEVER."""
    try:
        ip = ip_address(address)
    except ValueError:
        return Reach.NEVER
    if isinstance(ip, IPv6Address):
        inner = ip.ipv4_mapped or (IPv4Address(int(ip) & 0xFFFFFFFF) if ip in _NAT64 else None)
        if inner is None:
            return _reach_of_6(ip)
        ip = inner
    if ip in _METADATA:
        return Reach.NEVER
    if any(ip in network for network in _PRIVATE):
        return Reach.PRIVATE
    return Reach.PUBLIC if ip.is_global and not ip.is_multicast else Reach.NEVER


def _reach_of_6(ip: IPv6Address) -> Reach:
    if ip in _METADATA or ip.scope_id is not None:
        return Reach.NEVER
    if any(ip in network for network in _PRIVATE_6):
        return Reach.PRIVATE
    is_tunnel = ip.sixtofour is not None or ip.teredo is not None
    return Reach.PUBLIC if ip in _GLOBAL_6 and ip.is_global and not is_tunnel else Reach.NEVER


def is_loopback(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False


async def system_lookup(host: str, port: int) -> list[str]:
    """Ask the system's resolver. Raises OSError."""
    infos = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(info[4][0]) for info in infos]


class VettingResolver(AbstractResolver):
    """
    Resolves names to vetted addresses only; one forbidden address among several refuses the name.

    Args:
        allowed_private_hosts: canonical host names that may have PRIVATE addresses.
        is_loopback_only: every name must resolve to loopback addresses and to nothing else.
    """

    def __init__(self, lookup: Lookup, allowed_private_hosts: frozenset[str], is_loopback_only: bool) -> None:
        self._lookup = lookup
        self._allowed = frozenset(map(str.lower, allowed_private_hosts))
        self._is_loopback_only = is_loopback_only

    def may_connect(self, host: str, address: str) -> bool:
        if self._is_loopback_only:
            return is_loopback(address)
        reach = reach_of(address)
        return reach is Reach.PUBLIC or (reach is Reach.PRIVATE and host in self._allowed)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Raises AddressRefused, or OSError from the look-up."""
        addresses = (await self._lookup(host, port))[:MAX_ADDRESSES]
        if not addresses or not all(self.may_connect(host, address) for address in addresses):
            raise AddressRefused(f"{host} has no address that may be connected to")
        results = [_result(host, port, address) for address in dict.fromkeys(addresses)]
        return [result for result in results if family in (socket.AF_UNSPEC, result["family"])]

    async def close(self) -> None:
        """Nothing is held."""


def _result(host: str, port: int, address: str) -> ResolveResult:
    return ResolveResult(
        hostname=host,
        host=address,
        port=port,
        family=socket.AF_INET6 if ":" in address else socket.AF_INET,
        proto=socket.IPPROTO_TCP,
        flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
    )
