"""Settings from flags, environment and file: precedence, and every mistake at once."""

from pathlib import Path

import pytest

from authproxy.settings import Settings, known_settings, load_settings
from policies.errors import SettingsError

ROOT = Path(__file__).parents[2]


def test_flags_beat_environment_beats_file(tmp_path: Path) -> None:
    """The nearer to the person who starts it, the stronger."""
    file = tmp_path / "portero.toml"
    file.write_text('policies = "from-file"\nlisten = "127.0.0.1:1"\nadmin = "127.0.0.1:1"\ndrain = 1\n')
    environment = {"PORTERO_LISTEN": "127.0.0.1:2", "PORTERO_ADMIN": "127.0.0.1:2", "PATH": "x"}
    settings = load_settings({"admin": "[::1]:3", "policies": None}, environment, file)
    assert settings.policies == Path("from-file")
    assert settings.listen == ("127.0.0.1", 2)
    assert settings.admin == ("::1", 3)
    assert settings.drain == 1.0


def test_all_mistakes_are_told_at_once_with_their_source(tmp_path: Path) -> None:
    """Three wrong settings in three places give three lines, each naming its place."""
    file = tmp_path / "portero.toml"
    file.write_text('colour = "red"\ndrain = -1\n')
    with pytest.raises(SettingsError) as caught:
        load_settings({"listen": "nonsense"}, {"PORTERO_REDIS": "http://x"}, file)
    lines = caught.value.mistakes
    assert any("colour" in line and "no such setting" in line for line in lines)
    assert any(line.startswith(f"{file}: drain") for line in lines)
    assert any(line.startswith("--listen: expected HOST:PORT") for line in lines)
    assert any(line.startswith("PORTERO_REDIS: expected redis://") for line in lines)
    assert any(line.startswith("policies is not set") for line in lines)
    assert len(lines) == 5


@pytest.mark.parametrize("value", ["1.2.3.4", ":80", "h:65536", "h:-1", "h:8 0", "h:٣"])
def test_an_address_is_host_and_port(value: str) -> None:
    """Anything else is refused with what was expected."""
    with pytest.raises(SettingsError, match="expected HOST:PORT"):
        load_settings({"policies": "p", "listen": value}, {}, None)


def test_an_address_that_is_a_number_in_the_file_is_told_what_was_expected(tmp_path: Path) -> None:
    """``listen = 8088`` is answered in the operator's words, not in Python's."""
    file = tmp_path / "portero.toml"
    file.write_text('policies = "p"\nlisten = 8088\n')
    with pytest.raises(SettingsError, match="listen: expected HOST:PORT"):
        load_settings({}, {}, file)


@pytest.mark.parametrize(
    "value", ["", "a b", "http://x", "portero:8090", "10.0.0.1:8090", "[::1]", "fe80::1%eth0", "p/x"]
)
def test_kong_is_told_a_name_or_an_address(value: str) -> None:
    """A port has no place in ``internal_name``; what was expected is said in words."""
    with pytest.raises(SettingsError, match=r"^--internal-name: (expected a host's name or address|is empty)"):
        load_settings({"policies": "p", "internal_name": value}, {}, None)
    for name in ("portero", "portero.svc.cluster.local", "10.0.0.1", "::1"):
        assert load_settings({"policies": "p", "internal_name": name}, {}, None).internal_name == name


@pytest.mark.parametrize("value", ["999", "abc", "0o600", "1777", "60", "000", "400", "066"])
def test_a_socket_that_portero_itself_could_not_use_is_a_mistake(value: str) -> None:
    """Permissions are octal, and Kong connects as the owner at least."""
    with pytest.raises(SettingsError, match="--kong-socket-mode: expected octal permissions"):
        load_settings({"policies": "p", "kong_socket_mode": value}, {}, None)


@pytest.mark.parametrize("said", ["660", '"660"', '"0660"'])
def test_permissions_may_be_a_number_in_the_file(tmp_path: Path, said: str) -> None:
    """``kong_socket_mode = 660`` means what it looks like."""
    file = tmp_path / "portero.toml"
    file.write_text(f'policies = "p"\nkong_socket_mode = {said}\n')
    assert int(load_settings({}, {}, file).kong_socket_mode, 8) == 0o660


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]"])
def test_kong_cannot_be_sent_to_every_address(host: str) -> None:
    """An internal listener on all addresses has a name, or Kong in another container would ask itself."""
    with pytest.raises(SettingsError, match="say by internal_name"):
        load_settings({"policies": "p", "internal": f"{host}:8090"}, {}, None)
    assert load_settings({"policies": "p", "internal": f"{host}:8090", "internal_name": "portero"}, {}, None)


def test_links_that_kubernetes_makes_to_our_service_are_no_settings() -> None:
    """A Service called portero, or portero-admin, does not keep its own pods from starting."""
    links = {
        "PORTERO_SERVICE_HOST": "10.0.0.1",
        "PORTERO_SERVICE_PORT": "8088",
        "PORTERO_SERVICE_PORT_HTTP": "8088",
        "PORTERO_PORT": "tcp://10.0.0.1:8088",
        "PORTERO_PORT_8088_TCP": "tcp://10.0.0.1:8088",
        "PORTERO_PORT_8088_TCP_ADDR": "10.0.0.1",
        "PORTERO_ADMIN_SERVICE_HOST": "10.0.0.2",
        "PORTERO_ADMIN_PORT_8089_TCP_PROTO": "tcp",
    }
    assert load_settings({"policies": "p"}, links, None) == Settings.model_validate({"policies": "p"})
    with pytest.raises(SettingsError, match="PORTERO_PORTS: no such setting"):
        load_settings({"policies": "p"}, {"PORTERO_PORTS": "1"}, None)


def test_an_empty_value_is_a_mistake() -> None:
    """``--policies "$UNSET"`` is not the current folder, and an empty Redis is not memory."""
    with pytest.raises(SettingsError) as caught:
        load_settings({"policies": ""}, {"PORTERO_REDIS": "", "PORTERO_AUDIT": ""}, None)
    assert {line.partition(":")[0] for line in caught.value.mistakes if "is empty" in line} == {
        "--policies",
        "PORTERO_REDIS",
        "PORTERO_AUDIT",
    }


def test_a_redis_port_that_is_none_is_told_with_its_source() -> None:
    """Before anything is started, with what was expected."""
    with pytest.raises(SettingsError, match=r"--redis: expected redis://HOST:PORT/DB.*port from 0 to 65535"):
        load_settings({"policies": "p", "redis": "redis://localhost:notaport"}, {}, None)


def test_no_source_may_loosen_the_rule_for_providers() -> None:
    """The demo's permission for http on loopback cannot be given by flag, environment or file."""
    with pytest.raises(SettingsError, match="no such setting"):
        load_settings({"policies": "p"}, {"PORTERO_ALLOW_LOOPBACK_HTTP": "true"}, None)
    assert "allow_loopback_http" not in known_settings()


def test_settings_that_go_together(tmp_path: Path) -> None:
    """A certificate without a key is a mistake, not a plain-text listener."""
    with pytest.raises(SettingsError, match="go together"):
        load_settings({"policies": "p", "tls_cert": tmp_path / "c.pem"}, {}, None)


def test_a_missing_settings_file_is_a_mistake_only_when_asked_for(tmp_path: Path) -> None:
    """The default file may be absent; one named by the operator may not."""
    absent = tmp_path / "none.toml"
    assert load_settings({"policies": "p"}, {}, absent).policies == Path("p")
    with pytest.raises(SettingsError, match="no such file"):
        load_settings({"policies": "p"}, {}, absent, file_is_required=True)


def test_every_setting_is_documented() -> None:
    """docs/settings.md has a row for each setting and no row for anything else."""
    rows = [
        line.split("`")[1] for line in (ROOT / "docs/settings.md").read_text().splitlines() if line.startswith("| `")
    ]
    assert sorted(rows) == known_settings()
    assert all(field.description for field in Settings.model_fields.values())


@pytest.mark.parametrize("url", ["http://portero:hunter2@redis", "redis://portero:hunter2@[redis"])
def test_a_password_in_a_url_is_not_repeated(url: str) -> None:
    """The error of a Redis URL that cannot be read does not quote it."""
    with pytest.raises(SettingsError) as caught:
        load_settings({"policies": "p", "redis": url}, {}, None)
    assert "hunter2" not in str(caught.value.mistakes)
    assert caught.value.mistakes[0].startswith("--redis: ")
