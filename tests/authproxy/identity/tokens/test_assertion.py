"""The signed statement to a function: what it says, to whom, for how long; and the example that functions paste."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import jwt
import pytest
from aiohttp import web

from authproxy.identity.sessions.seal import Sealer
from authproxy.identity.tokens.assertion import MAX_BLOCK_BYTES, MAX_FUNCTIONS, Assertions
from authproxy.identity.tokens.key_files import SIGNING
from authproxy.identity.tokens.keyring import KeyFolder
from authproxy.identity.tokens.own_tokens import OwnTokens
from policies.principal import Principal, anonymous
from policies.tables import Place
from tests.fakes.identity import Clock, a_provider, a_request, a_tenant, an_identity
from tests.fakes.own_keys import a_key_folder, session_key, signing_key
from tests.fakes.places import place, tenant

EXAMPLE = Path(__file__).parents[4] / "docs" / "examples" / "verify_assertion.py"


class World:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.clock = Clock()
        self.folder = a_key_folder(root, self.clock)
        self.assertions = Assertions(self.folder, clock=self.clock)

    def block(self, principal: Principal, of: Place | None = None) -> bytes:
        return self.assertions.block(of or place(), principal, self.clock())

    def claims(self, block: bytes, of: str = "acme/survey-report") -> dict[str, Any]:
        """Verified as a function would, but for the clock."""
        assert block.startswith(b"X-Portero-Assertion: ")
        assert block.endswith(b"\r\n")
        assert block.count(b"\r") == block.count(b"\n") == 1
        token = block[21:-2].decode("ascii")
        header = jwt.get_unverified_header(token)
        assert header["typ"] == "portero-assertion+jwt"
        key = jwt.PyJWKSet.from_dict(self.folder.jwks())[header["kid"]]
        options: Any = {"verify_exp": False, "verify_iat": False}
        return dict(jwt.decode(token, key, [header["alg"]], options, audience=f"function:{of}"))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def ana(**changes: Any) -> Principal:
    return Principal("login", "ana", **{"groups": frozenset(("b", "a")), "email": "ana@acme.example", **changes})


# --- what it says ---------------------------------------------------------------------------------------------------


def test_it_names_caller_tenant_and_function(world: World) -> None:
    """And nothing that the function has no use for: no token, no session, no claims of the provider."""
    caller = ana(claims={"secret": "canary"})
    caller.name, caller.sid, caller.session_id = "Ana", "canary", "canary"
    now = int(world.clock())
    assert world.claims(world.block(caller)) == {
        "iss": "urn:portero:acme",
        "aud": "function:acme/survey-report",
        "sub": "login|ana",
        "email": "ana@acme.example",
        "name": "Ana",
        "groups": ["a", "b"],
        "iat": now,
        "exp": now + 300,
    }


def test_nobody_is_not_vouched_for(world: World) -> None:
    """A function that asks for the field must not be told yes."""
    assert world.block(anonymous()) == b""


def test_a_function_that_wants_none_gets_none(world: World) -> None:
    """``assertion: false``."""
    caller = ana()
    assert world.block(caller, place(has_assertion=False)) == b""
    assert world.block(caller) != b""
    assert world.block(caller, place(has_assertion=False)) == b""


def test_without_a_signing_key_nothing_is_stated(tmp_path: Path) -> None:
    """Also from the moment on when the last one is taken away."""
    session_key(tmp_path / "s", "a", 0.0)
    for folder in (KeyFolder(None), KeyFolder(tmp_path / "s")):
        assert Assertions(folder).block(place(), ana(), 0.0) == b""
    world, caller = World(tmp_path / "w"), ana()
    assert world.block(caller)
    (world.root / SIGNING / "2026-01.pem").unlink()
    world.clock.pass_s(2)
    assert world.block(caller) == b""


def test_it_never_grows_beyond_four_kibibytes(world: World) -> None:
    """Groups are left out whole and marked, as in X-Portero-Groups; half a list would read as all of it."""
    few = ana(groups=frozenset(f"group-{number}" for number in range(150)))
    assert len(world.claims(world.block(few))["groups"]) == 150
    many = ana(groups=frozenset(f"group-{number}" for number in range(1000)))
    claims = world.claims(world.block(many))
    assert "groups" not in claims
    assert claims["groups_truncated"] is True
    longest = Principal("l" * 64, "\U0001f600" * 255, groups=many.groups, email="e" * 254)
    longest.name = "\U0001f600" * 128
    block = world.block(longest, place("f" * 128))
    assert len(block) <= MAX_BLOCK_BYTES
    assert world.claims(block, f"acme/{'f' * 128}")["sub"] == longest.subject


def test_unknown_groups_are_marked(world: World) -> None:
    """A function must not take them for none."""
    claims = world.claims(world.block(ana(groups=frozenset(), has_unknown_groups=True)))
    assert "groups" not in claims
    assert claims["groups_truncated"] is True
    assert "groups_truncated" not in world.claims(world.block(ana(groups=frozenset())))


@pytest.mark.parametrize("text", ["a\r\nX-Portero-Subject: login|root", '"', "\\", "\x00", "ключ", "\udcff"], ids=ascii)
def test_no_name_leaves_the_field(world: World, text: str) -> None:
    """Whatever a provider lets people call themselves."""
    caller = Principal("login", text, groups=frozenset((text,)), email=text)
    caller.name = text
    block = world.block(caller)
    assert block.count(b"\n") == 1
    assert block.isascii()


# --- how long it is used --------------------------------------------------------------------------------------------


def test_a_repeat_is_the_same_bytes(world: World) -> None:
    """Made once for a caller and a function, not once a request."""
    caller = ana()
    first = world.block(caller)
    world.clock.pass_s(179)
    assert world.block(caller) is first
    assert world.block(ana()) != first or world.block(ana()) is not first
    other = world.block(caller, place("survey-web"))
    assert world.claims(other, "acme/survey-web")
    assert world.block(caller) is first


async def test_it_is_made_anew_behind_a_request(world: World) -> None:
    """With less than 40 % of its life left; the request that notices it still takes the old one, once."""
    caller = ana()
    first = world.block(caller)
    world.clock.pass_s(181)
    assert world.block(caller) is first
    assert world.block(caller) is first
    await asyncio.sleep(0)
    second = world.block(caller)
    assert second is not first
    assert world.claims(second)["exp"] == int(world.clock()) + 300
    world.clock.pass_s(100)
    assert world.block(caller) is second


@pytest.mark.parametrize("pause_s", [241, 299, 300, 301, 5000, -10, -5000])
async def test_one_that_is_about_to_end_is_not_used(world: World, pause_s: float) -> None:
    """A cold start and a function's clock need time; a clock that was set back makes a new one as well."""
    caller = ana()
    first = world.block(caller)
    world.clock.pass_s(pause_s)
    second = world.block(caller)
    assert second is not first
    assert world.claims(second)["iat"] == int(world.clock())


def test_where_no_loop_runs_it_is_made_at_once(world: World) -> None:
    """Nothing is put off that nobody would do."""
    caller = ana()
    first = world.block(caller)
    world.clock.pass_s(181)
    assert world.block(caller) is not first


def test_rotation_switches_when_the_key_is_known_everywhere(world: World) -> None:
    """First the key is shown, five minutes later it signs; and what was signed before still verifies."""
    caller = ana()
    first = world.block(caller)
    signing_key(world.root, "2026-02", world.clock(), "Ed25519", 72)
    world.clock.pass_s(2)
    assert len(world.folder.jwks()["keys"]) == 2
    assert world.block(caller) is first
    world.clock.pass_s(298)
    second = world.block(caller)
    assert jwt.get_unverified_header(second[21:-2])["alg"] == "EdDSA"
    assert world.claims(first)
    assert world.claims(second)


def test_a_key_that_is_taken_away_signs_nothing_that_was_kept(world: World) -> None:
    """Functions that have the new JWKS would refuse it."""
    signing_key(world.root, "2026-02", world.clock() - 1000, "Ed25519", 72)
    world.clock.pass_s(2)
    caller = ana()
    first = world.block(caller)
    (world.root / SIGNING / "2026-02.pem").unlink()
    world.clock.pass_s(2)
    second = world.block(caller)
    assert second != first
    assert jwt.get_unverified_header(second[21:-2])["alg"] == "ES256"


def test_a_caller_never_carries_one_tenants_statement_into_another(world: World) -> None:
    """Nor into another namespace after a reload."""
    caller = ana()
    first = world.block(caller)
    globex = world.block(caller, place(of=tenant("globex")))
    assert globex != first
    assert world.claims(globex, "globex/survey-report")["iss"] == "urn:portero:globex"
    moved = world.block(caller, place(of=tenant("acme", namespace="acme2")))
    assert world.claims(moved, "acme2/survey-report")["iss"] == "urn:portero:acme"
    assert world.claims(world.block(caller))["aud"] == "function:acme/survey-report"


def test_what_is_kept_is_bounded(world: World) -> None:
    """Callers choose the functions' names."""
    caller = ana()
    for number in range(MAX_FUNCTIONS + 20):
        world.block(caller, place(f"f{number}"))
    assert caller.assertion_block is not None
    assert len(caller.assertion_block) == MAX_FUNCTIONS


# --- AP-R15: one kind is never taken for another ---------------------------------------------------------------------

LOGIN = a_provider()
ACME = a_tenant("acme", LOGIN)


def kinds(world: World) -> dict[str, str]:
    """One of each that Portero makes for the same caller, function and tenant."""
    caller = ana(expires_at=world.clock() + 600, claims={})
    caller.issuer = LOGIN.issuer
    return {
        "assertion": world.block(caller)[21:-2].decode(),
        "token": OwnTokens(world.folder).exchange(ACME, caller, "survey-report", world.clock())[0],
        "session": Sealer(world.folder.session_keys).seal("acme", "session", "__Host-portero-session", b"{}"),
    }


@pytest.mark.parametrize("kind", ["assertion", "token", "session"])
async def test_no_kind_is_accepted_in_place_of_another(world: World, kind: str) -> None:
    """Own tokens by type, sessions by how they are sealed, and a provider's token is none of them (AP-R15)."""
    shown, now = kinds(world)[kind], world.clock()
    own, sealer = OwnTokens(world.folder), Sealer(world.folder.session_keys)
    assert isinstance(own.judge(ACME, shown, now), Principal) == (kind == "token")
    opened = sealer.open("acme", "session", "__Host-portero-session", shown)
    assert (opened is not None) == (kind == "session")
    bearer = an_identity(world.clock)
    for believed in (ACME, a_tenant("acme", a_provider(issuer="urn:portero:acme"))):
        assert not isinstance(await bearer.identify(believed, a_request(shown), now), Principal)
    await bearer.close()


# --- the example for authors of functions ----------------------------------------------------------------------------


@pytest.fixture
async def example(tmp_path: Path) -> AsyncIterator[tuple[World, ModuleType]]:
    """The example as it is, but for the address, and a JWKS on a real socket."""
    world = World(tmp_path)
    world.clock.now = time.time()

    async def jwks(request: web.Request) -> web.Response:
        return web.json_response(world.folder.jwks())

    app = web.Application()
    app.router.add_get("/.portero/jwks.json", jwks)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    text = EXAMPLE.read_text()
    address = f"http://127.0.0.1:{runner.addresses[0][1]}"
    assert text.count("https://acme.example") == 1
    module = ModuleType("verify_assertion")
    exec(compile(text.replace("https://acme.example", address), str(EXAMPLE), "exec"), module.__dict__)
    yield world, module
    await runner.cleanup()


Example = tuple[World, ModuleType]


async def verify(module: ModuleType, shown: str | None) -> dict[str, Any]:
    call: Callable[[str | None], dict[str, Any]] = module.verify
    return await asyncio.to_thread(call, shown)


async def test_the_example_verifies_a_real_assertion(example: Example) -> None:
    """Over the network, with PyJWT's own client."""
    world, module = example
    claims = await verify(module, world.block(ana())[21:-2].decode())
    assert (claims["sub"], claims["groups"]) == ("login|ana", ["a", "b"])


async def test_the_example_follows_a_rotation(example: Example) -> None:
    """A key that it has not seen yet is asked for, though not again within PyJWT's own cool-down."""
    world, module = example
    module.keys.cooldown_duration = 0
    await verify(module, world.block(ana())[21:-2].decode())
    signing_key(world.root, "2026-02", world.clock() - 1000, "Ed25519", 72)
    world.clock.pass_s(2)
    shown = world.block(ana())[21:-2].decode()
    assert jwt.get_unverified_header(shown)["alg"] == "EdDSA"
    assert (await verify(module, shown))["sub"] == "login|ana"


async def test_the_example_refuses_what_is_not_for_it(example: Example) -> None:
    """Another function, another tenant, another kind, an old one, a forged one, none."""
    world, module = example
    world.clock.pass_s(-400)
    old = world.block(ana())[21:-2].decode()
    world.clock.pass_s(400)
    made = kinds(world)
    good = made["assertion"]
    head, body, tail = good.split(".")
    wrong = {
        "another function": world.block(ana(), place("survey-web"))[21:-2].decode(),
        "another tenant": world.block(ana(), place(of=tenant("globex", namespace="acme")))[21:-2].decode(),
        "another namespace": world.block(ana(), place(of=tenant(namespace="other")))[21:-2].decode(),
        "a token": made["token"],
        "a session": made["session"],
        "old": old,
        "forged": f"{head}.{body}.{'A' * len(tail)}",
        "none": None,
        "empty": "",
    }
    assert await verify(module, good)
    for name, shown in wrong.items():
        with pytest.raises(jwt.PyJWTError):
            pytest.fail(f"{name}: {json.dumps(await verify(module, shown))}")


def test_the_example_is_short_enough_to_paste() -> None:
    """At most 40 lines, and it can be imported without a network."""
    assert len(EXAMPLE.read_text().splitlines()) <= 40
    spec = importlib.util.spec_from_file_location("verify_assertion", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.FUNCTION == "acme/survey-report"


def test_a_replaced_spec_is_obeyed_at_once(world: World) -> None:
    """The policy of now says whether there is a statement, whatever was kept."""
    caller, where = ana(), place()
    assert world.block(caller, where)
    assert world.block(caller, replace(where, spec=replace(where.spec, has_assertion=False))) == b""
