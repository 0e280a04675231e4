"""
``portero-ratelimit``: question 4. Not too much?

Spends the rates of the policy, all or nothing, and answers 429. Who is counted has to be known: without
``portero-rbac`` before it, it asks who is calling (401 for a bad credential), and not whether he may.

Its Kong config::

    plugins:
    - name: portero-ratelimit
      config:
        after: [portero-tenant, portero-rbac]   # must have run
        final: false                            # true where nothing of the chain comes after it

``chain`` says how ``after`` and ``final`` work; ``portero kong render --chain`` writes them.
"""

from __future__ import annotations

from typing import Final

from authproxy.version import VERSION
from gateway_plugins.chain import NAMES, ChainPlugin, schema_of
from policies.stages import Stage

name: Final = NAMES[Stage.RATELIMIT]
version: Final = VERSION
priority: Final = 1020
Schema: Final = schema_of(Stage.RATELIMIT)


class Plugin(ChainPlugin):
    """See ``handler.Plugin``."""

    stage = Stage.RATELIMIT
