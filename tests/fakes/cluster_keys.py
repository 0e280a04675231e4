"""Certificates of a cluster: its authority, its API's own certificate for 127.0.0.1, and those of who asks there."""

from __future__ import annotations

import datetime as dt
import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass(frozen=True, slots=True)
class Pair:
    """PEM."""

    certificate: str
    key: str


class ClusterKeys:
    """One cluster's authority."""

    def __init__(self, name: str = "kubernetes") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        made = self._signed(self._name, self._key.public_key()).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        )
        self._certificate = made.sign(self._key, hashes.SHA256())

    @property
    def authority(self) -> str:
        return self._certificate.public_bytes(serialization.Encoding.PEM).decode()

    def pair(self, name: str, *, password: bytes | None = None) -> Pair:
        """A certificate for 127.0.0.1 under ``name``; with ``password`` its key is encrypted."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        here = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        certificate = self._signed(subject, key.public_key()).add_extension(here, critical=False)
        encryption: serialization.KeySerializationEncryption = (
            serialization.NoEncryption() if password is None else serialization.BestAvailableEncryption(password)
        )
        pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        return Pair(
            certificate.sign(self._key, hashes.SHA256()).public_bytes(pem).decode(),
            key.private_bytes(pem, form, encryption).decode(),
        )

    def server(self, folder: Path, *, asks_for_certificates: bool = False) -> ssl.SSLContext:
        """The API's side; it takes no connection without a certificate of this authority when it asks for them."""
        pair, file = self.pair("kube-apiserver"), folder / "apiserver.pem"
        file.write_text(pair.certificate + pair.key)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        file.unlink()
        if asks_for_certificates:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(cadata=self.authority)
        return context

    def _signed(self, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(hours=1))
        )
