"""A test's kind is the folder it stands in: `pytest -m "unit or contract"` chooses by it."""

from pathlib import Path

import pytest

TESTS = Path(__file__).parent
KINDS = {"chaos", "contract", "e2e", "handlers", "integration", "unit"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        kind = item.path.relative_to(TESTS).parts[0]
        if kind in KINDS:
            item.add_marker(kind)
