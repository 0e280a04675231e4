"""Question 5, enforced: requests of a sleeping function are held while it wakes, bounded in every direction."""

from authproxy.activator.activator import Activator
from authproxy.activator.driver import SpendWake

__all__ = ["Activator", "SpendWake"]
