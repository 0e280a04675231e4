"""
A provider in a process of its own: discovery document, keys, and one token. It is asked once, before the
measurement.
"""

from __future__ import annotations

import base64
import json
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec

from benchmarks._proxies.process import Running, free_port, python

AUDIENCE = "bench"


def _number(value: int) -> str:
    return base64.urlsafe_b64encode(value.to_bytes(32, "big")).rstrip(b"=").decode()


def start_provider(core: int, folder: Path) -> tuple[Running, str, str]:
    """Returns the process, its issuer and a token of it for ``ana`` in a dozen groups."""
    port = free_port()
    issuer = f"http://127.0.0.1:{port}"
    key = ec.generate_private_key(ec.SECP256R1())
    point = key.public_key().public_numbers()
    jwk: dict[str, Any] = {"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": "bench-1"}
    jwk |= {"x": _number(point.x), "y": _number(point.y)}
    pages = {
        "/.well-known/openid-configuration": {"issuer": issuer, "jwks_uri": f"{issuer}/jwks.json"},
        "/jwks.json": {"keys": [jwk]},
    }
    file = folder / "provider.json"
    file.write_text(json.dumps(pages))
    running = Running("provider", python("benchmarks._proxies.provider", str(file), str(port)), core, folder, port)
    running.wait_until_up()
    now = int(time.time())
    claims = {
        "iss": issuer,
        "sub": "ana",
        "aud": AUDIENCE,
        "iat": now,
        "exp": now + 3600,
        "groups": [f"group-{n}" for n in range(88, 100)],
    }
    return running, issuer, jwt.encode(claims, key, algorithm="ES256", headers={"kid": "bench-1"})


def serve(file: Path, port: int) -> None:
    pages: dict[str, Any] = json.loads(file.read_text())

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            page = pages.get(self.path)
            body = json.dumps(page).encode()
            self.send_response(200 if page is not None else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments: object) -> None:
            return

    HTTPServer(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    serve(Path(sys.argv[1]), int(sys.argv[2]))
