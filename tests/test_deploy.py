"""
Dockerfile, deploy/compose.yaml and kong/ as far as they can be held without a container: every path, flag, setting and
name in them is one that there is, and what they run in a shell runs.

Longer than other modules: three files are held together here, and to the code.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click
import pytest
import yaml

from authproxy.cli import portero
from authproxy.demo.standin import make_secrets
from authproxy.settings import Settings, load_settings
from gateway_plugins.plugins import PLUGINS, dump
from gateway_plugins.render import CATCH_ALL
from gateway_plugins.render_conf import DEFAULT_CONFIG, DEFAULT_START, conf_lines, environment_lines

ROOT = Path(__file__).parents[1]
COMPOSE = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
SIDECAR = environment_lines(start_cmd=None, socket_folder="/run/portero", query_cmd="/bin/cat /run/portero/{name}.json")
"""What Kong wants to know where it does not start the plugin server."""
KONGS_OWN = {"KONG_PREFIX", "KONG_PROXY_LISTEN", "KONG_ADMIN_LISTEN", "KONG_ADMIN_GUI_LISTEN", "KONG_LOG_LEVEL"}
"""Further settings of Kong in use here, each in kong/templates/kong_defaults.lua of 3.4 to 3.9."""


class Instruction(NamedTuple):
    """One of a Dockerfile, its continued lines joined."""

    word: str
    rest: str


def dockerfile() -> dict[str, list[Instruction]]:
    """Stage -> instructions; the first of each is its FROM."""
    stages: dict[str, list[Instruction]] = {}
    name = ""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    for line in re.sub(r"\\\n", " ", "\n".join(lines)).splitlines():
        if not line.strip():
            continue
        word, _, rest = line.partition(" ")
        if word == "FROM":
            name = rest.split(" AS ")[1]
            stages[name] = []
        stages[name].append(Instruction(word, rest))
    return stages


STAGES = dockerfile()


def whole(stage: str) -> list[Instruction]:
    """A stage behind those that it stands on."""
    base = STAGES[stage][0].rest.split(" AS ")[0]
    return [*(whole(base) if base in STAGES else []), *STAGES[stage]]


def environment(stage: str) -> dict[str, str]:
    pairs = [pair for word, rest in whole(stage) if word == "ENV" for pair in shlex.split(rest)]
    return dict(pair.split("=", 1) for pair in pairs)


def parse(arguments: list[str]) -> click.Context:
    """``portero ARGUMENTS`` understood, and not run. Raises: click.ClickException."""
    command: click.Command = portero
    context = click.Context(command, info_name="portero")
    while isinstance(command, click.Group) and arguments and not arguments[0].startswith("-"):
        found = command.get_command(context, arguments[0])
        if found is None:
            raise click.UsageError(f"no command {arguments[0]}")
        context, command, arguments = click.Context(found, context, arguments[0]), found, arguments[1:]
    return command.make_context(context.info_name, list(arguments), parent=context.parent)


def shell(script: str) -> None:
    done = subprocess.run(["sh", "-n"], input=script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# -- Dockerfile ------------------------------------------------------------------------------------------------------


def test_the_last_stage_is_the_proxy() -> None:
    """``docker build .`` makes what it has always made; Kong's image has a name."""
    assert list(STAGES)[-1] == "portero"
    assert STAGES["kong-python"][0].rest == "kong:3.9 AS kong-python"
    assert STAGES["kong"][0].rest == "kong-python AS kong"


@pytest.mark.parametrize("stage", STAGES)
def test_what_a_stage_copies_is_there_and_in_the_context(stage: str) -> None:
    """From the repository: files that exist and are not ignored; from a stage: one that stands before."""
    ignored = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if "*" not in line]
    before = list(STAGES)[: list(STAGES).index(stage)]
    for word, rest in STAGES[stage]:
        if word != "COPY":
            continue
        *sources, _ = rest.split()
        if sources[0].startswith("--from="):
            assert sources[0].removeprefix("--from=") in before
            continue
        for source in sources:
            assert (ROOT / source).exists()
            assert source.split("/")[0] not in ignored


@pytest.mark.parametrize("stage", ["build", "kong-build"])
def test_all_packages_are_installed_at_tested_versions(stage: str) -> None:
    """Each package of the wheel is copied, and pip is held to constraints.txt."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    copied = {source for word, rest in STAGES[stage] if word == "COPY" for source in rest.split()[:-1]}
    assert set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) <= copied
    assert {"pyproject.toml", "constraints.txt", project["project"]["readme"], "LICENSE"} <= copied
    assert environment(stage)["PIP_CONSTRAINT"] == "/src/constraints.txt"


@pytest.mark.parametrize("stage", STAGES)
def test_shell_lines_are_shell(stage: str) -> None:
    """What RUN and HEALTHCHECK say can be parsed."""
    for word, rest in STAGES[stage]:
        if word == "RUN":
            shell(rest)
        if word == "HEALTHCHECK" and not rest.endswith("]"):
            shell(rest.partition(" CMD ")[2])


@pytest.mark.parametrize("stage", ["kong", "portero"])
def test_images_do_not_run_as_root_and_know_whether_they_live(stage: str) -> None:
    """The last USER is none of root's, and the health check asks a listener that is there."""
    instructions = whole(stage)
    users = [rest for word, rest in instructions if word == "USER"]
    assert users[-1] in {"kong", "10001"}
    check = next(rest for word, rest in reversed(instructions) if word == "HEALTHCHECK")
    assert f"{':'.join(map(str, Settings.model_fields['admin'].default))}/livez" in check


def test_the_proxys_image_is_called_as_it_can_be() -> None:
    """Its command and its settings are ones that there are."""
    said = dict(STAGES["portero"])
    parse([*json.loads(said["ENTRYPOINT"])[1:], *json.loads(said["CMD"])])
    load_settings({}, {k: v for k, v in environment("portero").items() if k.startswith("PORTERO_")}, None)


def test_kongs_image_has_what_its_kong_conf_names() -> None:
    """The declarative file, the command and its settings file are put where kong.conf looks for them."""
    put = {}
    for word, rest in STAGES["kong"]:
        if word == "COPY" and not rest.startswith("--from="):
            source, target = rest.split()
            put[target] = source
    assert put["/etc/kong/kong.conf"] == "kong/kong.conf"
    assert put[DEFAULT_CONFIG] == "kong/kong.yml"
    program, *arguments = DEFAULT_START.split()
    assert f"ln -s /opt/portero/bin/portero {program}" in [rest for word, rest in STAGES["kong"] if word == "RUN"]
    context = parse(arguments)
    assert put[str(context.params["file"])] == "kong/kong.toml"
    assert {name for name in environment("kong") if name.startswith("KONG_")} <= KONGS_OWN


def test_the_settings_that_kongs_image_starts_portero_with_are_settings() -> None:
    """kong/kong.toml is understood, and its addresses and sockets are those of kong.conf and the health check."""
    settings = load_settings({}, {}, ROOT / "kong" / "kong.toml", file_is_required=True)
    assert f"{settings.kong_sockets}/portero.socket" in (ROOT / "kong" / "kong.conf").read_text()
    assert settings.admin == Settings.model_fields["admin"].default


def test_kong_conf_is_the_one_that_is_printed() -> None:
    """What operators read is what ``portero kong conf`` says."""
    assert (ROOT / "kong" / "kong.conf").read_text() == conf_lines()


# -- deploy/compose.yaml ---------------------------------------------------------------------------------------------


def ours() -> Iterator[tuple[str, dict[str, Any]]]:
    return ((name, service) for name, service in SERVICES.items() if "build" in service)


def networks(service: str) -> set[str]:
    return set(SERVICES[service]["networks"])


def mounts(service: str) -> dict[str, tuple[str, str]]:
    """Path in the container -> what is mounted there, and how."""
    found = {}
    for text in SERVICES[service].get("volumes", []):
        source, target, *mode = text.split(":")
        found[target] = source, ",".join(mode)
    return found


def test_there_are_kong_portero_redis_and_a_platform() -> None:
    """And what makes their secrets; images are public ones or this repository's."""
    assert set(SERVICES) == {"setup", "kong", "portero", "redis", "platform"}
    for _, service in ours():
        assert (ROOT / "deploy" / service["build"]["context"]).resolve() == ROOT
        assert service["build"]["target"] in STAGES
    assert {service["image"] for service in SERVICES.values() if "build" not in service} == {
        "kong:3.9",
        "redis:7-alpine",
    }


def test_only_kongs_proxy_is_published_and_on_this_machine_alone() -> None:
    """No admin port of anybody, no way around Kong."""
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {"kong": ["127.0.0.1:8000:8000"]}
    kong = SERVICES["kong"]["environment"]
    assert kong["KONG_PROXY_LISTEN"] == "0.0.0.0:8000"
    assert (kong["KONG_ADMIN_LISTEN"], kong["KONG_ADMIN_GUI_LISTEN"]) == ("off", "off")
    assert "edge" not in networks("platform") | networks("portero") | networks("redis")
    assert all(COMPOSE["networks"][name]["internal"] for name in ("inside", "state"))


@pytest.mark.parametrize("name", SERVICES)
def test_containers_can_write_nothing_but_their_own(name: str) -> None:
    """Read-only, without capabilities; what comes from the repository is mounted read-only."""
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    for source, mode in mounts(name).values():
        if source.startswith("."):
            assert mode == "ro"
            assert (ROOT / "deploy" / source).resolve().exists()
        else:
            assert source in COMPOSE["volumes"]
            assert mode == "ro" or (name, source) in {
                ("setup", "demo"),
                ("setup", "sockets"),
                ("portero", "sockets"),
            }


@pytest.mark.parametrize("name", sorted(set(SERVICES) - {"setup"}))
def test_services_that_stay_say_whether_they_are_well_and_start_again(name: str) -> None:
    """Whoever waits for one waits until it is healthy."""
    service = SERVICES[name]
    assert service["healthcheck"]["test"][0] == "CMD"
    assert service["restart"] == "unless-stopped"
    for other, how in service.get("depends_on", {}).items():
        wanted = "service_completed_successfully" if other == "setup" else "service_healthy"
        assert how["condition"] == wanted


@pytest.mark.parametrize("name", ["portero", "platform"])
def test_health_checks_ask_a_listener_that_is_there(name: str) -> None:
    """The line of Python compiles, and names the address that the service listens on."""
    check = SERVICES[name]["healthcheck"]["test"]
    compile(check[3], name, "exec")
    expected = "127.0.0.1:8089/readyz" if name == "portero" else "127.0.0.1:8080/healthz"
    assert expected in check[3]


def test_kong_is_told_what_kong_conf_tells_it() -> None:
    """All of it, but that the plugin server is somebody else's to start; and nothing that Kong does not know."""
    said = SERVICES["kong"]["environment"]
    assert {name: said.get(name) for name in SIDECAR} == SIDECAR
    assert set(said) - set(SIDECAR) <= KONGS_OWN
    assert not [name for name in said if name.endswith("_START_CMD")]
    assert mounts("kong")["/kong/kong.yml"] == ("../kong/kong.yml", "ro")


def test_kong_reaches_porteros_sockets() -> None:
    """One volume, in no prefix of Kong's (its image removes sockets there), open to a group that Kong is in."""
    kong, portero_ = SERVICES["kong"], SERVICES["portero"]["environment"]
    folder = portero_["PORTERO_KONG_SOCKETS"]
    assert kong["environment"]["KONG_PLUGINSERVER_PORTERO_SOCKET"] == f"{folder}/portero.socket"
    assert mounts("kong")[folder][0] == mounts("portero")[folder][0] == mounts("setup")[folder][0] == "sockets"
    assert not folder.startswith(kong["environment"]["KONG_PREFIX"])
    assert portero_["PORTERO_KONG_SOCKET_MODE"] == "660"
    user = next(rest for word, rest in STAGES["portero"] if word == "RUN")
    assert f"groupadd --gid {kong['group_add'][0]} portero" in user
    assert folder in user


def test_porteros_settings_are_settings() -> None:
    """With what the image says, and what the plugin server is to be called by is a service beside Kong."""
    own = {k: v for k, v in environment("portero").items() if k.startswith("PORTERO_")}
    settings = load_settings({}, {**own, **SERVICES["portero"]["environment"]}, None)
    assert settings.internal[0] == "0.0.0.0"
    assert settings.internal_name in SERVICES
    assert networks("kong") & networks(str(settings.internal_name))
    assert settings.redis == "redis://redis:6379/0"
    assert networks("portero") & networks("redis")
    for folder in (settings.policies, settings.secrets, settings.keys):
        assert folder is not None
        assert any(folder.is_relative_to(target) for target in mounts("portero"))
    assert settings.drain < float(SERVICES["portero"]["stop_grace_period"].removesuffix("s"))


def test_the_platform_stands_where_the_policies_look_for_it() -> None:
    """Under the name and port of platform.yaml, for Portero and Kong; they are mounted unchanged."""
    source, _ = mounts("portero")["/etc/portero/policies"]
    folder = (ROOT / "deploy" / source).resolve()
    backend = yaml.safe_load((folder / "platform.yaml").read_text())["backends"]["faas"]
    context = parse(SERVICES["platform"]["command"])
    assert context.params["listen"] == ("0.0.0.0", 8080)
    aliases = SERVICES["platform"]["networks"]["inside"]["aliases"]
    assert backend["url"] in [f"http://{alias}:8080" for alias in aliases]
    assert "inside" in networks("kong") & networks("portero")
    secrets = Path(SERVICES["portero"]["environment"]["PORTERO_SECRETS"])
    assert context.params["credentials"] == secrets / "platform" / backend["credentials"]


@pytest.mark.parametrize("name", ["portero", "platform"])
def test_commands_of_ours_are_ones_that_there_are(name: str) -> None:
    """Every command and flag is understood."""
    parse(SERVICES[name]["command"])


def test_the_setup_makes_what_the_others_read(tmp_path: Path) -> None:
    """Its shell runs, twice, and leaves secrets, keys and what Kong asks of the plugin."""
    assert SERVICES["setup"]["entrypoint"] == ["/bin/sh", "-ec"]
    [script] = SERVICES["setup"]["command"]
    for folder in ("/var/lib/portero", "/run/portero"):
        (tmp_path / folder[1:]).mkdir(parents=True)
        script = script.replace(folder, str(tmp_path / folder[1:]))
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    for _ in range(2):
        subprocess.run(["/bin/sh", "-ec", script], env={"PATH": path}, check=True, capture_output=True)
    portero_ = SERVICES["portero"]["environment"]
    for name in (portero_["PORTERO_SECRETS"], portero_["PORTERO_KEYS"]):
        assert list((tmp_path / name[1:]).iterdir())
    query = SERVICES["kong"]["environment"]["KONG_PLUGINSERVER_PORTERO_QUERY_CMD"].split()
    assert query[0] == "/bin/cat"
    assert json.loads((tmp_path / query[1][1:]).read_text()) == dump("portero")


# -- kong/README.md --------------------------------------------------------------------------------------------------

README = (ROOT / "kong" / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
"""Language and text of each."""


def commands() -> list[list[str]]:
    """Each ``portero ...`` in its blocks, however it is started."""
    found = []
    for _, block in BLOCKS:
        for line in re.sub(r"\\\n\s*", " ", block).splitlines():
            match = re.search(
                r"(?:^|[ /(=])portero ((?:kong|kong-plugin-server|policy|serve|demo|token|keys)\b[^#|>)]*)", line
            )
            if match:
                found.append(shlex.split(match[1]))
    return found


def test_the_page_links_to_what_is_there() -> None:
    """Files and folders of the repository; headings of the page itself."""
    headings = {
        re.sub(r"[^\w\- ]", "", line.lstrip("# ")).lower().replace(" ", "-")
        for line in README.splitlines()
        if line.startswith("#")
    }
    for target, anchor in re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", README):
        if target.startswith(("http://", "https://")):
            continue
        assert not target or (ROOT / "kong" / target).exists(), target
        assert target or anchor in headings, anchor


@pytest.mark.parametrize("block", [text for language, text in BLOCKS if not language and "──" not in text])
def test_the_pages_blocks_are_shell(block: str) -> None:
    """All but the picture; they are there to be pasted."""
    shell(block)


def test_the_page_has_commands() -> None:
    """The test below has something to read."""
    assert len(commands()) >= 8


@pytest.mark.parametrize("arguments", commands(), ids=" ".join)
def test_the_pages_commands_are_understood(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every command and flag on the page is one that there is; files and folders are those that it makes before."""
    make_secrets(tmp_path / "demo")
    for folder in ("policies", "trial/policies"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "kong.yml").touch()
    monkeypatch.chdir(tmp_path)
    parse([word.replace("/var/lib/portero/demo", "demo") for word in arguments if word != "&"])


def test_the_page_knows_every_plugin_and_its_config() -> None:
    """Names, priorities and fields of the five."""
    for name, module in PLUGINS.items():
        row = next(line for line in README.splitlines() if line.startswith(f"| `{name}` |"))
        assert f"| {module.priority} |" in row
        for fields in module.Schema:
            for field in fields:
                assert f"`{field}" in row


def test_the_page_shows_kong_conf() -> None:
    """Each line of it, as it is printed."""
    for line in (ROOT / "kong" / "kong.conf").read_text().splitlines():
        if line and not line.startswith("#"):
            assert line in README


def test_the_page_names_the_catch_all() -> None:
    """Whoever looks for a host that nobody has finds the route that answers."""
    assert CATCH_ALL in README
