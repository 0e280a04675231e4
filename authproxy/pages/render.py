"""
Portero's own pages as HTML: templates of this package, every value escaped, a missing one an error.

A page holds its style and nothing else that a browser would act upon: no script, no asset, no inline style attribute.
Refuses to know requests and fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from policies.problem import STYLE, STYLE_SOURCE, as_sentence

__all__ = ["STYLE_SOURCE", "TEMPLATES", "render"]

TEMPLATES: Final = ("choose.html", "failed.html", "logout.html", "logged_out.html", "pending.html", "whoami.html")

_environment: Final = Environment(
    loader=PackageLoader("authproxy.pages"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    auto_reload=False,
)
_environment.globals["style"] = Markup(STYLE)  # noqa: S704 (a constant of ours, and the CSP admits no other bytes)
_environment.filters["sentence"] = as_sentence
_templates: Final = {name: _environment.get_template(name) for name in TEMPLATES}
"""Compiled at import: no request waits for a file, and a template that is broken or not packaged shows at once."""


def render(template: str, values: Mapping[str, Any]) -> bytes:
    """
    One page as UTF-8.

    Raises: jinja2.UndefinedError for a value that the template needs and ``values`` lacks.
    """
    return _templates[template].render(values).encode("utf-8", "replace")
