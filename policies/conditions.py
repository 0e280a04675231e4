"""
Conditions of rules: ``when`` and ``unless``, compiled once to closures.

Decides what each short form means. CEL is ``expressions.py``'s business, and what an unknown condition means for a rule
is ``rbac.py``'s. A condition has three answers: True, False, and "cannot be known", which is raised. They are joined as
three-valued logic wants it (one False makes a conjunction False, whatever else is unknown), so that
``deny: {when: claims.region != "eu", unless: {groups: [sre]}}`` spares an sre whose token has no region.

Source: RFC 4291 section 2.5.5.2 (IPv4-mapped addresses); RFC 3986 section 3.3 (path segments).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any, Final, Literal
from urllib.parse import quote
from zoneinfo import ZoneInfo

from policies.expressions import ConditionUnknown, ExpressionError, compile_expression
from policies.peers import parse_address
from policies.tables import Condition, Facts
from policies.target import Target, canonical_target

DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
"""``datetime.weekday()`` is the index."""

_AS_IS: Final = bytes(range(0x20, 0x7F)).decode()
"""Letters outside of ASCII are escaped for the operator; everything else is judged as written."""


class ConditionError(Exception):
    """A condition that cannot be used."""

    def __init__(self, message: str, key: str) -> None:
        super().__init__(f"{key}: {message}")
        self.message = message
        """What is wrong and what was expected."""
        self.key = key
        """Where, from the rule on: ``when``, ``unless.source_ip``, ``when.time.zone``."""


def compile_conditions(
    when: str | Mapping[str, Any] | None,
    unless: str | Mapping[str, Any] | None,
    *,
    effect: Literal["allow", "deny"],
) -> Condition | None:
    """
    One condition for a rule that holds when ``when`` does and ``unless`` does not; None when neither is given.

    The condition returns True or False, or raises ``ConditionUnknown``. ``effect`` is that of the rule and tells the
    operator what a useless condition would have meant.

    Raises:
        ConditionError: a key, value or expression that cannot be used.
    """
    parts: list[Condition] = []
    if when is not None:
        parts.append(_compile(when, "when", effect))
    if unless is not None:
        parts.append(_negation(_compile(unless, "unless", effect)))
    return _conjunction(parts) if parts else None


def _compile(source: str | Mapping[str, Any], key: str, effect: str) -> Condition:
    if isinstance(source, str):
        try:
            return compile_expression(source)
        except ExpressionError as failure:
            raise ConditionError(str(failure), key) from failure
    tests = []
    for name, value in source.items():
        if value is None:
            continue
        compiler = _SHORT_FORMS.get(name)
        if compiler is None:
            raise ConditionError(f"{name!r} is not known; expected one of {', '.join(_SHORT_FORMS)}", f"{key}.{name}")
        tests.append(compiler(value, f"{key}.{name}"))
    if not tests:
        expected = f"expected one of {', '.join(_SHORT_FORMS)}; for a rule that always holds leave {key!r} out"
        raise ConditionError(f"nothing narrows the {effect} rule here; {expected}", key)
    return _conjunction(tests)


def _conjunction(tests: list[Condition]) -> Condition:
    if len(tests) == 1:
        return tests[0]
    parts = tuple(tests)

    def all_hold(facts: Facts) -> bool:
        unknown: ConditionUnknown | None = None
        for test in parts:
            try:
                if not test(facts):
                    return False
            except ConditionUnknown as failure:
                unknown = failure
        if unknown is not None:
            raise unknown
        return True

    return all_hold


def _negation(test: Condition) -> Condition:
    return lambda facts: not test(facts)


# --- short forms ----------------------------------------------------------------------------------------------------


def _texts(value: object, key: str) -> tuple[str, ...]:
    items = (value,) if isinstance(value, str) else value
    if not isinstance(items, list | tuple) or not items or not all(isinstance(item, str) and item for item in items):
        raise ConditionError("expected one text or a list of them, with at least one", key)
    return tuple(items)


def _groups(value: object, key: str) -> Condition:
    """Member of any of the groups; cannot be known of a caller whose groups cannot."""
    groups = frozenset(_texts(value, key))

    def is_member(facts: Facts) -> bool:
        if facts.principal.has_unknown_groups:
            raise ConditionUnknown("the caller's groups are not known")
        return not groups.isdisjoint(facts.principal.groups)

    return is_member


def _methods(value: object, key: str) -> Condition:
    methods = frozenset(_texts(value, key))
    for method in methods:
        if not method.isascii() or not method.replace("-", "").isalpha() or method != method.upper():
            raise ConditionError(f"{method!r} is no HTTP method; expected capitals such as GET", key)
    return lambda facts: facts.request.method in methods


def _source_ip(value: object, key: str) -> Condition:
    """In any of the networks. IPv4-mapped IPv6 addresses, on either side, are the IPv4 addresses they stand for."""
    networks = tuple(_network(text, key) for text in _texts(value, key))

    def is_in(facts: Facts) -> bool:
        version, address = _address(facts.request.client_ip)
        return any(of == version and address & mask == network for of, mask, network in networks)

    return is_in


def _network(text: str, key: str) -> tuple[int, int, int]:
    """(version, mask, network address)."""
    try:
        network = ip_network(text)
    except ValueError:
        try:
            hint = f"; did you mean {ip_network(text, strict=False)}?"
        except ValueError:
            hint = ""
        raise ConditionError(
            f"{text!r} is no network; expected such as 10.0.0.0/8 or 2001:db8::/32{hint}", key
        ) from None
    if isinstance(network, IPv6Network) and network.prefixlen >= 96 and network.network_address.ipv4_mapped is not None:
        network = IPv4Network((network.network_address.ipv4_mapped, network.prefixlen - 96))
    return network.version, int(network.netmask), int(network.network_address)


@lru_cache(maxsize=4096)
def _address(text: str) -> tuple[int, int]:
    """(version, address). Remembered: parsing costs 2 us and clients come again."""
    address = parse_address(text)
    if address is None:
        raise ConditionUnknown("the client's address is not known")
    return address.version, int(address)


def _path_prefix(value: object, key: str) -> Condition:
    """
    The function-relative path is the prefix or below it, by segments: ``/a`` holds for ``/a/b`` and not for ``/ab``.

    Some functions read ``%2F`` as a slash (where they may have it at all) and cut ``;parameters`` off a segment. A path
    that lies below the prefix in one reading and not in the other cannot be known: ``/admin;x`` does not slip through a
    rule on ``/admin``.
    """
    prefixes = tuple(_prefix(text, key) for text in _texts(value, key))

    def is_below(path: str) -> bool:
        return any(path == prefix or path.startswith(f"{prefix}/") for prefix in prefixes)

    def holds(facts: Facts) -> bool:
        path = facts.path
        held = is_below(path)
        if ("%2F" in path or ";" in path) and is_below(_cut(path)) is not held:
            raise ConditionUnknown("an encoded slash or a semicolon hides what the path means")
        return held

    return holds


def _cut(path: str) -> str:
    """The path as the most generous reader takes it."""
    return "/".join([segment.partition(";")[0] for segment in path.replace("%2F", "/").split("/")])


def _prefix(text: str, key: str) -> str:
    """The prefix as canonical paths are spelt, without a trailing slash; ``""`` for ``/``."""
    target = canonical_target(quote(text, _AS_IS, errors="surrogatepass").encode())
    if not isinstance(target, Target):
        raise ConditionError(f"{text!r} can never match: {target.detail}", key)
    if target.query is not None:
        raise ConditionError(f"{text!r} can never match: a path has no '?'", key)
    return target.path.rstrip("/")


def _time(value: object, key: str) -> Condition:
    """
    From ``from`` (inclusive) to ``to`` (exclusive) on ``days``, by the clock of ``zone``.

    A window with ``to`` before ``from`` goes over midnight and belongs to the day on which it opens.
    """
    if not isinstance(value, Mapping):
        raise ConditionError("expected {from: HH:MM, to: HH:MM, days: [mon, …], zone: Europe/Madrid}", key)
    given = {name.removesuffix("_"): item for name, item in value.items() if item is not None}
    for name in given:
        if name not in {"from", "to", "days", "zone"}:
            raise ConditionError(f"{name!r} is not known; expected from, to, days or zone", f"{key}.{name}")
    opens = _minute(given.get("from", "00:00"), f"{key}.from")
    closes = _minute(given.get("to", "24:00"), f"{key}.to")
    if opens == 24 * 60:
        raise ConditionError("24:00 is where a day ends; a window that begins with a day is from 00:00", f"{key}.from")
    if opens == closes:
        raise ConditionError("from and to are the same; leave both out for the whole day", f"{key}.to")
    days = _days(given.get("days", list(DAYS)), f"{key}.days")
    zone = _zone(given.get("zone", "UTC"), f"{key}.zone")

    def holds(facts: Facts) -> bool:
        local = _local(facts.now, zone)
        minute = local.hour * 60 + local.minute
        today = local.weekday()
        if opens < closes:
            return opens <= minute < closes and today in days
        return (minute >= opens and today in days) or (minute < closes and (today - 1) % 7 in days)

    return holds


def _local(now: float, zone: tzinfo) -> datetime:
    try:
        return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=now)).astimezone(zone)
    except (OverflowError, ValueError) as failure:
        raise ConditionUnknown("the time is not known") from failure


def _minute(value: object, key: str) -> int:
    """Minutes since midnight of ``HH:MM``, up to 24:00."""
    text = value if isinstance(value, str) else ""
    hours, colon, minutes = text.partition(":")
    if colon and len(hours) == len(minutes) == 2 and (hours + minutes).isascii() and (hours + minutes).isdigit():
        minute = int(hours) * 60 + int(minutes)
        if minute <= 24 * 60 and int(minutes) < 60:
            return minute
    raise ConditionError(f"{value!r} is no time of day; expected HH:MM, in quotes", key)


def _days(value: object, key: str) -> frozenset[int]:
    days = _texts(value, key)
    for day in days:
        if day not in DAYS:
            raise ConditionError(f"{day!r} is no day; expected one of {', '.join(DAYS)}", key)
    return frozenset(DAYS.index(day) for day in days)


def _zone(value: object, key: str) -> tzinfo:
    if value == "UTC":
        return UTC
    try:
        return ZoneInfo(str(value))
    # A name that leaves the time zone folder is a ValueError, one that names a folder of it an OSError.
    except (KeyError, ValueError, OSError):
        raise ConditionError(f"{value!r} is no time zone; expected a name such as Europe/Madrid or UTC", key) from None


_SHORT_FORMS: Final[Mapping[str, Callable[[object, str], Condition]]] = {
    "groups": _groups,
    "source_ip": _source_ip,
    "methods": _methods,
    "path_prefix": _path_prefix,
    "time": _time,
}

__all__ = ["ConditionError", "ConditionUnknown", "compile_conditions"]
