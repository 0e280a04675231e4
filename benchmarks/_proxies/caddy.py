"""Caddy as a bare reverse proxy: no automatic TLS, no admin listener, no access log."""

from __future__ import annotations

from pathlib import Path

from benchmarks._proxies.process import Running, binary, free_port

_CADDYFILE = """
{{
  admin off
  auto_https off
  log {{
    level ERROR
  }}
}}
http://:{port} {{
  bind 127.0.0.1
  reverse_proxy 127.0.0.1:{upstream} {{
    transport http {{
      keepalive_idle_conns 256
      keepalive_idle_conns_per_host 256
    }}
  }}
}}
"""


def start_proxy(core: int, folder: Path, upstream: int) -> Running:
    port = free_port()
    file = folder / f"Caddyfile-{port}"
    file.write_text(_CADDYFILE.format(port=port, upstream=upstream))
    command = [binary("caddy", "caddy"), "run", "--adapter", "caddyfile", "--config", str(file)]
    running = Running("caddy", command, core, folder, port)
    running.wait_until_up()
    return running
