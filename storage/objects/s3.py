"""The object store in S3, and in servers that speak its protocol.

Relied on is what Amazon documents; what a server answers with 501 is "not there". Uploads are not left to boto3's
transfer module, because it does not say which version and ETag it made, and those are what a job pins.
"""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import boto3
from botocore.awsrequest import AWSPreparedRequest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.response import StreamingBody
from urllib3.exceptions import HTTPError

from storage.objects.base import Body, ObjectInfo, ObjectRef, ObjectStore, normal_etag, normal_version
from storage.objects.errors import AccessRefused, BodyCut, BodyDamaged, ObjectMissing, StoreUnavailable
from storage.objects.rules import BucketRules
from storage.objects.s3_errors import code_of, damaged, status_of, translated
from storage.objects.s3_upload import LEAST_PART_BYTES, Upload
from storage.objects.uri import BadUri, ObjectUri, shown

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from structlog.stdlib import BoundLogger

CHUNK_BYTES = 1 << 20
_PROBE_S = 5.0
_RANGE = re.compile(r"bytes ([0-9]+)-[0-9]+/([0-9]+)")


@dataclass(frozen=True, slots=True)
class S3Options:
    """Where the server is and how it is spoken to. Times in seconds, sizes in bytes.

    `attempts`: of each request, and how often in a row a body may be cut. `read_s`: the longest silence.
    An object of more than `part_bytes` is uploaded in parts of that size; one part is in memory at a time.
    """

    endpoint_url: str | None = None
    region: str | None = None
    addressing: Literal["auto", "path", "virtual"] = "auto"
    connect_s: float = 5.0
    read_s: float = 60.0
    attempts: int = 5
    connections: int = 32
    part_bytes: int = 16 << 20
    page_size: int = 1000
    user_agent: str = "mediamill"

    def config(self, **changed: Any) -> Config:
        """The same in boto3's terms."""
        options: dict[str, Any] = {
            "connect_timeout": self.connect_s,
            "read_timeout": self.read_s,
            "retries": {"mode": "standard", "total_max_attempts": self.attempts},
            "max_pool_connections": self.connections,
            "tcp_keepalive": True,
            "user_agent_extra": self.user_agent,
            "s3": {"addressing_style": self.addressing},
            # Other servers do not know the newer checksums; ours are given explicitly.
            "request_checksum_calculation": "when_required",
            "response_checksum_validation": "when_required",
        }
        return Config(**(options | changed))


class S3Store(ObjectStore):
    """Credentials come the way boto3 finds them, or from `session`."""

    def __init__(
        self,
        rules: BucketRules,
        options: S3Options | None = None,
        *,
        session: boto3.Session | None = None,
        sleep: Callable[[float], None] = time.sleep,
        seed: int | None = None,
    ) -> None:
        """Speaks to no server yet. Raises ValueError or StoreUnavailable where boto3 cannot work with the options."""
        options = options or S3Options()
        if options.part_bytes < LEAST_PART_BYTES:
            raise ValueError(f"part_bytes is {options.part_bytes}; S3 wants at least {LEAST_PART_BYTES}")
        super().__init__(rules, attempts=options.attempts, sleep=sleep, seed=seed)
        self._options = options
        self._checksums = True
        session = session or boto3.Session()
        quick = {
            "connect_timeout": min(_PROBE_S, options.connect_s),
            "read_timeout": min(_PROBE_S, options.read_s),
            "retries": {"mode": "standard", "total_max_attempts": 1},
        }
        with _errors(options.endpoint_url or "S3"):
            self._client = self._connect(session, options.config())
            self._prober = self._connect(session, options.config(**quick))
        self._client.meta.events.register("before-send.s3", self._before_send)

    def close(self) -> None:
        self._client.close()
        self._prober.close()

    def _connect(self, session: boto3.Session, config: Config) -> S3Client:
        options = self._options
        return session.client("s3", endpoint_url=options.endpoint_url, region_name=options.region, config=config)

    def _before_send(self, request: AWSPreparedRequest, **_: object) -> None:
        """At each attempt of a request; what clears up after a transfer (POST, DELETE) is sent in any case."""
        if request.method in ("GET", "HEAD", "PUT"):
            self._go_on()

    def _stat(self, ref: ObjectRef) -> ObjectInfo:
        with _errors(ref.uri, ref.version_id):
            try:
                answer = self._client.head_object(**_address(ref))
            except ClientError as error:
                if status_of(error) in (400, 403):
                    self._explain(ref)
                raise
        return _info(ref, answer)

    def _explain(self, ref: ObjectRef) -> None:
        """Raises what a refused HEAD really means: without a body, it cannot say whether our credentials are wrong."""
        with suppress(BotoCoreError):
            self._client.get_object(**_address(ref), Range="bytes=0-0")["Body"].close()

    @contextmanager
    def _open(self, ref: ObjectRef, start: int) -> Iterator[Body]:
        conditions: dict[str, Any] = {"IfMatch": f'"{ref.etag}"'} if ref.etag is not None else {}
        # Asked for with the whole object only: of a range, servers give the whole's checksum or that of a part.
        conditions |= {"Range": f"bytes={start}-"} if start else {"ChecksumMode": "ENABLED"}
        with _errors(ref.uri, ref.version_id):
            answer = self._client.get_object(**_address(ref), **conditions)
        stream = answer["Body"]
        try:
            begin, total = _extent(ref.uri, answer)
            chunks = _chunks(ref.uri, stream)
            yield Body(_info(ref, answer, total), begin, chunks, _whole_sha256(answer) if begin == 0 else None)
        finally:
            stream.close()  # what was not read is not waited for: the connection goes with it

    def _upload(
        self, source: Path, uri: ObjectUri, content_type: str | None, metadata: Mapping[str, str]
    ) -> ObjectInfo:
        about: dict[str, Any] = {"Bucket": uri.bucket, "Key": uri.key, "Metadata": metadata}
        if content_type is not None:
            about["ContentType"] = content_type
        with source.open("rb") as file, _errors(uri):
            upload = Upload(self._client, about, self._options.part_bytes, self._go_on)
            try:
                made = upload.send(file, checksums=self._checksums)
            except ClientError as error:
                if status_of(error) != 501 or not self._checksums:
                    raise
                _log().warning("s3.no_checksums", server=self._client.meta.endpoint_url, said=code_of(error))
                self._checksums = False
                made = upload.send(file, checksums=False)
        etag, version = normal_etag(made.etag), normal_version(made.version_id)
        return ObjectInfo(uri, made.size, etag, version, None, content_type, made.sha256)

    def _delete(self, uri: ObjectUri) -> None:
        with suppress(ObjectMissing), _errors(uri):
            self._client.delete_object(Bucket=uri.bucket, Key=uri.key)

    def _list(self, bucket: str, prefix: str, start_after: str | None) -> Iterator[ObjectInfo]:
        place: dict[str, Any] = {"Bucket": bucket, "Prefix": prefix, "StartAfter": start_after or ""}
        pages = iter(
            self._client.get_paginator("list_objects_v2").paginate(
                **place, PaginationConfig={"PageSize": self._options.page_size}
            )
        )
        while True:
            with _errors(f"s3://{bucket}/{prefix}"):
                page = next(pages, None)
            if page is None:
                return
            for entry in page.get("Contents", []):
                try:
                    uri = ObjectUri(bucket, entry["Key"])
                except BadUri as error:
                    _log().warning("object.left_out", bucket=bucket, key=shown(entry["Key"]), reason=str(error))
                    continue
                etag = normal_etag(entry.get("ETag"))
                yield ObjectInfo(uri, entry["Size"], etag, last_modified=entry.get("LastModified"))

    def _check(self) -> None:
        for rule in self.rules.rules:
            where = str(rule.place)
            try:
                with _errors(where):
                    self._prober.list_objects_v2(Bucket=rule.place.bucket, Prefix=rule.place.prefix, MaxKeys=1)
            except AccessRefused:
                pass  # it answers and knows us: who may read objects need not be allowed to list them
            except ObjectMissing as error:
                raise StoreUnavailable(where, error.what, error.fix) from error


def _log() -> BoundLogger:
    """Made where something is said: most commands say nothing, and its import would be a tenth of their time."""
    import structlog

    logger: BoundLogger = structlog.get_logger()
    return logger


def _address(ref: ObjectRef) -> dict[str, Any]:
    address = {"Bucket": ref.uri.bucket, "Key": ref.uri.key}
    return address if ref.version_id is None else address | {"VersionId": ref.version_id}


def _info(ref: ObjectRef, answer: Mapping[str, Any], size: int | None = None) -> ObjectInfo:
    version_id = normal_version(answer.get("VersionId"))
    if ref.version_id is not None and version_id is None:
        fix = "leave the version_id out; an etag or a sha256 pins an object too"
        raise ObjectMissing(ref.uri, f"has no version {shown(ref.version_id)}: the bucket keeps no versions", fix)
    if size is None:
        _, size = _extent(ref.uri, answer)
    etag = normal_etag(answer.get("ETag"))
    return ObjectInfo(ref.uri, size, etag, version_id, answer.get("LastModified"), answer.get("ContentType"))


def _extent(uri: ObjectUri, answer: Mapping[str, Any]) -> tuple[int, int]:
    """Where the answer's bytes begin, and the length of the whole object."""
    if part := _RANGE.fullmatch(answer.get("ContentRange", "")):
        return int(part[1]), int(part[2])
    if (length := answer.get("ContentLength")) is None:
        raise StoreUnavailable(uri, "the store does not tell how long the object is", "see what stands before it")
    return 0, int(length)


def _whole_sha256(answer: Mapping[str, Any]) -> str | None:
    """The store's SHA-256 of the object, in hexadecimal; None where it has none, or one of the parts' checksums."""
    told = answer.get("ChecksumSHA256")
    if not told or "-" in told or answer.get("ChecksumType") == "COMPOSITE":
        return None
    return base64.b64decode(told).hex()


def _chunks(uri: ObjectUri, stream: StreamingBody) -> Iterator[bytes]:
    while True:
        try:
            chunk = stream.read(CHUNK_BYTES)
        except (BotoCoreError, HTTPError) as error:
            kind = BodyDamaged if damaged(error) else BodyCut
            told = translated(error, uri)
            raise kind(uri, told.what, told.fix) from error
        if not chunk:
            return
        yield chunk


@contextmanager
def _errors(where: ObjectUri | str, version_id: str | None = None) -> Iterator[None]:
    try:
        yield
    except (BotoCoreError, ClientError, HTTPError) as error:
        raise translated(error, where, version_id) from error
