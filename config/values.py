"""How the values of settings are written: durations, sizes, paths, addresses, JSON; and how they are shown."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

DURATION = "seconds, or a number with a unit: 500ms, 30s, 10m, 2h, 90d"
SIZE = "bytes, or a number with a unit: 512KiB, 50MB, 2GiB"

_SECONDS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_BYTES = {"": 1, "b": 1} | {
    unit + suffix: base**power
    for suffix, base in (("b", 1000), ("ib", 1024))
    for power, unit in enumerate("kmgt", start=1)
}
_BUCKET = r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]"
_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([a-z]*)", re.IGNORECASE)


def duration(value: object) -> float:
    """Seconds, from a number or a text such as `90d`. Raises ValueError with what would be right."""
    return _quantity(value, _SECONDS, f"is not a duration; write {DURATION}")


def size(value: object) -> int:
    """Bytes, from a number or a text such as `2GiB`. Raises ValueError with what would be right."""
    return int(_quantity(value, {k: float(v) for k, v in _BYTES.items()}, f"is not a size; write {SIZE}"))


def _quantity(value: object, units: dict[str, float], otherwise: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(otherwise)
    match = _QUANTITY.fullmatch(str(value).strip())
    if match is None or (unit := units.get(match[2].lower())) is None:
        raise ValueError(otherwise)
    return float(match[1]) * unit


def show_duration(seconds: float) -> str:
    """`7776000.0` as `90d`: the largest unit that leaves a whole number."""
    for unit in ("d", "h", "m", "s"):
        if seconds >= _SECONDS[unit] and seconds % _SECONDS[unit] == 0:
            return f"{int(seconds / _SECONDS[unit])}{unit}"
    return f"{seconds:g}s"


def show_size(count: int) -> str:
    """`2147483648` as `2GiB`, `50000000` as `50MB`: the unit that leaves the smallest whole number."""
    whole = [(count // factor, unit) for unit, factor in _BYTES.items() if count and count % factor == 0]
    number, unit = min(whole, default=(count, ""))
    return f"{number}{unit.upper().replace('IB', 'iB')}" if unit else str(number)


def _custom(function: Any) -> Any:
    """Lets the sentence of a ValueError stand as it is, without pydantic's own words before it."""

    def validate(value: object) -> object:
        try:
            return function(value)
        except ValueError as error:
            raise PydanticCustomError("setting", "{sentence}", {"sentence": str(error)}) from None

    return validate


def _path(value: object) -> Path:
    if not isinstance(value, str | Path) or "\0" in str(value):
        raise ValueError("is not a path")
    # Not resolved: the python of a virtual environment is a link that must be kept as it is.
    return Path(value).expanduser().absolute()


def _store(value: object) -> Path | str:
    if isinstance(value, str):
        if value.lower() == "s3":
            return "s3"
        if "://" in value:
            raise ValueError("names a URL; write s3 (and the server in MEDIAMILL_S3_ENDPOINT), or the path of a folder")
    return _path(value)


def _json(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise ValueError(f"is not JSON ({error})") from None


def _json_object(value: object) -> object:
    if not isinstance(parsed := _json(value), dict):
        raise ValueError('is not a JSON object; write {"name": ...}')
    return parsed


def _json_list(value: object) -> object:
    if not isinstance(parsed := _json(value), list | tuple):
        raise ValueError('is not a JSON list; write ["one", "other"]')
    return tuple(parsed)


def _places(value: object) -> object:
    parsed = _json(value)
    if isinstance(parsed, list) and all(isinstance(place, str) for place in parsed):
        return dict.fromkeys(parsed, "rw")
    if not isinstance(parsed, dict):
        raise ValueError('is not a list of places; write {"media": "rw", "uploads": "r"}')
    return parsed


def _place(value: str) -> str:
    bucket, _, folder = value.partition("/")
    plain = re.fullmatch(_BUCKET, bucket) and re.fullmatch(r"((?!\.{1,2}/)[^\x00-\x1f\x7f/\\%]+/)*", folder)
    if not plain or ".." in bucket or re.fullmatch(r"[0-9.]+", bucket):
        raise ValueError("is not a bucket or a folder in one; write bucket or bucket/folder/")
    return value if folder else bucket


def _database_url(value: object) -> str:
    text = str(value)
    scheme, separator, rest = text.partition("://")
    if not separator or scheme not in ("postgresql", "postgres"):
        raise ValueError("is not a Postgres URL; write postgresql://user:password@host:5432/database")
    return f"postgresql://{rest}"


def _http_url(value: str) -> str:
    if not re.fullmatch(r"https?://[^/\s@]+(/[^\s]*)?", value):
        raise ValueError("is not the URL of a server; write http://host:port or https://host")
    return value.rstrip("/")


def _bind(value: str) -> str:
    match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:\s\[\]]+):([0-9]{1,5})", value)
    if value != "off" and (match is None or int(match[2]) > 65535):
        raise ValueError("is not an address; write host:port, as 127.0.0.1:9321 or [::]:9321, or off")
    return value


def _device(value: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda:[0-9]{1,2}", value):
        raise ValueError("is not a device; write auto, cpu, or cuda:0")
    return value


def _prefix(value: str) -> str:
    if value and not re.fullmatch(rf"s3://{_BUCKET}/((?!\.{{1,2}}/)[^\s/?#%\\]+/)*", value):
        raise ValueError("is not the prefix of outputs; write s3://bucket/folder/ with a slash at its end")
    return value


def _servers(value: str) -> str:
    if not re.fullmatch(r"[^\s,:]+:[0-9]{1,5}(,[^\s,:]+:[0-9]{1,5})*", value):
        raise ValueError("is not a list of servers; write host:port, several with commas between")
    return value


def _topic(value: str) -> str:
    # 200: prefixes get an ending; Kafka's own limit is 249.
    if not re.fullmatch(r"[a-zA-Z0-9._-]{1,200}", value) or value in (".", ".."):
        raise ValueError("is not the name of a topic; write letters, digits, dots, dashes and underscores")
    return value


Seconds = Annotated[float, BeforeValidator(_custom(duration), json_schema_input_type=str)]
Bytes = Annotated[int, BeforeValidator(_custom(size), json_schema_input_type=str), Field(gt=0)]
AbsolutePath = Annotated[Path, BeforeValidator(_custom(_path))]
Store = Annotated[Literal["s3"] | Path, BeforeValidator(_custom(_store))]
Json = BeforeValidator(_custom(_json_object), json_schema_input_type=str)
JsonList = BeforeValidator(_custom(_json_list), json_schema_input_type=str)
DatabaseUrl = Annotated[str, BeforeValidator(_custom(_database_url))]
HttpUrl = Annotated[str, AfterValidator(_custom(_http_url))]
Bind = Annotated[str, AfterValidator(_custom(_bind))]
Device = Annotated[str, AfterValidator(_custom(_device))]
Prefix = Annotated[str, AfterValidator(_custom(_prefix))]
Servers = Annotated[str, AfterValidator(_custom(_servers))]
TopicName = Annotated[str, AfterValidator(_custom(_topic))]
Places = BeforeValidator(_custom(_places), json_schema_input_type=str)
Place = Annotated[str, AfterValidator(_custom(_place))]
BucketName = Annotated[str, Field(pattern=f"^{_BUCKET}$")]

_PASSWORD_IN_URL = re.compile(r"(://[^:/?#@\s]*):.*@")
_PASSWORD_AS_PARAMETER = re.compile(r"((?:ssl)?password\s*=\s*)('[^']*'|[^&\s]+)", re.IGNORECASE)


def mask(value: str) -> str:
    """A URL or a libpq connection string with `***` for its password."""
    return _PASSWORD_AS_PARAMETER.sub(r"\1***", _PASSWORD_IN_URL.sub(r"\1:***@", value))
