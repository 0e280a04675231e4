"""
The functions of the demo: a customer-satisfaction survey, each a module with one ``handle``.

They know neither policies nor tokens: what they learn of their caller is what Portero writes into ``X-Portero-*``.
``watchdog.py`` is the little runtime around them. Standard library only, so that a replica starts quickly.
"""

from typing import Final

FUNCTIONS: Final = ("survey-web", "survey-submit", "survey-report", "survey-stream")
