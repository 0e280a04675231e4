"""What every test starts from."""

import pytest
from hypothesis import HealthCheck, settings

import authproxy.audit

# How long a busy machine takes for an example says nothing of what is tested; tests of time have a clock of their own.
settings.register_profile("portero", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("portero")


@pytest.fixture(autouse=True)
def _usual_log_level(monkeypatch: pytest.MonkeyPatch) -> None:
    """The level of the log is the process': a test that changed it must not silence the next one's lines."""
    monkeypatch.setattr(authproxy.audit, "_least_level", 20)
