"""
What a person sees of the demo's provider: the login form, the question before a logout, and a sentence when it is over.

Right on a phone and in the dark, without script and without anything loaded from elsewhere. Every value is escaped; a
form can only lead back here and to the client that asked. Refuses to know who may log in.

Source: OpenID Connect Core section 3.1.2.3; CSP Level 3 (form-action also holds for redirects after a form).
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from typing import Any, Final

from aiohttp import web
from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from authproxy.demo.people import PASSWORD, PEOPLE
from policies.problem import STYLE, STYLE_SOURCE

_FORM_STYLE: Final = """
li label { display: flex; gap: .625rem; align-items: baseline; padding: .25rem 0 }
.word { display: block; margin: 1.25rem 0 }
.word input { display: block; width: 100%; margin-top: .25rem; padding: .625rem .75rem; font: inherit; color: inherit;
  background: var(--paper); border: 1px solid var(--soft); border-radius: .5rem }
"""
_STYLE_SOURCES: Final = f"{STYLE_SOURCE} 'sha256-{b64encode(sha256(_FORM_STYLE.encode()).digest()).decode()}'"
_BASE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex"><link rel="icon" href="data:,">
<title>{% block title %}{% endblock %}</title><style>{{ style }}</style><style>{{ form_style }}</style>
</head><body><main>
<p class="tenant"><b>Identity provider</b> · of this demo</p>
<h1>{{ self.title() }}</h1>
{% block content %}{% endblock %}
</main></body></html>
"""
_LOGIN: Final = """{% extends "base" %}
{% block title %}Log in{% endblock %}
{% block content %}
{% if problem %}<p role="alert"><b>{{ problem }}</b></p>{% endif %}
<p><b>{{ client }}</b> asks who you are. Choose a person; everybody's password here is <b>{{ password }}</b>.</p>
<form method="post" action="/login">
<input type="hidden" name="request" value="{{ request }}">
<ul>
{% for person in people %}
<li><label><input type="radio" name="person" value="{{ person.sub }}" required
{%- if person.sub == chosen %} checked{% endif %}> {{ person.name }}, {{ person.who }}</label></li>
{% endfor %}
</ul>
<label class="word">Password <input type="password" name="password" required autocomplete="current-password"></label>
<button class="button">Log in</button>
</form>
{% endblock %}
"""
_LOGOUT: Final = """{% extends "base" %}
{% block title %}Log out?{% endblock %}
{% block content %}
<p>You are logged in as {{ name }}.</p>
<form method="post" action="/logout">
<input type="hidden" name="request" value="{{ request }}">
<button class="button">Log out</button>
</form>
{% endblock %}
"""
_SENTENCE: Final = """{% extends "base" %}
{% block title %}{{ title }}{% endblock %}
{% block content %}<p>{{ sentence }}</p>{% endblock %}
"""
_environment: Final = Environment(
    loader=DictLoader({"base": _BASE, "login": _LOGIN, "logout": _LOGOUT, "sentence": _SENTENCE}),
    autoescape=True,
    undefined=StrictUndefined,
)
# Constants of ours, and the CSP admits no other bytes.
_environment.globals["style"] = Markup(STYLE)  # noqa: S704
_environment.globals["form_style"] = Markup(_FORM_STYLE)  # noqa: S704


def login_page(
    request: str, client: str, form_targets: Sequence[str], *, chosen: str, problem: str = ""
) -> web.Response:
    """
    Whom to log in as.

    Args:
        request: name of the pending authorization request.
        client: who asks, as its origin.
        form_targets: origins that the form's redirects may lead to.
        chosen: subject of the person who is chosen beforehand.
        problem: why it is shown again.
    """
    values = {"people": PEOPLE, "password": PASSWORD, "chosen": chosen, "problem": problem}
    return _page("login", form_targets, 400 if problem else 200, request=request, client=client, **values)


def logout_page(request: str, name: str, form_targets: Sequence[str]) -> web.Response:
    """Asked where no client vouches for the wish: any page of the web can send a browser here."""
    return _page("logout", form_targets, request=request, name=name)


def sentence_page(title: str, sentence: str, status: int = 200) -> web.Response:
    return _page("sentence", (), status, title=title, sentence=sentence)


def _page(template: str, form_targets: Sequence[str], status: int = 200, **values: Any) -> web.Response:
    targets = " ".join(dict.fromkeys(("'self'", *form_targets)))
    return web.Response(
        text=_environment.get_template(template).render(values),
        status=status,
        content_type="text/html",
        charset="utf-8",
        headers={
            "Cache-Control": "no-store",
            "Content-Security-Policy": f"default-src 'none'; style-src {_STYLE_SOURCES}; img-src data:; "
            f"base-uri 'none'; form-action {targets}; frame-ancestors 'none'",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        },
    )
