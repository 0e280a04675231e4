"""
TLS of the public listener: versions, the name a client asked for, and certificates that are replaced while we run.

Which name belongs to which tenant is not known here: the name is recorded (``portero_server_name`` on the TLS object)
and compared with ``Host`` by policy (421 ``host-misdirected``). Nor is it known whose a client's certificate is: with a
client CA one is asked for and may be left out, and what it is worth is judged with the token that is bound to it (RFC
8705).
"""

from __future__ import annotations

import logging
import os
import ssl
import time
from pathlib import Path
from typing import Final

_LOOK_EVERY_S: Final = 1.0
"""Files are looked at on a handshake, at most this often; nothing runs while nobody connects."""

_log = logging.getLogger("portero.tls")


class TlsFiles:
    """
    A server context whose certificate follows its files.

    Files that cannot be loaded are logged once and the last good ones stay in use; only the first load raises.

    Args:
        certificate: PEM, with its chain.
        key: PEM, not encrypted.
        client_ca: PEM of the authorities whose client certificates are taken; None: none is asked for. A handshake with
            a certificate of anybody else fails, one without a certificate does not.

    Raises: OSError, ssl.SSLError when the files cannot be loaded at first.
    """

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None = None) -> None:
        self._certificate = certificate
        self._key = key
        self._client_ca = client_ca
        self._seen = self._stamp()
        self._looked_at = time.monotonic()
        self._current = self._load()
        self.context = self._current
        """What a listener is started with; each handshake is given the current certificate."""

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.set_alpn_protocols(["http/1.1"])
        # Without this an encrypted key would ask for its password on the terminal, within a handshake.
        context.load_cert_chain(self._certificate, self._key, password=_no_password)
        if self._client_ca is not None:
            context.verify_mode = ssl.CERT_OPTIONAL
            context.load_verify_locations(self._client_ca)
        context.sni_callback = self._on_name
        return context

    def _on_name(self, tls: ssl.SSLObject | ssl.SSLSocket, name: str | None, _context: ssl.SSLContext) -> None:
        tls.portero_server_name = name  # type: ignore[union-attr]  # read by ClientConnection.connection_made
        self._look()
        if tls.context is not self._current:
            tls.context = self._current

    def _look(self) -> None:
        now = time.monotonic()
        if now - self._looked_at < _LOOK_EVERY_S:
            return
        self._looked_at = now
        stamp = self._stamp()
        if stamp == self._seen:
            return
        self._seen = stamp
        try:
            self._current = self._load()
        except (OSError, ssl.SSLError):
            _log.exception("the new certificate cannot be used; the last good one stays")

    def _stamp(self) -> tuple[tuple[int, int, int], ...]:
        """What changes when the files do, symlink swaps included; zeros for a file that is not there."""
        files = (self._certificate, self._key, self._client_ca)
        return tuple(_stamp(path) for path in files if path is not None)


def _no_password() -> str:
    raise ssl.SSLError("the key is encrypted; give one that is not")


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        status = os.stat(path)  # noqa: PTH116  # os.stat: one call, no Path.stat wrapper on the handshake's way
    except OSError:
        return (0, 0, 0)
    return (status.st_ino, status.st_size, status.st_mtime_ns)
