"""
Whether a Kong configuration still is what the policies say, by meaning: what is missing, foreign or different.

Compared are entities by their names and what they say, not text: order, nesting, ids and defaults that Kong or decK
have added say nothing. Entities with Portero's tag or name that the policies do not explain are foreign. Entities of
the operator's are ignored, but where they would take requests of a tenant away from the plugin: a route that Kong asks
before ours, a plugin that stands nearer to the route than one of ours, or one that answers by itself. It reads no
files and asks no Kong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import yaml

from gateway_plugins.kong_entities import Entities, Entity, read_entities, without_defaults
from gateway_plugins.render import CHAIN, TAG, all_services
from gateway_plugins.render_rules import flaws, names_twice, place
from policies.tables import PolicySet

_RENDER: Final = "render anew and load the result"
_MISREAD: Final = "Kong would not take it as it is meant."
_OWN_PLUGINS: Final = frozenset({"pre-function", "post-function", "portero", *CHAIN})
_ANSWERING: Final = frozenset({"aws-lambda", "azure-functions", "openwhisk", "proxy-cache", "proxy-cache-advanced"})
"""Run between ours, and answer with what somebody else may not have: Kong goes on without a plugin that is down."""
_CRITERIA: Final = ("hosts", "paths", "methods", "headers", "snis", "sources", "destinations")
_OUR_CRITERIA: Final = 2
"""A tenant's routes have hosts and paths; Kong asks routes with more criteria first."""
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Ten times as fast where PyYAML was built with libyaml."""
_MAX_SHOWN_CHARS: Final = 80
_MAX_NODES: Final = 1_000_000
"""A thousand tenants with a hundred routes each are about as many."""


def drift(policies: PolicySet, *texts: str, chain: bool | None = None) -> list[str]:
    """
    Sentences that say what differs and what to do, by kinds of entities; empty when nothing does.

    Args:
        policies: what should be.
        texts: the configuration as YAML or JSON; several files are loaded together (``--split tenant``).
        chain: as it was rendered; None: as it looks.
    """
    actual = Entities([], [], [])
    said: list[str] = []
    for one in texts:
        document = _read(one)
        if isinstance(document, str):
            return [document]
        said += [f"{flaw} {_MISREAD}" for flaw in flaws(document, tag=TAG)]
        for known, read in zip(actual, read_entities(document), strict=True):
            known.extend(read)
    if chain is None:
        chain = any(one.get("name") in CHAIN and _is_tagged(one) for one in actual.plugins)
    said += [flaw for one in names_twice(actual) if (flaw := f"{one} {_MISREAD}") not in said]
    expected = read_entities({"services": all_services(policies, chain=chain)})
    said += _compare("services", "service", expected.services, actual.services)
    told = _missing_or_foreign(expected.services, actual.services)
    said += _compare("routes", "route", _outside(told, expected.routes), _outside(told, actual.routes))
    said += _compare("plugins", "plugin", _outside(told, expected.plugins), _outside(told, actual.plugins))
    said += _taken_by_routes(policies, expected, actual)
    said += _taken_by_plugins(expected, actual)
    return said


def _read(text: str) -> Mapping[str, Any] | str:
    try:
        document = yaml.load(text, _LOADER)  # noqa: S506  (safe: one of the two below)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        return f"The file cannot be read as YAML ({type(error).__name__}); {_RENDER}."
    if not isinstance(document, Mapping):
        return f"The file holds no configuration of Kong's; {_RENDER}."
    if not _is_bounded(document):
        return f"The file holds more than {_MAX_NODES} values, aliases written out; it cannot be compared."
    return document


def _is_bounded(document: object) -> bool:
    """YAML's aliases make a small file a large or endless one."""
    waiting, count = [document], 0
    while waiting:
        value = waiting.pop()
        count += 1
        if count > _MAX_NODES:
            return False
        if isinstance(value, Mapping):
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
    return True


# -- what should be and what is --------------------------------------------------------------------------------------


def _key(kind: str, entity: Entity) -> str:
    if kind == "plugins":
        return f"{entity.get('name')} of {place(entity)}"
    return str(entity.get("name"))


def _is_tagged(entity: Entity) -> bool:
    tags = entity.get("tags")
    return isinstance(tags, list) and TAG in tags


def _missing_or_foreign(expected: Sequence[Entity], actual: Sequence[Entity]) -> set[str]:
    """Names of services of which one sentence says all: what belongs to them comes and goes with them."""
    wanted, there = {str(one.get("name")) for one in expected}, {str(one.get("name")) for one in actual}
    return (wanted - there) | {
        name for one in actual if _is_tagged(one) and (name := str(one.get("name"))) not in wanted
    }


def _outside(services: set[str], entities: Sequence[Entity]) -> list[Entity]:
    return [one for one in entities if str(one.get("service")) not in services]


def _compare(kind: str, word: str, expected: Sequence[Entity], actual: Sequence[Entity]) -> Iterator[str]:
    there = {_key(kind, one): one for one in actual}
    counts = Counter(_key(kind, one) for one in actual)
    differing: dict[tuple[str, str], list[str]] = {}
    for wanted in expected:
        key = _key(kind, wanted)
        if kind == "plugins" and counts[key] > 1:
            yield f"The plugin {key} stands there twice; take away the one that is not Portero's."
        found = there.pop(key, None)
        if found is None:
            yield f"The {word} {key} is missing; {_RENDER}."
        elif differences := list(_differences(kind, wanted, found)):
            differing.setdefault((str(wanted.get("service")), "; ".join(differences)), []).append(key)
    for (_, text), keys in differing.items():
        who = f"{word} {keys[0]} differs" if len(keys) == 1 else f"{word}s {keys[0]} and {len(keys) - 1} more differ"
        yield f"The {who}: {text}; {_RENDER}."
    for key, foreign in there.items():
        if _is_tagged(foreign):
            yield (
                f"The {word} {key} has the tag {TAG} and no policy speaks of it; {_RENDER}, or take the tag off if it "
                "is yours."
            )


def _differences(kind: str, wanted: Entity, found: Entity) -> Iterator[str]:
    ours, theirs = without_defaults(kind, wanted), without_defaults(kind, found)
    for field in sorted(ours.keys() | theirs.keys()):
        want, have = ours.get(field), theirs.get(field)
        if want == have or (field == "config" and not want and not have):
            continue
        if field == "config":
            parts = [
                part
                for part in sorted({*(want or {}), *(have or {})})
                if (want or {}).get(part) != (have or {}).get(part)
            ]
            yield f"config.{', config.'.join(parts)} is not what is rendered"
        else:  # with the defaults: that Kong or somebody has written them out is what an operator finds in the file
            yield f"{field} is {_shown(found.get(field))}, expected {_shown(wanted.get(field))}"


def _shown(value: object) -> str:
    if value in (None, [], {}):
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    text = ", ".join(sorted(map(str, value))) if isinstance(value, list) else str(value)
    return text if len(text) <= _MAX_SHOWN_CHARS else text[: _MAX_SHOWN_CHARS - 1] + "\N{HORIZONTAL ELLIPSIS}"


# -- the operator's own, where it is in the way ----------------------------------------------------------------------


def _taken_by_routes(policies: PolicySet, expected: Entities, actual: Entities) -> Iterator[str]:
    ours = {one["name"] for one in expected.routes}
    hosts = sorted({*policies.hosts, *(f"*{suffix}" for suffix in policies.wildcard_hosts)})
    for route in actual.routes:
        if route.get("name") in ours or _is_tagged(route):
            continue
        name = route.get("name") or "without a name"
        if route.get("expression"):
            yield (
                f"The route {name} is an expression, which goes before every route by hosts and paths; make sure that "
                "it leaves the tenants' hosts alone."
            )
        elif taken := [host for host in hosts if _takes(route, host)]:
            yield (
                f"The route {name} would take requests for {_shown(taken)} away from Portero; give it hosts of its "
                "own, or put its paths into the tenant's policy."
            )


def _takes(route: Entity, host: str) -> bool:
    """
    Whether Kong could ask ``route`` before the tenant's routes of ``host``.

    More criteria go first; of as many, exact hosts before wildcards (traditional_compatible), hosts with headers before
    hosts with paths, and of those the path decides, so that any path under the host is one taken away.
    """
    criteria = {field for field in _CRITERIA if route.get(field)}
    if "hosts" not in criteria:
        # As many criteria weigh less than exact hosts, not than wildcards (traditional_compatible).
        return len(criteria) > _OUR_CRITERIA or (len(criteria) == _OUR_CRITERIA and host.startswith("*."))
    if not any(_overlap(str(one), host) for one in route["hosts"]):
        return False
    if host.startswith("*.") and len(criteria) == _OUR_CRITERIA and not any("*" in str(one) for one in route["hosts"]):
        return True
    return len(criteria) > _OUR_CRITERIA or bool(criteria & {"paths", "headers"})


def _overlap(theirs: str, ours: str) -> bool:
    """Whether some host matches both; either may be a wildcard at its beginning, and ``theirs`` at its end."""
    theirs = theirs.lower()
    address, bracket, _ = theirs.partition("]")
    theirs = address + bracket if bracket else theirs.partition(":")[0]
    if theirs.endswith(".*"):
        return ours.startswith(("*.", theirs[:-1]))
    if theirs.startswith("*.") and ours.startswith("*."):
        return theirs[1:].endswith(ours[1:]) or ours[1:].endswith(theirs[1:])
    if theirs.startswith("*."):
        return ours.endswith(theirs[1:])
    if ours.startswith("*."):
        return theirs.endswith(ours[1:])
    return theirs == ours


def _taken_by_plugins(expected: Entities, actual: Entities) -> Iterator[str]:
    """Kong runs one configuration of a plugin, that nearest to the request: ours stand on the services."""
    services = {one["name"] for one in expected.services}
    routes = {one["name"] for one in expected.routes}
    for plugin in actual.plugins:
        service, route = _referred(plugin, "service"), _referred(plugin, "route")
        is_everywhere = service is None and route is None
        is_enabled = plugin.get("enabled") is not False
        if (
            plugin.get("name") in _ANSWERING
            and is_enabled
            and (service in services or route in routes or is_everywhere)
        ):
            yield (
                f"The plugin {plugin['name']} of {place(plugin)} answers instead of a function, also while Portero "
                "cannot be asked, and then anybody; attach it to services of your own."
            )
        if plugin.get("name") not in _OWN_PLUGINS or not is_enabled or _is_tagged(plugin):
            continue
        is_nearer = (
            route in routes
            or (service in services and plugin.get("consumer") is not None)
            or (is_everywhere and _is_of_consumers(plugin))
        )
        if is_nearer:
            yield (
                f"The plugin {plugin['name']} of {place(plugin)} would run instead of Portero's own, and every request "
                "would be refused; attach it elsewhere, or do the same by another plugin."
            )


def _referred(plugin: Entity, kind: str) -> str | None:
    """The name of what the plugin is attached to; empty for what is no name, None when it is attached to none."""
    named = plugin.get(kind)
    return named if named is None or isinstance(named, str) else ""


def _is_of_consumers(plugin: Entity) -> bool:
    return bool(plugin.get("consumer") or plugin.get("consumer_group"))


def summary(sentences: Iterable[str]) -> str:
    """The sentences as ``kong check`` prints them, one a line; says so when there are none."""
    lines = list(sentences)
    return "\n".join(lines) if lines else "The configuration is what the policies say."
