"""TLS of the public listener and towards upstreams: names recorded, certificates replaced while running."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import ssl
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from authproxy.edges.public import PublicEdge
from authproxy.edges.tls import TlsFiles
from authproxy.upstream.pool import Pool
from tests.fakes.gate import StubGate
from tests.fakes.jobs import until
from tests.fakes.raw_client import RawClient
from tests.fakes.upstream import ScriptedUpstream


def write_pair(folder: Path, name: str) -> tuple[Path, Path]:
    """A self-signed certificate for ``name`` and 127.0.0.1, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = folder / "tls.crt", folder / "tls.key"
    fresh = folder / "fresh.crt", folder / "fresh.key"
    fresh[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    fresh[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    for source, target in zip(fresh, files, strict=True):
        source.replace(target)
    return files


@contextlib.asynccontextmanager
async def listening(gate: StubGate, tls: TlsFiles | None, pool: Pool | None = None) -> AsyncIterator[tuple[str, int]]:
    """A public edge, and its address."""
    pool = pool or Pool()
    edge = PublicEdge(gate, pool)
    address = await edge.start("127.0.0.1", 0, tls)
    try:
        yield address
    finally:
        await edge.stop(0)
        await pool.close()


def trusting(file: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=file.read_text())


async def test_the_name_asked_for_is_recorded(tmp_path: Path) -> None:
    """SNI reaches the gate as ``server_name``, the scheme as https; bodies and keep-alive work as without TLS."""
    files = write_pair(tmp_path, "acme.example")
    async with ScriptedUpstream() as upstream:
        gate = StubGate(upstream.address)
        async with listening(gate, TlsFiles(*files)) as address:
            async with RawClient(address, trusting(files[0]), "acme.example") as client:
                for _ in range(2):
                    await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n" + b"x" * 300_000)
                    assert (await client.answer()).status == 200
            assert [(head.scheme, head.server_name) for head in gate.heads] == [("https", "acme.example")] * 2
            nameless = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            nameless.check_hostname = False
            nameless.verify_mode = ssl.CERT_NONE
            async with RawClient(address, nameless, "") as client:
                await client.get()
            assert gate.heads[-1].server_name is None


async def test_a_new_certificate_is_used_without_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the next handshake; a pair that cannot be loaded leaves the last good one in use."""
    monkeypatch.setattr("authproxy.edges.tls._LOOK_EVERY_S", 0.0)
    files = write_pair(tmp_path, "acme.example")
    async with ScriptedUpstream() as upstream, listening(StubGate(upstream.address), TlsFiles(*files)) as address:
        first = trusting(files[0])
        async with RawClient(address, first, "acme.example") as client:
            assert (await client.get()).status == 200
            write_pair(tmp_path, "acme.example")
            async with RawClient(address, trusting(files[0]), "acme.example") as other:
                assert (await other.get()).status == 200
            assert (await client.get()).status == 200, "the old connection goes on"
        with pytest.raises(ssl.SSLError):
            async with RawClient(address, first, "acme.example"):
                pass
        files[1].write_text("no key")
        async with RawClient(address, trusting(files[0]), "acme.example") as client:
            assert (await client.get()).status == 200


def test_files_that_cannot_be_loaded_at_first_raise(tmp_path: Path) -> None:
    """A listener that cannot serve does not start."""
    with pytest.raises(OSError):
        TlsFiles(tmp_path / "none.crt", tmp_path / "none.key")


def showing(pair: tuple[Path, Path], roots: Path) -> ssl.SSLContext:
    """A client that shows the certificate of ``pair``."""
    context = trusting(roots)
    context.load_cert_chain(*pair)
    return context


async def test_a_clients_certificate_is_known_by_its_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    RFC 8705: asked for where there is a client CA, and it may be left out; one that the CA does not know is refused.
    A CA that is replaced holds from the next handshake on.
    """
    monkeypatch.setattr("authproxy.edges.tls._LOOK_EVERY_S", 0.0)
    server, one, two = (tmp_path / name for name in ("server", "one", "two"))
    for folder in (server, one, two):
        folder.mkdir()
    files, client, stranger = write_pair(server, "acme.example"), write_pair(one, "one"), write_pair(two, "two")
    authority = tmp_path / "clients.pem"
    authority.write_bytes(client[0].read_bytes())
    digests = [sha256(ssl.PEM_cert_to_DER_cert(pair[0].read_text())).digest() for pair in (client, stranger)]
    async with ScriptedUpstream() as upstream:
        gate = StubGate(upstream.address)
        async with listening(gate, TlsFiles(*files, authority)) as address:
            for context in (showing(client, files[0]), trusting(files[0])):
                async with RawClient(address, context, "acme.example") as connection:
                    for _ in range(2):
                        assert (await connection.get()).status == 200
            assert [head.certificate for head in gate.heads] == [digests[0], digests[0], None, None]
            await is_refused(address, showing(stranger, files[0]))
            authority.write_bytes(stranger[0].read_bytes())
            async with RawClient(address, showing(stranger, files[0]), "acme.example") as connection:
                assert (await connection.get()).status == 200
            assert gate.heads[-1].certificate == digests[1]
            await is_refused(address, showing(client, files[0]))


async def is_refused(address: tuple[str, int], context: ssl.SSLContext) -> None:
    """With TLS 1.3 a client learns of it with the first bytes that it reads."""
    with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
        async with RawClient(address, context, "acme.example") as connection:
            await connection.get()


async def test_without_a_client_ca_no_certificate_is_asked_for(tmp_path: Path) -> None:
    """Whatever a client would show: nobody has said whose certificates count."""
    (tmp_path / "one").mkdir()
    files, client = write_pair(tmp_path, "acme.example"), write_pair(tmp_path / "one", "one")
    async with ScriptedUpstream() as upstream:
        gate = StubGate(upstream.address)
        async with listening(gate, TlsFiles(*files)) as address:
            async with RawClient(address, showing(client, files[0]), "acme.example") as connection:
                assert (await connection.get()).status == 200
            assert gate.heads[-1].certificate is None


def test_a_client_ca_that_cannot_be_read_raises(tmp_path: Path) -> None:
    """At the start, like the other files."""
    files = write_pair(tmp_path, "acme.example")
    (tmp_path / "empty.pem").touch()
    for name in ("none.pem", "empty.pem"):
        with pytest.raises((OSError, ssl.SSLError)):
            TlsFiles(*files, tmp_path / name)


async def test_upstreams_speak_tls_and_are_verified(tmp_path: Path) -> None:
    """An address with is_tls; a certificate that is not trusted is unreachable, not accepted."""
    files = write_pair(tmp_path, "localhost")
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(*files)
    answering: set[asyncio.Task[None] | None] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answering.add(asyncio.current_task())
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret")
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            writer.transport.abort()
        finally:
            answering.discard(asyncio.current_task())

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=server_side)
    port = server.sockets[0].getsockname()[1]
    try:
        for context, status in ((trusting(files[0]), 200), (ssl.create_default_context(), 502)):
            gate = StubGate(ScriptedUpstream().address._replace(host="localhost", port=port, is_tls=True))
            async with listening(gate, None, Pool(tls=context)) as address, RawClient(address) as client:
                assert [(await client.get()).status for _ in range(2)] == [status] * 2
    finally:
        server.close()
        await until(lambda: not answering)
        await asyncio.sleep(0.05)
