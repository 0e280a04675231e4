"""
Who may speak ``X-Forwarded-*``, and what is believed of it: the client's address and the client's scheme. Where the
operator says so they may also name the certificate that the client has shown them (``Client-Cert``).

``X-Forwarded-Host`` and ``Forwarded`` are believed of nobody: the tenant is named by ``Host`` alone, so a proxy in
front has to pass ``Host`` on unchanged. That leaves one thing fewer that two parties can read differently.

Source: RFC 9440 section 2; rules AP-R2, R10; GHSA-7x63-xv5r-3p2x (forwarded fields believed of everybody),
GHSA-6jwx-7vp4-9847.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

_MEMO_ENTRIES: Final = 4096
"""Peers remembered; a flood of addresses clears the memo instead of growing it."""
_MAX_HOPS: Final = 32
"""Trusted hops walked through in ``X-Forwarded-For``; real chains have two or three."""
_SCHEMES: Final = {"http": "http", "https": "https", "ws": "http", "wss": "https"}
"""Traefik writes ``wss`` for a websocket upgrade."""


class TrustedPeers:
    """
    The operators' ``trusted_peers``, compiled. None listed: nobody is believed.

    Not a value type: it carries a memo of peers seen, bounded, without authority of its own.
    """

    __slots__ = ("_believes_certificates", "_memo", "_networks")

    def __init__(self, cidrs: Iterable[str] = (), *, believes_certificates: bool = False) -> None:
        """
        Args:
            cidrs: ``trusted_peers`` as in ``platform.yaml``.
            believes_certificates: ``client_certificates: trusted-peers``.

        Raises: ValueError for anything that is not a network or has host bits.
        """
        self._believes_certificates = believes_certificates
        self._networks: tuple[IPv4Network | IPv6Network, ...] = tuple(ip_network(cidr) for cidr in cidrs)
        self._memo: dict[str, tuple[str, bool]] = {}

    def is_trusted(self, peer: str) -> bool:
        """Whether ``peer`` (an address without port) may speak. What is not an address may not."""
        return bool(self._networks) and self._known(peer)[1]

    def names_certificates(self, peer: str) -> bool:
        """
        Whether ``Client-Cert`` of ``peer`` is believed; then the certificate of the connection is the proxy's own, and
        never the client's.
        """
        return self._believes_certificates and self.is_trusted(peer)

    def _known(self, peer: str) -> tuple[str, bool]:
        """``peer`` in its one spelling, and whether it is trusted."""
        known = self._memo.get(peer)
        if known is None:
            address = parse_address(peer)
            if address is None:
                known = (peer, False)
            else:
                known = (str(address), any(address in network for network in self._networks))
            if len(self._memo) >= _MEMO_ENTRIES:
                self._memo.clear()
            self._memo[peer] = known
        return known

    def client_ip(self, peer: str, xff_values: Sequence[str]) -> str:
        """
        The client's address: the TCP peer, or the first hop from the right that is not a trusted peer.

        What stands left of that hop was written by a stranger. An entry that is no address ends the walk at the hop
        that wrote it; when every hop is trusted, the leftmost is the client.

        Args:
            peer: address of the TCP peer.
            xff_values: the values of all X-Forwarded-For fields in the order sent.
        """
        client, is_trusted = self._known(peer)
        if not xff_values or not is_trusted:
            return client
        hops = ",".join(xff_values).rsplit(",", _MAX_HOPS)[-_MAX_HOPS:]
        for hop in reversed(hops):
            address = parse_address(_without_port(hop.strip(" \t")))
            if address is None:
                break
            client = str(address)
            if not self.is_trusted(client):
                break
        return client

    def client_scheme(self, peer: str, scheme: str, xfp_values: Sequence[str]) -> str | None:
        """
        The client's scheme: the connection's own, or what a trusted peer says of its client.

        Several values agree on https or mean http: a hop that was not encrypted is not undone by the next. None when a
        trusted peer says something that is no scheme.
        """
        if not xfp_values or not self.is_trusted(peer):
            return scheme
        said = {_SCHEMES.get(value.strip(" \t").lower()) for value in ",".join(xfp_values).split(",")}
        if None in said:
            return None
        return "https" if said == {"https"} else "http"


def parse_address(text: str) -> IPv4Address | IPv6Address | None:
    """An address in one spelling: IPv4-mapped IPv6 is IPv4 (a dual-stack listener shows it so); no zone."""
    if "%" in text:
        text = text.partition("%")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def _without_port(text: str) -> str:
    """Some proxies write ``1.2.3.4:5678`` or ``[2001:db8::1]:5678``."""
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0] if text.count(":") == 1 else text
