"""Callers with a key of Portero's own: the file says whose key it is, the policy what the caller may be."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from authproxy.identity.secrets import MAX_SECRET_BYTES, Secrets
from authproxy.identity.tokens.api_key_file import ApiKeyEntry, is_key, new_key, read_lines, write_line
from authproxy.identity.tokens.api_keys import FRESH_S, MAX_CALLERS, STALE_S, ApiKeys, unusable_api_keys
from policies.decision import Challenge, Deny, Reason, Refusal
from policies.principal import Principal
from policies.tables import ApiKeySpec, PolicySet, TenantTable
from tests.fakes.identity import Clock, a_request, a_tenant

SPEC = ApiKeySpec("reporting", frozenset(("ci",)), None, "acme.yaml:9")


class World:
    """A folder of secrets, a clock and the keys of it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.clock = Clock()
        self.keys = ApiKeys(Secrets(root), clock=self.clock)
        self.tenant = replace(a_tenant(), api_keys=(SPEC,))

    def write(self, *entries: ApiKeyEntry | str, tenant: str = "acme") -> None:
        (self.root / tenant).mkdir(exist_ok=True)
        lines = [entry if isinstance(entry, str) else write_line(entry) for entry in entries]
        draft = self.root / tenant / ".draft"
        draft.write_text("".join(f"{line}\n" for line in lines))
        draft.chmod(0o600)
        draft.rename(self.root / tenant / "api-keys")

    def make(self, name: str = "reporting") -> tuple[str, ApiKeyEntry]:
        return new_key(name, "", self.clock())

    async def ask(self, key: str, tenant: TenantTable | None = None) -> Principal | Refusal:
        return await self.keys.identify(tenant or self.tenant, a_request(key), self.clock())


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_a_key_names_the_policys_caller(world: World) -> None:
    """Groups and expiry are the policy's; the key's id and time are kept for who revokes."""
    key, entry = world.make()
    world.write(entry)
    caller = await world.ask(key)
    assert isinstance(caller, Principal)
    assert (caller.subject, caller.groups, caller.expires_at) == ("api-key|reporting", frozenset(("ci",)), None)
    assert (caller.issuer, caller.sid, caller.issued_at) == (None, entry.id, world.clock())
    assert (caller.is_by_cookie, caller.claims) == (False, {})


async def test_a_repeat_is_the_same_principal_at_once(world: World) -> None:
    """What was worked out for a caller is worked out once; a new policy with the same entry changes nothing."""
    key, entry = world.make()
    world.write(entry)
    first = await world.ask(key)
    request = a_request(key)
    assert world.keys.known_now(world.tenant, request, world.clock()) is first
    assert world.keys.identify_now(world.tenant, request, world.clock()) is first
    later = replace(world.tenant, api_keys=(replace(SPEC),))
    assert world.keys.identify_now(later, request, world.clock()) is first


async def test_what_was_never_seen_is_not_known_now(world: World) -> None:
    """``known_now`` is for who goes on while others are refused for guessing."""
    key, entry = world.make()
    world.write(entry)
    assert world.keys.known_now(world.tenant, a_request(key), world.clock()) is None
    assert world.keys.known_now(world.tenant, a_request(), world.clock()) is None
    assert world.keys.identify_now(world.tenant, a_request(key), world.clock()) is None


@pytest.mark.parametrize("age", [0.0, 0.9, 1.5, 2.9, 3.5, 60.0])
async def test_a_revoked_key_is_refused_within_five_seconds(world: World, age: float) -> None:
    """However the last reading lies: the answer is never older than three seconds and the reading behind takes over."""
    key, entry = world.make()
    world.write(entry)
    assert isinstance(await world.ask(key), Principal)
    world.clock.pass_s(age)
    await world.ask(key)
    world.write()
    world.clock.pass_s(STALE_S)
    refusal = await world.ask(key)
    assert isinstance(refusal, Challenge)
    assert refusal.reason is Reason.CREDENTIAL_INVALID


async def test_the_file_is_read_behind_while_a_caller_goes_on(world: World) -> None:
    """Between one and three seconds the answer is at hand, and a new reading is under way."""
    key, entry = world.make()
    world.write(entry)
    caller = await world.ask(key)
    world.write()
    world.clock.pass_s(FRESH_S)
    request = a_request(key)
    assert world.keys.identify_now(world.tenant, request, world.clock()) is caller
    task = world.keys._files["acme"].task
    assert task is not None
    await task
    assert isinstance(world.keys.identify_now(world.tenant, request, world.clock()), Challenge)


async def test_a_new_key_is_known_after_a_second(world: World) -> None:
    """An unknown key is looked up in a reading that is no older."""
    (first, one), (second, two) = world.make(), world.make()
    world.write(one)
    assert isinstance(await world.ask(first), Principal)
    world.write(one, two)
    assert isinstance(await world.ask(second), Challenge)
    world.clock.pass_s(FRESH_S)
    assert isinstance(await world.ask(second), Principal)


async def test_an_expired_entry_of_the_policy_lets_nobody_in(world: World) -> None:
    """From the instant on, also for a caller that is known."""
    key, entry = world.make()
    world.write(entry)
    tenant = replace(world.tenant, api_keys=(replace(SPEC, expires_at=world.clock() + 0.5),))
    caller = await world.ask(key, tenant)
    assert isinstance(caller, Principal)
    assert caller.expires_at == world.clock() + 0.5
    world.clock.pass_s(0.5)
    refusal = await world.ask(key, tenant)
    assert isinstance(refusal, Challenge)
    assert "expired" in refusal.detail


async def test_whoever_writes_the_file_adds_no_caller(world: World) -> None:
    """A name that the policy does not know is nobody's, and one that it no longer knows ends at once."""
    (key, entry), (stranger, other) = world.make(), world.make("admin")
    world.write(entry, other)
    assert isinstance(await world.ask(stranger), Challenge)
    assert isinstance(await world.ask(key), Principal)
    assert isinstance(await world.ask(key, replace(world.tenant, api_keys=(replace(SPEC, name="else"),))), Challenge)
    assert isinstance(await world.ask(key, replace(world.tenant, api_keys=())), Challenge)


async def test_a_changed_entry_makes_another_caller(world: World) -> None:
    """Groups taken away by policy are gone with the next request."""
    key, entry = world.make()
    world.write(entry)
    await world.ask(key)
    caller = await world.ask(key, replace(world.tenant, api_keys=(replace(SPEC, groups=frozenset()),)))
    assert isinstance(caller, Principal)
    assert caller.groups == frozenset()


async def test_a_key_of_one_tenant_is_nothing_in_another(world: World) -> None:
    """Also when both know a caller of that name."""
    key, entry = world.make()
    other, its = world.make()
    world.write(entry)
    world.write(its, tenant="globex")
    globex = replace(a_tenant("globex"), api_keys=(SPEC,))
    assert isinstance(await world.ask(key), Principal)
    assert isinstance(await world.ask(key, globex), Challenge)
    assert isinstance(await world.ask(other, globex), Principal)


@pytest.mark.parametrize("make", ["missing", "folder", "large"])
async def test_a_file_that_cannot_be_read_lets_nobody_in(
    world: World, make: str, caplog: pytest.LogCaptureFixture
) -> None:
    """503, as it cannot be known; also for a caller that was known, and only for callers with a key."""
    key, entry = world.make()
    world.write(entry)
    assert isinstance(await world.ask(key), Principal)
    file = world.root / "acme" / "api-keys"
    file.unlink()
    if make == "folder":
        file.mkdir()
    if make == "large":
        file.write_text(f"{write_line(entry)}\n" + "\n" * MAX_SECRET_BYTES)
    world.clock.pass_s(STALE_S)
    for _ in range(2):
        refusal = await world.ask(key)
        assert isinstance(refusal, Deny)
        assert (refusal.reason, refusal.tenant) == (Reason.KEYS_UNAVAILABLE, "acme")
        world.clock.pass_s(STALE_S)
    assert caplog.text.count("API keys of acme") == 1
    assert isinstance(await world.ask("eyJ.e30.x"), Challenge)


async def test_a_line_that_is_none_lets_nobody_in_and_spoils_no_other(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says which line and quotes nothing."""
    (key, entry), (twice, copied) = world.make(), world.make()
    world.write("canary", entry, copied, write_line(copied._replace(name="other", id="a" * 12)))
    assert isinstance(await world.ask(key), Principal)
    assert isinstance(await world.ask(twice), Challenge)
    assert "1, 3, 4" in caplog.text
    assert "canary" not in caplog.text
    assert copied.digest.hex() not in caplog.text


GOOD = new_key("reporting", "", 1_790_000_000.0)[0]


@pytest.mark.parametrize(
    "key",
    [
        *("ptr_", "ptr", "ptr__", "ptr_" + "a" * 12, GOOD[:-1], GOOD + "A", GOOD.upper(), GOOD.replace("_", "-")),
        *(GOOD[:4] + "1" * 12 + GOOD[16:], GOOD[4:], GOOD + "=", "x" * 5000, "ptr_" + "%00" * 12 + GOOD[16:]),
    ],
    ids=range(13),
)
async def test_what_is_no_key_is_refused_without_a_look_at_the_file(world: World, key: str) -> None:
    """One form and no other; a stranger cannot make Portero read files."""
    refusal = world.keys.identify_now(world.tenant, a_request(key), world.clock())
    assert isinstance(refusal, Challenge)
    assert not world.keys._files


@pytest.mark.parametrize(
    "authorization",
    [None, b"", b"Basic " + GOOD.encode(), b"Bearer", b"Bearer  " + GOOD.encode(), b"\xff"],
    ids=["absent", "empty", "basic", "no-token", "two-blanks", "not-ascii"],  # the key is another one each time
)
async def test_a_field_that_is_no_bearer_token_is_refused(world: World, authorization: bytes | None) -> None:
    """Whoever asks here by mistake gets a refusal and no exception."""
    request = a_request(authorization=authorization)
    assert isinstance(await world.keys.identify(world.tenant, request, world.clock()), Challenge)


async def test_the_id_of_another_key_is_refused(world: World) -> None:
    """What an operator revokes by its id must be what the file's line says."""
    key, entry = world.make()
    world.write(entry._replace(id="b" * 12))
    assert isinstance(await world.ask(key), Challenge)


async def test_a_flood_of_wrong_keys_reads_once_and_is_not_remembered(world: World) -> None:
    """Refusals cost a hash and leave nothing behind."""
    world.write(world.make()[1])
    for _ in range(200):
        assert isinstance(await world.ask(world.make()[0]), Challenge)
    assert len(world.keys._callers) == 0
    assert len(world.keys._files) == 1


async def test_one_key_in_many_spellings_fills_no_memory(world: World) -> None:
    """``bearer``, ``BEARER`` ...: each field has a digest of its own, and the memo is bounded."""
    key, entry = world.make()
    world.write(entry)
    for number in range(MAX_CALLERS + 10):
        request = a_request(key, credential_digest=number.to_bytes(32))
        assert isinstance(await world.keys.identify(world.tenant, request, world.clock()), Principal)
    assert len(world.keys._callers) == MAX_CALLERS


async def test_a_file_that_takes_too_long_is_one_that_cannot_be_read(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wait is bounded; nobody is let in meanwhile."""
    monkeypatch.setattr("authproxy.identity.tokens.api_keys.READ_TIMEOUT_S", 0.0)
    key, entry = world.make()
    world.write(entry)
    refusal = await world.ask(key)
    assert isinstance(refusal, Deny)
    assert refusal.reason is Reason.KEYS_UNAVAILABLE
    await world.keys.close()


async def test_a_defect_while_reading_lets_nobody_in(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Also those whom an earlier reading knew."""
    key, entry = world.make()
    world.write(entry)
    assert isinstance(await world.ask(key), Principal)

    def fail(content: bytes) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("authproxy.identity.tokens.api_key_file.read_lines", fail)
    world.write(entry, entry)
    world.clock.pass_s(STALE_S)
    refusal = await world.ask(key)
    assert isinstance(refusal, Deny)
    assert "unexpected failure" in caplog.text


async def test_whether_a_key_is_still_good_is_known_or_not(world: World) -> None:
    """For tokens that were given out for a key; None until the file was read."""
    _, entry = world.make()
    world.write(entry)
    now = world.clock()
    assert world.keys.is_live(world.tenant, "reporting", entry.id, now) is None
    task = world.keys._files["acme"].task
    assert task is not None
    await task
    assert world.keys.is_live(world.tenant, "reporting", entry.id, now) is True
    assert world.keys.is_live(world.tenant, "reporting", "a" * 12, now) is False
    assert world.keys.is_live(world.tenant, "other", entry.id, now) is False
    assert world.keys.is_live(replace(world.tenant, api_keys=()), "reporting", entry.id, now) is False
    ended = replace(world.tenant, api_keys=(replace(SPEC, expires_at=now),))
    assert world.keys.is_live(ended, "reporting", entry.id, now) is False
    await world.keys.close()


def test_a_key_has_256_random_bits_and_a_form_that_scanners_find() -> None:
    """``ptr_``, an id that is no secret, and the secret; the entry holds none of it."""
    made = [new_key("reporting", "note", 1_790_000_000.7) for _ in range(50)]
    assert all(is_key(key) and len(key) == 60 for key, _ in made)
    assert len({key for key, _ in made}) == len({entry.id for _, entry in made}) == 50
    key, entry = made[0]
    assert key.startswith(f"ptr_{entry.id}_")
    assert key[17:] not in repr(entry) + write_line(entry)
    assert read_lines(write_line(entry).encode()) == ([entry], [])


@pytest.mark.parametrize(
    "changes",
    [
        *({"digest": "sha256:AB"}, {"digest": "0" * 64}, {"digest": None}, {"id": "short"}, {"id": "A" * 12}),
        *({"name": ""}, {"name": 5}, {"name": "x" * 129}, {"name": "a\nb"}, {"created_at": "now"}, {"created_at": 5}),
        *({"created_at": "2026-99-24T09:04:50Z"}, {"note": "\x1b[2J"}, {"note": "x" * 3000}, {"note": ["x"]}),
    ],
    ids=json.dumps,
)
def test_a_line_of_another_form_is_none(changes: dict[str, object]) -> None:
    """What cannot be read is no key."""
    line = json.loads(write_line(new_key("reporting", "", 1_790_000_000.0)[1]))
    assert read_lines(json.dumps({**line, **changes}).encode()) == ([], [1])


@pytest.mark.parametrize("content", [b"", b"\n\n", b"[]", b"{", b"\xff", b'{"id":1,"id":2}', b"null\n", b"[" * 5000])
def test_no_content_is_an_exception(content: bytes) -> None:
    """Whatever an editor left behind."""
    assert read_lines(content)[0] == []


def test_serve_can_say_which_files_are_missing(world: World) -> None:
    """One line a tenant, with the place in its policy."""
    policies = PolicySet("r", {"acme": world.tenant, "globex": a_tenant("globex")}, {}, {}, {}, ())
    assert unusable_api_keys(policies, Secrets(world.root)) == [
        "acme.yaml:9: api_keys: secret acme/api-keys: no such file"
    ]
    world.write()
    assert unusable_api_keys(policies, Secrets(world.root)) == []
