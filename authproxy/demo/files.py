"""
The demo's own copy of the example: policies with the real addresses filled in, and secrets made for this run alone.

The secrets are what an operator would provide: credentials of the platform, keys of the service accounts, the client
secret of the login, and a folder of Portero's own keys. The example files are never changed: an operator edits the
copy, sees it taken up, and loses nothing. Everything lies in one folder that only this user can read and that goes away
with the demo.
"""

from __future__ import annotations

import importlib.resources
import json
import secrets
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import jwt
import yaml
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from authproxy.demo.functions import FUNCTIONS
from authproxy.identity.tokens.key_files import SESSION_KEY_BYTES, SESSIONS, SIGNING, SUFFIXES
from policies.claims import MAX_ACCOUNT_LIFETIME_S, account_issuer
from policies.errors import PorteroError

ISSUER_IN_EXAMPLE: Final = "https://id.example"
BACKEND_IN_EXAMPLE: Final = "http://gateway.openfaas:8080"
SCHEMA_IN_EXAMPLE: Final = "$schema=../../"
PLATFORM_USER: Final = "admin"

FIRST_ANSWERS: Final = {
    "acme": (("es", 5), ("es", 4), ("es", 4), ("fr", 3), ("de", 5), ("de", 2)),
    "globex": (("pt", 5), ("pt", 5), ("es", 1)),
}
"""Country and score: what the reports show before anybody has answered."""


class AccountUnknown(Exception):
    """There is no such service account in that tenant; the message says who is."""


@dataclass(frozen=True, slots=True)
class DemoFiles:
    """Where everything lies, and which tenants and accounts the policies name."""

    folder: Path
    namespaces: dict[str, str]
    """Tenant -> namespace of its functions."""
    hosts: dict[str, str]
    """Tenant -> its first host."""
    accounts: dict[tuple[str, str], dict[str, Any]]
    """(tenant, account) -> what the policy says of it."""

    @property
    def policies(self) -> Path:
        return self.folder / "policies"

    @property
    def secrets(self) -> Path:
        return self.folder / "secrets"

    @property
    def own_keys(self) -> Path:
        """What ``portero keys new`` makes: sessions are sealed, and assertions signed, with what lies here."""
        return self.folder / "own-keys"

    @property
    def audit(self) -> Path:
        return self.folder / "audit.jsonl"

    def account_key(self, tenant: str, account: str) -> Path:
        """The private key, as ``portero token issue --account`` takes it."""
        return self.folder / "keys" / tenant / f"{account}.key.pem"

    def account_token(self, tenant: str, account: str, ttl_s: int) -> str:
        """
        A service account's own token, signed with its own key.

        ``ttl_s`` is from 1 to an hour, which is all that any policy accepts.

        Raises: AccountUnknown; ValueError.
        """
        said = self.accounts.get((tenant, account))
        if said is None:
            known = ", ".join(f"--tenant {where} --service-account {name}" for where, name in self.accounts)
            raise AccountUnknown(f"the demo knows no service account {account!r} of {tenant!r}; it knows: {known}")
        if not 1 <= ttl_s <= MAX_ACCOUNT_LIFETIME_S:
            raise ValueError(f"a service account's token lives from 1 to {MAX_ACCOUNT_LIFETIME_S} seconds, not {ttl_s}")
        now = int(time.time())
        claims = {
            "iss": account_issuer(tenant, account),
            "sub": account,
            "aud": said["audiences"][0],
            "iat": now,
            "exp": now + ttl_s,
            "jti": uuid.uuid4().hex,
        }
        return jwt.encode(claims, self.account_key(tenant, account).read_bytes(), algorithm="ES256")


def example_folder() -> Path:
    """The example's files, wherever the package lies."""
    return Path(str(importlib.resources.files("policies"))) / "examples" / "survey"


def prepare(folder: Path, *, issuer: str, platform_url: str, platform_password: str, client_secret: str) -> DemoFiles:
    """
    Fill ``folder`` (which only this user can read) for one run.

    Args:
        folder: empty.
        issuer: of the demo's provider.
        platform_url: of the functions platform.
        platform_password: its administrator's.
        client_secret: of Portero at the provider, for every tenant: they share the issuer, and so the client.

    Raises: PorteroError when the example does not hold the addresses to fill in: then the demo would judge by others.
    """
    example = example_folder()
    replaced = dict.fromkeys((ISSUER_IN_EXAMPLE, BACKEND_IN_EXAMPLE), 0)
    policies = folder / "policies"
    policies.mkdir(mode=0o700)
    for file in sorted(example.glob("*.yaml")):
        text = file.read_text(encoding="utf-8")
        for placeholder, address in ((ISSUER_IN_EXAMPLE, issuer), (BACKEND_IN_EXAMPLE, platform_url)):
            replaced[placeholder] += text.count(placeholder)
            text = text.replace(placeholder, address)
        # An editor that reads the first line completes from the real schema, also in the copy.
        text = text.replace(SCHEMA_IN_EXAMPLE, f"$schema={example.parents[1].as_uri()}/")
        (policies / file.name).write_text(text, encoding="utf-8")
    if missing := [placeholder for placeholder, count in replaced.items() if not count]:
        raise PorteroError(f"{example}: the example does not say {' nor '.join(missing)} any more")
    files = prepare_secrets(folder, platform_password=platform_password, client_secret=client_secret)
    write_answers(folder / "answers", files.namespaces.values())
    return files


def prepare_secrets(folder: Path, *, platform_password: str, client_secret: str) -> DemoFiles:
    """What the example's policies name, and Portero's own keys; arguments as of ``prepare``."""
    documents = {file.stem: yaml.safe_load(file.read_text(encoding="utf-8")) for file in _example_documents()}
    platform = documents.pop("platform")
    tenants: dict[str, Any] = {document["tenant"]: document for document in documents.values()}
    files = DemoFiles(
        folder,
        {name: said["namespace"] for name, said in platform["tenants"].items()},
        {name: said["hosts"][0] for name, said in platform["tenants"].items()},
        {(name, account["name"]): account for name in tenants for account in tenants[name].get("service_accounts", [])},
    )
    _write_secrets(files, platform, platform_password)
    for tenant, said in tenants.items():
        for provider in said.get("identity", []):
            if name := provider.get("login", {}).get("client_secret"):
                _write(files.secrets / tenant / name, f"{client_secret}\n".encode())
    _write_own_keys(files)
    return files


def _example_documents() -> list[Path]:
    """The policies without their tests."""
    return [file for file in sorted(example_folder().glob("*.yaml")) if not file.stem.endswith("_test")]


def namespaces_of_example() -> dict[str, tuple[str, ...]]:
    """Namespace -> functions, which the platform starts before the policies' copy can be written."""
    platform = yaml.safe_load((example_folder() / "platform.yaml").read_text(encoding="utf-8"))
    return {said["namespace"]: FUNCTIONS for said in platform["tenants"].values()}


def _write_secrets(files: DemoFiles, platform: dict[str, Any], password: str) -> None:
    for backend in platform["backends"].values():
        _write(files.secrets / "platform" / backend["credentials"], f"{PLATFORM_USER}:{password}\n".encode())
    for (tenant, account), said in files.accounts.items():
        key = ec.generate_private_key(ec.SECP256R1())
        _write(files.account_key(tenant, account), _pem(key))
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        _write(files.secrets / tenant / said["public_key"], public)


def _write_own_keys(files: DemoFiles) -> None:
    """One key of each kind, as ``authproxy.identity.tokens.key_files`` reads them."""
    sealing = urlsafe_b64encode(secrets.token_bytes(SESSION_KEY_BYTES))
    _write(files.own_keys / SESSIONS / f"demo{SUFFIXES[SESSIONS]}", sealing + b"\n")
    _write(files.own_keys / SIGNING / f"demo{SUFFIXES[SIGNING]}", _pem(ec.generate_private_key(ec.SECP256R1())))


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def write_answers(folder: Path, namespaces: Iterable[str]) -> dict[str, Path]:
    """Namespace -> file of answers in ``folder``, with those that are there before anybody has answered."""
    written = {namespace: folder / f"{namespace}.jsonl" for namespace in namespaces}
    for namespace, file in written.items():
        now = time.time()
        lines = (
            json.dumps({"country": country, "score": score, "comment": "", "at": now})
            for country, score in FIRST_ANSWERS.get(namespace, ())
        )
        _write(file, "".join(f"{line}\n" for line in lines).encode())
    return written


def _write(file: Path, content: bytes) -> None:
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    file.touch(mode=0o600)
    file.write_bytes(content)
