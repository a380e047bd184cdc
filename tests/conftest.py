import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.kinds", "tests.servers.fixtures", "tests.fixtures"]

# How long an example takes says how busy the machine is, and nothing about what is tested.
settings.register_profile("house", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("house")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"
