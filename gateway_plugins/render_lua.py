"""
The three Lua snippets as Kong gets them: their tables filled in from the one place that knows names of fields.

``lua/*.lua`` name what they need (``PORTERO_KEPT`` ...) and are errors without it, so that a snippet that was not
rendered refuses every request. Which names a function may see stands in ``policies.header_fields`` and nowhere else;
here it is only said in Lua, with every punctuation folded as ``classify`` folds it. It refuses to know policies.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from typing import Final

from policies.decision import Deny, Reason
from policies.header_fields import (
    ANSWER_CACHING,
    ANSWER_CORS,
    ANSWER_EXACT,
    CALLBACK_URL,
    EXACT,
    HOP,
    HOP_BY_HOP,
    OUR_COOKIE_PREFIX,
    OUR_NAMES,
    OUR_PREFIXES,
    OURS,
    TARGETED_CACHING,
)
from policies.problem import problem
from policies.request import MAX_FIELDS, TOO_MANY_FIELDS

FACTS: Final = "facts"
ADMIT: Final = "admit"
ANSWER: Final = "answer"
OUR_ANSWER_PREFIX: Final = "x-portero-"
"""Folded beginning of the answer fields that a function cannot say (``classify_answer``)."""
_FRAMING: Final = frozenset({"transfer-encoding"})
"""nginx reads and writes it itself; what Lua sees of it is the answer's own."""
MAX_NGINX_FIELDS: Final = 2 * MAX_FIELDS
"""Up to so many reach the plugin, which refuses what is too many for it, and says so in the audit log."""
_NOT_JUDGED: Final = Deny(Reason.POLICY_UNAVAILABLE, "nobody can be asked at the moment whether this is allowed")
_ID: Final = "\N{BULLET}"
"""Stands for the request's id, which only nginx knows; nothing that Portero writes holds it."""
_PLACEHOLDER: Final = re.compile(r"\bPORTERO_[A-Z_]+\b")


@cache
def snippet(name: str) -> str:
    """
    ``facts``, ``admit`` or ``answer``: Lua text for an array of pre-function or post-function, without comment lines.

    Raises: KeyError when the file names a table that nobody fills in: a defect.
    """
    text = files("gateway_plugins").joinpath("lua", f"{name}.lua").read_text("utf-8")
    tables = _tables()
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("--")]
    return _PLACEHOLDER.sub(lambda found: tables[found[0]], "\n".join(lines)) + "\n"


def kept_names() -> frozenset[str]:
    """
    Request fields whose exact spelling survives ``facts.lua``: nginx, Kong or a neighbour reads them, or a function.

    Not what a stranger could speak for somebody else with, although Portero reads it: those stand in the facts.
    """
    return frozenset(name for name, kind in EXACT.items() if kind != CALLBACK_URL and not name.startswith(OUR_PREFIXES))


def removed_names() -> frozenset[str]:
    """Folded names that ``facts.lua`` removes, in whatever spelling is not one of ``kept_names``."""
    return frozenset(EXACT) | HOP_BY_HOP | OUR_NAMES


@cache
def _tables() -> Mapping[str, str]:
    return {
        "PORTERO_KEPT": _set(kept_names()),
        "PORTERO_REMOVED": _set(removed_names()),
        "PORTERO_PREFIXES": "{ " + ", ".join(map(lua_string, OUR_PREFIXES)) + " }",
        "PORTERO_MAX_FIELDS": str(MAX_NGINX_FIELDS),
        "PORTERO_REFUSAL_TOO_MANY_FIELDS": _refusal(TOO_MANY_FIELDS),
        "PORTERO_REFUSAL_BAD_REQUEST": _refusal(Deny(Reason.BAD_REQUEST)),
        "PORTERO_REFUSAL_POLICY_UNAVAILABLE": _refusal(_NOT_JUDGED),
        "PORTERO_ANSWER_REMOVED": _set((HOP_BY_HOP | _answers(HOP) | _answers(OURS)) - _FRAMING),
        "PORTERO_ANSWER_CORS": _set(_answers(ANSWER_CORS)),
        "PORTERO_ANSWER_CACHING": _set(_answers(ANSWER_CACHING)),
        "PORTERO_ANSWER_CACHING_ENDING": lua_string(TARGETED_CACHING),
        "PORTERO_ANSWER_PREFIX": lua_string(OUR_ANSWER_PREFIX),
        "PORTERO_COOKIE_PREFIX": lua_string(OUR_COOKIE_PREFIX.decode("ascii")),
    }


def _answers(kind: int) -> frozenset[str]:
    return frozenset(name for name, its in ANSWER_EXACT.items() if its == kind)


def _refusal(deny: Deny) -> str:
    """Its problem document, in two halves around the request's id."""
    said = problem(deny, "")
    before, after = json.dumps({**(said.members or {}), "request_id": _ID}, ensure_ascii=False).split(_ID)
    fields = sorted((name, value) for name, value in said.fields if name != "X-Request-Id")
    pairs = ", ".join(f"[{lua_string(name)}] = {lua_string(value)}" for name, value in fields)
    halves = f"before_id = {lua_string(before)}, after_id = {lua_string(after + chr(10))}"
    return f"{{ status = {said.status}, {halves}, fields = {{ {pairs} }} }}"


def _set(names: Iterable[str]) -> str:
    return "{ " + ", ".join(f"[{lua_string(name)}] = true" for name in sorted(names)) + " }"


def lua_string(text: str) -> str:
    """``text`` as a Lua literal. Raises: ValueError when it is not ASCII: nothing here is anything else."""
    if not text.isascii():
        raise ValueError(f"{text!r} is not ASCII")
    shown = [c if " " <= c <= "~" and c not in '"\\' else f"\\{ord(c):03d}" for c in text]
    return '"' + "".join(shown) + '"'
