"""nginx twice: as the upstream of every variant, and as the bare reverse proxy that everything is compared with."""

from __future__ import annotations

from pathlib import Path

from benchmarks._proxies.process import Running, binary, free_port

BODY = (
    '{"country":"es","answers":1234,"average":4.2,"by_day":[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16],"note":"'
    + "x" * 38
    + '"}'
)
"""What each function of the benchmark answers: 144 bytes of JSON."""

_COMMON = """
daemon off;
master_process off;
pid {folder}/nginx-{port}.pid;
error_log stderr crit;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body-{port};
  proxy_temp_path {folder}/proxy-{port};
  fastcgi_temp_path {folder}/fastcgi-{port};
  uwsgi_temp_path {folder}/uwsgi-{port};
  scgi_temp_path {folder}/scgi-{port};
  keepalive_requests 10000000;
  keepalive_timeout 75;
"""

_UPSTREAM = """
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    default_type application/json;
    location /system/function/ {{
      return 200 '{{"name":"bench","namespace":"acme","replicas":1,"availableReplicas":1}}';
    }}
    location / {{ return 200 '{body}'; }}
  }}
}}
"""

_PROXY = """
  upstream functions {{ server 127.0.0.1:{upstream}; keepalive 256; keepalive_requests 10000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    location / {{
      proxy_pass http://functions;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $host;
    }}
  }}
}}
"""


def _start(name: str, text: str, core: int, folder: Path, port: int) -> Running:
    file = folder / f"{name}-{port}.conf"
    file.write_text(text)
    running = Running(name, [binary("nginx", "nginx"), "-c", str(file), "-p", str(folder)], core, folder, port)
    running.wait_until_up()
    return running


def start_upstream(core: int, folder: Path) -> Running:
    port = free_port()
    text = (_COMMON + _UPSTREAM).format(folder=folder, port=port, body=BODY)
    return _start("upstream", text, core, folder, port)


def start_proxy(core: int, folder: Path, upstream: int) -> Running:
    port = free_port()
    text = (_COMMON + _PROXY).format(folder=folder, port=port, upstream=upstream)
    return _start("nginx", text, core, folder, port)
