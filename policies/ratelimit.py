"""
``RateLimit-Policy`` and ``RateLimit``: what is left of the limits that applied, for the caller who spends them.

What never changes of a limit (its name and its policy item) is written once, when its ``Check`` is made; an answer adds
two numbers. Refuses to know which limits apply.

Source: draft-ietf-httpapi-ratelimit-headers-10 sections 3 and 4; RFC 9651 (structured fields).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from policies.decision import LimitState

MAX_INTEGER: Final = 999_999_999_999_999
"""RFC 9651 section 3.3.1."""


def sf_string(text: str) -> str:
    """``text`` as a String (RFC 9651 section 3.3.3); what is not visible ASCII becomes ``?``."""
    visible = text if text.isascii() and text.isprintable() else "".join([c if " " <= c <= "~" else "?" for c in text])
    return '"' + visible.replace("\\", "\\\\").replace('"', '\\"') + '"'


def sf_integer(number: int) -> int:
    """``number`` within what an Integer may be; never negative here."""
    return min(max(0, number), MAX_INTEGER)


def policy_item(id_: str, quota: int, window_s: int) -> tuple[str, str]:
    """(the limit's name, its item of ``RateLimit-Policy``)."""
    name = sf_string(id_)
    return name, f"{name};q={sf_integer(quota)};w={max(1, sf_integer(window_s))}"


def ratelimit_fields(states: Iterable[LimitState]) -> tuple[tuple[str, str], ...]:
    """
    Both fields, limits in the order of ``states``; empty when no limit applied.

    Keys (``pk``) are left out: they would name a caller.
    """
    policies = []
    left = []
    for id_, quota, window_s, remaining, reset_s, name, policy in states:
        if name:  # made by a ``Check``: its numbers are in range (``gcra.MAX_AHEAD_US``)
            policies.append(policy)
            left.append(f"{name};r={remaining};t={reset_s}")
        else:
            made, item = policy_item(id_, quota, window_s)
            policies.append(item)
            left.append(f"{made};r={sf_integer(remaining)};t={sf_integer(reset_s)}")
    if not policies:
        return ()
    return (("RateLimit-Policy", ", ".join(policies)), ("RateLimit", ", ".join(left)))
