"""What deployments of tests work with: checkpoints of random weights, pictures, and the settings of an S3 server."""

from __future__ import annotations

import subprocess
from pathlib import Path

from config.catalogue import Catalogue
from config.checkpoints import pull
from config.settings import Settings
from tests.servers.s3 import S3Bucket


def executor_python() -> Path:
    """The executor's interpreter of this checkout."""
    return Settings.load(environ={}, files=[]).settings.executor_python


def make_tiny_models(models: Path) -> None:
    """Makes the checkpoints of the catalogue's profile `tiny`."""
    catalogue = Catalogue.load("tiny")
    for entry in catalogue.entries.values():
        pull(catalogue, entry, models, executor=executor_python(), progress=lambda _: None)


def draw_pictures(folder: Path, n: int) -> list[Path]:
    """Draws small pictures that differ, by the executor's Pillow."""
    subprocess.run([executor_python(), Path(__file__).with_name("draw.py"), folder, str(n)], check=True)
    return sorted(folder.glob("*.jpg"))


def s3_environ(bucket: S3Bucket) -> dict[str, str]:
    """Settings of a deployment whose one bucket is on a real S3 server."""
    return {
        "MEDIAMILL_STORE": "s3",
        "MEDIAMILL_S3_ENDPOINT": bucket.server.endpoint,
        "MEDIAMILL_S3_REGION": "us-east-1",
        "MEDIAMILL_S3_BUCKETS": f'{{"{bucket.name}": "rw"}}',
        "MEDIAMILL_OUTPUT_PREFIX": f"s3://{bucket.name}/derived/",
        **bucket.server.environ,
    }
