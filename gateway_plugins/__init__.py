"""
ENFORCE in Kong, with the proxy's own gate: an error never widens access, whatever part of Kong, or of this, is down.

Kong's Python plugins fail open: when their server is down, silent or broken, the request goes on. So a rendered service
points at a dead address, and only a verdict gives a request another one. Three parts see to a request:

1. ``lua/facts.lua`` writes down the head as nginx has read it, and removes what a client may not say. Without facts
   nothing passes.
2. A plugin (``portero.py``, or a chain of ``tenant``, ``rbac``, ``ratelimit``, ``coldstart``) reads the facts by one
   call and has the gate judge them. It refuses by ``kong.response.exit``, or sets a verdict by one more call.
3. ``lua/admit.lua`` does what the verdict says: target, path, fields. Without a verdict it refuses. ``lua/answer.lua``
   does for a function's answer what the proxy does.

A handler (``handler.py``) is a generator that yields calls and waits and returns the refusal: it knows no server.
``server.py`` is ours, on asyncio; ``stock.py`` runs the same handlers on Kong's own. ``render.py`` makes Kong's
configuration from policies, ``kong_check.py`` says what has drifted. ``authproxy.kong_app`` composes the process.
"""
