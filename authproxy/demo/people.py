"""Who lives in the demo: the people whom its provider vouches for. Knows no policy: what they may do stands there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final


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

    def claims(self) -> dict[str, Any]:
        """What the provider vouches for, in tokens and userinfo."""
        return {
            "sub": self.sub,
            "organization": self.tenant,
            "groups": list(self.groups),
            "name": self.name,
            "email": self.email,
            "email_verified": True,
        }


PEOPLE: Final = (
    Person("ana", "Ana Alba", "acme", ("analysts",), "an analyst of acme"),
    Person("bob", "Bob Berg", "acme", (), "a guest of acme, without a role"),
    Person("dan", "Dan Duarte", "acme", ("developers",), "a developer of acme"),
    Person("gil", "Gil Grau", "globex", ("analysts",), "an analyst of globex"),
)


PASSWORD: Final = "survey"  # noqa: S105 - the login page shows it to everybody
"""Everybody's, at the demo's provider."""


class PersonUnknown(Exception):
    """There is no such person in that tenant; the message says who is."""


def find_person(tenant: str, sub: str) -> Person:
    """Raises: PersonUnknown. A provider vouches for a person's own tenant and for no other."""
    for person in PEOPLE:
        if (person.tenant, person.sub) == (tenant, sub):
            return person
    known = ", ".join(f"--tenant {person.tenant} --as {person.sub} ({person.who})" for person in PEOPLE)
    raise PersonUnknown(f"the demo knows no {sub!r} in tenant {tenant!r}; it knows: {known}")


def find_by_sub(sub: str) -> Person | None:
    """Whom somebody claims to be who logs in: no tenant is asked for there."""
    return next((person for person in PEOPLE if person.sub == sub), None)
