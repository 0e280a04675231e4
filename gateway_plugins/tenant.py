"""
``portero-tenant``: question 1 alone. Which tenant, which function?

The first of a chain: 404 for hosts and paths that nobody serves, 405, 426, 403 for a tenant that is switched off. It
asks nobody who he is. CORS preflights are answered here.

Its Kong config::

    plugins:
    - name: portero-tenant
      config:
        final: false   # true only where it is the only one; then it asks who is calling and whether he may, too

``after`` is there and has to be empty: nothing runs before it.

``chain`` says how ``after`` and ``final`` work; ``portero kong render --chain`` writes them.
"""

from __future__ import annotations

from typing import Final

from authproxy.version import VERSION
from gateway_plugins.chain import NAMES, ChainPlugin, schema_of
from policies.stages import Stage

name: Final = NAMES[Stage.TENANT]
version: Final = VERSION
priority: Final = 1040
Schema: Final = schema_of(Stage.TENANT)


class Plugin(ChainPlugin):
    """See ``handler.Plugin``."""

    stage = Stage.TENANT
