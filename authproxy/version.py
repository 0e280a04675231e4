"""The version of this Portero."""

from importlib.metadata import version
from typing import Final

VERSION: Final = version("portero")
