"""``survey-web``: the form. Public: anybody may see it."""

from __future__ import annotations

from authproxy.demo.functions.watchdog import Answer, Event

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>How are we doing?</title>
<style>body {font: 1.1rem system-ui; max-width: 34rem; margin: 3rem auto} label {display: block; margin: 1rem 0}</style>
<h1>How are we doing?</h1>
<form method="post" action="/function/survey-submit">
  <label>Country <input name="country" value="es" pattern="[A-Za-z]{2}" required></label>
  <label>Score, 1 to 5 <input name="score" type="number" min="1" max="5" value="5" required></label>
  <label>Anything else? <input name="comment" maxlength="200"></label>
  <button>Send</button>
</form>
</html>
"""


def handle(event: Event) -> Answer:
    if event.path != "/":
        return Answer(b"not found\n", 404)
    return Answer(PAGE.encode(), content_type="text/html; charset=utf-8")
