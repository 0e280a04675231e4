"""
The other functions platforms behind a whole Portero: policy files and secrets on disk, requests on the wire.

What each platform promises is ``tests/contracts/backend.py``'s; here is that a policy file reaches it.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from aiohttp import web

from authproxy.app import App
from authproxy.settings import Settings
from tests.fakes.http_service import FakeHttpService
from tests.fakes.knative import FakeKnative, Invocation, go_error
from tests.fakes.openfaas import FakeOpenFaas
from tests.fakes.riff import FakeRiff, Reply
from tests.fakes.world import RawAnswer, request_bytes, send_raw

TOKEN = "service-account-token"


@dataclass(slots=True)
class Front:
    """A Portero in front of one platform."""

    app: App

    async def send(self, line: str, *fields: tuple[str, str], body: bytes = b"") -> RawAnswer:
        answer = await send_raw(self.app.public_address, request_bytes(line, fields=list(fields), body=body))
        assert answer is not None
        return answer


@contextlib.asynccontextmanager
async def in_front_of(
    folder: Path, backend: str, functions: str, *, namespace: str = "acme", secrets: dict[str, bytes] | None = None
) -> AsyncIterator[Front]:
    """``backend`` and ``functions`` as they stand in the policy files; ``secrets`` are the platform's."""
    policies = folder / "policies"
    (folder / "secrets" / "platform").mkdir(parents=True)
    policies.mkdir()
    for name, content in (secrets or {}).items():
        file = folder / "secrets" / "platform" / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(content)
    (policies / "platform.yaml").write_text(
        f"version: 1\nbackends:\n  it: {{{backend}}}\n"
        f"tenants:\n  acme: {{hosts: [acme.test], backend: it, namespace: {namespace}}}\n"
    )
    (policies / "acme.yaml").write_text(f"version: 1\ntenant: acme\nfunctions:\n{functions}")
    settings = {
        "policies": policies,
        "secrets": folder / "secrets",
        "listen": ("127.0.0.1", 0),
        "admin": ("127.0.0.1", 0),
        "audit": str(folder / "audit.log"),
        "drain": 1.0,
    }
    app = App(Settings.model_validate(settings))
    await app.start()
    try:
        yield Front(app)
    finally:
        await app.stop(0.5)


def kubeconfig(url: str) -> bytes:
    document = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": url}}],
        "users": [{"name": "u", "user": {"token": TOKEN}}],
    }
    return yaml.safe_dump(document).encode()


@pytest.mark.parametrize("knows_cluster", [True, False], ids=["the cluster's API", "probing"])
async def test_knative(tmp_path: Path, *, knows_cluster: bool) -> None:
    """One cold start for twenty at once; the Host names the function; nothing of ``K-*`` passes either way."""

    async def answers(invocation: Invocation) -> web.Response:
        return web.json_response([invocation.target, invocation.fields])

    async with FakeKnative(tokens={TOKEN}) as cluster:
        cluster.add("hello", replicas=0, start_s=0.3, handler=answers)
        backend = f"kind: knative, url: '{cluster.url}', domain: fn.example"
        backend += ", cluster: kube" if knows_cluster else ""
        functions = "  hello: {access: public, concurrency: 5}\n"
        secrets = {"kube": kubeconfig(cluster.api_url)}
        async with in_front_of(tmp_path, backend, functions, secrets=secrets) as front:
            spoofed = (("K-Proxy-Request", "activator"), ("Knative-Serving-Revision", "other"))
            some = await asyncio.gather(*(front.send(f"GET /function/hello/n?a={n}", *spoofed) for n in range(20)))
            assert {answer.status for answer in some} == {200}
            # Who asks the function itself finds it awake: the question has woken it.
            told = "true" if knows_cluster else "false"
            assert {answer.field("x-portero-cold-start") for answer in some} == {told}
            assert {answer.json()[0] for answer in some} == {f"/n?a={n}" for n in range(20)}
            for answer in some:
                names = {name.lower() for name in answer.json()[1]}
                assert not {name for name in names if name.startswith(("k-", "knative-"))}
            assert cluster.cold_starts == ["hello"]
            assert set(cluster.hosts) == {"hello.acme.fn.example"}
            assert bool(cluster.api_calls) is knows_cluster


async def test_knatives_own_errors_are_told_apart(tmp_path: Path) -> None:
    """Its 503 lets what is idempotent be tried again, others are told; its 504 and 404 become problem documents."""
    async with FakeKnative(tokens={TOKEN}) as cluster:
        cluster.add("hello", replicas=1)
        backend = f"kind: knative, url: '{cluster.url}', domain: fn.example, cluster: kube"
        functions = "  '*': {access: public, i_mean_all: true, cold_start: {probe: 'off'}}\n"
        secrets = {"kube": kubeconfig(cluster.api_url)}
        async with in_front_of(tmp_path, backend, functions, secrets=secrets) as front:
            assert (await front.send("GET /function/hello")).status == 200
            full = go_error(503, "pending request queue full")
            cluster.ingress.status, cluster.ingress.text = 503, "pending request queue full\n"
            cluster.ingress.fields = dict(full.headers)
            before = len(cluster.hosts)
            again = await front.send("GET /function/hello")
            assert (again.status, again.reason, len(cluster.hosts) - before) == (503, "overloaded", 2)
            before = len(cluster.hosts)
            once = await front.send("POST /function/hello", body=b"x")
            assert (once.status, once.reason, len(cluster.hosts) - before) == (503, "overloaded", 1)
            assert front.app.parts.metrics.retries_total.value(("acme", "sent")) == 1
            cluster.ingress.status, cluster.ingress.text = 504, "activator request timeout"
            cluster.ingress.fields = {"Content-Type": "text/plain; charset=utf-8"}
            slow = await front.send("GET /function/hello")
            assert (slow.status, slow.reason) == (504, "upstream-timeout")
            missing = await front.send("GET /function/nobody")
            assert (missing.status, missing.reason) == (404, "function-unknown")


async def test_riff(tmp_path: Path) -> None:
    """``/requests/TOPIC`` gets the reply, ``/messages/TOPIC`` the word that it was taken; nothing but POST to /."""
    topics = {"square": lambda message: Reply(str(int(message.body) ** 2).encode()), "log": None}
    async with FakeRiff(topics=topics) as riff:
        functions = "  square: {access: public}\n  log: {access: public, message: true}\n"
        backend = f"kind: riff, url: '{riff.url}'"
        async with in_front_of(tmp_path, backend, functions, namespace="default") as front:
            replied = await front.send("POST /function/square", body=b"7")
            assert (replied.status, replied.body) == (200, b"49")
            taken = await front.send("POST /function/log", body=b"line")
            assert (taken.status, taken.body) == (200, b"Message published to topic: log\n")
            assert [message.topic for message in riff.published] == ["square", "log"]
            for line in ("POST /function/square/path", "POST /function/square?a=1"):
                assert (await front.send(line, body=b"7")).reason == "bad-request"
            assert (await front.send("GET /function/square", body=b"7")).status == 405
            assert len(riff.published) == 2


async def test_a_fixed_address(tmp_path: Path) -> None:
    """Woken by ``wake_url`` with the credentials of a file, held until its probe answers, paths behind its own."""
    basic = base64.b64encode(b"waker:s3cret").decode()
    async with FakeHttpService(authorization=f"Basic {basic}") as service:
        address = f"{service.url}/{{namespace}}/{{function}}"
        backend = f"kind: http, url: '{address}', probe: /up, wake_url: '{service.url}/wake', credentials: waker"
        functions = "  site: {access: public}\n"
        async with in_front_of(tmp_path, backend, functions, secrets={"waker": b"waker:s3cret\n"}) as front:
            some = await asyncio.gather(*(front.send(f"GET /function/site/{n}?q") for n in range(10)))
            assert {answer.status for answer in some} == {200}
            [(target, body)] = service.wakes
            assert (target, json.loads(body)) == ("/wake", {"function": "site", "namespace": "acme"})
            served = {target for _, target, _ in service.requests} - {"/acme/site/up"}
            assert served == {f"/acme/site/{n}?q" for n in range(10)}
            assert not any("authorization" in fields for _, _, fields in service.requests)


async def test_openfaas_with_credentials_from_files(tmp_path: Path) -> None:
    """As OpenFaaS mounts them; a password that was rotated is taken up without a reload, and no function sees it."""
    async with FakeOpenFaas(credentials=("admin", "first")) as faas:
        faas.add("hello", "acme", replicas=0, start_s=0.1)
        secrets = {"basic/basic-auth-user": b"admin", "basic/basic-auth-password": b"first"}
        backend = f"kind: openfaas, url: '{faas.url}', credentials: basic"
        functions = "  hello: {access: public}\n  other: {access: public}\n"
        async with in_front_of(tmp_path, backend, functions, secrets=secrets) as front:
            assert (await front.send("GET /function/hello")).status == 200
            faas.add("other", "acme", replicas=0, start_s=0.1)
            faas.credentials = ("admin", "second")
            (tmp_path / "secrets" / "platform" / "basic" / "basic-auth-password").write_bytes(b"second")
            assert (await front.send("GET /function/other")).status == 200
            assert faas.wake_calls == ["hello.acme", "other.acme"]
            sent = [name.lower() for invocation in faas.requests for name, _ in invocation.fields]
            assert "authorization" not in sent
