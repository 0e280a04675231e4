"""
Public keys: what a key set is, which keys may be in one, and which of them a token's header chooses.

It decides from the key alone: kind, size, curve, use. It refuses to know where keys come from (``jwks``, ``accounts``)
and what a token claims. A set is an immutable value; that the same set object is still current is what makes a cached
token's re-check cheap.

Source: RFC 7517 sections 4 and 5, RFC 7518 sections 3 and 6, RFC 8037 section 2; rules AP-R25, R44, R45.
"""

from __future__ import annotations

import hashlib
from binascii import Error as Base64Error
from binascii import a2b_base64
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey

MAX_KEYS: Final = 64
MIN_RSA_BITS: Final = 2048
"""RFC 7518 section 3.3."""
MAX_RSA_BITS: Final = 8192
"""Verifying costs the square of it: 16384 bits would take milliseconds a token."""
MAX_RSA_EXPONENT: Final = 2**32

RSA_ALGORITHMS: Final = frozenset(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"))
_CURVES: Final[dict[str, tuple[ec.EllipticCurve, str]]] = {
    "P-256": (ec.SECP256R1(), "ES256"),
    "P-384": (ec.SECP384R1(), "ES384"),
    "P-521": (ec.SECP521R1(), "ES512"),
}
_CURVE_ALGORITHMS: Final = {curve.name: algorithm for curve, algorithm in _CURVES.values()}
_PRIVATE_MEMBERS: Final = frozenset(("d", "p", "q", "dp", "dq", "qi", "oth"))


class SetRefused(ValueError):
    """A whole key set that may not be used, and why; the text quotes nothing from it."""


class SigningKey(NamedTuple):
    kid: str | None
    algorithms: frozenset[str]
    """What may be verified with it; never empty."""
    key: PublicKey
    thumbprint: bytes
    """SHA-256 of the SubjectPublicKeyInfo: equal thumbprint, equal key."""


Candidates = tuple[SigningKey, ...]
"""Keys that a signature may be of; one from a provider, a few while a service account changes its key. Never empty."""


@dataclass(frozen=True, slots=True)
class Missing:
    """There is no such key as far as is known, and asking the provider (again) now would not help."""

    retry_after_s: float = 0.0
    """Seconds until it may be asked again; 0: it has said so, or no key set could have it."""


@dataclass(frozen=True, slots=True)
class Unavailable:
    """No key set at all: it could not be had."""

    retry_after_s: int
    """Whole seconds, at least 1."""


MISSING: Final = Missing()


@dataclass(frozen=True, slots=True, eq=False)
class KeySet:
    """Keys of one provider or one service account. Compared by identity: see the module docstring."""

    by_kid: dict[str, SigningKey]
    without_kid: tuple[SigningKey, ...] = ()
    thumbprints: frozenset[bytes] = frozenset()
    ignores_kid: bool = False
    """A service account's own keys: they are few and all its own, so whatever kid the token has, all are tried."""

    @classmethod
    def of(cls, keys: Iterable[SigningKey], *, ignores_kid: bool = False) -> KeySet:
        """Raises: SetRefused when one kid names two keys, or when nothing is left."""
        by_kid: dict[str, SigningKey] = {}
        without_kid: list[SigningKey] = []
        for key in keys:
            if key.kid is None:
                without_kid.append(key)
            elif by_kid.setdefault(key.kid, key).thumbprint != key.thumbprint:
                raise SetRefused("one kid names two keys")
        thumbprints = frozenset(key.thumbprint for key in (*by_kid.values(), *without_kid))
        if not thumbprints:
            raise SetRefused("no usable key")
        return cls(by_kid, tuple(without_kid), thumbprints, ignores_kid)

    def choose(self, kid: str | None, algorithm: str) -> Candidates | Missing | None:
        """
        The keys that a token's header may mean; None when a newer set might have it.

        Without kid there must be exactly one key that fits (OpenID Connect Core section 10.1): guessing among several
        would let a token choose by failing.
        """
        if kid is not None and not self.ignores_kid:
            key = self.by_kid.get(kid)
            if key is None:
                return None
            return (key,) if algorithm in key.algorithms else MISSING
        fitting = tuple(key for key in (*self.by_kid.values(), *self.without_kid) if algorithm in key.algorithms)
        if not fitting:
            return None
        return fitting if len(fitting) == 1 or self.ignores_kid else MISSING


class KeySource(Protocol):
    """Where the keys of one issuer of one tenant come from."""

    def current(self, now: float) -> KeySet | None:
        """The set that may be used at ``now``, or None. May start a refresh behind; no I/O of its own."""

    def key_now(self, kid: str | None, algorithm: str, now: float) -> Candidates | Missing | Unavailable | None:
        """The keys from what is at hand; None when ``key`` has to be awaited."""

    async def key(self, kid: str | None, algorithm: str, now: float) -> Candidates | Missing | Unavailable:
        """The keys, with whatever it takes, in bounded time. Never raises but on cancellation."""

    async def close(self) -> None:
        """Stop background work."""


def read_jwks(document: dict[str, Any]) -> KeySet:
    """
    The usable keys of a JWK Set. A key that is of no use here (another kind, ``enc``, a size out of bounds) is left
    out; a set that says something no honest provider says is refused whole.

    Raises: SetRefused.
    """
    entries = document.get("keys")
    if not isinstance(entries, list):
        raise SetRefused("no list of keys")
    if len(entries) > MAX_KEYS:
        raise SetRefused(f"more than {MAX_KEYS} keys")
    keys: list[SigningKey] = []
    for entry in entries:
        if not isinstance(entry, dict):
            raise SetRefused("a key that is no object")
        if entry.get("kty") != "oct" and not _PRIVATE_MEMBERS.isdisjoint(entry):
            raise SetRefused("a private key is published: it is nobody's any more")
        key = _read_jwk(entry)
        if key is not None:
            keys.append(key)
    return KeySet.of(keys)


def _read_jwk(entry: dict[str, Any]) -> SigningKey | None:
    kid = entry.get("kid")
    operations = entry.get("key_ops", ["verify"])
    if (kid is not None and not isinstance(kid, str)) or entry.get("use", "sig") != "sig":
        return None
    if not isinstance(operations, list) or "verify" not in operations:
        return None
    try:
        match entry.get("kty"):
            case "RSA":
                key: PublicKey | None = _read_rsa(entry)
            case "EC":
                key = _read_ec(entry)
            case "OKP" if entry.get("crv") == "Ed25519":
                key = ed25519.Ed25519PublicKey.from_public_bytes(_bytes(entry, "x"))
            case _:
                return None
        return None if key is None else signing_key(key, kid, entry.get("alg"))
    except (ValueError, UnsupportedAlgorithm):
        return None  # not on the curve, not a number, not base64url: no key


def _read_rsa(entry: dict[str, Any]) -> rsa.RSAPublicKey | None:
    modulus, exponent = _bytes(entry, "n"), _bytes(entry, "e")
    if len(modulus) > MAX_RSA_BITS // 8 + 1 or len(exponent) > 8:
        return None
    return rsa.RSAPublicNumbers(int.from_bytes(exponent), int.from_bytes(modulus)).public_key()


def _read_ec(entry: dict[str, Any]) -> ec.EllipticCurvePublicKey | None:
    name = entry.get("crv")
    if not isinstance(name, str) or name not in _CURVES:
        return None
    x, y = _bytes(entry, "x"), _bytes(entry, "y")
    return ec.EllipticCurvePublicNumbers(int.from_bytes(x), int.from_bytes(y), _CURVES[name][0]).public_key()


def _bytes(entry: dict[str, Any], name: str) -> bytes:
    """Base64url member of a JWK. Raises: ValueError."""
    text = entry.get(name)
    if not isinstance(text, str) or not text.isascii() or not text:
        raise ValueError(name)
    try:
        return a2b_base64(text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4), strict_mode=True)
    except Base64Error as error:
        raise ValueError(name) from error


def signing_key(key: object, kid: str | None = None, algorithm: object = None) -> SigningKey | None:
    """
    Fit a key to the algorithms it may verify; None when there is none left.

    Args:
        key: a public key of ``cryptography``; other kinds than ``PublicKey`` give None.
        kid: its name in its set.
        algorithm: the JWK's ``alg``: narrows, never widens.
    """
    match key:
        case rsa.RSAPublicKey():
            exponent = key.public_numbers().e
            is_sound = exponent % 2 == 1 and 65537 <= exponent <= MAX_RSA_EXPONENT
            fits = RSA_ALGORITHMS if is_sound and MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS else frozenset()
        case ec.EllipticCurvePublicKey():
            name = _CURVE_ALGORITHMS.get(key.curve.name)
            fits = frozenset((name,)) if name is not None else frozenset()
        case ed25519.Ed25519PublicKey():
            fits = frozenset(("EdDSA",))
        case _:
            return None
    if algorithm is not None:
        fits = frozenset(name for name in fits if name == algorithm)
    if not fits:
        return None
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return SigningKey(kid, fits, key, hashlib.sha256(spki).digest())
