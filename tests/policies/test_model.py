"""The shape of policy files: what loads, what does not, and that the published JSON Schema says the same."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from policies import quantities
from policies.model import AnyAction, PlatformDocument, TenantDocument, schema, schema_of_tests
from policies.tables import ACTIONS

POLICIES = Path(__file__).parents[2] / "policies"


@pytest.mark.parametrize(("file", "made"), [("policy.schema.json", schema), ("test.schema.json", schema_of_tests)])
def test_published_schema_is_the_models(file: str, made: Any) -> None:
    """The JSON Schema in the tree is what the models say; `portero policy schema` prints it anew."""
    assert json.loads((POLICIES / file).read_text()) == made()


def test_schema_describes_every_key() -> None:
    """An editor can say of each key what it is for."""
    for name, definition in schema()["$defs"].items():
        for key, about in definition["properties"].items():
            assert about.get("description"), f"{name}.{key}"


def test_schema_refuses_unknown_keys_everywhere() -> None:
    """No object of the schema is open."""
    assert all(definition["additionalProperties"] is False for definition in schema()["$defs"].values())


def test_actions_are_the_closed_set_of_the_tables() -> None:
    """A file can name exactly the actions that decisions know, and all of them by a star."""
    assert get_args(AnyAction) == ("*", *ACTIONS)


@pytest.mark.parametrize("version", [True, 1.0, "1", 2, 0, None])
def test_version_is_the_number_one(version: object) -> None:
    """What only looks like 1 to some readers is refused."""
    with pytest.raises(ValidationError):
        TenantDocument.model_validate({"version": version, "tenant": "acme"})


def test_documents_are_frozen_and_travel() -> None:
    """A document is a value: nothing edits it, and it can be sent to another process."""
    document = TenantDocument.model_validate(
        {"version": 1, "tenant": "acme", "roles": {"a": {"allow": [{"functions": ["*"], "actions": ["*"]}]}}}
    )
    with pytest.raises(ValidationError):
        document.tenant = "globex"
    assert pickle.loads(pickle.dumps(document)) == document


def test_defaults_narrow() -> None:
    """A tenant's file that says nothing lets nobody in, and a platform trusts no peer."""
    document = TenantDocument.model_validate({"version": 1, "tenant": "acme"})
    assert (document.mode, document.identity, document.functions) == ("enforce", (), {})
    platform = PlatformDocument.model_validate(
        {
            "version": 1,
            "backends": {"f": {"kind": "openfaas", "url": "http://f"}},
            "tenants": {"acme": {"hosts": ["a"], "backend": "f", "namespace": "acme"}},
        }
    )
    assert platform.trusted_peers == ()


@pytest.mark.parametrize("missing", ["name", "issuer", "audiences", "algorithms"])
def test_security_of_a_provider_has_no_defaults(missing: str) -> None:
    """Audience and algorithms are written or the provider does not load."""
    provider = {"name": "login", "issuer": "https://id.example", "audiences": ["a"], "algorithms": ["RS256"]}
    del provider[missing]
    with pytest.raises(ValidationError, match="Field required"):
        TenantDocument.model_validate({"version": 1, "tenant": "acme", "identity": [provider]})


@pytest.mark.parametrize(
    ("text", "amounts_to"),
    [("20/s", (20, 1)), ("30/m", (30, 60)), ("5/h", (5, 3600)), ("1/h", (1, 3600))],
)
def test_rate_is_a_quota_in_a_window(text: str, amounts_to: tuple[int, int]) -> None:
    """A rate keeps the window that the operator wrote."""
    assert quantities.frequency(text) == amounts_to
    assert quantities.frequency(text).per_s == pytest.approx(amounts_to[0] / amounts_to[1])


@pytest.mark.parametrize(("text", "amounts_to"), [("500ms", 0.5), ("30s", 30.0), ("5m", 300.0), ("2h", 7200.0)])
def test_duration_is_seconds(text: str, amounts_to: float) -> None:
    """A duration has one of four units."""
    assert quantities.seconds(text) == pytest.approx(amounts_to)


@pytest.mark.parametrize(
    ("text", "amounts_to"), [("0B", 0), ("100B", 100), ("64KiB", 65536), ("10MiB", 10485760), ("1GiB", 1 << 30)]
)
def test_size_is_bytes(text: str, amounts_to: int) -> None:
    """A size has a binary unit."""
    assert quantities.size_bytes(text) == amounts_to


@pytest.mark.parametrize("rate", ["0/s", "20", "20/d", "-1/s", "1.5/s", " 1/s", "1/s\n", "1e3/s", "١/s"])  # noqa: RUF001  # an Arabic digit is the point
def test_rate_has_one_spelling(rate: str) -> None:
    """Nothing that another reader could take for another number is a rate."""
    with pytest.raises(ValidationError):
        TenantDocument.model_validate(
            {"version": 1, "tenant": "acme", "limits": [{"id": "a", "per": "ip", "rate": rate}]}
        )


@pytest.mark.parametrize("name", ["../a", "a/b", ".hidden", "", "a b", "a\x00b", "a\n", "..", "/etc/passwd", "a\\b"])
def test_secret_name_does_not_leave_its_folder(name: str) -> None:
    """A tenant's editor cannot name a file outside of the tenant's own folder of secrets."""
    account = {"name": "ci", "public_key": name, "audiences": ["a"]}
    with pytest.raises(ValidationError):
        TenantDocument.model_validate({"version": 1, "tenant": "acme", "service_accounts": [account]})


@pytest.mark.parametrize("pattern", ["a*b", "**", "*a", "a.*", "A", "a_b", "-a", "a-", "a.b", "a/b", "[a]", "a?", ""])
def test_pattern_is_exact_prefix_or_star(pattern: str) -> None:
    """No other pattern loads, so that lookups stay probes and differences exact."""
    with pytest.raises(ValidationError):
        TenantDocument.model_validate({"version": 1, "tenant": "acme", "functions": {pattern: {}}})


@pytest.mark.parametrize("tenant", ["Acme", "a.b", "a_b", "{a}", "a:b", "..", "a" * 64, "-a"])
def test_tenant_is_a_dns_label(tenant: str) -> None:
    """A tenant's name stands in keys, folders and claims: nothing in it means anything there."""
    with pytest.raises(ValidationError):
        TenantDocument.model_validate({"version": 1, "tenant": tenant})
