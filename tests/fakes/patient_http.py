"""Portero's client of providers, which knows in a test who is silent on purpose: only there its patience ends soon."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from authproxy.identity.providers.http import Document, ProviderHttp

PATIENCE_S: Final = 20.0
"""With everybody else: a machine that stands still for a moment is no provider that lies."""


class PatientHttp(ProviderHttp):
    """
    Over http on loopback, as the demo has it.

    Args:
        is_silent: whether nothing whole will come from a URL.
        timeout_s: the patience with such a one.
    """

    def __init__(self, is_silent: Callable[[str], bool], *, timeout_s: float) -> None:
        super().__init__(allow_loopback_http=True, timeout_s=timeout_s)
        self._is_silent = is_silent

    async def _ask(
        self,
        method: str,
        url: str,
        allowed_private_hosts: frozenset[str],
        fields: Mapping[str, str],
        body: bytes | None,
        timeout_s: float,
        must_say_json: bool,
    ) -> Document:
        patience_s = timeout_s if self._is_silent(url) else PATIENCE_S
        return await super()._ask(method, url, allowed_private_hosts, fields, body, patience_s, must_say_json)
