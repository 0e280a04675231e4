"""
The vectors: reads ``tests/vectors/*.yaml`` and makes of each case the request that every edge is given.

One reader and one mint for all edges, so that they cannot differ in what they were asked. A typo in a vector fails:
unknown keys, duplicate keys and duplicate names are refused. ``tests/vectors/README.md`` explains the format.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from policies.decision import Reason

FOLDER: Final = Path(__file__).parents[1] / "vectors"
Tamper = Literal[
    "expired",
    "future",
    "not-yet",
    "audience",
    "no-audience",
    "issuer",
    "signature",
    "payload",
    "algorithm-none",
    "algorithm-hs256",
    "unknown-key",
    "embedded-key",
    "critical",
    "type",
    "no-expiry",
    "endless",
    "no-subject",
]


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=True)


class Caller(Part):
    """Who asks, as the credential says it. See ``authorization``."""

    provider: str | None = None
    subject: str | None = None
    groups: list[str] | None = None
    tenants: list[str] | str | None = None
    email: str | None = None
    email_verified: bool | str | None = None
    claims: dict[str, Any] = {}
    tamper: Tamper | None = None
    service_account: str | None = None
    """``tenant/name``, or a name of ``acme``'s."""
    raw: str | None = None

    @model_validator(mode="after")
    def _is_one_form(self) -> Self:
        forms = [self.provider is not None, self.service_account is not None, self.raw is not None]
        if sum(forms) != 1 or (self.provider is not None and self.subject is None):
            raise ValueError("expected provider and subject, or service_account, or raw")
        return self


class Padding(Part):
    """What would be tedious to write out."""

    query: int = 0
    """So many bytes are appended to the target."""
    field: int = 0
    """A field X-Padding of so many bytes is added."""
    fields: int = 0
    """So many fields X-Padding-<n> are added."""
    body: int = 0
    """So many bytes are appended to the body."""


class Request(Part):
    line: str
    host: str | None = None
    fields: list[tuple[str, str]] = []
    body: str = ""
    padding: Padding = Padding()


class Answers(Part):
    """What the function answers; by default 200 and whatever the edge likes."""

    status: int = 200
    fields: list[tuple[str, str]] = []
    body: str = ""


class State(Part):
    """How the world is before the request."""

    asleep: list[str] = []
    missing: list[str] = []
    spent: list[str] = []
    spent_by: Caller | None = None
    """Who has used up ``spent``; None: who asks."""
    spent_from: str | None = None
    """The address from which ``spent`` was used up; None: the request's own."""
    held: dict[str, int] = {}
    wake: Literal["works", "fails", "never"] = "works"
    keys: Literal["available", "unavailable"] = "available"
    answers: Answers | None = None
    peer: str | None = None
    tls: str | None = None

    @property
    def is_for_core_only(self) -> bool:
        return self.peer is not None or self.tls is not None


class Receives(Part):
    line: str | None = None
    fields: dict[str, str] = {}
    absent: list[str] = []
    body: str | None = None


class Expect(Part):
    decision: Literal["allow", "challenge", "deny", "answer"]
    status: int
    reason: Annotated[Reason, Field(strict=False)] | None = None
    tenant: str | None = None
    function: str | None = None
    rule: str | None = None
    receives: Receives | None = None
    fields: dict[str, str] = {}
    absent: list[str] = []
    shadowed: list[Annotated[Reason, Field(strict=False)]] = []

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        is_refusal = self.decision in {"challenge", "deny"}
        if is_refusal != (self.reason is not None):
            raise ValueError("a refusal, and nothing else, has a reason")
        if self.decision != "allow" and (self.receives or self.function or self.shadowed):
            raise ValueError("only what is allowed reaches a function")
        if self.decision == "allow" and not (self.tenant and self.function):
            raise ValueError("what is allowed says for which tenant and function")
        return self


class Case(Part):
    name: str
    as_: Annotated[Caller | None, Field(alias="as")] = None
    request: Request
    state: State | None = None
    wire: bool = False
    expect: Expect


class File(Part):
    world: str
    cases: Annotated[list[Case], Field(min_length=1)]


class Vector(Part):
    """One case, with the world it happens in."""

    world: Path
    case: Case

    @property
    def name(self) -> str:
        return self.case.name

    @property
    def state(self) -> State:
        return self.case.state or State()

    def as_spent(self) -> Vector:
        """The request by which ``state.spent`` was used up, in a world where nothing is."""
        state = self.state
        before = State(peer=state.spent_from or state.peer, tls=state.tls)
        case = self.case.model_copy(update={"as_": state.spent_by or self.case.as_, "state": before})
        return self.model_copy(update={"case": case})


class _Loader(yaml.SafeLoader):
    """Refuses what a reader would not see: of two equal keys only the last would count."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if len(keys) != len(set(map(str, keys))):
            raise yaml.MarkedYAMLError(problem=f"duplicate key among {keys}", problem_mark=node.start_mark)
        return super().construct_mapping(node, deep=deep)


def load_vectors(folder: Path = FOLDER) -> list[Vector]:
    """
    All vectors, in the order of files and cases.

    Raises: ValueError or YAMLError for a file that is not of the format; the message names the file.
    """
    vectors: list[Vector] = []
    for path in sorted(folder.glob("*.yaml")):
        vectors += _read(path, folder)
    names = [vector.name for vector in vectors]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"names that stand more than once: {repeated}")
    return vectors


def _read(path: Path, folder: Path) -> Iterator[Vector]:
    try:
        file = File.model_validate_json(json.dumps(yaml.load(path.read_text("utf-8"), _Loader)))
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error
    world = folder / "worlds" / file.world
    if not (world / "platform.yaml").is_file():
        raise ValueError(f"{path.name}: there is no world {file.world!r}")
    return (Vector(world=world, case=case) for case in file.cases)


# --- the request ------------------------------------------------------------------------------------------------


def request_line(case: Case) -> str:
    """Method, target and version, as they go over the wire."""
    line = case.request.line
    line, version = line.rsplit(" ", 1) if line.rpartition(" ")[2].startswith("HTTP/") else (line, "HTTP/1.1")
    return f"{line}{'a' * case.request.padding.query} {version}"


def fields_of(case: Case, authorization: str | None) -> list[tuple[str, str]]:
    """All fields in the order sent: Host, Authorization, the case's own, padding, framing."""
    request = case.request
    fields: list[tuple[str, str]] = []
    if request.host is not None:
        fields.append(("Host", request.host))
    if authorization is not None:
        fields.append(("Authorization", authorization))
    fields += request.fields
    if request.padding.field:
        fields.append(("X-Padding", "a" * request.padding.field))
    fields += [(f"X-Padding-{number}", "a") for number in range(request.padding.fields)]
    if body := body_of(case):
        fields.append(("Content-Length", str(len(body))))
    return [*fields, ("Connection", "close")]


def body_of(case: Case) -> bytes:
    return case.request.body.encode() + b"a" * case.request.padding.body


def wire_bytes(case: Case, authorization: str | None) -> bytes:
    """The whole request. In the head one character is one byte."""
    lines = [request_line(case), *(f"{name}: {value}" for name, value in fields_of(case, authorization))]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body_of(case)


# --- what came of it ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Received:
    """What a function got."""

    line: str
    """Method, path and query on the wire to the function."""
    fields: tuple[tuple[str, str], ...]
    body: str | None = None
    """None: this edge does not carry bodies."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a case, at whatever edge; compared with ``expect``."""

    decision: str
    status: int
    reason: Reason | None = None
    tenant: str | None = None
    function: str | None = None
    rule: str | None = None
    fields: tuple[tuple[str, str], ...] = ()
    """Of the answer."""
    received: Received | None = None
    shadowed: tuple[Reason, ...] = ()


def mismatches(vector: Vector, outcome: Outcome, *, has_parser: bool = False) -> list[str]:
    """
    In what the outcome differs from what the case expects; empty when in nothing.

    ``has_parser``: this edge's HTTP parser may have refused a case of the wire before any policy was asked.
    """
    expect = vector.case.expect
    if has_parser and vector.case.wire and 400 <= outcome.status < 500 and outcome.received is None:
        return []
    wrong = []
    for what in ("decision", "status", "reason", "tenant", "function", "rule"):
        wanted, got = getattr(expect, what), getattr(outcome, what)
        may_be_unsaid = what in {"tenant", "function", "rule"}
        if wanted != got and not (wanted is None and may_be_unsaid):
            wrong.append(f"{what}: {got!r}, expected {wanted!r}")
    if tuple(expect.shadowed) != outcome.shadowed:
        wrong.append(f"shadowed: {outcome.shadowed}, expected {expect.shadowed}")
    wrong += _differing("answer's", expect.fields, expect.absent, outcome.fields)
    if (expect.decision == "allow") != (outcome.received is not None):
        wrong.append(f"the function received {outcome.received}")
    elif expect.receives is not None and outcome.received is not None:
        wrong += _misreceived(expect.receives, outcome.received)
    return wrong


def _misreceived(expect: Receives, received: Received) -> list[str]:
    wrong = []
    if expect.line is not None and expect.line != received.line:
        wrong.append(f"received {received.line!r}, expected {expect.line!r}")
    if expect.body is not None and received.body is not None and expect.body != received.body:
        wrong.append(f"received the body {received.body!r}, expected {expect.body!r}")
    return wrong + _differing("received", expect.fields, expect.absent, received.fields)


def _differing(
    whose: str, expected: dict[str, str], absent: Iterable[str], fields: tuple[tuple[str, str], ...]
) -> list[str]:
    wrong = []
    for name, wanted in expected.items():
        values = [value for field, value in fields if field.lower() == name]
        if len(values) != 1 or wanted not in {"*", values[0]}:
            wrong.append(f"{whose} field {name}: {values}, expected {wanted!r} once")
    folded = {field.lower().replace("_", "-"): f"{field}: {value}" for field, value in fields}
    wrong += [f"{whose} field {folded[name]!r}, expected none" for name in absent if name in folded]
    return wrong
