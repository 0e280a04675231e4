"""
Portero's own keys as files: ``sessions/*.key`` seal sessions, ``signing/*.pem`` sign what Portero vouches for.

It decides what a usable key file is, and which of several keys is the one in use; it refuses to know what is sealed or
signed. Names sort by age (``2026-11-24T083400Z-ab12cd.key``). A new key is not used before every replica has had the
time to see its file: the others would log people out, or functions refuse an assertion whose key they do not know yet.

Kubernetes mounts secrets as symbolic links into ``..data``: links are followed as long as they end in the same folder.

Source: RFC 7517 section 4, RFC 7518 section 6.2, RFC 7638 (thumbprints), RFC 8037 section 2.
"""

from __future__ import annotations

import json
import os
import stat
from base64 import urlsafe_b64encode
from binascii import Error as Base64Error
from binascii import a2b_base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol, TypeVar

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from jwt.algorithms import ECAlgorithm, OKPAlgorithm

from authproxy.identity.providers.keys import SigningKey, signing_key

SESSIONS: Final = "sessions"
SIGNING: Final = "signing"
SUFFIXES: Final = {SESSIONS: ".key", SIGNING: ".pem"}

SESSION_WAIT_S: Final = 60.0
"""Age from which on a session key is used: Kubernetes takes up to a minute to bring a secret to every pod."""
SIGNING_WAIT_S: Final = 300.0
"""As for sessions; verifiers keep a JWKS for some minutes (PyJWT: 300 s)."""
SESSION_KEY_BYTES: Final = 32
MAX_KEYS: Final = 64
"""Of one kind. More are more than anybody rotates, and each is tried at load."""
MAX_KEY_BYTES: Final = 16 * 1024

_TO_BASE64: Final = bytes.maketrans(b"-_", b"+/")
_THUMBPRINT_MEMBERS: Final = frozenset(("crv", "kty", "x", "y"))

_jws: Final = jwt.PyJWS(algorithms=["ES256", "EdDSA"])


class KeyFileError(ValueError):
    """A key file that cannot be used; the text names the file and never quotes it."""


class KeyFile(NamedTuple):
    """One file as a listing sees it: a later listing that is equal means that nothing has changed."""

    kind: str
    name: str
    modified_at: float
    """Unix seconds."""
    inode: int
    size: int
    mode: int

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}"


@dataclass(frozen=True, slots=True, eq=False)
class SessionKey:
    """Seals sessions, by way of keys derived from it."""

    file: KeyFile
    id: bytes
    """Four bytes that stand in front of what is sealed; a digest of the key."""
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class SigningPrivate:
    """Signs tokens and assertions. Compared by identity."""

    file: KeyFile
    kid: str
    """The public key's RFC 7638 thumbprint, base64url: the same in every replica, whatever the file is called."""
    algorithm: str
    """ES256 or EdDSA."""
    jwk: Mapping[str, str]
    """The public half, as ``/.portero/jwks.json`` shows it."""
    public: SigningKey
    key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey = field(repr=False)

    def sign(self, kind: str, claims: Mapping[str, Any]) -> str:
        """
        A compact JWS over ``claims``; some 60 us.

        Args:
            kind: ``typ`` of its header: what one kind is accepted for, no other is (AP-R15).
            claims: what JSON can say.
        """
        payload = json.dumps(claims, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
        headers = {"typ": kind, "kid": self.kid}
        return _jws.encode(payload, self.key, algorithm=self.algorithm, headers=headers)


class _HasFile(Protocol):
    @property
    def file(self) -> KeyFile: ...


KeyT = TypeVar("KeyT", bound=_HasFile)


def in_use(keys: Sequence[KeyT], now: float, wait_s: float) -> KeyT | None:
    """
    The key to seal or sign with: the newest that has been there for ``wait_s``.

    Where none has (a volume that was mounted anew), the one before the newest: others have known it longest of those
    that will stay. None without keys.

    Args:
        keys: oldest first.
        now: Unix seconds.
        wait_s: seconds since the file was written.
    """
    for key in reversed(keys):
        if key.file.modified_at + wait_s <= now:
            return key
    return keys[-2 if len(keys) > 1 else 0] if keys else None


def list_files(folder: Path, kind: str) -> tuple[KeyFile, ...]:
    """
    The key files of one kind, oldest first; other names are left alone. None without such a folder.

    Raises: OSError; KeyFileError for more than ``MAX_KEYS``.
    """
    found: list[KeyFile] = []
    try:
        entries = os.scandir(folder / kind)
    except FileNotFoundError:
        return ()
    with entries:
        for entry in entries:
            if entry.name.startswith(".") or not entry.name.endswith(SUFFIXES[kind]):
                continue
            status = entry.stat()
            found.append(
                KeyFile(kind, entry.name, status.st_mtime, status.st_ino, status.st_size, stat.S_IMODE(status.st_mode))
            )
            if len(found) > MAX_KEYS:
                raise KeyFileError(f"{kind}: more than {MAX_KEYS} keys; remove old ones")
    return tuple(sorted(found, key=lambda file: file.name))


def read_session_key(folder: Path, file: KeyFile) -> SessionKey:
    """Raises: KeyFileError."""
    content = _read(folder, file).rstrip(b"\r\n").rstrip(b"=")
    try:
        padded = content.translate(_TO_BASE64) + b"=" * (-len(content) % 4)
        secret = a2b_base64(padded, strict_mode=True)
    except (Base64Error, ValueError):
        secret = b""
    if len(secret) != SESSION_KEY_BYTES:
        raise KeyFileError(f"{file}: not a session key ({SESSION_KEY_BYTES} bytes in base64url)")
    return SessionKey(file, sha256(b"portero session key\0" + secret).digest()[:4], secret)


def read_signing_key(folder: Path, file: KeyFile) -> SigningPrivate:
    """Raises: KeyFileError."""
    pem = _read(folder, file)
    try:
        key = load_pem_private_key(pem, password=None)
    except (TypeError, ValueError, UnsupportedAlgorithm):
        # Without its text, which some versions of the library quote input in; TypeError: the key is encrypted.
        raise KeyFileError(f"{file}: not an unencrypted private key in PEM form") from None
    match key:
        case ec.EllipticCurvePrivateKey() if key.curve.name == "secp256r1":
            algorithm, members = "ES256", ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
        case ed25519.Ed25519PrivateKey():
            algorithm, members = "EdDSA", OKPAlgorithm.to_jwk(key.public_key(), as_dict=True)
        case _:
            raise KeyFileError(f"{file}: of another kind than P-256 or Ed25519")
    required = {name: str(value) for name, value in members.items() if name in _THUMBPRINT_MEMBERS}
    kid = thumbprint(required)
    public = signing_key(key.public_key(), kid, algorithm)
    if public is None:
        raise KeyFileError(f"{file}: not a key that signatures may be verified with")
    jwk = {**required, "kid": kid, "use": "sig", "alg": algorithm}
    return SigningPrivate(file, kid, algorithm, jwk, public, key)


def thumbprint(members: Mapping[str, str]) -> str:
    """Base64url SHA-256 of a JWK's required members. Source: RFC 7638 section 3."""
    text = json.dumps(dict(members), sort_keys=True, separators=(",", ":"))
    return urlsafe_b64encode(sha256(text.encode()).digest()).rstrip(b"=").decode("ascii")


def read_all(
    folder: Path, files: Sequence[KeyFile], read: Callable[[Path, KeyFile], KeyT], before: Sequence[KeyT] = ()
) -> tuple[list[KeyT], list[str]]:
    """
    The keys that can be read, in the order of ``files``, and a line for each that cannot.

    Args:
        folder: the folder of keys.
        files: of one kind.
        read: reads one; raises KeyFileError.
        before: keys read earlier; one whose file is as it was is taken over.
    """
    known = {key.file: key for key in before}
    keys: list[KeyT] = []
    mistakes: list[str] = []
    for file in files:
        try:
            keys.append(known.get(file) or read(folder, file))
        except KeyFileError as error:
            mistakes.append(str(error))
    return keys, mistakes


def _read(folder: Path, file: KeyFile) -> bytes:
    """Raises: KeyFileError."""
    try:
        root = folder.resolve(strict=True)
        path = (root / file.kind / file.name).resolve(strict=True)
        if not path.is_relative_to(root):
            raise KeyFileError(f"{file}: a link leads out of the folder")
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                raise KeyFileError(f"{file}: not a regular file")
            if status.st_size > MAX_KEY_BYTES:
                raise KeyFileError(f"{file}: larger than {MAX_KEY_BYTES} bytes, which no key is")
            return os.read(handle, MAX_KEY_BYTES)
        finally:
            os.close(handle)
    except RuntimeError as error:  # a loop of links
        raise KeyFileError(f"{file}: cannot be read") from error
    except OSError as error:
        raise KeyFileError(f"{file}: {error.strerror or 'cannot be read'}") from error
