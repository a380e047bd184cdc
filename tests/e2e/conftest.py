"""Stages for the end-to-end tests: real Postgres, and a folder or a real S3 server as object store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.database import Database
from tests.e2e.stage import Stage, stage
from tests.servers.s3 import S3Bucket


@pytest.fixture
def on_folder(tmp_path: Path, database: Database, tiny_models: Path) -> Iterator[Stage]:
    """A deployment on a local folder."""
    with stage(tmp_path, {"MEDIAMILL_MODELS": str(tiny_models)}, database.url) as made:
        yield made


@pytest.fixture
def on_s3(tmp_path: Path, database: Database, tiny_models: Path, s3_bucket: S3Bucket) -> Iterator[Stage]:
    """A deployment on a real S3 server."""
    from tests.e2e.material import s3_environ

    with stage(tmp_path, {"MEDIAMILL_MODELS": str(tiny_models), **s3_environ(s3_bucket)}, database.url) as made:
        yield made
