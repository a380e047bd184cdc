"""What the errors of boto3 mean here: nothing of botocore or urllib3 leaves `storage.objects`."""

from __future__ import annotations

from botocore import exceptions as boto
from botocore.exceptions import BotoCoreError, ClientError
from urllib3.exceptions import HTTPError

from storage.objects.errors import AccessRefused, ObjectChanged, ObjectError, ObjectMissing, StoreUnavailable
from storage.objects.uri import ObjectUri, shown

#: Codes that say the request was not signed by anybody the store knows: no job is to blame, every one would fail.
_CREDENTIALS = frozenset({
    "AccountProblem", "AuthFailure", "ExpiredToken", "ExpiredTokenException", "InvalidAccessKeyId",
    "InvalidClientTokenId", "InvalidSecurity", "InvalidToken", "NotSignedUp", "RequestExpired", "SignatureDoesNotMatch",
    "TokenRefreshRequired", "UnrecognizedClientException",
})  # fmt: skip
_CLOCK = frozenset({"RequestTimeTooSkewed", "RequestInTheFuture"})
#: Codes that say we speak to the wrong place.
_PLACE = frozenset({
    "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "IncorrectEndpoint", "PermanentRedirect",
    "Redirect", "TemporaryRedirect",
})  # fmt: skip
_MISSING = frozenset({"NoSuchKey", "NoSuchVersion", "NotFound"})
_CHANGED = frozenset({"ConditionalRequestConflict", "InvalidRange", "PreconditionFailed"})
#: Codes of requests that went wrong on the way, or of a store that cannot just now; their status may be a 4xx.
_PASSING = frozenset({
    "BadDigest", "IncompleteBody", "InternalError", "NoSuchUpload", "OperationAborted", "RequestLimitExceeded",
    "RequestTimeout", "ServiceUnavailable", "SlowDown", "Throttling", "ThrottlingException", "TooManyRequests",
    "XAmzContentSHA256Mismatch",
})  # fmt: skip

_NO_CREDENTIALS = (
    boto.NoCredentialsError, boto.PartialCredentialsError, boto.CredentialRetrievalError, boto.NoAuthTokenError,
    boto.TokenRetrievalError, boto.SSOError, boto.LoginError, boto.UnknownCredentialError, boto.MetadataRetrievalError,
    boto.RefreshWithMFAUnsupportedError, boto.ProfileNotFound,
)  # fmt: skip
_TIMED_OUT = (boto.ConnectTimeoutError, boto.ReadTimeoutError)
_DAMAGED = (boto.ChecksumError, boto.FlexibleChecksumError)
#: With the errors of urllib3, all that may go wrong between us and a server.
_CONNECTION = (
    boto.HTTPClientError, boto.ConnectionError, boto.IncompleteReadError, boto.ResponseStreamingError, HTTPError
)  # fmt: skip

_FIX_CREDENTIALS = "give boto3 valid credentials of this store (AWS_ACCESS_KEY_ID, a profile or a role)"
_FIX_CONNECTION = "see whether the store is up and can be reached (setting S3_ENDPOINT)"


def translated(
    error: BotoCoreError | ClientError | HTTPError, where: ObjectUri | str, version_id: str | None = None
) -> ObjectError:
    """The error that a caller gets for one of boto3. `version_id`: which version the request asked for."""
    if isinstance(error, ClientError):
        return _answered(error, where, version_id)
    if isinstance(error, _NO_CREDENTIALS):
        return StoreUnavailable(where, f"there are no usable credentials: {_said(error)}", _FIX_CREDENTIALS)
    if isinstance(error, _TIMED_OUT):
        return StoreUnavailable(where, "the store did not answer in time", _FIX_CONNECTION)
    if isinstance(error, _DAMAGED):
        return StoreUnavailable(where, "bytes were changed on the way", "see whether a proxy on the way is broken")
    if isinstance(error, _CONNECTION):
        return StoreUnavailable(where, f"the connection to the store failed: {_said(error)}", _FIX_CONNECTION)
    fix = "correct the settings of the store (S3_ENDPOINT, S3_REGION) and the configuration of boto3"
    return StoreUnavailable(where, f"boto3 cannot make the request: {_said(error)}", fix)


def damaged(error: Exception) -> bool:
    """Whether the bytes that came were not the object's."""
    return isinstance(error, _DAMAGED)


def code_of(error: ClientError) -> str:
    """The server's code, `NoSuchKey`; for an answer without a body it is the status, `404`."""
    return str(error.response.get("Error", {}).get("Code", ""))


def status_of(error: ClientError) -> int:
    """The HTTP status; 0 where there is none."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _answered(error: ClientError, where: ObjectUri | str, version_id: str | None) -> ObjectError:
    code, status = code_of(error), status_of(error)
    said = shown(f"{status or ''} {code}: {error.response.get('Error', {}).get('Message', '')}".strip())
    if code == "NoSuchBucket":
        return ObjectMissing(where, "there is no such bucket", "create the bucket, or correct its name")
    if version_id is not None and (status in (404, 405, 501) or code in ("InvalidArgument", "NoSuchVersion")):
        fix = "leave the version_id out to take the object as it is now"
        return ObjectMissing(where, f"has no version {shown(version_id)} ({said})", fix)
    if configuration := _not_ours(code, where, said):
        return configuration
    if code in _CHANGED or status in (409, 412, 416):
        if code in _PASSING:
            return _passing(error, where, said)
        fix = "leave the pin out to take the object as it is now"
        return ObjectChanged(where, f"is not the object that was pinned ({said})", fix)
    if code in _PASSING or status in (408, 425, 429) or (status >= 500 and status != 501) or not status:
        return _passing(error, where, said)
    if code in _MISSING or status in (404, 405, 410):  # 405: the newest version marks a deletion
        return ObjectMissing(where, "there is no such object", "check the URI, or put the object there")
    if code == "InvalidObjectState":
        return AccessRefused(where, "it is archived and cannot be read", "restore it from the archive first")
    if status in (401, 403):
        fix = "give the credentials the right to it (without s3:ListBucket a missing object answers like this too)"
        return AccessRefused(where, f"the store refuses it to our credentials ({said})", fix)
    return AccessRefused(where, f"the store refuses the request ({said})", "see the documentation of the store")


def _not_ours(code: str, where: ObjectUri | str, said: str) -> StoreUnavailable | None:
    if code in _CREDENTIALS:
        return StoreUnavailable(where, f"the store does not accept our credentials ({said})", _FIX_CREDENTIALS)
    if code in _CLOCK:
        return StoreUnavailable(where, f"this machine's clock is wrong ({said})", "set the clock")
    if code in _PLACE or code in ("301", "307", "308"):
        fix = "correct the settings S3_ENDPOINT and S3_REGION"
        return StoreUnavailable(where, f"the bucket is in another region or on another server ({said})", fix)
    return None


def _passing(error: ClientError, where: ObjectUri | str, said: str) -> StoreUnavailable:
    headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    after = headers.get("retry-after", "")
    wait = float(after) if after.isascii() and after.isdigit() else None
    return StoreUnavailable(where, f"the store answers {said}", "try again later", after=wait)


def _said(error: Exception) -> str:
    return shown(str(error))
