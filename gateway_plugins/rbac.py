"""
``portero-rbac``: questions 2 and 3. Who is calling, and may they?

401 with its challenge (for a browser the way to the login), 403, 413 for a body that the function does not take.

Its Kong config::

    plugins:
    - name: portero-rbac
      config:
        after: [portero-tenant]   # must have run; empty: it resolves the tenant itself
        final: false              # true where nothing of the chain comes after it

``chain`` says how ``after`` and ``final`` work; ``portero kong render --chain`` writes them.
"""

from __future__ import annotations

from typing import Final

from authproxy.version import VERSION
from gateway_plugins.chain import NAMES, ChainPlugin, schema_of
from policies.stages import Stage

name: Final = NAMES[Stage.RBAC]
version: Final = VERSION
priority: Final = 1030
Schema: Final = schema_of(Stage.RBAC)


class Plugin(ChainPlugin):
    """See ``handler.Plugin``."""

    stage = Stage.RBAC
