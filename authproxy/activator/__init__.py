"""Question 5, enforced: requests of a sleeping function are held while it wakes, bounded in every direction."""

from authproxy.activator.activator import Activator
from authproxy.activator.driver import Grant
from authproxy.activator.probe import FunctionKey, Prober
from authproxy.activator.waking import SpendWake

__all__ = ["Activator", "FunctionKey", "Grant", "Prober", "SpendWake"]
