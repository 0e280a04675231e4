"""What a callback says."""

from __future__ import annotations

import pytest

from authproxy.callbacks.message import Callback, callback_fields
from authproxy.callbacks.target import Target


def test_openfaas_names_are_kept() -> None:
    """Receivers written for OpenFaaS' queue worker find what they know."""
    fields = dict(callback_fields("id-1", "resize", 201, 1.5, [(b"content-type", b"image/png")]))
    assert fields == {
        "User-Agent": "portero",
        "X-Call-Id": "id-1",
        "X-Function-Name": "resize",
        "X-Function-Status": "201",
        "X-Duration-Seconds": "1.500000",
        "Content-Type": "image/png",
    }


@pytest.mark.parametrize(
    "answer",
    [
        [(b"Content-Type", b"text/plain\r\nX-Evil: 1")],
        [(b"Content-Type", b"text/plain\n")],
        [(b"Content-Type", b"text/\0plain")],
        [(b"Content-Type", "é".encode())],
        [(b"Content-Type", b"x" * 1025)],
        [(b"Set-Cookie", b"a=b"), (b"Authorization", b"x"), (b"Host", b"evil"), (b"Content-Length", b"7")],
        [(b"X-Call-Id", b"other"), (b"X-Function-Status", b"200"), (b"Transfer-Encoding", b"chunked")],
    ],
    ids=["crlf", "lf", "nul", "utf-8", "long", "credentials and framing", "ours"],
)
def test_a_function_writes_no_fields_of_its_own(answer: list[tuple[bytes, bytes]]) -> None:
    """It could speak in Portero's name otherwise, or begin a line or a request."""
    fields = callback_fields("id-1", "resize", 500, -1.0, answer)
    assert dict(fields)["Content-Type"] == "application/octet-stream"
    assert dict(fields)["X-Function-Status"] == "500"
    assert dict(fields)["X-Duration-Seconds"] == "0.000000"
    assert len(fields) == len(dict(fields)) == 6


def test_the_first_of_several_types_counts() -> None:
    """Two would be read in two ways."""
    answer = [(b"content-type", b"text/plain"), (b"Content-Type", b"text/html"), (b"content-encoding", b"gzip")]
    fields = dict(callback_fields("i", "f", 200, 0, answer))
    assert (fields["Content-Type"], fields["Content-Encoding"]) == ("text/plain", "gzip")


def test_a_callback_shows_nothing_of_its_content() -> None:
    """Neither body nor id: an id is all that an anonymous caller's result is kept by."""
    target = Target("hooks.example", 443, is_tls=True, path="/secret")
    assert "secret" not in repr(Callback("acme", target, (("X-Call-Id", "secret"),), b"secret"))
