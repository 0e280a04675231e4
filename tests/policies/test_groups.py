"""One spelling for a group: equal groups become equal text, and no two others ever do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.groups import MAX_DN_CHARS, MAX_NAME_CHARS, Form, normalise

FORMS: tuple[Form, ...] = ("names", "object_ids", "distinguished_names")
UUID = "0f2e4bb1-95ac-4d1c-a6bc-2d6d39c8b1f7"


@pytest.mark.parametrize(
    ("written", "spelling"),
    [
        ("analysts", "analysts"),
        ("  analysts ", "analysts"),
        ("ACME\\Domain Users", "ACME\\Domain Users"),
        ("/acme/analysts", "/acme/analysts"),
        ("Équipe", "Équipe"),
        ("E\u0301quipe", "Équipe"),
        ("a,b", "a,b"),
        ("a" * MAX_NAME_CHARS, "a" * MAX_NAME_CHARS),
        ("a" * (MAX_NAME_CHARS + 1), None),
        ("", None),
        ("   ", None),
        ("a\nb", None),
        ("a\x00", None),
        ("a\u200bb", None),
        ("\u202eanalysts", None),
        ("a\u00a0b", None),
        ("\ud800", None),
    ],
)
def test_names_are_composed_and_trimmed(written: str, spelling: str | None) -> None:
    """Case and backslashes are the provider's own; what cannot be seen is no name."""
    assert normalise(written, "names") == spelling


@pytest.mark.parametrize(
    ("written", "spelling"),
    [
        (UUID, UUID),
        (UUID.upper(), UUID),
        ("S-1-5-21-397955417-626881126-188441444-512", "S-1-5-21-397955417-626881126-188441444-512"),
        ("s-1-5-32-544", "S-1-5-32-544"),
        (f"{{{UUID}}}", None),
        (UUID.replace("-", ""), None),
        (f" {UUID}", None),
        (f"{UUID}\n", None),
        (UUID[:-1], None),
        (UUID.replace("0", "０"), None),  # noqa: RUF001  # a digit of full width is the point
        (f"urn:uuid:{UUID}", None),
        ("S-1-5", None),
        ("S-1-5-032", None),
        ("S-2-5-32-544", None),
        ("analysts", None),
        ("", None),
    ],
)
def test_object_ids_have_one_case(written: str, spelling: str | None) -> None:
    """Active Directory writes ids in either case, and ids of a directory on premises as security identifiers."""
    assert normalise(written, "object_ids") == spelling


DNS = {
    "as Active Directory writes it": (
        "CN=Analysts,OU=Groups,DC=acme,DC=example",
        "cn=analysts,ou=groups,dc=acme,dc=example",
    ),
    "with blanks": ("CN = Analysts , OU=Groups,  DC=acme", "cn=analysts,ou=groups,dc=acme"),
    "escaped comma": ("CN=Smith\\, Ana,DC=x", "cn=smith\\, ana,dc=x"),
    "comma as a byte": ("CN=Smith\\2C Ana,DC=x", "cn=smith\\, ana,dc=x"),
    "comma as a byte, small": ("CN=Smith\\2c Ana,DC=x", "cn=smith\\, ana,dc=x"),
    "escapes that nothing needs": ("CN=a\\=b\\20c,DC=x", "cn=a=b c,dc=x"),
    "letters as bytes": ("CN=\\C3\\89quipe", "cn=équipe"),
    "letters decomposed": ("CN=E\u0301quipe", "cn=équipe"),
    "blanks that belong to it": ("CN=\\ a\\ ,DC=x", "cn=\\ a\\ ,dc=x"),
    "one blank": ("CN=\\ ,DC=x", "cn=\\ ,dc=x"),
    "a leading #": ("CN=\\#1,DC=x", "cn=\\#1,dc=x"),
    "a # within": ("CN=C#,DC=x", "cn=c#,dc=x"),
    "a + within": ("CN=C\\+\\+,DC=x", "cn=c\\+\\+,dc=x"),
    "quotes, brackets, semicolon": ('CN=\\"a\\"\\<b\\>\\;c', 'cn=\\"a\\"\\<b\\>\\;c'),
    "backslash": ("CN=ACME\\\\analysts", "cn=acme\\\\analysts"),
    "a tombstone's line break": ("CN=a\\0ADEL:1,DC=x", "cn=a\\0adel:1,dc=x"),
    "several values": ("OU=b+CN=a,DC=x", "cn=a+ou=b,dc=x"),
    "BER": ("1.3.6.1=#04024869", "1.3.6.1=#04024869"),
    "BER in capitals": ("1.3.6.1=#0402AbCd", "1.3.6.1=#0402abcd"),
    "empty value": ("CN=,DC=x", "cn=,dc=x"),
    "sharp s": ("CN=Straße", "cn=strasse"),
    "= in the value": ("CN=a=b", "cn=a=b"),
    "a question mark that is a semicolon": ("CN=a\u037eb,DC=x", "cn=a\\;b,dc=x"),
    "a sign that is an equals sign and a stroke": ("CN=a\u2260b", "cn=a\u2260b"),
}


@pytest.mark.parametrize(("written", "spelling"), DNS.values(), ids=DNS.keys())
def test_distinguished_names_have_one_spelling(written: str, spelling: str) -> None:
    """RFC 4514: types and values without case, escapes only where they are needed."""
    assert normalise(written, "distinguished_names") == spelling


@pytest.mark.parametrize(
    "written",
    [
        *("", " ", "analysts", "CN", "=a", "CN=a,", ",CN=a", "CN=a,,DC=x", "CN=a+", "CN=a;DC=x", 'CN="a,b"', "C N=a"),
        *("CN=a\\", "CN=a\\2", "CN=a\\zz", "CN=\\C3", "CN=\\FF", "CN=a\\é", "\\43N=a", "C\u212a=a", "CN=a\nb", "CN=<a"),
        *("CN=#", "CN=#0", "CN=#zz", "CN=#04\\,", "1.=a", "01.2=a", "1=a", "_a=b", "CN=\ud800", "CN=a\x00"),
        "CN=" + "a" * MAX_DN_CHARS,
    ],
)
def test_what_is_no_distinguished_name_is_none(written: str) -> None:
    """Nothing is guessed: half a name is nobody's group."""
    assert normalise(written, "distinguished_names") is None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("CN=a\\,DC=x", "CN=a,DC=x"),
        ("CN=a\\,OU=b,DC=x", "CN=a,OU=b,DC=x"),
        ("CN=a\\+OU=b", "CN=a+OU=b"),
        ("CN=a,OU=b", "OU=b,CN=a"),
        ("CN=a\\ ", "CN=a"),
        ("CN=\\#04024869", "CN=#04024869"),
        ("CN=a  b", "CN=a b"),
        ("CN=a\\\\,DC=x", "CN=a\\,DC=x"),
        ("CN=admins,OU=acme", "CN=admins,OU=globex"),
        ("CN=admins", "CN=admins,DC=x"),
        ("CN=аdmins", "CN=admins"),  # noqa: RUF001  # a Cyrillic letter is the point
    ],
)
def test_other_groups_stay_others(one: str, other: str) -> None:
    """AP-A15: an escaped comma makes no further level, and nothing that looks alike is alike."""
    first, second = normalise(one, "distinguished_names"), normalise(other, "distinguished_names")
    assert first is not None or second is not None
    assert first != second


# --- properties -----------------------------------------------------------------------------------------------------


@given(st.text(max_size=60), st.sampled_from(FORMS))
def test_any_text_gives_an_answer_and_the_answer_is_its_own(text: str, form: Form) -> None:
    """Never an exception; what has been normalised stays as it is."""
    spelling = normalise(text, form)
    if spelling is not None:
        assert normalise(spelling, form) == spelling


@given(st.text(st.sampled_from('cnCN=,+;\\ #"<>2CcéÉ̈ßİ\u0345\u0301\u0338\u037e\u2260.1'), max_size=24))
def test_texts_that_nearly_are_distinguished_names(text: str) -> None:
    """The same of texts of the letters that matter."""
    spelling = normalise("cn=" + text, "distinguished_names")
    if spelling is not None:
        assert normalise(spelling, "distinguished_names") == spelling
        assert spelling.isprintable()


TYPES = ["CN", "OU", "DC", "0.9.2342.19200300.100.1.25", "x-1"]
VALUES = st.text(st.sampled_from('abé ,+=#\\"<>;\n'), max_size=5)
LEVELS = st.lists(st.lists(st.tuples(st.sampled_from(TYPES), VALUES), min_size=1, max_size=2), min_size=1, max_size=3)


class Spellings:
    """Writes one distinguished name in another of its spellings each time."""

    def __init__(self, data: st.DataObject) -> None:
        self._data = data

    def write(self, levels: list[list[tuple[str, str]]]) -> str:
        return self._either(",", ", ", " ,").join(
            "+".join(f"{self._cased(kind)}={self._value(value)}" for kind, value in self._shuffled(level))
            for level in levels
        )

    def _either(self, *choices: str) -> str:
        return str(self._data.draw(st.sampled_from(choices)))

    def _cased(self, text: str) -> str:
        return self._either(text, text.lower(), text.upper())

    def _shuffled(self, level: list[tuple[str, str]]) -> list[tuple[str, str]]:
        return list(self._data.draw(st.permutations(level)))

    def _value(self, value: str) -> str:
        written = []
        for at, char in enumerate(value):
            as_bytes = "".join(f"\\{byte:02x}" for byte in char.encode())
            is_edge = at in (0, len(value) - 1)
            if char == "\n":
                written.append(as_bytes)
            elif char in '"+,;<>\\' or (char in " #" and is_edge):
                written.append(self._either("\\" + char, as_bytes, as_bytes.upper()))
            else:
                written.append(self._either(char, self._cased(char), as_bytes))
        return "".join(written)


def meaning(levels: list[list[tuple[str, str]]]) -> list[set[tuple[str, str]]]:
    """The reference: what is compared, without any spelling."""
    return [{(kind.lower(), value.casefold()) for kind, value in level} for level in levels]


@given(LEVELS, LEVELS, st.data())
def test_equal_names_are_equal_and_others_are_not(
    one: list[list[tuple[str, str]]], other: list[list[tuple[str, str]]], data: st.DataObject
) -> None:
    """Two spellings are one text exactly when they mean the same levels, values and escapes included."""
    spellings = Spellings(data)
    first = normalise(spellings.write(one), "distinguished_names")
    again = normalise(spellings.write(one), "distinguished_names")
    second = normalise(spellings.write(other), "distinguished_names")
    assert first is not None
    assert second is not None
    assert first == again
    assert (first == second) == (meaning(one) == meaning(other))
