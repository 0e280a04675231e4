"""
Who wrote an answer that came through a Knative ingress: the function, or ingress, activator or queue-proxy for it.

It decides by the head alone, which is all that is known when an answer is judged, and so by what each of them writes
and how long that is. What could as well be a function's is a function's. It refuses to know what follows from it.

Source: Knative Serving (pkg/activator/handler, pkg/queue, pkg/http/handler: ``http.Error`` and its timeout handler);
Envoy's local replies and its field ``x-envoy-upstream-service-time``, which it adds to what others answered.
"""

from __future__ import annotations

from typing import Final

from authproxy.backends.backend import Fields

_ACTIVATOR_503: Final = frozenset({b"27", b"26"})
"""``pending request queue full`` and ``context deadline exceeded``, each with Go's newline."""
_ACTIVATOR_504: Final = b"25"
"""``activator request timeout``, without one."""
_ENVOY_503: Final = b"19"
"""``no healthy upstream``."""
_ENVOY_504: Final = b"24"
"""``upstream request timeout``."""
_GO_TEXT: Final = b"text/plain; charset=utf-8"


class AnswerHead:
    """What the head of an answer says about who wrote it."""

    __slots__ = ("_fields",)

    def __init__(self, fields: Fields) -> None:
        self._fields = {name.lower(): value.strip() for name, value in fields}

    @property
    def is_activators_503(self) -> bool:
        """Go's ``http.Error`` with one of the two texts that activator and queue-proxy have for 503."""
        fields = self._fields
        return (
            fields.get(b"content-length") in _ACTIVATOR_503
            and fields.get(b"content-type") == _GO_TEXT
            and fields.get(b"x-content-type-options") == b"nosniff"
        )

    @property
    def is_no_upstream(self) -> bool:
        return self._is_envoys and self._is_text(_ENVOY_503)

    @property
    def is_timeout(self) -> bool:
        fields = self._fields
        if fields.get(b"content-type") == _GO_TEXT and fields.get(b"content-length") == _ACTIVATOR_504:
            return b"x-content-type-options" not in fields
        return self._is_envoys and self._is_text(_ENVOY_504)

    @property
    def is_no_host(self) -> bool:
        """The ingress has no route for this host: an answer without a body, of which nobody else had a hand."""
        fields = self._fields
        return self._is_envoys and b"content-type" not in fields and fields.get(b"content-length", b"0") == b"0"

    @property
    def _is_envoys(self) -> bool:
        """Written by Envoy itself: it puts its name on all answers, and the time it took on those of others."""
        fields = self._fields
        return fields.get(b"server") in (b"envoy", b"istio-envoy") and b"x-envoy-upstream-service-time" not in fields

    def _is_text(self, length: bytes) -> bool:
        fields = self._fields
        return fields.get(b"content-type") == b"text/plain" and fields.get(b"content-length") == length
