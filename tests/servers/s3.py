"""A real S3 server (S3Proxy: HTTP, signatures, files behind it) as a child that dies with the tests."""

from __future__ import annotations

import http.client
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config

from tests.servers.leashed import Leashed

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

JARS = Path(__file__).resolve().parents[2] / ".servers" / "s3proxy"
REGION = "us-east-1"

LOGGING = """<configuration>
  <appender name="out" class="ch.qos.logback.core.ConsoleAppender">
    <encoder><pattern>%d %level %msg%n</pattern></encoder>
  </appender>
  <root level="WARN"><appender-ref ref="out"/></root>
</configuration>
"""


class S3Server(Leashed):
    """Objects are files in its folder: killed and started again, it has them still."""

    name = "s3proxy"
    access_key = "tests"
    secret_key = "not-a-secret"

    def __init__(self) -> None:
        super().__init__()
        objects = self.folder / "objects"
        objects.mkdir()
        self._logging, self._configuration = self.folder / "logback.xml", self.folder / "s3proxy.conf"
        self._logging.write_text(LOGGING)
        self._configuration.write_text(
            "s3proxy.authorization=aws-v2-or-v4\n"
            f"s3proxy.endpoint={self.endpoint}\n"
            f"s3proxy.identity={self.access_key}\n"
            f"s3proxy.credential={self.secret_key}\n"
            "jclouds.provider=filesystem-nio2\n"
            f"jclouds.filesystem.basedir={objects}\n"
        )

    def command(self) -> Sequence[str]:
        options = ["-Xmx512m", "-XX:TieredStopAtLevel=1", f"-Dlogback.configurationFile={self._logging}"]
        program = ["-cp", f"{JARS}/*", "org.gaul.s3proxy.Main", "--properties", str(self._configuration)]
        return ["java", *options, *program]

    def ready(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/")
            connection.getresponse().read()
        except OSError:
            return False
        finally:
            connection.close()
        return True

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environ(self) -> dict[str, str]:
        """What boto3 in another process needs to get in."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": REGION,
        }

    def client(self) -> S3Client:
        """A plain client that does not retry; close it."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name=REGION,
            config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
        )


@dataclass(frozen=True)
class S3Bucket:
    """An empty bucket of a running server, and a client for it."""

    server: S3Server
    client: S3Client
    name: str

    @classmethod
    def create(cls, server: S3Server, client: S3Client) -> S3Bucket:
        name = f"test-{uuid.uuid4().hex[:16]}"
        client.create_bucket(Bucket=name)
        return cls(server, client, name)

    def uri(self, key: str) -> str:
        return f"s3://{self.name}/{key}"
