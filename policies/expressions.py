"""
CEL expressions of policy files: compiled at load, run on requests. The only module that knows the CEL library.

An operator's expression is hostile until read: a tenant's editor must not be able to stop the process that serves every
other tenant. So the source is scanned before the library sees it, and what could cost more than one pass over the
request's facts is refused at load:

- more than ``MAX_SOURCE_BYTES``, ``MAX_TOKENS`` or ``MAX_DEPTH`` open brackets (the library walks expressions by
  recursion);
- ``map`` and ``filter`` (the library builds their lists in quadratic time, and chained they double strings without
  end) and macros within macros; ``all``, ``exists`` and ``exists_one`` stay, over a list of the request's facts, and
  what they ask of each item is short and looks at the item and short facts alone: ``x in claims.list`` for each ``x``
  of a list of thousands takes half a second;
- more than ``MAX_SUMS`` signs ``+`` (lists are copied for each), and any within a macro;
- ``matches`` (the library compiles the pattern for each request anew: 20 us for a plain one, 30 ms for a hostile one);
- raw, bytes and triple-quoted strings and comments, where two scanners could disagree on what is code.

A name that is not declared, or a function that the library does not have, is a mistake at load. At run time everything
that is not True or False raises ``ConditionUnknown``.

Source: Common Expression Language specification (github.com/google/cel-spec, doc/langdef.md).

Longer than other modules: each bound on an expression stands beside the reason for it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import cel

from policies.tables import Condition, Facts

MAX_SOURCE_BYTES: Final = 4096
MAX_TOKENS: Final = 512
"""The library recurses once per operator of a chain; 2,000 still pass on an 8 MiB stack, threads may have less."""
MAX_SUMS: Final = 16
"""Signs ``+``: 250 of them between lists of a thousand take two seconds."""
MAX_MACRO_TOKENS: Final = 64
"""Of one macro, its brackets included. Asked of each of thousands of items: some 5 ms."""
_MACRO_FACTOR: Final = 20
"""What a word within a macro weighs more than one outside."""
_LIST_WEIGHT: Final = 20
"""Of handing over claims or groups at all: a list of 3,000 takes 0.4 ms."""
MAX_DEPTH: Final = 24
"""Open brackets; the library itself gives up with an error at about 96."""


class ConditionUnknown(Exception):
    """Whether a condition holds cannot be known: a fact is missing, or the expression failed on it."""


class ExpressionError(Exception):
    """An expression that cannot be used; says why and what could be written instead."""


def _email(facts: Facts) -> str:
    if facts.principal.email is None:
        raise ConditionUnknown("the caller has no verified email")
    return facts.principal.email


def _groups(facts: Facts) -> list[str]:
    if facts.principal.has_unknown_groups:
        raise ConditionUnknown("the caller's groups are not known")
    return sorted(facts.principal.groups)


VARIABLES: Final[Mapping[str, Callable[[Facts], Any]]] = {
    "claims": lambda facts: dict(facts.principal.claims),
    "groups": _groups,
    "subject": lambda facts: facts.principal.subject,
    "provider": lambda facts: facts.principal.provider,
    "email": _email,
    "method": lambda facts: facts.request.method,
    "path": lambda facts: facts.path,
    "function_name": lambda facts: facts.function,
    "host": lambda facts: facts.request.host,
    "source_ip": lambda facts: facts.request.client_ip,
    "now": lambda facts: datetime.fromtimestamp(facts.now, UTC),
}
"""
What an expression may look at. ``email`` of a caller without one, ``groups`` of one whose groups could not be read and
a claim that is absent cannot be known.
"""

_DESCRIBED: Final = (
    "claims (map), groups (list), subject (provider|sub), provider, email, method, path (function-relative), "
    "function_name, host, source_ip (string), now (timestamp)"
)

_TIME_PARTS: Final = (
    "FullYear",
    "Month",
    "Date",
    "DayOfMonth",
    "DayOfYear",
    "DayOfWeek",
    "Hours",
    "Minutes",
    "Seconds",
)
FUNCTIONS: Final = frozenset(
    {"contains", "startsWith", "endsWith", "size", "has", "int", "uint", "double", "string", "type", "dyn"}
    | {"timestamp", "duration", *(f"get{part}" for part in _TIME_PARTS), "getMilliseconds"}
)
MACROS: Final = frozenset({"all", "exists", "exists_one", "existsOne"})
"""Macros that look at each item of a list once."""
_LONG: Final = frozenset({"claims", "groups", "path"})
"""Facts that may be as long as the list of a macro: not to be looked at again for each of its items."""
_WORDS: Final = frozenset({"true", "false", "null", "in", "int", "uint", "double", "string", "bool", "list", "map"})
"""Literals, the one operator that is spelt as a word, and the names of types (for ``type(x) == int``)."""

_INSTEAD: Final = {
    "matches": "its cost is not bounded; use startsWith, endsWith, contains or path_prefix",
    "map": "its cost is not bounded; use exists or all",
    "filter": "its cost is not bounded; use exists or all",
}

_TOKEN: Final = re.compile(
    r"""(?P<space>[ \t\r\n\f]+)
      | (?P<string>"(?:[^"\\\r\n]|\\.)*"|'(?:[^'\\\r\n]|\\.)*')
      | (?P<number>(?:0[xX][0-9a-fA-F]+|[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)[uU]?)
      | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
      | (?P<mark>&&|\|\||==|!=|<=|>=|[-+*/%!<>?:.,()\[\]{}])""",
    re.VERBOSE,
)


class _Token(NamedTuple):
    kind: str
    text: str


class _Needs(NamedTuple):
    """What an expression reads."""

    variables: frozenset[str]
    claims: frozenset[str] | None
    """Top-level claims it names; None: it looks at ``claims`` as a whole."""


def compile_expression(source: str) -> Condition:
    """
    Compile ``source`` to a condition.

    Raises:
        ExpressionError: it is too long or too deep, is no CEL, names what does not exist, uses what is refused (see
            the module), or looks at nothing of the request and so always says the same.
    """
    needs = _Scanner(_tokens(source)).scan()
    if not needs.variables:
        raise ExpressionError(f"it looks at nothing of the request, so it always says the same; known: {_DESCRIBED}")
    try:
        program = cel.compile(source)
    except ValueError as failure:
        raise ExpressionError(f"no CEL: {_parser_says(failure)}") from failure
    return _condition(program, needs)


def weight(source: str) -> int:
    """What running ``source`` costs at most, in words looked at once; 0 for one that cannot be used."""
    try:
        scanner = _Scanner(_tokens(source))
        scanner.scan()
    except ExpressionError:
        return 0
    handed_over = _LIST_WEIGHT if scanner.variables & {"claims", "groups"} else 0
    return len(scanner.tokens) + _MACRO_FACTOR * scanner.macro_tokens + handed_over


def _condition(program: cel.Program, needs: _Needs) -> Condition:
    readers = tuple(
        (name, _claims_reader(needs.claims) if name == "claims" else VARIABLES[name]) for name in needs.variables
    )
    execute = program.execute

    def condition(facts: Facts) -> bool:
        try:
            answer = execute({name: read(facts) for name, read in readers})
        except ConditionUnknown:
            raise
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as failure:  # a panic of the library is no Exception, and must not pass for an answer
            raise ConditionUnknown(_said(failure)) from failure
        if answer is True or answer is False:
            return answer
        raise ConditionUnknown(f"the expression yields {type(answer).__name__} and not true or false")

    return condition


def _claims_reader(names: frozenset[str] | None) -> Callable[[Facts], Any]:
    """Only what is named is handed over: 4 us instead of 26 for a usual token, and odd claims elsewhere do no harm."""
    if names is None:
        return VARIABLES["claims"]
    wanted = tuple(sorted(names))

    def read(facts: Facts) -> dict[str, Any]:
        claims = facts.principal.claims
        return {name: claims[name] for name in wanted if name in claims}

    return read


def _tokens(source: str) -> list[_Token]:
    try:
        size = len(source.encode())
    except UnicodeEncodeError:
        raise ExpressionError("it holds characters that are not Unicode text (lone surrogates)") from None
    if size > MAX_SOURCE_BYTES:
        raise ExpressionError(f"it is {size} bytes long; at most {MAX_SOURCE_BYTES} are read")
    tokens: list[_Token] = []
    position = 0
    was_string_at = -1
    while position < len(source):
        match = _TOKEN.match(source, position)
        if match is None or source.startswith("//", position):
            what = "a comment" if source.startswith("//", position) else repr(source[position])
            raise ExpressionError(f"{what} at character {position + 1} is not understood")
        kind = match.lastgroup or ""
        if kind == "string" and position == was_string_at:
            raise ExpressionError(f"a raw, bytes or triple-quoted string at character {position + 1} is not understood")
        position = match.end()
        # A string that touches a name or a string before it is b"..", r".." or """..""" and no string of ours.
        was_string_at = position if kind in {"string", "name"} else -1
        if kind != "space":
            tokens.append(_Token(kind, match.group()))
        if len(tokens) > MAX_TOKENS:
            raise ExpressionError(f"it has more than {MAX_TOKENS} words and signs")
    return tokens


class _Scanner:
    """One pass over the tokens: every name is declared, every function known, nothing nested too deep."""

    def __init__(self, tokens: list[_Token]) -> None:
        self.tokens = tokens
        self.variables: set[str] = set()
        self.claims: set[str] = set()
        self.reads_all_claims = False
        self.open: list[str] = []
        self.macro_depth: int | None = None
        """Number of brackets that are open inside the macro being read; None outside of macros."""
        self.bound = ""
        """The macro's own variable."""
        self.macro_at = 0
        """Where the macro being read begins."""
        self.macro_tokens = 0
        """Of all macros together."""
        self.sums = 0

    def scan(self) -> _Needs:
        for position, (kind, text) in enumerate(self.tokens):
            if self.macro_depth is not None:
                self._count(position)
            if kind == "name":
                self._name(position, text)
            elif text == "+":
                self._sum()
            elif text in "([{":
                self.open.append(text)
                if len(self.open) > MAX_DEPTH:
                    raise ExpressionError(f"more than {MAX_DEPTH} brackets are open at once")
            elif text in ")]}":
                if self.macro_depth == len(self.open):
                    self.macro_depth = None
                if self.open:
                    self.open.pop()
        return _Needs(frozenset(self.variables), None if self.reads_all_claims else frozenset(self.claims))

    def _count(self, position: int) -> None:
        self.macro_tokens += 1
        if position - self.macro_at > MAX_MACRO_TOKENS:
            raise ExpressionError(f"a macro has more than {MAX_MACRO_TOKENS} words and signs")

    def _sum(self) -> None:
        self.sums += 1
        if self.macro_depth is not None:
            raise ExpressionError("'+' within a macro is not available: its cost is not bounded")
        if self.sums > MAX_SUMS:
            raise ExpressionError(f"'+' stands more than {MAX_SUMS} times")

    def _name(self, position: int, name: str) -> None:
        is_member = self._text(position - 1) == "."
        if self._text(position + 1) == "(":
            self._call(position, name, is_member=is_member)
        elif is_member:
            return
        elif self._text(position + 1) == "{":
            raise ExpressionError(f"messages such as {name}{{…}} are not understood")
        elif self.macro_depth is not None and name == self.bound:
            return
        elif name in VARIABLES:
            if self.macro_depth is not None and name in _LONG:
                text = f"{name!r} within a macro is not available: one pass over one list is allowed"
                raise ExpressionError(f"{text}; compare it outside")
            self.variables.add(name)
            if name == "claims":
                self._claim(position)
        elif name == "function":
            raise ExpressionError("'function' is a reserved word of CEL; write function_name")
        elif name not in _WORDS:
            raise ExpressionError(f"{name!r} is not known; known: {_DESCRIBED}")

    def _call(self, position: int, name: str, *, is_member: bool) -> None:
        if name in _INSTEAD:
            raise ExpressionError(f"{name}() is not available: {_INSTEAD[name]}")
        if name in MACROS and is_member:
            self._macro(position, name)
        elif name not in FUNCTIONS:
            raise ExpressionError(f"{name}() is not known; known: {', '.join(sorted(FUNCTIONS | MACROS))}")

    def _macro(self, position: int, name: str) -> None:
        bound = self._text(position + 2)
        if self.macro_depth is not None:
            raise ExpressionError(f"{name}() stands within another macro; one pass over one list is allowed")
        if (
            position + 3 >= len(self.tokens)
            or self.tokens[position + 2].kind != "name"
            or self._text(position + 3) != ","
        ):
            raise ExpressionError(f"{name}() is written as list.{name}(item, condition)")
        if bound in VARIABLES or bound in _WORDS:
            raise ExpressionError(f"{name}() may not call its item {bound!r}: the name is taken")
        if not self._is_fact(position - 2):
            raise ExpressionError(
                f"{name}() is asked of groups or of a claim, such as claims.roles, and of nothing else"
            )
        self.bound = bound
        self.macro_depth = len(self.open) + 1
        self.macro_at = position

    def _is_fact(self, position: int) -> bool:
        """Whether ``groups``, ``claims``, or a path from there such as ``claims.a["b"]`` ends at ``position``."""
        while True:
            if self._text(position) == "]":
                if self._token(position - 1).kind != "string" or self._text(position - 2) != "[":
                    return False
                position -= 3
                continue
            if self._token(position).kind != "name":
                return False
            if self._text(position - 1) != ".":
                return self._text(position) in {"groups", "claims"}
            position -= 2

    def _claim(self, position: int) -> None:
        """``claims.region`` and ``claims["region"]`` name a claim; anything else looks at all of them."""
        sign, key, after = (self._token(position + step) for step in (1, 2, 3))
        if sign.text == "." and key.kind == "name" and after.text != "(":
            self.claims.add(key.text)
        elif sign.text == "[" and key.kind == "string" and "\\" not in key.text and after.text == "]":
            self.claims.add(key.text[1:-1])
        else:
            self.reads_all_claims = True

    def _token(self, position: int) -> _Token:
        return self.tokens[position] if 0 <= position < len(self.tokens) else _Token("", "")

    def _text(self, position: int) -> str:
        return self._token(position).text


def _parser_says(failure: ValueError) -> str:
    """The library's first complaint without the source that it repeats."""
    found = re.search(r"ERROR: <input>:(\d+:\d+): ([^\n]*)", str(failure))
    return f"{found[2][:200]} (at {found[1]})" if found else "it cannot be parsed"


def _said(failure: BaseException) -> str:
    """A foreign failure in one line for ``explain``; callers never see it."""
    text = " ".join(str(failure).split())[:200]
    if isinstance(failure, KeyError):
        return f"{text.strip(chr(39))} is missing"
    return text or type(failure).__name__
