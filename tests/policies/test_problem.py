"""Refusals as HTTP: each reason has its status, the fields its RFC demands, and tells nothing it should not."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.decision import Challenge, Deny, LimitState, Problem, Reason, RuleRef
from policies.problem import STATUS, as_sentence, field_block, problem
from policies.ratelimit import ratelimit_fields

REQUEST_ID = "0123456789abcdef0123456789abcdef"
BY_STATUS = {
    400: "bad-request body-malformed tenant-conflict credential-ambiguous login-failed",
    401: "credential-missing credential-invalid session-expired",
    403: "no-rule-allows denied-by-rule tenant-mismatch tenant-disabled origin-refused pass-invalid",
    404: "tenant-unknown route-unknown function-unknown result-unknown",
    405: "method-not-allowed",
    408: "request-timeout",
    413: "body-too-large",
    421: "host-misdirected",
    426: "https-required",
    429: "rate-limited concurrency-limited wake-limited queue-full too-many-failures",
    431: "head-too-large",
    499: "client-gone",
    500: "internal-error",
    502: "upstream-unreachable upstream-closed upstream-garbled",
    503: "keys-unavailable provider-unavailable session-store-unavailable wake-failed function-asleep overloaded "
    "policy-unavailable draining",
    504: "upstream-timeout cold-start-timeout",
}
HOSTILE = '<script>alert(1)</script>\r\nSet-Cookie: a=b\0"\\\ud800 é'


def fields_of(document: Problem) -> dict[str, str]:
    """The fields; none stands twice."""
    names = [name for name, _ in document.fields]
    assert len(names) == len(set(names))
    return dict(document.fields)


def is_safe(document: Problem) -> bool:
    return all(value.isascii() and value.isprintable() for _, value in document.fields)


class TestStatus:
    def test_every_reason_has_the_status_of_the_contract(self) -> None:
        """Design section 5; written in ``problem.py`` and nowhere else."""
        expected = {word: status for status, words in BY_STATUS.items() for word in words.split()}
        assert {reason.value: status for reason, status in STATUS.items()} == expected
        assert set(STATUS) == set(Reason)

    def test_a_target_that_is_too_long_is_414(self) -> None:
        """RFC 9110 section 15.5.15; fields are 431 (RFC 6585)."""
        assert problem(Deny(Reason.HEAD_TOO_LARGE, part="target"), REQUEST_ID).status == 414
        assert problem(Deny(Reason.HEAD_TOO_LARGE, part="fields"), REQUEST_ID).status == 431
        assert problem(Deny(Reason.HEAD_TOO_LARGE), REQUEST_ID).status == 431

    def test_the_documents_table_is_this_table(self) -> None:
        """docs/http.md names each reason with its status."""
        text = (Path(__file__).parents[2] / "docs" / "http.md").read_text(encoding="utf-8")
        rows = dict(re.findall(r"^\| `([a-z-]+)` \| ([0-9/]+) \|", text, flags=re.MULTILINE))
        expected = {reason.value: str(status) for reason, status in STATUS.items()}
        expected["head-too-large"] = "414/431"
        del expected["client-gone"]
        assert rows == expected


class TestDocument:
    @pytest.mark.parametrize("reason", list(Reason))
    def test_it_is_rfc_9457_with_the_reason_s_word(self, reason: Reason) -> None:
        """The same word in the body and in X-Portero-Reason."""
        document = problem(Deny(reason), REQUEST_ID)
        body = json.loads(document.body)
        fields = fields_of(document)
        assert fields["Content-Type"] == "application/problem+json"
        assert fields["Cache-Control"] == "no-store"
        assert fields["X-Portero-Reason"] == body["reason"] == document.reason.value == reason.value
        assert fields["X-Request-Id"] == body["request_id"] == REQUEST_ID
        assert body["status"] == document.status
        assert body["type"] == f"urn:portero:reason:{reason.value}"
        assert body["title"]
        assert body["detail"]

    def test_the_rule_is_not_told(self) -> None:
        """It stands in the audit: a caller learns nothing of the operators' files."""
        document = problem(Deny(Reason.DENIED_BY_RULE, rule=RuleRef("keep-prod", "acme.yaml:41")), REQUEST_ID)
        assert b"keep-prod" not in document.body
        assert b"acme.yaml" not in document.body

    @pytest.mark.parametrize("accepts_html", [False, True])
    def test_ap_r52_hostile_text_is_neither_markup_nor_a_line(self, accepts_html: bool) -> None:
        """In details, ids, tenant names and limits alike."""
        state = LimitState(HOSTILE, -5, 0, -1, 10**30)
        for refusal in (
            Deny(Reason.RATE_LIMITED, detail=HOSTILE, limits=(state,), tenant=HOSTILE),
            Challenge(Reason.CREDENTIAL_INVALID, error=HOSTILE, detail=HOSTILE, tenant=HOSTILE),
        ):
            document = problem(refusal, HOSTILE, accepts_html=accepts_html)
            assert is_safe(document)
            assert b"\r" not in document.body
            if accepts_html:
                assert b"<script" not in document.body
            else:
                assert document.body.isascii()
                json.loads(document.body)

    @given(st.text(max_size=600), st.text(max_size=60), st.sampled_from(list(Reason)), st.booleans())
    def test_any_text_gives_a_document(self, detail: str, request_id: str, reason: Reason, accepts_html: bool) -> None:
        """Never an exception; bounded."""
        document = problem(Deny(reason, detail=detail), request_id, accepts_html=accepts_html)
        assert is_safe(document)
        assert len(document.body) < 12_000

    def test_a_browser_gets_a_page(self) -> None:
        """Nothing is loaded and nothing runs; light and dark."""
        document = problem(Deny(Reason.NO_RULE_ALLOWS, detail="you may not"), REQUEST_ID, accepts_html=True)
        fields = fields_of(document)
        assert fields["Content-Type"] == "text/html; charset=utf-8"
        assert fields["X-Portero-Reason"] == "no-rule-allows"
        assert "default-src 'none'" in fields["Content-Security-Policy"]
        assert "script-src" not in fields["Content-Security-Policy"]
        for text in (
            b"<p>You may not.</p>",
            b"no-rule-allows",
            REQUEST_ID.encode(),
            b"prefers-color-scheme: dark",
            b"403",
        ):
            assert text in document.body
        for loaded in (b"http://", b"https://", b"src=", b"href=", b"@import", b"<script"):
            assert loaded not in document.body.replace(b'<link rel="icon" href="data:,">', b"")

    @pytest.mark.parametrize(
        ("detail", "read"),
        [
            ("a rule forbids this", "A rule forbids this."),
            ("return_to is not a path of this host", "return_to is not a path of this host."),
            ("No rule allows this.", "No rule allows this."),
            ("ñandú", "Ñandú."),
            ("", ""),
        ],
        ids=["words", "a name", "a sentence", "not ascii", "nothing"],
    )
    def test_a_page_speaks_in_sentences(self, detail: str, read: str) -> None:
        """Names keep their spelling."""
        assert as_sentence(detail) == read


_NUMBERS = [st.integers(-5, 10**20)] * 4


class TestFields:
    def test_401_without_a_credential_names_the_realm_only(self) -> None:
        """RFC 6750 section 3.1: no error code is told to who has not tried."""
        fields = fields_of(problem(Challenge(Reason.CREDENTIAL_MISSING, tenant="acme"), REQUEST_ID))
        assert fields["WWW-Authenticate"] == 'Bearer realm="acme"'

    def test_401_with_a_credential_says_what_was_wrong(self) -> None:
        """RFC 6750 section 3."""
        challenge = Challenge(Reason.CREDENTIAL_INVALID, "invalid_token", "the token has expired", "acme")
        fields = fields_of(problem(challenge, REQUEST_ID))
        assert fields["WWW-Authenticate"] == (
            'Bearer realm="acme", error="invalid_token", error_description="the token has expired"'
        )

    def test_401_stays_one_challenge_whatever_its_texts_hold(self) -> None:
        """A quote cannot end a parameter and begin another scheme."""
        text = 'a" , Basic realm="b\\'
        fields = fields_of(problem(Challenge(Reason.CREDENTIAL_INVALID, text, text, text), REQUEST_ID))
        quoted = r'"[^"\\]*"'
        pattern = rf"Bearer realm={quoted}, error={quoted}, error_description={quoted}"
        assert re.fullmatch(pattern, fields["WWW-Authenticate"])

    def test_405_and_426_say_what_would_do(self) -> None:
        """RFC 9110 sections 15.5.6 and 15.5.22."""
        refused = fields_of(problem(Deny(Reason.METHOD_NOT_ALLOWED, allowed_methods=("GET", "HEAD")), REQUEST_ID))
        assert refused["Allow"] == "GET, HEAD"
        upgrade = fields_of(problem(Deny(Reason.HTTPS_REQUIRED), REQUEST_ID))
        assert (upgrade["Upgrade"], upgrade["Connection"]) == ("TLS/1.2, HTTP/1.1", "upgrade")

    def test_retry_after_stands_where_waiting_helps(self) -> None:
        """Whole seconds, at least one; never for what will be the same in a minute."""
        for deny, said in (
            (Deny(Reason.RATE_LIMITED, retry_after_s=7), "7"),
            (Deny(Reason.RATE_LIMITED, retry_after_s=0), "1"),
            (Deny(Reason.DRAINING), "1"),
            (Deny(Reason.KEYS_UNAVAILABLE), "5"),
            (Deny(Reason.NO_RULE_ALLOWS), None),
            (Deny(Reason.TENANT_UNKNOWN), None),
        ):
            assert fields_of(problem(deny, REQUEST_ID)).get("Retry-After") == said

    def test_429_names_the_limits_that_are_used_up(self) -> None:
        """``violated-policies`` of the draft, and the RateLimit fields beside it."""
        states = (LimitState("total", 1000, 1, 900, 1), LimitState("per-caller", 20, 1, 0, 3))
        document = problem(Deny(Reason.RATE_LIMITED, retry_after_s=3, limits=states), REQUEST_ID)
        assert json.loads(document.body)["violated-policies"] == ["per-caller"]
        fields = fields_of(document)
        assert fields["RateLimit-Policy"] == '"total";q=1000;w=1, "per-caller";q=20;w=1'
        assert fields["RateLimit"] == '"total";r=900;t=1, "per-caller";r=0;t=3'

    @given(st.lists(st.builds(LimitState, st.text(max_size=12), *_NUMBERS, *[st.just("")] * 2), max_size=4))
    def test_r10_ratelimit_fields_are_structured_fields(self, states: list[LimitState]) -> None:
        """RFC 9651: a list of strings with integer parameters, whatever the limits are called."""
        fields = ratelimit_fields(states)
        assert len(fields) == (2 if states else 0)
        string = r'"(?:[ !#-\[\]-~]|\\["\\])*"'
        for (_, value), item in zip(
            fields, (rf"{string};q=\d{{1,15}};w=[1-9]\d{{0,14}}", rf"{string};r=\d{{1,15}};t=\d{{1,15}}"), strict=False
        ):
            assert re.fullmatch(rf"{item}(, {item})*", value)

    @given(st.lists(st.tuples(st.sampled_from(["A", "B-C"]), st.text(max_size=20)), max_size=5))
    def test_a_block_has_a_line_for_each_field(self, fields: list[tuple[str, str]]) -> None:
        """No value begins a line of its own (CVE-2026-34519)."""
        block = field_block(fields)
        assert block.count(b"\n") == block.count(b"\r") == block.count(b"\r\n") == len(fields)


@pytest.mark.parametrize(("reason", "leads"), [(Reason.NO_RULE_ALLOWS, True), (Reason.ROUTE_UNKNOWN, False)])
def test_who_is_logged_in_and_refused_learns_who_he_is(reason: Reason, *, leads: bool) -> None:
    """A person under the wrong account finds the way out; nobody else is offered one."""
    link = b'href="/.portero/whoami"'
    assert (link in problem(Deny(reason), "r", accepts_html=True, has_session=True).body) is leads
    assert link not in problem(Deny(reason), "r", accepts_html=True).body
    assert link not in problem(Deny(reason), "r", has_session=True).body
