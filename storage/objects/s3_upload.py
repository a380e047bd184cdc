"""Sending one file to S3: in one request, or in parts where it is long; the server checks the SHA-256 of each."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from storage.objects.base import Check

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

MOST_PARTS = 10_000  # S3's limit
LEAST_PART_BYTES = 5 << 20  # S3's limit, for all parts but the last
#: Below that a body is sent as it is: one that is read piece by piece is announced first, at the cost of a round trip.
SHORT_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Made:
    """What the server says it has made, and how many bytes we sent, with their SHA-256 in hexadecimal."""

    size: int
    sha256: str
    etag: str | None
    version_id: str | None


@dataclass(frozen=True, slots=True)
class Upload:
    """Sends a file's bytes as the object that `about` names, at most `part_bytes` a request.

    `go_on` is called while bytes are sent; what it raises ends the upload.
    """

    client: S3Client
    about: Mapping[str, Any]
    part_bytes: int
    go_on: Check

    def send(self, file: IO[bytes], *, checksums: bool) -> Made:
        """From the file's first byte. `checksums`: whether the server is to verify each part's SHA-256.

        Raises the errors of botocore; nothing is left behind then, unless the server cannot be reached to clean up.
        """
        length = file.seek(0, 2)
        file.seek(0)
        part_bytes = max(self.part_bytes, -(-length // MOST_PARTS))
        first = file.read(part_bytes)
        if len(first) == part_bytes:
            return self._in_parts(first, file, part_bytes, checksums)
        proof: dict[str, Any] = _sum(first) if checksums else {}
        answer = self.client.put_object(**self.about, Body=self._body(first), **proof)
        return Made(len(first), hashlib.sha256(first).hexdigest(), answer.get("ETag"), answer.get("VersionId"))

    def _in_parts(self, first: bytes, file: IO[bytes], part_bytes: int, checksums: bool) -> Made:
        algorithm: dict[str, Any] = {"ChecksumAlgorithm": "SHA256"} if checksums else {}
        upload_id = self.client.create_multipart_upload(**self.about, **algorithm)["UploadId"]
        place = {"Bucket": self.about["Bucket"], "Key": self.about["Key"], "UploadId": upload_id}
        try:
            parts: list[CompletedPartTypeDef] = []
            size, chunk, digest = 0, first, hashlib.sha256()
            while chunk:
                proof: dict[str, Any] = _sum(chunk) if checksums else {}
                number = len(parts) + 1
                answer = self.client.upload_part(**place, PartNumber=number, Body=self._body(chunk), **proof)
                parts.append({"PartNumber": number, "ETag": answer["ETag"], **proof})  # type: ignore[typeddict-item]
                size += len(chunk)
                digest.update(chunk)
                chunk = file.read(part_bytes)
            made = self.client.complete_multipart_upload(**place, MultipartUpload={"Parts": parts})
        except BaseException:
            with suppress(BotoCoreError, ClientError):
                self.client.abort_multipart_upload(**place)
            raise
        return Made(size, digest.hexdigest(), made.get("ETag"), made.get("VersionId"))

    def _body(self, chunk: bytes) -> bytes | _Body:
        return chunk if len(chunk) < SHORT_BYTES else _Body(chunk, self.go_on)


class _Body(io.BytesIO):
    """Bytes on their way, a few at a time."""

    def __init__(self, chunk: bytes, go_on: Check) -> None:
        super().__init__(chunk)
        self._go_on = go_on

    def read(self, size: int | None = -1, /) -> bytes:
        self._go_on()
        return super().read(size)


def _sum(chunk: bytes) -> dict[str, str]:
    return {"ChecksumSHA256": base64.b64encode(hashlib.sha256(chunk).digest()).decode()}
