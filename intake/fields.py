"""The message contract, version 1, as one typed declaration: every key, its type, its limits, its default.

Validation, JSON Schema and docs/messages.md are derived from it. What a type requires of `inputs` and `params` is
declared by its handler.
"""

from __future__ import annotations

import re
import uuid
from datetime import UTC, datetime
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from config.lanes import Lane
from intake.explain import wrong
from intake.problems import Code

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)?")
_TENANT = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_LABEL = re.compile(r"[^\s=\x00-\x1f\x7f]{1,64}")
_HOST = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*\.?|\[[0-9a-f:.]+\]", re.IGNORECASE)
_A_TIME = "write RFC 3339 with a zone: 2030-01-31T12:00:00Z"
#: How the keys of jobs begin that workers make: a client's job must not stand in for one of them.
OWN_KEYS = "mediamill:"
_A_CALLBACK = "write https://host/path"


def _id(value: object) -> uuid.UUID:
    if isinstance(value, uuid.UUID):
        return value
    if not isinstance(value, str) or not _UUID.fullmatch(value):
        raise wrong(
            Code.BAD_VALUE, "is {}, which is no UUID", "write 36 characters: 01890a5d-ac96-774b-bcce-b302099a8057"
        )
    if not (id_ := uuid.UUID(value)).int:
        raise wrong(
            Code.BAD_VALUE, "is the nil UUID, which every job would share", "make an id for each job, or leave it out"
        )
    return id_


def _time(value: object) -> datetime:
    if not isinstance(value, str) or not (match := _RFC3339.fullmatch(value)):
        raise wrong(Code.BAD_VALUE, "is {}, which is no time", _A_TIME)
    if match[4] is None:
        raise wrong(Code.BAD_VALUE, "is {}, which has no zone", _A_TIME)
    zone = match[4].upper().replace("Z", "+00:00")
    try:
        time = datetime.fromisoformat(f"{match[1]}T{match[2]}{(match[3] or '')[:7]}{zone}")
    except ValueError as error:
        raise wrong(Code.BAD_VALUE, f"is {{}}, which is no time: {error}", _A_TIME) from None
    if not 1970 < time.year < 3000:  # far from the ends of what Python and Postgres can shift to another zone
        raise wrong(Code.OUT_OF_RANGE, "is {}", "write a year from 1971 to 2999")
    return time.astimezone(UTC)


def _tenant(value: str) -> str:
    if not _TENANT.fullmatch(value):
        raise wrong(Code.BAD_VALUE, "is {}", "write 1 to 63 of a-z 0-9 . _ - , a letter or digit first")
    return value


def _label(value: str) -> str:
    if not _LABEL.fullmatch(value):
        raise wrong(Code.BAD_VALUE, "the key is not a label's", "write 1 to 64 characters without spaces and =")
    return value


def _callback(value: str) -> str:
    if not value.lower().startswith("https://"):
        raise wrong(Code.BAD_VALUE, "is {}, which is not https", _A_CALLBACK)
    if not value.isprintable() or " " in value or "\\" in value:
        raise wrong(Code.BAD_VALUE, "is {}, which holds characters that no URL has", "percent-encode them")
    try:
        parts = urlsplit(value)
        host, port, user = parts.hostname, parts.port, parts.username
    except ValueError as error:
        raise wrong(Code.BAD_VALUE, f"is {{}}, which is no URL: {error}", _A_CALLBACK) from None
    if user is not None:
        raise wrong(Code.BAD_VALUE, "holds a user name or password", "leave it out: deliveries are signed instead")
    if parts.fragment:
        raise wrong(Code.BAD_VALUE, "is {}, with a fragment, which no server sees", "leave out what follows #")
    if not host or port == 0 or not _HOST.fullmatch(parts.netloc.rsplit(":", 1)[0] if port else parts.netloc):
        raise wrong(Code.BAD_VALUE, "is {}, which names no host", _A_CALLBACK)
    return value


def _dedupe_key(value: str) -> str:
    if value.startswith(OWN_KEYS):
        raise wrong(
            Code.BAD_VALUE, f"is {{}}: keys with {OWN_KEYS} are of jobs that workers make", "choose another key"
        )
    return value


def _sha256(value: str) -> str:
    if not re.fullmatch(r"[0-9a-fA-F]{64}", value):
        raise wrong(Code.BAD_VALUE, "is {}, which is no sha256", "write 64 hexadecimal digits")
    return value.lower()


Id = Annotated[uuid.UUID, BeforeValidator(_id), WithJsonSchema({"type": "string", "format": "uuid"})]
Time = Annotated[datetime, BeforeValidator(_time), WithJsonSchema({"type": "string", "format": "date-time"})]
Tenant = Annotated[str, AfterValidator(_tenant), WithJsonSchema({"type": "string", "pattern": f"^{_TENANT.pattern}$"})]
Label = Annotated[str, AfterValidator(_label)]
Callback = Annotated[
    str,
    Field(max_length=2048),
    AfterValidator(_callback),
    WithJsonSchema({"type": "string", "format": "uri", "pattern": "^https://", "maxLength": 2048}),
]


class Declared(BaseModel):
    """Base of what the contract declares: nothing is converted (`"5"` is no number), unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Reference(Declared):
    """An object in the object store; what is given beside `uri` must be true of it when it is fetched."""

    uri: Annotated[str, Field(min_length=1, max_length=4096)] = Field(description="Where it is: `s3://bucket/key`.")
    version_id: Annotated[str, Field(min_length=1, max_length=1024)] | None = Field(
        default=None, description="Version of the object, in a bucket with versions."
    )
    etag: Annotated[str, Field(min_length=1, max_length=256)] | None = Field(
        default=None, description="ETag that the object must have."
    )
    sha256: Annotated[str, AfterValidator(_sha256)] | None = Field(
        default=None, description="Digest that its bytes must have, 64 hexadecimal digits."
    )


class Message(Declared):
    """A job, as it is asked for."""

    type: Annotated[str, Field(min_length=1, max_length=100)] = Field(description="The job type.")
    inputs: dict[str, Any] = Field(
        default_factory=dict,
        json_schema_extra={"default": {}},
        description="What the job reads, by role, as the type declares: a reference, a list of them or a map of them."
        " A reference is a URI or an object (see References). URIs stand here and nowhere else.",
    )
    params: dict[str, Any] = Field(
        default_factory=dict, json_schema_extra={"default": {}}, description="Parameters of the type."
    )
    id: Id | None = Field(
        default=None,
        description="The job's id, any UUID; best of version 7, which begins with the time. The same id with the same"
        " body is the same job, so that sending again is safe; with another body it is refused. Else one is made.",
    )
    dedupe_key: Annotated[str, Field(min_length=1, max_length=256), AfterValidator(_dedupe_key)] | None = Field(
        default=None,
        description="While a job of the tenant with this key is live, and for a time after it succeeded, no second one"
        " is made: that job is the answer. Keys that begin with `mediamill:` are of jobs that workers make.",
    )
    tenant: Tenant | None = Field(
        default=None, description="Whose job it is; tenants share a lane fairly. Else what the door says, or `default`."
    )
    lane: Lane | None = Field(
        default=None,
        description="Which queue. On Kafka the topic decides, and another lane is refused; else `interactive`.",
    )
    priority: int = Field(default=0, ge=-100, le=100, description="Within lane and type, higher goes first.")
    run_after: Time | None = Field(default=None, description="Not before this time.")
    deadline: Time | None = Field(
        default=None, description="After this time nobody wants the result: a job that has not succeeded by then fails."
    )
    timeout_s: float | None = Field(
        default=None, ge=0.1, le=7 * 86400, description="Time limit of one attempt, in seconds; else the type's."
    )
    max_attempts: int | None = Field(
        default=None, ge=1, le=100, description="Attempts that may fail before the job has failed; else the setting's."
    )
    output: Annotated[str, Field(min_length=1, max_length=1024)] | None = Field(
        default=None,
        description="Where outputs go: `s3://bucket/prefix/`, with a slash at its end, in a bucket that may be written;"
        " else the setting's.",
    )
    labels: Annotated[dict[Label, Annotated[str, Field(max_length=256)]], Field(max_length=32)] = Field(
        default_factory=dict,
        json_schema_extra={"default": {}},
        description="Texts to find jobs by; keys of at most 64 characters without spaces and `=`.",
    )
    embed: bool = Field(default=True, description="Whether the images that it reads and makes get their embedding.")
    callback: Callback | None = Field(
        default=None, description="URL that is told when the job has ended: https, without user, password or fragment."
    )
