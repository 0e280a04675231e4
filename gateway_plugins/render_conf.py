"""
What Kong's own settings must say so that the rendered configuration works: lines of ``kong.conf``, or the environment.

Since 3.9 Kong reads one plugin of a plugin server, so that each plugin is a server of its own to Kong, with a socket
and a query command; behind all the sockets is one process, which the first of them starts. Besides, three settings
that the snippets and a stranger's answers want. It refuses to know policies and runs nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

WHOLE: Final = ("portero",)
CHAIN: Final = ("portero-tenant", "portero-rbac", "portero-ratelimit", "portero-coldstart")
"""In the order of the questions; the last one decides where the request goes."""
ALL_PLUGINS: Final = (*WHOLE, *CHAIN)
DEFAULT_START: Final = "/usr/local/bin/portero kong-plugin-server --end-with-parent --settings /etc/portero/kong.toml"
DEFAULT_QUERY: Final = "/usr/local/bin/portero kong-plugin-server --dump {name}"
DEFAULT_CONFIG: Final = "/kong/kong.yml"
DEFAULT_FOLDER: Final = "/usr/local/kong"

_HEADS: Final = "An answer's head may have several cookies; what is larger than this is a 502 (nginx: 4k)."

Line = tuple[str, str, str]
"""Property, value, why."""


def conf_lines(
    plugins: Iterable[str] | None = None,
    *,
    chain: bool = False,
    declarative_config: str = DEFAULT_CONFIG,
    socket_folder: str = DEFAULT_FOLDER,
    start_cmd: str | None = DEFAULT_START,
    query_cmd: str = DEFAULT_QUERY,
) -> str:
    """
    Lines for ``kong.conf``.

    Args:
        plugins: the plugins used, the first of which starts the server; None: those of ``render`` with this ``chain``.
        chain: the four plugins instead of ``portero``.
        declarative_config: path of the rendered file, as Kong sees it.
        socket_folder: where the plugin server's sockets are, ``<name>.socket``.
        start_cmd: what Kong starts, with an empty environment; None: the process is somebody else's to run.
        query_cmd: prints one plugin's description; ``{name}`` is put in.
    """
    lines = _lines(_used(plugins, chain=chain), declarative_config, socket_folder, start_cmd, query_cmd)
    text, said = "", ""
    for name, value, why in lines:
        if why != said:
            text += f"{chr(10) if text else ''}# {why}\n"
            said = why
        text += f"{name} = {value}\n"
    return text


def environment_lines(
    plugins: Iterable[str] | None = None,
    *,
    chain: bool = False,
    declarative_config: str = DEFAULT_CONFIG,
    socket_folder: str = DEFAULT_FOLDER,
    start_cmd: str | None = DEFAULT_START,
    query_cmd: str = DEFAULT_QUERY,
) -> dict[str, str]:
    """The same as variables: ``KONG_DATABASE=off`` and so on."""
    lines = _lines(_used(plugins, chain=chain), declarative_config, socket_folder, start_cmd, query_cmd)
    return {f"KONG_{name.upper()}": value for name, value, _ in lines}


def environment_text(environment: dict[str, str]) -> str:
    """The variables as a file for ``docker run --env-file``, a line each."""
    return "".join(f"{name}={value}\n" for name, value in environment.items())


def _used(plugins: Iterable[str] | None, *, chain: bool) -> tuple[str, ...]:
    if plugins is None:
        return CHAIN if chain else WHOLE
    return tuple(plugins)


def _lines(plugins: tuple[str, ...], config: str, folder: str, start_cmd: str | None, query_cmd: str) -> list[Line]:
    if unknown := [name for name in plugins if name not in ALL_PLUGINS]:
        raise ValueError(f"no plugin of Portero's: {', '.join(unknown)}; expected some of {', '.join(ALL_PLUGINS)}")
    why = "The configuration that was rendered."
    lines = [("database", "off", why), ("declarative_config", config, why)]
    why = "Portero's plugins: one server each to Kong (since 3.9 it reads one plugin of a server), one process in all."
    lines += [("plugins", ",".join(("bundled", *plugins)), why), ("pluginserver_names", ",".join(plugins), why)]
    for at, name in enumerate(plugins):
        prefix = f"pluginserver_{name.replace('-', '_')}"
        lines.append((f"{prefix}_socket", f"{folder.rstrip('/')}/{name}.socket", why))
        if start_cmd is not None and not at:
            lines.append((f"{prefix}_start_cmd", start_cmd, why))
        lines.append((f"{prefix}_query_cmd", query_cmd.replace("{name}", name), why))
    lines += [
        (
            "nginx_http_lua_transform_underscores_in_response_headers",
            "off",
            "A function's X_Portero_... is removed under the name it has; else nginx removes another one.",
        ),
        (
            "nginx_proxy_proxy_ignore_headers",
            "X-Accel-Redirect X-Accel-Expires X-Accel-Limit-Rate X-Accel-Buffering X-Accel-Charset",
            "A function answers; it does not send nginx somewhere else.",
        ),
        ("nginx_proxy_proxy_buffer_size", "32k", _HEADS),
        ("nginx_proxy_proxy_buffers", "8 32k", _HEADS),
        ("nginx_http_charset", "off", "What a function says of its text goes as it is (Kong adds `; charset=UTF-8`)."),
        ("headers", "off", "What a function answers is not added to: no Server, Via and X-Kong-*."),
    ]
    return lines
