"""Who lives in the demo: the people whom its provider vouches for. Knows no policy: what they may do stands there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Person:
    sub: str
    name: str
    tenant: str
    """Value of the claim ``organization``: the one tenant that this person's tokens are for."""
    groups: tuple[str, ...]
    who: str
    """For people who read what the demo prints."""

    @property
    def email(self) -> str:
        return f"{self.sub}@{self.tenant}.example"


PEOPLE: Final = (
    Person("ana", "Ana Alba", "acme", ("analysts",), "an analyst of acme"),
    Person("bob", "Bob Berg", "acme", (), "a guest of acme, without a role"),
    Person("dan", "Dan Duarte", "acme", ("developers",), "a developer of acme"),
    Person("gil", "Gil Grau", "globex", ("analysts",), "an analyst of globex"),
)


class PersonUnknown(Exception):
    """There is no such person in that tenant; the message says who is."""


def find_person(tenant: str, sub: str) -> Person:
    """Raises: PersonUnknown. A provider vouches for a person's own tenant and for no other."""
    for person in PEOPLE:
        if (person.tenant, person.sub) == (tenant, sub):
            return person
    known = ", ".join(f"--tenant {person.tenant} --as {person.sub} ({person.who})" for person in PEOPLE)
    raise PersonUnknown(f"the demo knows no {sub!r} in tenant {tenant!r}; it knows: {known}")
