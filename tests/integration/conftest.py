"""What several integration tests are run with."""

from __future__ import annotations

import pytest

from tests.fakes.kong_world import FRONTS, Front


@pytest.fixture(scope="module", params=FRONTS)
def front(request: pytest.FixtureRequest) -> Front:
    found: Front = request.param
    return found
