"""The demo's platform reads paths as OpenFaaS's gateway does: decoded, and parsed again."""

from __future__ import annotations

import pytest

from authproxy.demo.reparse import Invocation, read_invocation


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        pytest.param("/function/f.acme", Invocation("f", "acme", "/"), id="no path is the root"),
        pytest.param("/function/f.acme/", Invocation("f", "acme", "/"), id="slash"),
        pytest.param("/function/f.acme/a/b?x=1", Invocation("f", "acme", "/a/b?x=1"), id="path and query"),
        pytest.param("/function/f", Invocation("f", "default", "/"), id="default namespace"),
        pytest.param("/function/f.g.acme/a", Invocation("f.g", "acme", "/a"), id="split at the last dot"),
        pytest.param("/function/f.acme/a%20b", Invocation("f", "acme", "/a%20b"), id="space"),
        pytest.param("/function/f.acme/a%3Fb?c", Invocation("f", "acme", "/a?b?c"), id="an escaped ? becomes a query"),
        pytest.param("/function/f.acme/a%23b", Invocation("f", "acme", "/a"), id="an escaped # cuts the path"),
        pytest.param("/function/f.acme/a%253Fb", Invocation("f", "acme", "/a%3Fb"), id="escaped twice arrives"),
        pytest.param("/function/f.acme/a%252Fb", Invocation("f", "acme", "/a/b"), id="a slash is lost either way"),
        pytest.param("/function/f.acme/%25", 400, id="a lone percent is no address"),
        pytest.param("/function/f.acme/%zz", 400, id="bad escape"),
        pytest.param("/function/f.acme/../g.acme", 301, id="dot segment"),
        pytest.param("/function/f.acme/%252e%252e/g", 301, id="dot segment after the second decoding"),
        pytest.param("/function/f.acme//a", 301, id="empty segment"),
        pytest.param("/function/", 404, id="no name"),
        pytest.param("/functions/f.acme", 404, id="another path"),
        pytest.param("/function/f$.acme", 404, id="not a name"),
        pytest.param("http://elsewhere/function/f", 301, id="absolute form"),
    ],
)
def test_paths_are_decoded_and_parsed_again(raw: str, expected: Invocation | int) -> None:
    """What the gateway decodes becomes an address once more, with all that this does to ``?``, ``#`` and dots."""
    assert read_invocation(raw, "default") == expected


def test_an_event_stream_is_decoded_once() -> None:
    """The gateway's other way, for event streams, keeps an escaped question mark in the path."""
    assert read_invocation("/function/f.acme/a%3Fb", "default", is_event_stream=True) == ("f", "acme", "/a%3Fb")
