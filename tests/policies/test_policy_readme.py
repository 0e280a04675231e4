"""The page about the format is true: its files compile, its messages are said, and every key stands on it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from policies.compiler import compile_files, compile_with_warnings
from policies.documents import parse
from policies.errors import PolicyError
from policies.model import schema, schema_of_tests
from policies.policytest import run_tests

PAGE = (Path(__file__).parents[2] / "policies" / "README.md").read_text()
FILES = {name: block.encode() for name, block in re.findall(r"```yaml\n# (\S+\.yaml)\n(.*?)```", PAGE, re.DOTALL)}
ROWS = re.findall(r"^\| `(.+?)` \| (.+?) \|$", PAGE.partition("## Mistakes you will meet")[2], re.MULTILINE)


def test_every_snippet_is_a_named_file() -> None:
    """No YAML of the page is left unread by these tests."""
    assert PAGE.count("```yaml") == len(FILES) == 3


def test_files_of_the_page_compile() -> None:
    """What the page shows loads as it stands, without a warning."""
    policies, warnings = compile_with_warnings(parse(FILES))
    assert list(policies.tenants) == ["acme"]
    assert warnings == []
    assert run_tests(policies, parse(FILES), now=0.0).mistakes == []


def test_page_has_mistakes() -> None:
    """The table of mistakes is found by the test that reads it."""
    assert len(ROWS) >= 10


@pytest.mark.parametrize(("written", "said"), ROWS)
def test_mistakes_say_what_the_page_says(written: str, said: str) -> None:
    """Each row: the line of a tenant's file, and the message that comes of it."""
    text = "version: 1\ntenant: acme\n" + written.replace("\\|", "|") + "\n"
    if "login|" in text:
        text += "identity: [{name: login, issuer: 'https://id.example', audiences: [a], algorithms: [RS256]}]\n"
    with pytest.raises(PolicyError) as raised:
        compile_files({"platform.yaml": FILES["platform.yaml"], "acme.yaml": text.encode()})
    assert any(mistake.message.startswith(said) for mistake in raised.value.mistakes), raised.value


def test_every_key_stands_on_the_page() -> None:
    """An operator finds each key that a file may hold."""
    tables = PAGE.partition("## Every key")[2].partition("## Mistakes")[0]
    keys = {
        key
        for definitions in (schema()["$defs"], schema_of_tests()["$defs"] | {"": schema_of_tests()})
        for definition in definitions.values()
        for key in definition["properties"]
    }
    missing = {key for key in keys if f"`{key}`" not in tables and f"`{key}" not in tables}
    assert missing - {"shadow"} == set()
