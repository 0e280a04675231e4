"""Why the data path could not deliver: one exception that carries a reason of the closed list, raised only in here."""

from __future__ import annotations

from policies.decision import Reason


class ForwardFailed(Exception):
    """
    The request could not be forwarded, or its answer not be relayed to the end.

    When the answer has not started, the edge writes the refusal of ``reason``; otherwise it cuts the client off.
    """

    def __init__(self, reason: Reason, detail: str = "", *, is_untouched: bool = False) -> None:
        super().__init__(reason.value)
        self.reason = reason
        self.detail = detail
        """One sentence for the caller, without any text of the upstream or of an exception."""
        self.is_untouched = is_untouched
        """No byte of an answer was seen, so that the request may be tried once more where its method allows it."""
        self.is_unsent = False
        """No byte of the request's head was written: it may be tried once more whatever its method."""


# One sentence a reason: what callers are told. Kept in one place so that nobody is tempted to pass an exception's text.
UNREACHABLE = "the function's platform could not be reached"
CLOSED = "the connection to the function was closed before its answer was complete"
GARBLED = "the function's answer was not valid HTTP"
CONNECT_TIMEOUT = "connecting to the function took too long"
ANSWER_TIMEOUT = "the function took too long to answer"
TOO_MANY = "too many requests are waiting for a connection to the function"
TOO_LARGE = "the request body is larger than this function accepts"
MALFORMED = "the request body broke its own framing"
STALLED = "the request body did not arrive in time"
