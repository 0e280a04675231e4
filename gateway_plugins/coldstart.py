"""
``portero-coldstart``: question 5. Is it there, and awake?

The last of a chain: the request leaves from Kong where the function can take it at once, and by Portero's internal
listener where it has to be held, counted, answered later or watched until its end (``answers.goes_direct``).

Its Kong config::

    plugins:
    - name: portero-coldstart
      config:
        after: [portero-tenant, portero-rbac, portero-ratelimit]   # must have run
        final: true                                                # it lets the request out

``chain`` says how ``after`` and ``final`` work; ``portero kong render --chain`` writes them.
"""

from __future__ import annotations

from typing import Final

from authproxy.version import VERSION
from gateway_plugins.chain import NAMES, ChainPlugin, schema_of
from policies.stages import Stage

name: Final = NAMES[Stage.COLDSTART]
version: Final = VERSION
priority: Final = 1010
Schema: Final = schema_of(Stage.COLDSTART)


class Plugin(ChainPlugin):
    """See ``handler.Plugin``."""

    stage = Stage.COLDSTART
