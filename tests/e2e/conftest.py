"""Stages for the end-to-end tests: real Postgres, and a folder or a real S3 server as object store."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from config.catalogue import Catalogue
from config.checkpoints import pull
from config.settings import Settings
from storage.database import Database
from tests.e2e.stage import Stage, stage
from tests.servers.s3 import S3Bucket


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the checkpoints of random weights, made once."""
    models = tmp_path_factory.mktemp("models")
    catalogue = Catalogue.load("tiny")
    executor = Settings.load(environ={}, files=[]).settings.executor_python
    for entry in catalogue.entries.values():
        pull(catalogue, entry, models, executor=executor, progress=lambda _: None)
    return models


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Twelve small pictures that differ, drawn by the executor's Pillow."""
    folder = tmp_path_factory.mktemp("pictures")
    executor = Settings.load(environ={}, files=[]).settings.executor_python
    subprocess.run([executor, Path(__file__).with_name("draw.py"), folder, "12"], check=True)
    return sorted(folder.glob("*.jpg"))


@pytest.fixture
def on_folder(tmp_path: Path, database: Database, tiny_models: Path) -> Iterator[Stage]:
    """A deployment on a local folder."""
    environ = {"MEDIAMILL_MODELS": str(tiny_models)}
    with stage(tmp_path, environ, database.url) as made:
        yield made


@pytest.fixture
def on_s3(tmp_path: Path, database: Database, tiny_models: Path, s3_bucket: S3Bucket) -> Iterator[Stage]:
    """A deployment on a real S3 server."""
    environ = {
        "MEDIAMILL_MODELS": str(tiny_models),
        "MEDIAMILL_STORE": "s3",
        "MEDIAMILL_S3_ENDPOINT": s3_bucket.server.endpoint,
        "MEDIAMILL_S3_REGION": "us-east-1",
        "MEDIAMILL_S3_BUCKETS": f'{{"{s3_bucket.name}": "rw"}}',
        "MEDIAMILL_OUTPUT_PREFIX": f"s3://{s3_bucket.name}/derived/",
        **s3_bucket.server.environ,
    }
    with stage(tmp_path, environ, database.url) as made:
        yield made
