"""What boto3's errors become, how its client is made, and buckets with versions (a server in this process)."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import botocore.exceptions
import pytest
import urllib3.exceptions
from botocore.exceptions import BotoCoreError, ClientError
from moto import mock_aws

from storage.objects.base import ObjectRef
from storage.objects.errors import AccessRefused, ObjectChanged, ObjectError, ObjectMissing, StoreUnavailable
from storage.objects.rules import BucketRules
from storage.objects.s3 import S3Options, S3Store
from storage.objects.s3_errors import translated
from storage.objects.uri import ObjectUri

URI = ObjectUri("media", "a")
RULES = BucketRules.parse(["media"])
ALL = [
    value
    for value in vars(botocore.exceptions).values()
    if inspect.isclass(value) and issubclass(value, BotoCoreError) and not issubclass(value, Warning)
]


def answer(code: str, status: int, **headers: str) -> ClientError:
    metadata: Any = {"HTTPStatusCode": status, "HTTPHeaders": headers}
    return ClientError({"Error": {"Code": code, "Message": "why"}, "ResponseMetadata": metadata}, "GetObject")


def session() -> boto3.Session:
    return boto3.Session(aws_access_key_id="tests", aws_secret_access_key="not-a-secret")


@pytest.mark.parametrize(
    ("code", "status", "kind", "says"),
    [
        ("NoSuchKey", 404, ObjectMissing, "there is no such object"),
        ("404", 404, ObjectMissing, "there is no such object"),
        ("NoSuchBucket", 404, ObjectMissing, "no such bucket; create the bucket"),
        ("MethodNotAllowed", 405, ObjectMissing, "there is no such object"),
        ("PreconditionFailed", 412, ObjectChanged, "leave the pin out"),
        ("412", 412, ObjectChanged, "leave the pin out"),
        ("InvalidRange", 416, ObjectChanged, "leave the pin out"),
        ("AccessDenied", 403, AccessRefused, "give the credentials the right"),
        ("403", 403, AccessRefused, "s3:ListBucket"),
        ("InvalidObjectState", 403, AccessRefused, "restore it from the archive"),
        ("InvalidAccessKeyId", 403, StoreUnavailable, "valid credentials"),
        ("SignatureDoesNotMatch", 403, StoreUnavailable, "valid credentials"),
        ("ExpiredToken", 400, StoreUnavailable, "valid credentials"),
        ("RequestTimeTooSkewed", 403, StoreUnavailable, "set the clock"),
        ("PermanentRedirect", 301, StoreUnavailable, "S3_REGION"),
        ("AuthorizationHeaderMalformed", 400, StoreUnavailable, "S3_REGION"),
        ("SlowDown", 503, StoreUnavailable, "try again later"),
        ("ServiceUnavailable", 503, StoreUnavailable, "try again later"),
        ("InternalError", 500, StoreUnavailable, "try again later"),
        ("502", 502, StoreUnavailable, "try again later"),
        ("504", 504, StoreUnavailable, "try again later"),
        ("TooManyRequests", 429, StoreUnavailable, "try again later"),
        ("RequestTimeout", 400, StoreUnavailable, "try again later"),
        ("BadDigest", 400, StoreUnavailable, "try again later"),
        ("NoSuchUpload", 404, StoreUnavailable, "try again later"),
        ("OperationAborted", 409, StoreUnavailable, "try again later"),
        ("Odd", 0, StoreUnavailable, "try again later"),
        ("NotImplemented", 501, AccessRefused, "the store refuses the request (501 NotImplemented: why)"),
        ("EntityTooLarge", 400, AccessRefused, "the store refuses the request"),
        ("Teapot", 418, AccessRefused, "the store refuses the request"),
    ],
)
def test_an_answer_of_the_server_becomes_an_error_that_says_what_to_do(
    code: str, status: int, kind: type[ObjectError], says: str
) -> None:
    error = translated(answer(code, status), URI)
    assert type(error) is kind
    assert str(error).startswith("s3://media/a: ")
    assert says in str(error)
    assert error.permanent == (kind is not StoreUnavailable)


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("NoSuchVersion", 404),
        ("404", 404),
        ("InvalidArgument", 400),
        ("NotImplemented", 501),
        ("MethodNotAllowed", 405),
    ],
)
def test_a_version_that_the_server_does_not_know_is_missing(code: str, status: int) -> None:
    error = translated(answer(code, status), URI, "v1")
    assert type(error) is ObjectMissing
    assert "has no version v1" in str(error)


def test_the_server_may_say_how_long_to_wait() -> None:
    for header, seconds in (("7", 7.0), ("soon", None), ("-1", None), ("", None)):
        error = translated(answer("SlowDown", 503, **{"retry-after": header}), URI)
        assert isinstance(error, StoreUnavailable)
        assert error.after == seconds


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: str(kind.__name__))
def test_every_error_of_boto3_says_that_the_store_cannot_be_used_now(kind: type[BotoCoreError]) -> None:
    error = kind.__new__(kind)
    Exception.__init__(error, "why")
    told = translated(error, URI)
    assert type(told) is StoreUnavailable
    assert str(told).startswith("s3://media/a: ")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (botocore.exceptions.NoCredentialsError(), "credentials"),
        (botocore.exceptions.PartialCredentialsError(provider="env", cred_var="x"), "credentials"),
        (botocore.exceptions.ConnectTimeoutError(endpoint_url="http://x"), "did not answer in time"),
        (botocore.exceptions.ReadTimeoutError(endpoint_url="http://x"), "did not answer in time"),
        (botocore.exceptions.EndpointConnectionError(endpoint_url="http://x"), "connection to the store failed"),
        (botocore.exceptions.IncompleteReadError(actual_bytes=1, expected_bytes=2), "connection to the store failed"),
        (botocore.exceptions.FlexibleChecksumError(error_msg="x"), "bytes were changed"),
        (botocore.exceptions.NoRegionError(), "correct the settings"),
        (urllib3.exceptions.ProtocolError("x"), "connection to the store failed"),
    ],
)
def test_an_error_on_the_way_says_where_to_look(error: BotoCoreError, says: str) -> None:
    assert says in str(translated(error, URI))


def test_the_client_has_every_limit_set() -> None:
    options = S3Options(
        "http://127.0.0.1:1",
        "eu-central-1",
        "path",
        connect_s=3,
        read_s=7,
        attempts=4,
        connections=9,
        user_agent="mill/1",
    )
    store = S3Store(RULES, options, session=session())
    config: Any = store._client.meta.config
    assert (config.connect_timeout, config.read_timeout, config.max_pool_connections) == (3, 7, 9)
    assert config.retries == {"mode": "standard", "total_max_attempts": 4}
    assert config.s3["addressing_style"] == "path"
    assert (config.request_checksum_calculation, config.response_checksum_validation) == ("when_required",) * 2
    assert store._client.meta.region_name == "eu-central-1"
    assert config.user_agent_extra == "mill/1"
    store.close()


def test_parts_smaller_than_s3_takes_are_refused() -> None:
    with pytest.raises(ValueError, match="part_bytes is 1024; S3 wants at least 5242880"):
        S3Store(RULES, S3Options(part_bytes=1024), session=session())


def test_an_endpoint_that_is_no_url_is_refused() -> None:
    with pytest.raises(ValueError, match="not a url"):
        S3Store(RULES, S3Options(endpoint_url="not a url"), session=session())


@pytest.fixture
def versioned() -> Iterator[S3Store]:
    with mock_aws():
        store = S3Store(RULES, S3Options(region="us-east-1"), session=session())
        store._client.create_bucket(Bucket="media")
        store._client.put_bucket_versioning(Bucket="media", VersioningConfiguration={"Status": "Enabled"})
        yield store
        store.close()


def put(store: S3Store, folder: Path, content: bytes) -> ObjectRef:
    (folder / "source").write_bytes(content)
    made = store.upload(folder / "source", URI)
    return ObjectRef(URI, version_id=made.version_id, etag=made.etag)


def test_an_upload_tells_the_version_it_made(versioned: S3Store, tmp_path: Path) -> None:
    first, second = put(versioned, tmp_path, b"first"), put(versioned, tmp_path, b"second")
    assert first.version_id is not None
    assert first.version_id != second.version_id
    assert versioned.stat(ObjectRef(URI)).version_id == second.version_id


def test_an_upload_in_parts_tells_the_version_it_made(versioned: S3Store, tmp_path: Path) -> None:
    ref = put(versioned, tmp_path, bytes(17 << 20))
    assert ref.version_id is not None
    assert versioned.stat(ref).size == 17 << 20


def test_a_pinned_version_is_read_when_there_is_a_newer_one(versioned: S3Store, tmp_path: Path) -> None:
    first = put(versioned, tmp_path, b"first")
    put(versioned, tmp_path, b"second")
    assert versioned.stat(first).size == 5
    pinned = versioned.download(first, tmp_path / "read", max_bytes=100)
    assert (pinned.version_id, (tmp_path / "read").read_bytes()) == (first.version_id, b"first")
    assert versioned.download(ObjectRef(URI), tmp_path / "read", max_bytes=100).size == 6


def test_a_pinned_version_survives_the_deletion_of_the_object(versioned: S3Store, tmp_path: Path) -> None:
    first = put(versioned, tmp_path, b"first")
    versioned.delete(URI)
    with pytest.raises(ObjectMissing):
        versioned.stat(ObjectRef(URI))
    assert versioned.download(first, tmp_path / "read", max_bytes=100).size == 5


def test_a_version_that_never_was_is_missing(versioned: S3Store, tmp_path: Path) -> None:
    put(versioned, tmp_path, b"first")
    with pytest.raises(ObjectMissing, match="has no version"):
        versioned.download(ObjectRef(URI, version_id="x" * 32), tmp_path / "read", max_bytes=100)
    with pytest.raises(ObjectMissing, match="has no version"):
        versioned.stat(ObjectRef(URI, version_id="x" * 32))


def test_a_version_with_another_etag_than_pinned_is_refused(versioned: S3Store, tmp_path: Path) -> None:
    first, second = put(versioned, tmp_path, b"first"), put(versioned, tmp_path, b"second")
    with pytest.raises(ObjectChanged):
        versioned.stat(ObjectRef(URI, version_id=first.version_id, etag=second.etag))
