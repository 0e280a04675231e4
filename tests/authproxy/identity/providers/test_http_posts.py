"""Forms sent to providers, and documents asked for with a token: what goes out, and which answers are answers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from authproxy.identity.providers.http import ProviderHttp
from policies.errors import ProviderUnavailable

NONE: frozenset[str] = frozenset()


class Echo:
    """Answers with what it is told to, and remembers what it got."""

    def __init__(self) -> None:
        self.url = ""
        self.status = 200
        self.text = '{"ok": true}'
        self.content_type = "application/json"
        self.fields: dict[str, str] = {}
        self.body = b""
        self.methods: list[str] = []

    async def handle(self, request: web.Request) -> web.Response:
        self.methods.append(request.method)
        self.fields, self.body = dict(request.headers), await request.read()
        return web.Response(status=self.status, text=self.text, content_type=self.content_type)


@pytest.fixture
async def echo() -> AsyncIterator[Echo]:
    made = Echo()
    app = web.Application()
    app.router.add_route("*", "/{any:.*}", made.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}/token"
    yield made
    await runner.cleanup()


@pytest.fixture
async def http() -> AsyncIterator[ProviderHttp]:
    made = ProviderHttp(allow_loopback_http=True, timeout_s=1)
    yield made
    await made.close()


async def test_a_form_is_encoded_and_sent_once(http: ProviderHttp, echo: Echo) -> None:
    """Values cannot become further fields; nothing but what is needed is said of us."""
    answer = await http.post_form(echo.url, {"code": "a&b=c d+é"}, NONE, authorization="Basic eDp5")
    assert (answer.value, answer.status) == ({"ok": True}, 200)
    assert echo.body == b"code=a%26b%3Dc+d%2B%C3%A9"
    assert echo.fields["Content-Type"] == "application/x-www-form-urlencoded"
    assert echo.fields["Authorization"] == "Basic eDp5"
    assert echo.fields["Accept-Encoding"] == "identity"
    assert echo.methods == ["POST"]


@pytest.mark.parametrize("status", [200, 201, 400, 401, 403, 404, 429])
async def test_a_refusal_in_json_is_an_answer(status: int, http: ProviderHttp, echo: Echo) -> None:
    """RFC 6749 section 5.2: the caller tells them apart by their status and error."""
    echo.status = status
    assert (await http.post_form(echo.url, {}, NONE)).status == status


@pytest.mark.parametrize("status", [202, 203, 205, 206, 301, 302, 303, 307, 308, 500, 502, 503, 504])
async def test_any_other_status_is_none(status: int, http: ProviderHttp, echo: Echo) -> None:
    """Redirects are not followed: a form may hold a secret."""
    echo.status = status
    with pytest.raises(ProviderUnavailable):
        await http.post_form(echo.url, {}, NONE)
    assert echo.methods == ["POST"]


@pytest.mark.parametrize("status", [201, 400, 401, 404, 500])
async def test_a_document_comes_with_200_or_not_at_all(status: int, http: ProviderHttp, echo: Echo) -> None:
    """What a form may be answered with is nothing to whoever asks for keys."""
    echo.status = status
    with pytest.raises(ProviderUnavailable, match=f"answered {status}"):
        await http.get(echo.url, NONE)


@pytest.mark.parametrize(
    "content_type", ["text/html", "application/jwt", "application/x-json", "application/jsonx", "text/json"]
)
async def test_what_is_said_to_be_something_else_is_not_read_as_json(
    content_type: str, http: ProviderHttp, echo: Echo
) -> None:
    """RFC 6749 section 5.1, Core section 5.3.2; a page that looks like JSON is somebody else's."""
    echo.content_type = content_type
    with pytest.raises(ProviderUnavailable, match="content type"):
        await http.post_form(echo.url, {}, NONE)
    with pytest.raises(ProviderUnavailable, match="content type"):
        await http.get(echo.url, NONE, bearer="token")
    assert (await http.get(echo.url, NONE)).value == {"ok": True}, "keys come under many names"


async def test_a_content_type_may_have_parameters(http: ProviderHttp, echo: Echo) -> None:
    """``application/json; charset=utf-8`` is what most servers say."""
    echo.content_type = "Application/JSON"
    assert (await http.post_form(echo.url, {}, NONE)).status == 200


async def test_a_token_is_shown_as_bearer(http: ProviderHttp, echo: Echo) -> None:
    """RFC 6750 section 2.1."""
    await http.get(echo.url, NONE, bearer="a.b-c_d~e+/=")
    assert echo.fields["Authorization"] == "Bearer a.b-c_d~e+/="
    await http.get(echo.url, NONE)
    assert "Authorization" not in echo.fields


@pytest.mark.parametrize("token", ["", "a b", "a\r\nX: y", "a,b", "é", "=a", '"a"'])
async def test_a_token_that_is_no_token_is_not_shown(token: str, http: ProviderHttp, echo: Echo) -> None:
    """It came from a provider and could be further header fields; the text does not quote it."""
    with pytest.raises(ProviderUnavailable) as caught:
        await http.get(echo.url, NONE, bearer=token)
    assert str(caught.value) == "the access token cannot be shown as a bearer token"
    assert not echo.methods


@pytest.mark.parametrize("text", ["[]", "7", "", "{", '{"a": 1, "a": 2}', '{"a": NaN}', "[" * 10_000])
async def test_a_refusal_that_is_no_object_is_no_answer(text: str, http: ProviderHttp, echo: Echo) -> None:
    """R25, whatever the status."""
    echo.text = text
    for status in (200, 400):
        echo.status = status
        with pytest.raises(ProviderUnavailable):
            await http.post_form(echo.url, {}, NONE)


@pytest.mark.parametrize(
    "url", ["http://10.0.0.1/token", "https://169.254.169.254/token", "http://id.example/token", "https://u@id/", "x:/"]
)
async def test_a_form_is_sent_only_where_a_document_may_be_fetched(url: str, http: ProviderHttp) -> None:
    """R43: one vetting for both."""
    with pytest.raises(ProviderUnavailable):
        await http.post_form(url, {"secret": "x"}, NONE)


async def test_what_was_sent_is_in_no_text(http: ProviderHttp, echo: Echo) -> None:
    """R27: neither the form nor the field that proves who we are."""
    echo.status = 500
    sent: dict[str, Any] = {"client_secret": "canary"}
    with pytest.raises(ProviderUnavailable) as caught:
        await http.post_form(echo.url, sent, NONE, authorization="Basic canary")
    assert "canary" not in f"{caught.value!r} {caught.value.__cause__!r}"
