"""All settings: one typed class, where each value comes from, and one clear line for each that is wrong.

A setting `lease` is the environment variable `MEDIAMILL_LEASE` and the key `lease` of the TOML file; the environment
wins. The environment is read here and nowhere else: `Settings.load` once at the start, the frozen object passed on.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from config import kafka
from config.errors import BadSetting
from config.kafka import KafkaSettings
from config.lanes import Lane
from config.media import MediaSettings, derived
from config.sources import Given, find_file, from_environment, from_file, variable
from config.values import (
    AbsolutePath,
    Bind,
    Bytes,
    DatabaseUrl,
    Device,
    HttpUrl,
    Json,
    Place,
    Places,
    Prefix,
    Seconds,
    Store,
    mask,
    show_duration,
    show_size,
)

Access = Literal["r", "w", "rw", "read", "write", "read-write"]
_LOCAL_BUCKET = "media"


def _default_home() -> Path:
    return Path.home() / ".mediamill"


def _executor_python() -> Path:
    beside = Path(sys.prefix).parent / ".venv-executor" / "bin" / "python"
    return beside if beside.exists() else Path(sys.executable)


class Settings(MediaSettings, KafkaSettings):
    """Every setting of mediamill. Durations are seconds, sizes are bytes, paths are absolute."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    # --- where things are ---
    home: AbsolutePath = derived("~/.mediamill", _default_home, "Folder of embedded data, cache, scratch and models.")
    database_url: DatabaseUrl | None = Field(
        default=None, repr=False, description="Postgres, as postgresql://user:password@host:5432/name; unset: embedded."
    )
    store: Store = derived(
        "<home>/store", lambda data: data["home"] / "store", "Object store: s3, or the path of a local folder."
    )
    s3_endpoint: HttpUrl | None = Field(default=None, description="An S3 server other than Amazon's.")
    s3_region: str | None = Field(default=None, min_length=1, description="Region; unset: as boto3 finds it.")
    s3_buckets: Annotated[dict[Place, Access], Places] = derived(
        '{"media": "rw"} for a folder, none for s3',
        lambda data: {} if data["store"] == "s3" else {_LOCAL_BUCKET: "rw"},
        'What jobs may use: buckets, or folders in them, as JSON: {"uploads": "r", "media/derived/": "rw"}.',
    )
    output_prefix: Prefix = derived(
        "s3://media/derived/ for a folder",
        lambda data: "" if data["store"] == "s3" else f"s3://{_LOCAL_BUCKET}/derived/",
        "Where outputs go when the message names no other place.",
    )
    catalogue: str = Field(
        default="default",
        min_length=1,
        description="Checkpoints: a profile of ours (default, small, toy, tiny) or of a file (/etc/models.yaml#name).",
    )
    models: AbsolutePath = derived(
        "<home>/models", lambda data: data["home"] / "models", "Folder of downloaded checkpoints."
    )

    # --- limits of a message ---
    message_bytes: Bytes = Field(default=1 << 20, le=64 << 20, description="Longest message.")
    nesting: int = Field(default=64, ge=4, le=128, description="How deep a message's JSON may nest.")
    inputs_per_job: int = Field(default=1000, ge=1, le=100_000, description="Most inputs of one job.")

    # --- limits of objects ---
    object_bytes: Bytes = Field(default=2 << 30, description="Largest object that is fetched.")
    cache_bytes: Bytes = Field(default=20 << 30, description="What fetched objects may occupy on disk.")

    # --- queue, leases, attempts ---
    beat: Seconds = Field(default=5, gt=0, description="How often a worker says that it lives.")
    lease: Seconds = Field(default=30, gt=0, description="After how long without a beat its jobs are taken back.")
    max_attempts: int = Field(default=3, ge=1, le=100, description="Attempts that may fail before the job has failed.")
    crash_limit: int = Field(default=2, ge=1, le=100, description="Processes that may die of a job before quarantine.")
    backoff_base_s: Seconds = Field(default=2, gt=0, description="Longest wait before the second attempt; it doubles.")
    backoff_cap_s: Seconds = Field(default=600, gt=0, description="Longest wait before any attempt.")
    lane_cap: int = Field(default=20_000, ge=1, description="Runnable jobs in a lane from which on intake pauses.")
    lane_weights: Annotated[dict[Lane, Annotated[float, Field(gt=0)]], Json] = Field(
        default={"interactive": 8, "upload": 4, "backfill": 1},
        description="Shares of device time by lane when all have work, as JSON.",
    )
    claim_ahead_s: Seconds = Field(default=5, gt=0, description="Predicted device-seconds that a worker claims ahead.")
    poll_interval_s: Seconds = Field(default=1, gt=0, le=3600, description="How often an idle worker looks for jobs.")
    drain_grace_s: Seconds = Field(default=30, ge=0, description="What a job may still take after SIGTERM.")
    job_time_limit_s: Seconds = Field(default=3600, gt=0, description="Time limit of a job.")
    job_time_limits: Annotated[dict[str, Seconds], Json] = Field(
        default={}, description='Other time limits by type, as JSON: {"image.caption": "5m"}.'
    )
    dedupe_ttl: Seconds = Field(default=30 * 86400, ge=0, description="How long a finished job holds its dedupe_key.")
    history_kept: Seconds = Field(default=90 * 86400, ge=86400, description="How long jobs and their events are kept.")
    rejected_kept: Seconds = Field(default=90 * 86400, ge=86400, description="How long rejected messages are kept.")

    # --- executor ---
    executor_python: AbsolutePath = derived(
        ".venv-executor beside the running environment, else the running python",
        _executor_python,
        "Interpreter of the executor, with torch.",
    )
    device: Device = Field(default="auto", description="auto, cpu, or one GPU: cuda:0.")
    max_batch: int = Field(default=16, ge=1, le=4096, description="Most samples in a batch.")
    sandbox: Literal["auto", "required", "off"] = Field(
        default="auto", description="Whether the executor is closed in: where possible, always (else no start), never."
    )
    executor_memory: Bytes | None = Field(
        default=None, description="Private memory of the executor; unset: no limit, as CUDA needs it."
    )
    executor_start_s: Seconds = Field(default=300, gt=0, description="What the executor may take to load and be ready.")
    test_types: bool = Field(default=False, description="Whether the types test.* are registered.")

    # --- services: time limits ---
    database_connections: int = Field(default=8, ge=2, le=100, description="Connections to Postgres of one worker.")
    database_connect_s: Seconds = Field(default=5, ge=1, le=300, description="Time limit of a connection to Postgres.")
    database_statement_s: Seconds = Field(default=60, gt=0, le=3600, description="Time limit of a statement.")
    s3_connect_s: Seconds = Field(default=5, gt=0, le=300, description="Time limit of a connection to the store.")
    s3_read_s: Seconds = Field(default=60, gt=0, le=3600, description="Longest silence of the store.")
    s3_attempts: int = Field(default=5, ge=1, le=100, description="Attempts of one request to the store.")

    # --- what is told ---
    http_bind: Bind = Field(default="127.0.0.1:9321", description="Where health and metrics are served; off: nowhere.")
    log_format: Literal["auto", "json", "console"] = Field(
        default="auto", description="auto: for people on a terminal, else JSON."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Least level.")

    @property
    def scratch(self) -> Path:
        """Folder of the files of running jobs."""
        return self.home / "scratch"

    @property
    def cache(self) -> Path:
        """Folder of fetched objects, by content."""
        return self.home / "cache"

    @property
    def pgdata(self) -> Path:
        """Folder of the embedded Postgres."""
        return self.home / "pgdata"

    @property
    def http_address(self) -> tuple[str, int] | None:
        """Host and port of health and metrics; None: off."""
        host, _, port = self.http_bind.rpartition(":")
        return (host.strip("[]"), int(port)) if host else None

    @model_validator(mode="after")
    def _fits_together(self) -> Settings:
        if conflicts := list(_conflicts(self)):
            sentences = "; ".join(f"{name} {sentence}" for name, sentence in conflicts)
            raise PydanticCustomError("conflict", "{sentences}", {"sentences": sentences, "conflicts": conflicts})
        return self

    @classmethod
    def load(
        cls,
        environ: Mapping[str, str] | None = None,
        files: Sequence[Path] | None = None,
        overrides: Mapping[str, object] | None = None,
    ) -> Loaded:
        """The settings from environment, file and command line (`overrides`, which win), with where each came from.

        The first of `files` that exists is read; by default `MEDIAMILL_CONFIG` (which must exist), else
        ./mediamill.toml, else mediamill.toml in the home folder. An empty variable counts as unset.
        Raises BadSetting with a line for everything that is wrong.
        """
        given = dict(os.environ if environ is None else environ)
        wrong: list[str] = []
        values = from_environment(given, cls.model_fields, wrong)
        home = Path(str(values["home"].value)).expanduser() if "home" in values else _default_home()
        path = find_file(given, files, home, wrong)
        if path is not None:
            values = from_file(path, cls.model_fields, _PATHS, wrong) | values
        for name, value in (overrides or {}).items():
            option = f"--{name.replace('_', '-')}"
            values[name] = Given(value, f"command line {option}", f"{option}=")
        try:
            settings = cls.model_validate({name: given.value for name, given in values.items()})
        except ValidationError as error:
            wrong += [line for details in error.errors() for line in _lines(details, values)]
            raise BadSetting(wrong) from None
        if wrong:
            raise BadSetting(wrong)
        sources = {name: values[name].source if name in values else "default" for name in cls.model_fields}
        return Loaded(settings, sources, path)


class ShownSetting(NamedTuple):
    """A setting as `mediamill doctor` prints it."""

    name: str
    variable: str
    value: str
    source: str


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings and their provenance: `default`, `environment MEDIAMILL_X`, `file PATH:LINE` or `command line --x`."""

    settings: Settings
    sources: Mapping[str, str]
    file: Path | None

    def shown(self) -> list[ShownSetting]:
        """Every setting in the order of its declaration, secrets masked."""
        return [
            ShownSetting(name, variable(name), show(name, getattr(self.settings, name)), self.sources[name])
            for name in Settings.model_fields
        ]


def show(name: str, value: object) -> str:
    """A value as it may be printed and as it could be written in the environment."""
    if value is None:
        return "(unset)"
    if _is_secret(name, value):
        return "***"
    metadata = _ANNOTATIONS.get(name, "")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float) and "Seconds" in metadata:
        return show_duration(value)
    if isinstance(value, int) and "Bytes" in metadata:
        return show_size(value)
    if isinstance(value, dict):
        entries = (
            f'"{key}": {v.model_dump_json(exclude_none=True) if isinstance(v, BaseModel) else _json(v)}'
            for key, v in value.items()
        )
        return "{" + ", ".join(entries) + "}"
    if isinstance(value, tuple):
        return "[" + ", ".join(f'"{each}"' for each in value) + "]"
    return mask(str(value))


def _is_secret(name: str, value: object) -> bool:
    """Of a database's URL only the password is; a password is one, whatever it looks like."""
    is_url = "DatabaseUrl" in _ANNOTATIONS.get(name, "") and "://" in str(value)
    return not Settings.model_fields[name].repr and not is_url


def _json(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else f"{value:g}"


#: Setting -> its type as it is written.
_ANNOTATIONS: dict[str, str] = {
    name: str(kind) for part in (KafkaSettings, MediaSettings, Settings) for name, kind in part.__annotations__.items()
}
#: Settings that are paths.
_PATHS = tuple(name for name, kind in _ANNOTATIONS.items() if kind.split(" ")[0] in ("AbsolutePath", "Store"))


def _lines(error: ErrorDetails, values: Mapping[str, Given]) -> Iterator[str]:
    if error["type"] == "conflict":
        for name, sentence in error["ctx"]["conflicts"]:
            yield f"{_place(name, values)}: {sentence}"
        return
    if error["type"] in ("default_factory_not_called", "missing_argument"):
        return  # it follows from another setting, whose own line is there
    name = str(error["loc"][0])
    inner = "".join(f"[{part}]" for part in error["loc"][1:] if part != "[key]")
    message = _WORDS.get(error["type"], error["msg"].removeprefix("Input "))
    yield f"{_place(name, values)}{inner}: {message[:1].lower()}{message[1:]}"


_WORDS = {
    "extra_forbidden": "is not a name that is known here",
    "string_pattern_mismatch": "is not a name of a bucket",
}


def _place(name: str, values: Mapping[str, Given]) -> str:
    given = values.get(name)
    if given is None:
        return variable(name)
    value = "***" if _is_secret(name, given.value) else mask(str(given.value))
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in value[:100])
    return given.place + (shown if len(value) <= 100 else f"{shown}...")


def _conflicts(settings: Settings) -> Iterator[tuple[str, str]]:
    """What is wrong with settings that are each right alone: the setting, and a sentence about it."""
    yield from kafka.conflicts(settings)
    if settings.beat >= settings.lease / 3:
        lease = show_duration(settings.lease)
        yield "beat", f"should be less than a third of the lease ({lease}): a lost beat must cost no worker its jobs"
    if settings.backoff_base_s > settings.backoff_cap_s:
        yield "backoff_base_s", f"should be at most backoff_cap_s ({show_duration(settings.backoff_cap_s)})"
    if settings.object_bytes > settings.cache_bytes:
        yield "object_bytes", f"should be at most cache_bytes ({show_size(settings.cache_bytes)})"
    if missing := set(get_args(Lane)) - settings.lane_weights.keys():
        yield "lane_weights", f"lacks {', '.join(sorted(missing))}; every lane has a weight"
    if settings.store != "s3" and settings.s3_endpoint:
        yield "s3_endpoint", f"is set, but the store is a folder; set {variable('store')}=s3 or unset it"
    if settings.store == "s3" and not settings.s3_buckets:
        example = '{"uploads": "r", "derived": "rw"}'
        yield "s3_buckets", f"is needed when {variable('store')} is s3; write {example}"
    writable = sorted({place.split("/")[0] for place, access in settings.s3_buckets.items() if "w" in access})
    if not settings.output_prefix:
        example = f"s3://{writable[0] if writable else 'derived'}/derived/"
        yield "output_prefix", f"is needed when {variable('store')} is s3; write {example}"
    elif (bucket := settings.output_prefix.split("/")[2]) not in writable:
        yield "output_prefix", f"is in bucket {bucket!r}, which {variable('s3_buckets')} does not let be written"
