"""The registry of live exchanges: who may no longer is cut, whatever goes wrong with others."""

from collections.abc import Callable

from authproxy.gate.live import GOING_AWAY, POLICY_VIOLATION, LiveExchange, LiveRegistry


class Exchange(LiveExchange):
    def __init__(self, recheck: Callable[[], bool]) -> None:
        super().__init__()
        self.may_go_on = recheck  # type: ignore[method-assign] # each test's own


def _fail() -> bool:
    raise RuntimeError


def test_what_cannot_be_judged_again_is_cut_and_stops_nobody_else() -> None:
    """An error never widens access: neither for the exchange it is about, nor for those that come after it."""
    registry = LiveRegistry()
    cut: list[tuple[str, int]] = []
    for name, recheck in (("broken", _fail), ("refused", lambda: False), ("allowed", lambda: True)):
        live = Exchange(recheck)
        registry.enter(live)
        live.on_cut = lambda code, name=name: cut.append((name, code))
    assert registry.recheck_all() == 2
    assert sorted(cut) == [("broken", POLICY_VIOLATION), ("refused", POLICY_VIOLATION)]


def test_all_are_cut_though_one_cannot_be() -> None:
    """A defect in one exchange leaves no other running when the process stops."""
    registry = LiveRegistry()
    cut: list[int] = []

    def fail(_code: int) -> None:
        raise RuntimeError

    for number in range(5):
        live = Exchange(_fail)
        live.on_cut = fail if number == 2 else cut.append
        registry.enter(live)
    assert registry.cut_all() == 5
    assert cut == [GOING_AWAY] * 4
