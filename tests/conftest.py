"""What every test starts from."""

import pytest

import authproxy.audit


@pytest.fixture(autouse=True)
def _usual_log_level(monkeypatch: pytest.MonkeyPatch) -> None:
    """The level of the log is the process': a test that changed it must not silence the next one's lines."""
    monkeypatch.setattr(authproxy.audit, "_least_level", 20)
