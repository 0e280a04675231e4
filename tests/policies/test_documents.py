"""Files to documents: every mistake of every file at once, each with its line and column; garbage never escapes."""

from __future__ import annotations

import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import yaml_reader
from policies.compiler import compile_files
from policies.documents import MAX_MISTAKES, Documents, parse, read_all, revision_of
from policies.errors import PolicyError
from policies.tables import PolicySet
from policies.yaml_reader import core_scalar
from tests.policies.mistakes import MISSHAPEN

PLATFORM = b"""version: 1
backends:
  faas: {kind: openfaas, url: http://gateway:8080}
tenants:
  acme: {hosts: [acme.localhost], backend: faas, namespace: acme}
"""
ACME = b"version: 1\ntenant: acme\n"


def mistakes_of(acme: bytes | str, platform: bytes = PLATFORM) -> list[str]:
    """What ``parse`` finds, as an operator reads it."""
    files = {"platform.yaml": platform, "acme.yaml": acme.encode() if isinstance(acme, str) else acme}
    try:
        parse(files)
    except PolicyError as error:
        return [str(mistake) for mistake in error.mistakes]
    return []


def test_sound_files_are_documents() -> None:
    """Names decide what a file is; what is not YAML by its name is not looked at."""
    documents = parse(
        {
            "platform.yaml": PLATFORM,
            "acme.yml": ACME,
            "acme_test.yaml": b"tenant: acme\ncases: [{name: a, request: GET /, expect: allow}]\n",
            "README.md": b"\xff",
            "notes.yaml~": b"- ",
        }
    )
    assert documents.platform is not None
    assert [source.file for source in documents.tenants] == ["acme.yml"]
    assert [source.file for source in documents.tests] == ["acme_test.yaml"]


def test_documents_travel_between_processes() -> None:
    """A folder can be read in another process: documents with positions survive the way."""
    documents = parse(
        {"platform.yaml": PLATFORM, "acme.yaml": ACME + b"deny:\n  - {id: a, functions: ['*'], actions: ['*']}\n"}
    )
    arrived = pickle.loads(pickle.dumps(documents))
    assert arrived == documents
    assert arrived.tenants[0].where("deny", 0) == "acme.yaml:4"


@pytest.mark.parametrize("name", MISSHAPEN)
def test_mistake_has_its_line_and_column(name: str) -> None:
    """A mistake names file, line and column, what is wrong and what was expected."""
    text, expected = MISSHAPEN[name]
    assert mistakes_of(ACME.decode() + text) == [f"acme.yaml:{expected}"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(b"", "1:1: the file is empty; expected a mapping that starts with version: 1", id="empty"),
        pytest.param(b" \n\n", "1:1: the file is empty; expected a mapping that starts with version: 1", id="blank"),
        pytest.param(
            b"# only\n",
            "1:1: the file holds comments only; expected a mapping that starts with version: 1",
            id="comments",
        ),
        pytest.param(b"---\n", "2:1: nothing stands here; write a value, or leave the key out", id="null"),
        pytest.param(b"[]\n", "1:1: a list stands here; expected a mapping (key: value)", id="list"),
        pytest.param(b"hello\n", "1:1: 'hello' is text; expected a mapping (key: value)", id="text"),
        pytest.param(b"tenant: acme\n", "1:1: 'version' is missing; expected version: 1", id="no version"),
        pytest.param(b"version: 2\ntenant: acme\n", "1:10: this Portero reads version: 1, not 2", id="version 2"),
        pytest.param(
            ACME + b"mode: \xff\n", "3:7: byte 0xFF is not UTF-8; expected a text file in UTF-8", id="latin-1"
        ),
        pytest.param(
            "mode: enforce".encode("utf-16"), "1:1: byte 0xFF is not UTF-8; expected a text file in UTF-8", id="utf-16"
        ),
        pytest.param(
            b"%YAML 1.1\n---\nversion: 1\n", "1:1: directives are refused; policy files are YAML 1.2", id="YAML 1.1"
        ),
        pytest.param(
            b"%TAG ! x\n---\nversion: 1\n", "1:1: directives are refused; policy files are YAML 1.2", id="%TAG"
        ),
        pytest.param(
            b"#" * (yaml_reader.MAX_BYTES + 1),
            "1:1: the file has 8388609 bytes; expected at most 8388608",
            id="too large",
        ),
    ],
)
def test_file_that_is_no_document(content: bytes, expected: str) -> None:
    """What is no policy file at all is said in one line, at the place where it shows."""
    assert mistakes_of(content) == [f"acme.yaml:{expected}"]


def test_every_mistake_of_every_file_at_once() -> None:
    """Whoever repairs one mistake does not find the next one only then."""
    found = mistakes_of(
        "version: 1\ntenant: acme\nmode: maybe\nroels: {}\nlimits: [{id: a, per: ip, rate: 0/s}]\nmode: enforce\n",
        platform=PLATFORM + b"trusted_peers: no\n",
    )
    assert [mistake.split(" ")[0] for mistake in found] == [
        "acme.yaml:3:7:",
        "acme.yaml:4:1:",
        "acme.yaml:5:33:",
        "acme.yaml:6:1:",
        "platform.yaml:6:16:",
    ]


def test_platform_file_must_be_there() -> None:
    """Without the platform's file no tenant's file means anything."""
    with pytest.raises(PolicyError, match=r"platform\.yaml:1:1: the file is missing"):
        parse({"acme.yaml": ACME})
    with pytest.raises(PolicyError, match=r"platform\.yml:1:1: expected the name platform\.yaml"):
        parse({"platform.yml": PLATFORM})


def test_byte_order_mark_is_no_mistake() -> None:
    """Some editors write one; it counts for no column."""
    assert mistakes_of(b"\xef\xbb\xbfversion: 1\ntenant: acme\n") == []
    assert mistakes_of(b"\xef\xbb\xbfxersion: 1\ntenant: acme\n")[1].startswith("acme.yaml:1:1: unknown key 'xersion'")


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_line_ends_of_both_worlds(end: str) -> None:
    """Files from Windows have the same lines and columns."""
    assert mistakes_of(f"version: 1{end}tenant: acme{end}x: 1{end}")[0].startswith("acme.yaml:3:1: unknown key 'x'")


def test_columns_count_characters() -> None:
    """A column is what an editor shows, not a byte."""
    assert mistakes_of('version: 1\ntenant: acme\nbindings: [{id: b, roles: [a], groups: ["é€😀", 7]}]\n') == [
        "acme.yaml:3:48: 7 is a number in YAML; expected text: quote it"
    ]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[(text, text) for text in ("no", "yes", "on", "off", "y", "N", "12:30:45", "1_000", "0b11", "017x")],
        *[(text, text) for text in ("2024-01-01", "=", "<<", "tRUE", "nil", "0x", "0o8", "+", "-", ".", "1e", "+0x1")],
        ("017", 17), ("0o17", 15), ("0x1F", 31), ("-7", -7), ("+7", 7), ("1.5", 1.5), ("1e3", 1000.0), (".5", 0.5),
        ("true", True), ("False", False), ("NULL", None), ("~", None), ("", None), ("-.inf", float("-inf")),
    ],
)  # fmt: skip
def test_scalars_are_those_of_yaml_1_2(text: str, value: object) -> None:
    """YAML 1.2.2 section 10.3.2: what 1.1 made of no, on, 12:30:45 and 017 does not happen."""
    assert core_scalar(text) == value
    assert type(core_scalar(text)) is type(value)


def test_null_is_refused_but_in_a_tests_claims() -> None:
    """A forgotten value must not read as "no condition"; a token's claims may well hold null."""
    caller = b"{provider: p, subject: s, claims: {a: null, b: [~]}}"
    case = b"tenant: acme\ncases: [{name: a, request: GET /, expect: allow, as: " + caller + b"}]\n"
    assert parse({"platform.yaml": PLATFORM, "acme.yaml": ACME, "acme_test.yaml": case}).tests
    with pytest.raises(PolicyError, match="nothing stands here"):
        parse(
            {"platform.yaml": PLATFORM, "acme.yaml": ACME, "acme_test.yaml": case.replace(b"subject: s", b"subject: ")}
        )


@pytest.mark.parametrize(
    "bomb",
    [
        pytest.param("roles: " + "[" * 200_000, id="flow depth"),
        pytest.param("roles: " + "{a: " * 100_000, id="mapping depth"),
        pytest.param("roles:\n  " + "- " * 100_000 + "a", id="block depth"),
        pytest.param("roles: {" + "? {" * 50_000, id="keys within keys"),
    ],
)
def test_depth_is_bounded(bomb: str) -> None:
    """Deep nesting costs neither stack nor time: reading stops at the bound."""
    (mistake,) = mistakes_of(ACME.decode() + bomb)
    assert "levels deep" in mistake or "cannot be a key" in mistake


def test_number_of_values_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of commas is small and would fill memory: reading stops at the bound."""
    monkeypatch.setattr(yaml_reader, "MAX_NODES", 1000)
    (mistake,) = mistakes_of(ACME + b"deny: [" + b"a," * 2000 + b"]\n")
    assert mistake == "acme.yaml:3:1994: more than 1000 values in one file"


def test_number_of_mistakes_is_bounded() -> None:
    """A file that is wrong everywhere says so shortly."""
    found = mistakes_of(ACME + b"deny: [" + b"a," * 1000 + b"]\n")
    assert len(found) == MAX_MISTAKES + 1
    assert found[-1].endswith("and more mistakes, which are not shown")


def test_a_hundred_thousand_mistakes_cost_little() -> None:
    """A file that is wrong everywhere does not fill memory with what nobody reads."""
    found = mistakes_of(ACME + b"deny: [" + b"{}," * 33_000 + b"]\n")
    assert len(found) == MAX_MISTAKES + 1
    good = b"{id: a, functions: [x], actions: [invoke]}," * MAX_MISTAKES
    assert mistakes_of(ACME + b"deny: [" + good + b"{}," * 1000 + b"]\n") == [
        f"acme.yaml:1:1: 3000 mistakes, none of them among the first {MAX_MISTAKES} of a list"
    ]


def test_messages_stay_short_and_on_one_line() -> None:
    """Whatever a stranger wrote, a mistake is one line that a terminal shows as it is."""
    hostile = "\u00a0" + "x" * 10_000 + "\\e[31m"
    for text in (
        f'mode: "{hostile}"',
        f'"{hostile}": 1',
        f'limits: [{{id: "{hostile}\\x1b[31m\\n", per: ip, rate: 1/s}}]',
    ):
        for mistake in mistakes_of(ACME.decode() + text + "\n"):
            assert len(mistake) < 500
            assert mistake.isprintable()


def test_revision_is_of_names_and_contents() -> None:
    """Equal content, equal revision; another name, another byte, or a border moved, is another revision."""
    files = {"platform.yaml": PLATFORM, "acme.yaml": ACME}
    revision = revision_of(files)
    assert len(revision) == 16
    assert revision_of(dict(reversed(files.items()))) == revision
    assert revision_of({**files, "README.md": b"x"}) == revision
    assert revision_of({"platform.yaml": PLATFORM, "acme.yml": ACME}) != revision
    assert revision_of({"platform.yaml": PLATFORM, "acme.yaml": ACME + b"\n"}) != revision
    assert revision_of({"a.yaml": b"b.yaml"}) != revision_of({"a.yamlb.yaml": b""})


def test_sound_files_beside_broken_ones_are_kept() -> None:
    """One broken file does not hide what can be said of the others."""
    documents = read_all({"platform.yaml": PLATFORM, "acme.yaml": ACME, "globex.yaml": b"["})
    assert [source.file for source in documents.tenants] == ["acme.yaml"]
    assert [mistake.file for mistake in documents.mistakes] == ["globex.yaml"]


# --- garbage --------------------------------------------------------------------------------------------------------


def judged(files: dict[str, bytes]) -> PolicySet | PolicyError:
    """Compile; anything but a policy set or an error that names a mistake fails the test."""
    answer: PolicySet | PolicyError
    try:
        answer = compile_files(files)
    except PolicyError as error:
        answer = error
    assert isinstance(answer, PolicySet) or answer.mistakes
    return answer


@given(st.binary(max_size=400), st.sampled_from(["platform.yaml", "acme.yaml", "acme_test.yaml"]))
def test_bytes_are_a_policy_or_a_mistake(content: bytes, name: str) -> None:
    """No bytes in any file raise anything else than PolicyError."""
    judged({"platform.yaml": PLATFORM, "acme.yaml": ACME, name: content})


@given(st.text(alphabet="{}[]:,-&*!|>'\"%@`?#~ \n\tab01.\\<", max_size=200))
def test_punctuation_is_a_policy_or_a_mistake(text: str) -> None:
    """No heap of YAML's own signs raises anything else than PolicyError."""
    judged({"platform.yaml": PLATFORM, "acme.yaml": ACME + text.encode()})


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 10**20),
    st.floats(allow_nan=False),
    st.sampled_from(["*", "a-*", "/", "/{a}/*", "login|ana", "1/s", "GET", "https://id.example", "claims.a == 1"]),
    st.text(max_size=8),
)
KEYS = st.sampled_from(
    [
        "version",
        "tenant",
        "mode",
        "identity",
        "service_accounts",
        "functions",
        "routes",
        "roles",
        "bindings",
        "deny",
        "limits",
        "id",
        "name",
        "allow",
        "includes",
        "actions",
        "methods",
        "when",
        "unless",
        "groups",
        "path",
        "to",
        "per",
        "rate",
        "backends",
        "tenants",
        "hosts",
        "owns",
    ]
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=4)),
    max_leaves=25,
)


@given(st.dictionaries(KEYS, VALUES, max_size=6), st.sampled_from(["platform.yaml", "acme.yaml", "acme_test.yaml"]))
def test_misshapen_documents_are_mistakes(value: dict[str, object], name: str) -> None:
    """No values under known keys raise anything else than PolicyError, and each mistake lies within its file."""
    text = json.dumps({"version": 1, "tenant": "acme"} | value, indent=1)
    answer = judged({"platform.yaml": PLATFORM, "acme.yaml": ACME, name: text.encode()})
    lines = text.split("\n")
    for mistake in answer.mistakes if isinstance(answer, PolicyError) else []:
        if mistake.file == name:
            assert 1 <= mistake.line <= len(lines)
            assert 1 <= mistake.column <= len(lines[mistake.line - 1]) + 1


@given(st.integers(0, 10_000), st.binary(min_size=1, max_size=3))
def test_a_torn_file_is_a_policy_or_a_mistake(at: int, junk: bytes) -> None:
    """A file cut off, or with bytes written over it, never raises anything else than PolicyError."""
    text = ACME + b"roles:\n  a: {allow: [{functions: [x, 'y-*'], actions: [invoke], when: {groups: [g]}}]}\n"
    judged({"platform.yaml": PLATFORM, "acme.yaml": text[: at % len(text)]})
    judged({"platform.yaml": PLATFORM, "acme.yaml": text[: at % len(text)] + junk + text[at % len(text) + len(junk) :]})


def test_parse_raises_nothing_for_sound_files() -> None:
    """The bare minimum loads."""
    assert isinstance(parse({"platform.yaml": PLATFORM, "acme.yaml": ACME}), Documents)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("limits: [{id: a, per: tenant, rate: 20}]", "20 is not a rate of at least 1 such as 20/s"),
        ("functions: {f: {cold_start: {max_wait: 30}}}", "30 is not a duration of at least 1 such as 500ms, 30s"),
        ("functions: {f: {max_body: 10}}", "10 is not a size such as 64KiB"),
    ],
    ids=["rate", "duration", "size"],
)
def test_a_number_without_its_unit_is_told_the_unit(line: str, says: str) -> None:
    """Quoting it would not help, so that is not what is said."""
    with pytest.raises(PolicyError, match=says):
        parse(
            {
                "platform.yaml": b"version: 1\nbackends: {}\ntenants: {}\n",
                "a.yaml": f"version: 1\ntenant: a\n{line}\n".encode(),
            }
        )
