"""Which certificate a proxy says that it was shown: two spellings, one digest, and nothing else (RFC 9440)."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from typing import Final
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.certificates import MAX_CERTIFICATE_CHARS, certificate_digest
from policies.decision import Reason
from policies.peers import TrustedPeers
from policies.request import AccessRequest, read_head
from tests.fakes.heads import refused
from tests.fakes.tenancy import a_head

DER: Final = b"\x30\x82\x01\x00" + bytes(range(256))
OTHER: Final = b"\x30\x03\x02\x01\x05"
BELIEVED: Final = TrustedPeers(["10.0.0.0/8"], believes_certificates=True)


def rfc_9440(der: bytes = DER) -> bytes:
    return b":" + b64encode(der) + b":"


def pem(der: bytes = DER) -> str:
    text = b64encode(der).decode()
    lines = "\n".join(text[at : at + 64] for at in range(0, len(text), 64))
    return f"-----BEGIN CERTIFICATE-----\n{lines}\n-----END CERTIFICATE-----\n"


@pytest.mark.parametrize(
    "value",
    [rfc_9440(), quote(pem(), safe="").encode(), quote(pem()).encode(), quote(pem().replace("\n", "\r\n")).encode()],
    ids=["RFC 9440", "nginx", "slashes bare", "CRLF"],
)
def test_both_spellings_are_one_certificate(value: bytes) -> None:
    """SHA-256 of the DER, as ``x5t#S256`` has it."""
    assert certificate_digest(value) == sha256(DER).digest()


def test_short_certificates_are_read_too() -> None:
    """Length in one byte."""
    assert certificate_digest(rfc_9440(OTHER)) == sha256(OTHER).digest()


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b":",
        b"::",
        b": :",
        rfc_9440()[:-1],
        rfc_9440()[1:],
        rfc_9440() + b";q=1",
        rfc_9440() + b", " + rfc_9440(),
        b" " + rfc_9440(),
        b64encode(DER),
        rfc_9440(DER + b"\0"),
        rfc_9440(DER[:-1]),
        rfc_9440(b"\x31" + DER[1:]),
        rfc_9440(b"\x30\x80" + DER),
        rfc_9440(b"\x30\x81\x05hello"),
        rfc_9440(b"\x30\x82\x00\x05hello"),
        rfc_9440(b"\x30\x85\x00\x00\x00\x00\x01a"),
        rfc_9440(b"\x30"),
        rfc_9440(b"hello"),
        b":" + b64encode(DER).rstrip(b"=") + b"*:",
        quote(pem() + pem(OTHER)).encode(),
        quote(pem().replace("CERTIFICATE", "PRIVATE KEY")).encode(),
        quote(pem())[:-40].encode(),
        b"-----BEGIN CERTIFICATE-----",
        b"-----BEGIN CERTIFICATE----------END CERTIFICATE-----",
        b"%2D",
        b"(null)",
        b":" + b"A" * MAX_CERTIFICATE_CHARS + b":",
    ],
    ids=lambda value: repr(value[:24]),
)
def test_what_is_not_one_whole_certificate_is_none(value: bytes) -> None:
    """One that is cut off, two in one field, a key, a word of some proxy."""
    assert certificate_digest(value) is None


@given(st.binary(max_size=80) | st.binary(max_size=40).map(rfc_9440))
def test_any_bytes_give_a_digest_or_none(value: bytes) -> None:
    """Never an exception."""
    found = certificate_digest(value)
    assert found is None or len(found) == 32


def read(*fields: tuple[bytes, bytes], peer: str = "10.0.0.1", trusted: TrustedPeers = BELIEVED) -> AccessRequest:
    request = read_head(a_head(b"/", *fields, peer=peer)._replace(certificate=b"c" * 32), trusted)
    assert isinstance(request, AccessRequest), request
    assert request.forward_block == b""
    return request


def test_a_trusted_peer_names_the_certificate_of_its_client() -> None:
    """And its own, which the connection was made with, is never taken for the client's."""
    assert read((b"Client-Cert", rfc_9440())).certificate == sha256(DER).digest()
    assert read().certificate is None
    assert read((b"Client-Cert", b"")).certificate is None


def test_nobody_else_names_one_a2() -> None:
    """A2, AP-R2: not a stranger, and not a trusted peer where the operator has not said so; the field is removed."""
    own = b"c" * 32
    assert read((b"Client-Cert", rfc_9440()), peer="198.51.100.7").certificate == own
    assert read((b"Client-Cert", rfc_9440()), trusted=TrustedPeers(["10.0.0.0/8"])).certificate == own
    assert read((b"Client-Cert", b"rubbish"), peer="198.51.100.7").certificate == own
    assert read((b"Client-Cert", rfc_9440()), trusted=TrustedPeers((), believes_certificates=True)).certificate == own


@pytest.mark.parametrize(
    "name", [b"Client_Cert", b"client.cert", b"X-Client-Cert", b"Client-Cert-Chain", b"SSL-Client-Cert"]
)
def test_no_other_spelling_is_believed_or_passed(name: bytes) -> None:
    """Also of a trusted peer."""
    assert read((name, rfc_9440())).certificate is None


def test_two_certificates_are_400() -> None:
    """AP-R35: a proxy that adds its field to the client's own is one that must be mended."""
    for peer in ("10.0.0.1", "198.51.100.7"):
        head = a_head(b"/", (b"Client-Cert", rfc_9440()), (b"client-cert", rfc_9440(OTHER)), peer=peer)
        assert refused(head, BELIEVED).reason is Reason.BAD_REQUEST


@pytest.mark.parametrize("value", [b"rubbish", b"(null)", rfc_9440(b"hello")])
def test_a_trusted_peer_that_garbles_it_is_400(value: bytes) -> None:
    """Never "no certificate": somebody meant to say something."""
    assert refused(a_head(b"/", (b"Client-Cert", value), peer="10.0.0.1"), BELIEVED).reason is Reason.BAD_REQUEST
