import pytest

pytest_plugins = ["tests.kinds", "tests.servers.fixtures", "tests.fixtures"]


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"
