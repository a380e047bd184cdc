"""Where settings are given: environment and TOML file, each value with its provenance."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

PREFIX = "MEDIAMILL_"
#: Names the TOML file; not a setting itself, since it cannot stand in that file.
CONFIG_VARIABLE = PREFIX + "CONFIG"
FILE_NAME = "mediamill.toml"
# What Kubernetes puts into the environment of every pod that stands beside a service named mediamill or mediamill-...
_SERVICE_LINK = re.compile(
    r"MEDIAMILL_([A-Z0-9_]+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)


class Given(NamedTuple):
    """A value that somebody set."""

    value: object
    source: str
    """What `mediamill doctor` says about it: `environment MEDIAMILL_LEASE`, `file /etc/mediamill.toml:3`."""
    place: str
    """How a line about it begins: `MEDIAMILL_LEASE=`, `/etc/mediamill.toml:3: lease = `."""


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return PREFIX + name.upper()


def from_environment(environ: Mapping[str, str], names: Collection[str], wrong: list[str]) -> dict[str, Given]:
    """What the environment says, an empty variable being unset; a line goes to `wrong` for each unknown variable."""
    values: dict[str, Given] = {}
    for key, value in environ.items():
        if not key.startswith(PREFIX) or key == CONFIG_VARIABLE or not value or _SERVICE_LINK.fullmatch(key):
            continue
        name = key.removeprefix(PREFIX).lower()
        if name in names and key == variable(name):
            values[name] = Given(value, f"environment {key}", f"{key}=")
        else:
            known = [*map(variable, names), CONFIG_VARIABLE]
            wrong.append(f"{key}: there is no such setting{_nearest(key.upper(), known)}")
    return values


def find_file(environ: Mapping[str, str], files: Sequence[Path] | None, home: Path, wrong: list[str]) -> Path | None:
    """The first of `files` that exists; None: `MEDIAMILL_CONFIG`, else ./mediamill.toml, else the one in `home`."""
    if files is None and (named := environ.get(CONFIG_VARIABLE)):
        path = Path(named).expanduser().absolute()
        if path.is_file():
            return path
        wrong.append(f"{CONFIG_VARIABLE}={named}: there is no such file; name a TOML file or unset it")
        return None
    candidates = (Path(FILE_NAME), home / FILE_NAME) if files is None else files
    return next((path.absolute() for path in candidates if path.is_file()), None)


def from_file(path: Path, names: Collection[str], paths: Collection[str], wrong: list[str]) -> dict[str, Given]:
    """What a TOML file says; a line goes to `wrong` for each unknown key.

    The values of `paths` that are relative are relative to the file's folder.
    """
    try:
        text = path.read_text(encoding="utf-8")
        table = tomllib.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        wrong.append(f"{path}: cannot be read as TOML: {error}")
        return {}
    values: dict[str, Given] = {}
    for key, value in table.items():
        place = f"{path}:{_line_of(key, text)}"
        if key not in names:
            wrong.append(f"{place}: there is no setting {key!r}{_nearest(key.lower(), names)}")
            continue
        if key in paths and isinstance(value, str):
            value = _beside(path, value)
        values[key] = Given(value, f"file {place}", f"{place}: {key} = ")
    return values


def _line_of(key: str, text: str) -> int:
    """The line where a top-level key or table of a TOML text stands, from 1."""
    pattern = re.compile(rf"\s*(\[\s*)?[\"']?{re.escape(key)}[\"']?\s*[.=\]]")
    return next((number for number, line in enumerate(text.splitlines(), start=1) if pattern.match(line)), 1)


def _beside(path: Path, value: str) -> str:
    # `store` is a path, or the word s3
    if value.lower() == "s3" or "://" in value or "\0" in value:
        return value
    return str(path.parent / Path(value).expanduser())


def _nearest(name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}?" if near else "; `mediamill doctor` prints those there are"
