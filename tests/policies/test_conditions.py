"""What conditions mean, and that no expression and no request can make one raise anything but "cannot be known"."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import textwrap
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.conditions import ConditionError, ConditionUnknown, compile_conditions
from policies.expressions import MAX_SOURCE_BYTES
from policies.principal import Principal, anonymous
from policies.tables import Facts
from tests.policies.reference import request_of

ANA = Principal(
    "login", "ana", groups=frozenset({"analysts", "eu"}), email="ana@acme.example", claims={"region": "eu", "age": 41}
)
NOON = datetime(2026, 3, 4, 12, 0, tzinfo=UTC).timestamp()
"""A Wednesday."""


def facts(
    principal: Principal = ANA, *, method: str = "GET", path: str = "/", client_ip: str = "192.0.2.1", now: float = NOON
) -> Facts:
    return Facts(request_of(method, path, client_ip=client_ip), principal, "survey-report", path, now)


def outcome(when: Any = None, unless: Any = None, of: Facts | None = None) -> bool | None:
    """None: cannot be known."""
    condition = compile_conditions(when, unless, effect="deny")
    assert condition is not None
    try:
        return condition(of or facts())
    except ConditionUnknown:
        return None


def at(text: str) -> Facts:
    return facts(now=datetime.fromisoformat(text).timestamp())


def test_no_condition_is_none() -> None:
    """A rule without when and unless costs nothing."""
    assert compile_conditions(None, None, effect="allow") is None


@pytest.mark.parametrize(
    ("when", "path", "expected"),
    [
        ("/a", "/a", True),
        ("/a", "/a/b", True),
        ("/a", "/a/", True),
        ("/a", "/ab", False),
        ("/a", "/", False),
        ("/a/", "/a", True),
        ("/", "/whatever/it/is", True),
        ("/a/b", "/a", False),
        ("/espa\u00f1a", "/espa%C3%B1a/x", True),
        ("/%7euser", "/~user/x", True),
        (["/x", "/a"], "/a/b", True),
        ("/a", "/A", False),
        ("/admin", "/admin;x=1", None),
        ("/admin", "/admin;x=1/users", None),
        ("/admin", "/admin%2Fusers", None),
        ("/admin", "/admin/a%2Fb;c", True),
        ("/admin", "/public/a%2Fb;c", False),
    ],
)
def test_path_prefix_goes_by_segments(when: Any, path: str, expected: bool | None) -> None:
    """``/a`` is ``/a`` and ``/a/b`` and never ``/ab``; what functions may read in two ways cannot be known."""
    assert outcome({"path_prefix": when}, of=facts(path=path)) is expected


@pytest.mark.parametrize(
    ("networks", "client_ip", "expected"),
    [
        (["10.0.0.0/8"], "10.255.0.1", True),
        (["10.0.0.0/8"], "11.0.0.1", False),
        (["10.0.0.0/8"], "::ffff:10.1.2.3", True),
        (["::ffff:10.0.0.0/104"], "10.1.2.3", True),
        (["::/0"], "10.1.2.3", False),
        (["0.0.0.0/0"], "::1", False),
        (["0.0.0.0/0"], "::ffff:8.8.8.8", True),
        (["2001:db8::/32", "192.0.2.7"], "192.0.2.7", True),
        ("2001:db8::/32", "2001:db8:ffff::1", True),
        (["fe80::/10"], "fe80::1%eth0", True),
        (["10.0.0.0/8"], "", None),
        (["10.0.0.0/8"], "10.0.0.1 ", None),
        (["10.0.0.0/8"], "010.0.0.1", None),
        (["10.0.0.0/8"], "evil", None),
    ],
)
def test_source_ip_is_in_a_network(networks: Any, client_ip: str, expected: bool | None) -> None:
    """IPv4-mapped addresses are the IPv4 addresses they stand for; what is no address cannot be known."""
    assert outcome({"source_ip": networks}, of=facts(client_ip=client_ip)) is expected


@pytest.mark.parametrize(
    ("window", "moment", "expected"),
    [
        ({"from": "08:00", "to": "18:00"}, "2026-03-04T08:00:00Z", True),
        ({"from": "08:00", "to": "18:00"}, "2026-03-04T17:59:59Z", True),
        ({"from": "08:00", "to": "18:00"}, "2026-03-04T18:00:00Z", False),
        ({"from": "08:00", "to": "18:00", "days": ["thu"]}, "2026-03-04T12:00:00Z", False),
        ({"from": "22:00", "to": "06:00"}, "2026-03-04T23:00:00Z", True),
        ({"from": "22:00", "to": "06:00"}, "2026-03-04T05:59:00Z", True),
        ({"from": "22:00", "to": "06:00"}, "2026-03-04T06:00:00Z", False),
        ({"from": "22:00", "to": "06:00", "days": ["wed"]}, "2026-03-05T05:00:00Z", True),
        ({"from": "22:00", "to": "06:00", "days": ["wed"]}, "2026-03-04T05:00:00Z", False),
        ({"from": "22:00", "to": "06:00", "days": ["sun"]}, "2026-03-09T05:00:00Z", True),
        ({"from": "12:00"}, "2026-03-04T23:59:59Z", True),
        ({"to": "12:00"}, "2026-03-04T12:00:00Z", False),
        ({"days": ["wed", "thu"]}, "2026-03-04T00:00:00Z", True),
        # 2026-03-29 01:00 UTC: clocks in Madrid go from 02:00 to 03:00.
        ({"from": "02:00", "to": "03:00", "zone": "Europe/Madrid"}, "2026-03-29T00:59:00Z", False),
        ({"from": "02:00", "to": "03:00", "zone": "Europe/Madrid"}, "2026-03-29T01:00:00Z", False),
        ({"from": "08:00", "to": "09:00", "zone": "Europe/Madrid"}, "2026-03-04T07:30:00Z", True),
        ({"from": "08:00", "to": "09:00", "zone": "Europe/Madrid"}, "2026-07-01T06:30:00Z", True),
        ({"from_": "08:00", "to": "09:00", "days": None, "zone": "UTC"}, "2026-07-01T08:30:00Z", True),
    ],
)
def test_time_is_a_window_by_the_clock_of_its_zone(window: Any, moment: str, expected: bool) -> None:
    """From inclusive, to exclusive; a window over midnight belongs to the day on which it opens."""
    assert outcome({"time": window}, of=at(moment)) is expected


@pytest.mark.parametrize("now", [float("nan"), float("inf"), -1e300, 1e300, -1e11])
def test_an_impossible_time_cannot_be_known(now: float) -> None:
    """No clock shows it, so no window contains it and none excludes it."""
    assert outcome({"time": {"from": "08:00", "to": "09:00"}}, of=facts(now=now)) is None
    assert outcome("now > timestamp('2026-01-01T00:00:00Z')", of=facts(now=now)) is None


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        ({"groups": ["sre", "analysts"]}, True),
        ({"groups": "sre"}, False),
        ({"methods": ["GET", "HEAD"]}, True),
        ({"methods": ["POST"]}, False),
        ({"groups": ["eu"], "methods": ["GET"], "path_prefix": None}, True),
        ({"groups": ["eu"], "methods": ["PUT"]}, False),
    ],
)
def test_all_short_forms_must_hold(when: Any, expected: bool) -> None:
    """Several keys are joined by and, several items of one key by or."""
    assert outcome(when) is expected


UNKNOWN = "claims.absent == 1"


@pytest.mark.parametrize(
    ("when", "unless", "expected"),
    [
        ({"groups": ["eu"]}, {"methods": ["POST"]}, True),
        ({"groups": ["eu"]}, {"methods": ["GET"]}, False),
        (None, {"groups": ["sre"]}, True),
        (UNKNOWN, None, None),
        (None, UNKNOWN, None),
        (UNKNOWN, {"groups": ["eu"]}, False),
        (UNKNOWN, {"groups": ["sre"]}, None),
        ({"groups": ["sre"]}, UNKNOWN, False),
        ({"groups": ["eu"]}, UNKNOWN, None),
    ],
)
def test_unknown_is_a_third_value(when: Any, unless: Any, expected: bool | None) -> None:
    """One part that surely fails settles it, whatever else is unknown: an exempt sre needs no region."""
    assert outcome(when, unless) is expected


@pytest.mark.parametrize(
    ("when", "key", "says"),
    [
        ({}, "when", "leave 'when' out"),
        ({"group": ["a"]}, "when.group", "expected one of groups"),
        ({"groups": []}, "when.groups", "at least one"),
        ({"groups": [1]}, "when.groups", "list"),
        ({"methods": ["get"]}, "when.methods", "capitals"),
        ({"source_ip": ["10.0.0.1/8"]}, "when.source_ip", "10.0.0.0/8"),
        ({"source_ip": ["acme.example"]}, "when.source_ip", "no network"),
        ({"path_prefix": "a"}, "when.path_prefix", "never match"),
        ({"path_prefix": "/a/../b"}, "when.path_prefix", "never match"),
        ({"path_prefix": "/a//b"}, "when.path_prefix", "never match"),
        ({"path_prefix": "/a?b"}, "when.path_prefix", "never match"),
        ({"path_prefix": "/a%zz"}, "when.path_prefix", "never match"),
        ({"path_prefix": "/a\\b"}, "when.path_prefix", "never match"),
        ({"path_prefix": "/\ud800"}, "when.path_prefix", "never match"),
        ({"time": "08:00"}, "when.time", "expected {from"),
        ({"time": {"form": "08:00"}}, "when.time.form", "not known"),
        ({"time": {"from": 480}}, "when.time.from", "HH:MM"),
        ({"time": {"from": "8:00"}}, "when.time.from", "HH:MM"),
        ({"time": {"to": "24:01"}}, "when.time.to", "HH:MM"),
        ({"time": {"from": "08:00", "to": "08:00"}}, "when.time.to", "the same"),
        ({"time": {"from": "24:00", "to": "00:00"}}, "when.time.from", "from 00:00"),
        ({"time": {"days": ["monday"]}}, "when.time.days", "expected one of mon"),
        ({"time": {"zone": "Europe/Madrit"}}, "when.time.zone", "no time zone"),
        ({"time": {"zone": "Europe"}}, "when.time.zone", "no time zone"),
        ({"time": {"zone": "../../etc/passwd"}}, "when.time.zone", "no time zone"),
        ({"time": {"zone": "/etc/passwd"}}, "when.time.zone", "no time zone"),
        ({"time": {"zone": "\x00"}}, "when.time.zone", "no time zone"),
        ({"time": {"zone": ""}}, "when.time.zone", "no time zone"),
    ],
)
def test_a_mistake_in_a_short_form_says_where_and_what_was_expected(when: Any, key: str, says: str) -> None:
    """Each mistake names its key, so that the compiler can point at the line."""
    with pytest.raises(ConditionError) as caught:
        compile_conditions(when, None, effect="allow")
    assert caught.value.key == key
    assert says in caught.value.message
    with pytest.raises(ConditionError) as caught:
        compile_conditions(None, when, effect="deny")
    assert caught.value.key == key.replace("when", "unless", 1)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('claims.region != "eu"', False),
        ('claims["region"] == "eu"', True),
        ("claims['region'] == 'eu' && claims.age >= 18", True),
        ('has(claims.region) && !has(claims["absent"].x)', None),
        ("has(claims.region) && !has(claims.absent)", True),
        ('"region" in claims && size(claims) == 2', True),
        ('"analysts" in groups', True),
        ('groups.exists(g, g.startsWith("ana"))', True),
        ("groups.all(g, size(g) < 3)", False),
        ('groups.exists_one(g, g == "eu") || claims.absent == 1', True),
        ('claims["region"].all(x, x == subject) || claims.region.size() + 1 == 3', True),
        ('groups[0] == "analysts"', True),
        ('subject == "login|ana" && provider == "login" && email == "ana@acme.example"', True),
        ('method == "GET" && path == "/" && function_name == "survey-report"', True),
        ('host == "acme.localhost" && source_ip == "192.0.2.1"', True),
        ('now > timestamp("2026-01-01T00:00:00Z") && now.getHours() == 12 && now.getDayOfWeek() == 3', True),
        ("claims.age", None),
        ("claims.absent", None),
        ('claims.region == "eu" ? true : claims.absent', True),
        ("claims.age / 0 == 1", None),
        ("claims.region > 1", None),
        ("type(claims.age) == int", True),
        ('claims.absent == 1 && claims.region == "us"', False),
        ("claims.age + 9223372036854775807 > 0", None),
        ("groups[99] == 'x'", None),
        ("has(claims.region.x)", None),
        ("claims.region.contains('e') // ", "not understood"),
    ],
)
def test_what_cel_says(source: str, expected: bool | str | None) -> None:
    """Facts by their declared names; anything but true or false cannot be known."""
    if isinstance(expected, str):
        with pytest.raises(ConditionError, match=expected):
            outcome(source)
    else:
        assert outcome(source) is expected


def test_a_caller_without_email_or_claims_cannot_be_known() -> None:
    """Lacking data is not "no": a deny rule on it matches, an allow rule does not."""
    for source in ('email == "x@y.z"', 'email != "x@y.z"', 'claims.region != "eu"', 'claims["region"] == "eu"'):
        assert outcome(source, of=facts(anonymous())) is None
        assert outcome(source, of=facts(Principal("login", "bob"))) is None


def test_groups_that_could_not_be_read_cannot_be_known() -> None:
    """A deny rule on a group holds for who hides his groups; one that spares a group does not spare him."""
    eve = facts(Principal("login", "eve", has_unknown_groups=True))
    for source in ({"groups": ["banned"]}, '"banned" in groups', '!("banned" in groups)', "size(groups) == 0"):
        assert outcome(source, of=eve) is None
    deny = compile_conditions(None, {"groups": ["sre"]}, effect="deny")
    assert deny is not None
    with pytest.raises(ConditionUnknown):
        deny(eve)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("claim.region == 'eu'", "'claim' is not known; known: claims"),
        ("groups.exists(g, g == 'a') && g == 'a'", "'g' is not known"),
        ("function == 'x'", "write function_name"),
        ("lower(path) == '/'", r"lower\(\) is not known; known: all"),
        ("path.lower() == '/'", r"lower\(\) is not known"),
        ("exists(groups, true)", r"exists\(\) is not known"),
        ("path.matches('(a+)+')", "use startsWith"),
        ("groups.map(g, g + g) == groups", "use exists"),
        ("groups.filter(g, true) == groups", "use exists"),
        ("groups.exists(g, g.exists(h, h == g))", "within another macro"),
        ("groups.exists(g, groups.exists(h, h == g))", "'groups' within a macro"),
        ("claims.a.all(x, x in claims.a)", "'claims' within a macro"),
        ("claims.a.all(x, path.contains(x))", "'path' within a macro"),
        ("claims.a.all(x, x + x == x)", "'\\+' within a macro"),
        ("(groups + groups).all(g, g == 'a')", "of groups or of a claim"),
        ("[claims.a, claims.a].all(x, x == x)", "of groups or of a claim"),
        ("{1: groups}[1].all(g, g == 'a')", "of groups or of a claim"),
        ("dyn(groups).all(g, g == 'a')", "of groups or of a claim"),
        ("groups.all(g, g == 'a'" + " || g == 'a'" * 20 + ")", "a macro has more than"),
        ("size(groups" + "+ groups" * 20 + ") > 1", "'\\+' stands more than"),
        ("groups.exists(groups, true)", "the name is taken"),
        ("groups.exists(g)", r"list\.exists\(item, condition\)"),
        ("groups.exists(", r"list\.exists\(item, condition\)"),
        ("groups.exists(1, true)", r"list\.exists\(item, condition\)"),
        ("true", "always says the same"),
        ("1 == 2", "always says the same"),
        ("claims ==", "no CEL"),
        ("(groups", "no CEL"),
        ("groups)))", "no CEL"),
        ("claims{a: 1} == 1", "messages"),
        ("google.protobuf.Timestamp{} == now", "not known"),
        ("path == r'\\d'", "not known|raw"),
        ('path == """a"""', "triple"),
        ("path == b'a'", "not known|raw"),
        ("path == 'a\nb'", "not understood"),
        ("path == 'a", "not understood"),
        ("path == \u2019a\u2019", "not understood"),
        ("p\u00e1th == 'a'", "not understood"),
        ("path == '\ud800'", "Unicode"),
        ("path == '\x00' \x00", "not understood"),
        ("", "always says the same"),
        ("path == '" + "a" * MAX_SOURCE_BYTES + "'", "bytes long"),
        ("path == '" + "\u20ac" * (MAX_SOURCE_BYTES // 2) + "'", "bytes long"),
        ("(" * 25 + "groups" + ")" * 25, "brackets"),
        ("path" + "==path" * 500, "words and signs"),
    ],
)
def test_a_mistake_in_an_expression_is_a_mistake_at_load(source: str, says: str) -> None:
    """A typo is found when the file is read, and the message says what is known."""
    with pytest.raises(ConditionError, match=says) as caught:
        compile_conditions(source, None, effect="allow")
    assert caught.value.key == "when"
    assert len(caught.value.message) < 400


HOSTILE = {
    "brackets": "'('*4000",
    "balanced": "'('*2000 + 'path' + ')'*2000",
    "lists": "'['*2000 + ']'*2000",
    "maps": "'{1:'*1000 + '1' + '}'*1000",
    "nots": "'!'*4000 + 'true'",
    "minus": "'-'*4000 + '1 == 1'",
    "sum": "'1' + '+1'*2000 + ' == size(groups)'",
    "most operators": "'size(groups)' + '+1'*250 + ' == 251'",
    "most nots": "'!'*500 + '(path==path)'",
    "most ternaries": "'path==path?'*20 + 'true' + ':true'*20",
    "chain": "'claims' + '.a'*250 + ' == 1'",
    "most brackets": "'('*24 + 'path == path' + ')'*24",
    "macros": "'groups.exists(a,'*100 + 'true' + ')'*100",
    "doubling": "'groups' + '.map(x, x + x)'*200 + ' == groups'",
    "digits": "'9'*4000 + ' == size(groups)'",
    "duration": "'duration(\"' + '9'*3000 + 'h\") == duration(\"1s\") && path == path'",
    "timestamps": "'timestamp(\"' + '9'*3000 + '\") == now'",
    "smallest": "'size(groups) * (-9223372036854775807 - 1) / -1 == 0'",
    "remainder": "'(-9223372036854775807 - size(groups)) % -1 == 0'",
}


def test_a_hostile_expression_does_not_end_the_process() -> None:
    """Refused or run, in a thread with a small stack: the process that serves every other tenant lives on."""
    program = """
        import sys, threading
        from tests.policies.test_conditions import HOSTILE, ConditionError, outcome
        def judge():
            for name, shape in HOSTILE.items():
                print(name, file=sys.stderr, flush=True)
                try:
                    outcome(eval(shape))
                except ConditionError:
                    pass
            print("alive")
        threading.stack_size(256 * 1024)
        thread = threading.Thread(target=judge)
        thread.start()
        thread.join(20)
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=Path(__file__).parents[2],
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert run.stdout.strip() == "alive", f"it ended at the last of: {run.stderr[-500:]}"


def test_hostile_claims_cannot_be_known() -> None:
    """A claim that the library cannot take does no harm, and where nobody looks it does not even matter."""
    deep: dict[str, Any] = {}
    for _ in range(5000):
        deep = {"a": deep}
    for value in ("\ud800", {1, 2}, object(), deep):
        ana = Principal("login", "ana", claims={"region": "eu", "odd": value})
        assert outcome('claims.region == "eu"', of=facts(ana)) is True
        assert outcome("claims.odd == 1", of=facts(ana)) in {None, False}
        assert outcome("size(claims) == 0", of=facts(ana)) in {None, False}


@given(st.text(max_size=60))
def test_any_text_is_a_condition_or_a_mistake(source: str) -> None:
    """Whatever an operator types is compiled or refused with a sentence; nothing else is raised, now or later."""
    try:
        condition = compile_conditions(source, None, effect="allow")
    except ConditionError:
        return
    assert condition is not None
    with contextlib.suppress(ConditionUnknown):
        assert condition(facts()) in {True, False}


_SIGNS = (".", ",", "(", ")", "[", "]", "==", "!=", "&&", "||", "!", "-", "+", "<", "?", ":", "'a'", '"eu"', "1", "1.5")
_NAMES = ("claims", "groups", "path", "email", "now", "in", "has", "size", "exists", "all", "g", "region")
_WORDS = st.sampled_from((*_SIGNS, *_NAMES))


@given(st.lists(_WORDS, max_size=14).map(" ".join))
def test_any_row_of_words_is_a_condition_or_a_mistake(source: str) -> None:
    """The same for texts that look like CEL."""
    try:
        condition = compile_conditions(None, source, effect="deny")
    except ConditionError:
        return
    assert condition is not None
    with contextlib.suppress(ConditionUnknown):
        assert condition(facts()) in {True, False}
