"""
Which requests a sleeping function is not woken for: health checks, HEAD, robots, whatever its policy names.

Asked only of a function that sleeps, after the caller was allowed to invoke it. A caller chooses its method, path and
User-Agent: the worst that a lie brings is that nothing is woken. Refuses to know whether the function sleeps.
"""

from __future__ import annotations

import re
from typing import Final

from policies.decision import Answer, Deny
from policies.request import AccessRequest
from policies.tables import NoWake, Place

ROBOTS: Final = (
    "bot/",
    "bot;",
    "-bot",
    "googlebot",
    "bingbot",
    "baiduspider",
    "yandexbot",
    "duckduckbot",
    "applebot",
    "gptbot",
    "claudebot",
    "ccbot",
    "crawler",
    "spider",
    "slurp",
    "facebookexternalhit",
    "kube-probe/",
    "elb-healthchecker",
    "uptimerobot",
    "pingdom",
)
"""Pieces of the User-Agent of well-known crawlers and monitors, lower case."""
_USER_AGENT: Final = re.compile(rb"^user-agent:([^\r\n]*)", re.IGNORECASE | re.MULTILINE)


def no_wake_rule(place: Place, request: AccessRequest) -> NoWake | None:
    """The first rule of the function that the request falls under; None: it may wake it."""
    rules = place.spec.cold_start.no_wake
    if not rules:
        return None
    agent: str | None = None
    for rule in rules:
        if rule.methods is not None and request.method not in rule.methods:
            continue
        if rule.paths is not None and not any(pattern.matches(place.path) for pattern in rule.paths):
            continue
        if rule.user_agents is not None:
            if agent is None:
                agent = _user_agent(request)
            if not any(piece in agent for piece in rule.user_agents):
                continue
        return rule
    return None


def asleep_answer(place: Place, request: AccessRequest, refusal: Deny) -> Answer | Deny:
    """What a request gets that met a sleeping function and may not wake it: its rule's own status, or ``refusal``."""
    rule = no_wake_rule(place, request)
    if rule is None or rule.status is None:
        return refusal
    fields = [("Cache-Control", "no-store")]
    if rule.status >= 500 and refusal.retry_after_s is not None:
        fields.append(("Retry-After", str(refusal.retry_after_s)))
    return Answer(rule.status, tuple(fields), place.tenant.name, refusal)


def _user_agent(request: AccessRequest) -> str:
    match = _USER_AGENT.search(request.forward_block)
    return "" if match is None else match[1].decode("latin-1").strip().lower()
