"""
The Lua snippets in a real nginx with the Lua module, in Kong's order and over Kong's proxy settings: what a stranger
sends over the wire, and what of it reaches the function.

The part of Kong that they use stands in ``SHIM``, over ``ngx``; of the plugin there is only what it leaves behind.

Longer than other modules: an nginx, an upstream and a raw client belong to it.
"""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import threading
import time
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from gateway_plugins.facts import read_facts
from gateway_plugins.render_lua import MAX_NGINX_FIELDS, snippet
from policies.decision import Deny
from policies.peers import TrustedPeers
from policies.request import AccessRequest, Head, read_head

MODULES: Final = Path("/usr/share/nginx/modules-available")
SHIM: Final = """
local environment = {}
for name in ("assert error ipairs next pairs pcall select tonumber tostring type unpack string table"):gmatch("%S+") do
  environment[name] = _G[name]
end
local function apply(code, name)
  environment.ngx = ngx
  return assert(load(code, name, "t", environment))()
end
environment.kong = {
  ctx = setmetatable({}, { __index = function(_, key) return key == "shared" and ngx.ctx.shared or nil end }),
  response = {
    exit = function(status, body, fields)
      ngx.status = status
      for name, value in pairs(fields) do ngx.header[name] = value end
      ngx.print(body)
      return ngx.exit(status)
    end,
  },
  service = {
    set_target = function(host, port)
      assert(type(host) == "string" and type(port) == "number")
      ngx.var.upstream_host = host
      ngx.var.target = host .. ":" .. port
    end,
    request = {
      clear_header = function(name) ngx.req.clear_header(name) end,
      set_header = function(name, value)
        if name:lower() == "host" then ngx.var.upstream_host = value end
        ngx.req.set_header(name, value)
      end,
      set_path = function(path) assert(path:byte() == 47) ngx.var.upstream_uri = path end,
      set_raw_query = function(query) ngx.req.set_uri_args(query) end,
    },
  },
}
local read = function(name) local file = assert(io.open(FOLDER .. name)) return file:read("*a") end
facts, admit = apply(read("facts.lua"), "facts"), apply(read("admit.lua"), "admit")
answer = apply(read("answer.lua"), "answer")

-- What Kong does before any plugin (it believes X-Forwarded-For), the plugins, and what it does after them.
function access()
  ngx.ctx.shared = {}
  ngx.ctx.balancer_data = {}
  local said = ngx.req.get_headers()["x-forwarded-for"]
  ngx.var.upstream_x_forwarded_for = (said and tostring(said) .. ", " or "") .. ngx.var.remote_addr
  ngx.var.upstream_x_forwarded_prefix = "/forged"
  facts()
  -- The plugin.
  local seen = ngx.ctx.shared.portero_facts
  local wish = ngx.var.http_x_wish
  if ngx.ctx.shared.portero_facts and wish ~= "none" then
    ngx.ctx.shared.portero_verdict = wish == "half" and { host = "127.0.0.1" } or {
      host = "127.0.0.1", port = UPSTREAM, path = "/judged", query = wish == "query" and "a=b" or nil,
      clear = { "authorization" },
      set = { Host = "function.example", ["X-Portero-Subject"] = "ana", Cookie = "c=d" },
      forwarded = { ["for"] = "192.0.2.7", proto = "https", host = "acme.localhost" },
      timeouts = { connect_ms = 1000, write_ms = 1000, read_ms = 1000 },
      answer = wish ~= "internal" and { add = { ["X-Request-Id"] = "ours" }, is_by_cookie = true } or nil,
    }
  end
  admit()
  ngx.req.set_header("X-Seen", ngx.encode_base64(seen))
  if ngx.var.is_args == "?" then ngx.var.upstream_uri = ngx.var.upstream_uri .. "?" .. ngx.var.args end
end
"""
CONFIG: Final = """
{modules}
daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log info;
events {{ worker_connections 64; }}
http {{
  access_log off; underscores_in_headers on; lua_transform_underscores_in_response_headers {transforms};
  client_body_temp_path {folder}/1; proxy_temp_path {folder}/2; fastcgi_temp_path {folder}/3;
  uwsgi_temp_path {folder}/4; scgi_temp_path {folder}/5;
  init_by_lua_file {folder}/shim.lua;
  server {{
    listen 127.0.0.1:{port}; listen 127.0.0.1:{port_2} http2;
    proxy_ignore_headers X-Accel-Redirect X-Accel-Expires X-Accel-Limit-Rate X-Accel-Buffering X-Accel-Charset;
    location /elsewhere {{ return 200 "elsewhere"; }}
    location / {{
      set $target '127.0.0.1:1'; set $upstream_host ''; set $upstream_scheme 'http'; set $upstream_uri '/';
      set $upstream_x_forwarded_for ''; set $upstream_x_forwarded_proto ''; set $upstream_x_forwarded_host '';
      set $upstream_x_forwarded_port '80'; set $upstream_x_forwarded_path '/x'; set $upstream_x_forwarded_prefix '';
      access_by_lua_block {{ access() }}
      header_filter_by_lua_block {{ if ngx.ctx.shared then answer() end }}
      proxy_http_version 1.1; proxy_buffering off; proxy_request_buffering off;
      proxy_set_header Host $upstream_host; proxy_set_header Connection 'keep-alive';
      proxy_set_header X-Forwarded-For $upstream_x_forwarded_for;
      proxy_set_header X-Forwarded-Proto $upstream_x_forwarded_proto;
      proxy_set_header X-Forwarded-Host $upstream_x_forwarded_host;
      proxy_set_header X-Forwarded-Port $upstream_x_forwarded_port;
      proxy_set_header X-Forwarded-Path $upstream_x_forwarded_path;
      proxy_set_header X-Forwarded-Prefix $upstream_x_forwarded_prefix;
      proxy_pass $upstream_scheme://$target$upstream_uri;
    }}
  }}
}}
"""


class Upstream:
    """Takes requests, keeps their heads, answers what it is told to."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.heads: list[bytes] = []
        self.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                head = b""
                while b"\r\n\r\n" not in head and (got := connection.recv(65536)):
                    head += got
                self.heads.append(head)
                connection.sendall(self.answer)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


class Nginx:
    def __init__(self, folder: Path, *, transforms: str = "off") -> None:
        program = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
        modules = [MODULES / f"mod-http-{name}.conf" for name in ("ndk", "lua")]
        if program is None or not all(file.exists() for file in modules):
            pytest.fail("nginx with the Lua module is missing (libnginx-mod-http-lua); tests/system-packages.sh has it")
        self.upstream = Upstream()
        self.port, self.port_2 = free_port(), free_port()
        loads = "".join(file.read_text().replace(" modules/", " /usr/share/nginx/modules/") for file in modules)
        for name in ("facts", "admit", "answer"):
            (folder / f"{name}.lua").write_text(snippet(name))
        shim = f"FOLDER, UPSTREAM = {json.dumps(f'{folder}/')}, {self.upstream.port}\n{SHIM}"
        (folder / "shim.lua").write_text(shim)
        config = CONFIG.format(modules=loads, folder=folder, port=self.port, port_2=self.port_2, transforms=transforms)
        (folder / "nginx.conf").write_text(config)
        self.log = folder / "error.log"
        self._process = subprocess.Popen([program, "-p", str(folder), "-c", str(folder / "nginx.conf")])
        for _ in range(400):
            try:
                socket.create_connection(("127.0.0.1", self.port), 5).close()
            except OSError:
                time.sleep(0.05)
            else:
                return
        self.close()
        pytest.fail(self.log.read_text() if self.log.exists() else "nginx does not start")

    def send(self, raw: bytes) -> bytes:
        """The answer to ``raw``, all of it; empty when the connection was closed without one."""
        with socket.create_connection(("127.0.0.1", self.port), 20) as connection:
            connection.sendall(raw)
            answer = b""
            while got := connection.recv(65536):
                answer += got
            return answer

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(20)
        self.upstream.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        port: int = one.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    nginx = Nginx(tmp_path_factory.mktemp("nginx"))
    yield nginx
    nginx.close()


@pytest.fixture
def nginx(running: Nginx) -> Nginx:
    running.upstream.heads.clear()
    running.upstream.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    return running


def request(*fields: bytes, line: bytes = b"GET /a?q=%20 HTTP/1.1", end: bytes = b"\r\n") -> bytes:
    head = [line, b"Host: acme.localhost", b"Connection: close", *fields]
    return b"".join(one + end for one in head) + end


def reached(nginx: Nginx) -> tuple[bytes, dict[bytes, bytes], Head]:
    """The one request that the function got: its line, its fields, and the facts that were judged."""
    (head,) = nginx.upstream.heads
    line, *lines = head.partition(b"\r\n\r\n")[0].split(b"\r\n")
    fields: dict[bytes, bytes] = {}
    for name, _, value in (one.partition(b": ") for one in lines):
        known = fields.get(name.lower())
        fields[name.lower()] = value if known is None else known + b"|" + value
    facts = read_facts(b64decode(fields.pop(b"x-seen")))
    assert facts is not None
    return line, fields, facts


def judged(head: Head) -> AccessRequest | Deny:
    return read_head(head, TrustedPeers(()))


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer else 0


# -- what is judged --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "fields", "version"),
    [
        (request(b"A: 1", b"a: 2"), [(b"a", b"1"), (b"a", b"2")], (1, 1)),
        (request(b"A: \x80\xff\x1f\x01"), [(b"a", b"\x80\xff\x1f\x01")], (1, 1)),
        (request(b"A:  x: y \t"), [(b"a", b"x: y \t")], (1, 1)),
        (request(b"A: 1", end=b"\n"), [(b"a", b"1")], (1, 1)),
        (request(b"A:"), [(b"a", b"")], (1, 1)),
        (request(b"under_score: 1"), [(b"under_score", b"1")], (1, 1)),
        (request(b"dotted.name: 1"), [], (1, 1)),
        (request(line=b"GET /a HTTP/1.0"), [], (1, 0)),
    ],
    ids=["twice", "bytes", "colon", "bare LF", "empty", "underscore", "dropped by nginx", "1.0"],
)
def test_the_plugin_sees_what_nginx_has_read(
    nginx: Nginx, raw: bytes, fields: list[tuple[bytes, bytes]], version: tuple[int, int]
) -> None:
    """One line a field, whatever its bytes; what nginx leaves out is not sent on either."""
    assert status(nginx.send(raw)) == 200
    _, sent, facts = reached(nginx)
    own = [(b"connection", b"close"), (b"host", b"acme.localhost")]
    # What nginx strips of a value's end is its own business.
    assert sorted((n, v.rstrip()) for n, v in facts.fields) == sorted([(n, v.rstrip()) for n, v in fields] + own)
    assert (facts.version, facts.peer, facts.scheme, facts.server_name) == (version, "127.0.0.1", "http", None)
    assert {name for name, _ in fields} <= sent.keys()
    assert b"dotted.name" not in sent


@pytest.mark.parametrize(
    "raw",
    [
        request(b"A: 1", b" folded"),
        request(b"A: 1\rHost: b"),
        request(b"A: 1\0"),
        request(b"Host: other"),
        request(b"A\x01: 1", b"Content-Length: 1", b"Content-Length: 2"),
        request(line=b"GET /a b HTTP/1.1"),
        request(line=b"GET /a\x7f HTTP/2.0"),
    ],
    ids=["obs-fold", "CR", "NUL", "two hosts", "two lengths", "blank in the target", "2.0 in plain"],
)
def test_what_nginx_refuses_reaches_nobody(nginx: Nginx, raw: bytes) -> None:
    """Before any plugin: the client gets a refusal, the function nothing."""
    assert status(nginx.send(raw)) in {400, 505}
    assert nginx.upstream.heads == []


def test_an_absolute_target_is_judged_as_it_came(nginx: Nginx) -> None:
    """Nginx routes by its authority; Portero refuses one that is not the Host."""
    nginx.send(request(line=b"GET http://globex.localhost/a HTTP/1.1"))
    facts = reached(nginx)[2]
    assert facts.target == b"http://globex.localhost/a"
    assert isinstance(judged(facts), Deny)


def test_a_request_without_fields_is_judged_and_refused(nginx: Nginx) -> None:
    """HTTP/1.0 may come without a Host, and HTTP/0.9 (whose fields nobody can set) without anything: no tenant."""
    nginx.send(b"GET /a HTTP/1.0\r\n\r\n")
    assert isinstance(judged(reached(nginx)[2]), Deny)
    oldest = read_facts(b"portero/1\n127.0.0.1\nhttp\n\nGET /a")
    assert oldest is not None
    assert isinstance(judged(oldest), Deny)


# -- what reaches the function ---------------------------------------------------------------------------------------

FORGED: Final = """
X_Portero_Subject X-PORTERO-Subject x-portero_groups X_PORTERO-tenant X-Portero-Pass X.Portero.Subject
X_Forwarded_For X-Forwarded-User X-FORWARDED_email x_real_ip X-Real-IP Forwarded forwarded_for X_Request_Id X-Request-ID
X-Original-URL x_rewrite_url X-Tenant x_tenant_id X-Scope-OrgID X-Dispatch-Org X-Consumer-Username
x_credential_identifier Knative-Serving-Namespace K-Proxy-Request
X-OpenFaaS-a X-Callback-Url x_callback_url Proxy X-HTTP-Method-Override
Client-Cert Client_Cert_Chain SSL-Client-Verify X-SSL-Client-DN TE te_ Trailer Keep-Alive Proxy-Connection
Proxy_Authorization HTTP2-Settings authorization_ Authorization_ Cookie_ Transfer_Encoding Content_Length Content_length
"""


def test_nothing_that_a_stranger_forges_reaches_the_function(nginx: Nginx) -> None:
    """In no spelling that would be one of ours at the function; what means nothing passes as it was sent."""
    names = re.findall(r"\S+", FORGED)
    forged = [name.encode() + b": forged" for name in names]
    assert status(nginx.send(request(*forged, b"Authorization: Bearer x", b"X-Own_Name: kept"))) == 200
    line, sent, facts = reached(nginx)
    assert line == b"GET /judged?q=%20 HTTP/1.1"
    assert sent == {
        b"host": b"function.example",
        b"connection": b"keep-alive",
        b"x-forwarded-for": b"192.0.2.7",
        b"x-forwarded-proto": b"https",
        b"x-forwarded-host": b"acme.localhost",
        b"x-portero-subject": b"ana",
        b"cookie": b"c=d",
        b"x-own_name": b"kept",
        b"authorization_": b"forged|forged",  # another name than Authorization in whatever coding
        b"cookie_": b"forged",
        b"te_": b"forged",
    }
    assert (b"x_portero_subject", b"forged") in facts.fields, "they are judged all the same"


def test_a_name_that_folds_to_ours_by_what_hangs_on_it_is_another_name(nginx: Nginx) -> None:
    """``te_`` is ``te-`` at a function, and that is nobody's."""
    nginx.send(request(b"te_: 1", b"x-portero_: 1"))
    _, sent, _ = reached(nginx)
    assert b"te_" in sent
    assert b"x-portero_" not in sent


def test_fields_without_number_do_not_hide_one(nginx: Nginx) -> None:
    """Kong's own reading ends at a hundred fields; the snippet's at a number beyond which nothing passes."""
    many = [f"X-{n}: 1".encode() for n in range(MAX_NGINX_FIELDS - 3)]
    assert status(nginx.send(request(*many, b"X_Portero_Subject: root"))) == 200
    _, sent, facts = reached(nginx)
    assert b"x_portero_subject" not in sent
    assert sent[many[-1].partition(b":")[0].lower()] == b"1"
    assert len(facts.fields) == MAX_NGINX_FIELDS


def test_more_fields_than_can_be_removed_in_no_time_are_refused(nginx: Nginx) -> None:
    """Each removal walks over all of them: 3,000 took a worker 50 ms, before anybody was asked who he is."""
    answer = nginx.send(request(*[f"K-{n}:".encode() for n in range(MAX_NGINX_FIELDS)]))
    assert status(answer) == 431
    assert b"X-Portero-Reason: head-too-large" in answer
    assert nginx.upstream.heads == []


def test_a_query_of_the_verdicts_own_takes_the_place_of_the_clients(nginx: Nginx) -> None:
    """Where it differs; else it is sent as it came."""
    nginx.send(request(b"X-Wish: query"))
    assert reached(nginx)[0] == b"GET /judged?a=b HTTP/1.1"


@pytest.mark.parametrize(("wish", "refused"), [(b"none", 503), (b"half", 500)])
def test_without_a_whole_verdict_nobody_passes(nginx: Nginx, wish: bytes, refused: int) -> None:
    """503 as a problem document where there is none; an error where there is half of one."""
    answer = nginx.send(request(b"X-Wish: " + wish))
    assert status(answer) == refused
    assert nginx.upstream.heads == []
    if wish == b"none":
        head, _, body = answer.partition(b"\r\n\r\n")
        assert b"X-Portero-Reason: policy-unavailable" in head
        assert b'"reason": "policy-unavailable"' in body


def over_http_2(nginx: Nginx, *fields: str) -> str:
    """The answer to ``GET /a?b``, as curl prints it."""
    curl = shutil.which("curl")
    if (
        curl is None
        or "HTTP2" not in subprocess.run([curl, "--version"], capture_output=True, text=True, check=True).stdout
    ):
        pytest.skip("needs curl with HTTP/2")
    words = [curl, "-si", "--http2-prior-knowledge", f"http://127.0.0.1:{nginx.port_2}/a?b"]
    words += [word for field in ("Host: acme.localhost", *fields) for word in ("-H", field)]
    return subprocess.run(words, check=True, capture_output=True, text=True, timeout=30).stdout


def test_over_http_2_the_same_holds(nginx: Nginx) -> None:
    """The authority is the Host, the line names the version, names are lower-case already."""
    over_http_2(nginx, "X_Portero_Subject: root", "x-forwarded-for: 1.2.3.4")
    line, sent, facts = reached(nginx)
    assert line == b"GET /judged?b HTTP/1.1"
    assert b"x_portero_subject" not in sent
    assert sent[b"x-forwarded-for"] == b"192.0.2.7"
    assert (facts.target, facts.version) == (b"/a?b", (1, 1))
    assert [value for name, value in facts.fields if name == b"host"] == [b"acme.localhost"]
    assert isinstance(judged(facts), AccessRequest)


def test_an_answer_of_ours_is_one_of_http_2(nginx: Nginx) -> None:
    """426 has Upgrade and Connection, as HTTP/1.1 wants it; over HTTP/2 clients give up on what has them."""
    fields = b"Upgrade: TLS/1.2, HTTP/1.1\r\nConnection: upgrade\r\nContent-Length: 0\r\n\r\n"
    nginx.upstream.answer = b"HTTP/1.1 426 Upgrade Required\r\n" + fields
    answer = over_http_2(nginx, "X-Wish: internal").lower()
    assert answer.startswith("http/2 426")
    assert "upgrade:" not in answer
    assert "connection:" not in answer


# -- what the client gets --------------------------------------------------------------------------------------------


def answer_with(*fields: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n" + b"".join(one + b"\r\n" for one in fields) + b"\r\nok"


def test_a_functions_answer_is_filtered(nginx: Nginx) -> None:
    """What it cannot say goes, whatever the spelling; the rest, status and body stay."""
    nginx.upstream.answer = answer_with(
        b"X-Portero-Reason: forged", b"X_Portero_Reason: forged", b"X-Request-Id: forged", b"Trailer: x",
        b"Set-Cookie: __Host-portero-session=x; Path=/", b"Set-Cookie: own=1", b"Set-Cookie: =__HOST-portero=x",
        b"Vary: Accept", b"X-Own: kept",
    )  # fmt: skip
    answer = nginx.send(request())
    head, _, body = answer.partition(b"\r\n\r\n")
    assert (status(answer), body) == (200, b"ok")
    lines = head.split(b"\r\n")[1:]
    names = sorted(line.partition(b":")[0] for line in lines)
    assert b"forged" not in head
    assert [line for line in lines if line.startswith(b"Set-Cookie")] == [b"Set-Cookie: own=1"]
    assert b"X-Request-Id: ours" in lines
    assert b"Cache-Control: private" in lines, "the caller is known by a session, and the function says nothing"
    assert {b"Vary", b"X-Own"} <= {*names}
    assert b"Trailer" not in names


@pytest.mark.parametrize("first", [b"000 x", b"100 Continue", b"101 Switching Protocols", b"103 Early Hints"])
@pytest.mark.parametrize("length", [b"", b"Content-Length: 100\r\n"], ids=["endless", "with a length"])
def test_no_answer_hides_behind_an_interim_one(nginx: Nginx, first: bytes, length: bytes) -> None:
    """Nginx sends 1xx as the answer and the real one as its body: a client would read it, filtered by nobody."""
    forged = answer_with(b"Set-Cookie: __Host-portero-session=x", b"X-Portero-Reason: forged")
    nginx.upstream.answer = b"HTTP/1.1 " + first + b"\r\n" + length + b"\r\n" + forged
    assert nginx.send(request()) == b""


@pytest.mark.parametrize("line", [b"http/1.1 200 OK", b"\r\nHTTP/1.1 200 OK", b"HTTP/1.1\t200 OK", b"HTTP/2 200 OK"])
def test_no_answer_is_taken_for_one_of_http_0_9(nginx: Nginx, line: bytes) -> None:
    """Nginx sends what begins otherwise as it came; browsers are less particular, and would see all of its fields."""
    nginx.upstream.answer = line + answer_with(b"Set-Cookie: __Host-portero-session=x").removeprefix(b"HTTP/1.1 200 OK")
    assert nginx.send(request()) == b""


def test_what_portero_answers_itself_passes(nginx: Nginx) -> None:
    """The internal listener's answer has been filtered there."""
    nginx.upstream.answer = answer_with(b"X-Portero-Reason: rate-limited", b"X-Request-Id: theirs")
    head = nginx.send(request(b"X-Wish: internal")).partition(b"\r\n\r\n")[0]
    assert b"X-Portero-Reason: rate-limited" in head
    assert b"X-Request-Id: theirs" in head


def test_a_function_cannot_send_nginx_elsewhere(nginx: Nginx) -> None:
    """X-Accel-Redirect would be another request of Kong's own; the setting is in kong.conf."""
    nginx.upstream.answer = answer_with(b"X-Accel-Redirect: /elsewhere")
    assert nginx.send(request()).endswith(b"\r\n\r\nok")


def test_an_answer_that_cannot_be_filtered_is_none(tmp_path: Path) -> None:
    """Without the setting in kong.conf nginx would leave the field: an error, and not a byte of the answer."""
    nginx = Nginx(tmp_path, transforms="on")
    try:
        nginx.upstream.answer = answer_with(b"X_Portero_Subject: root")
        assert b"root" not in nginx.send(request())
        nginx.upstream.answer = answer_with(b"X-Portero-Subject: root", b"X-Own: 1")
        answer = nginx.send(request())
        assert status(answer) == 200
        assert b"root" not in answer
        assert "cannot be removed" in nginx.log.read_text()
    finally:
        nginx.close()
