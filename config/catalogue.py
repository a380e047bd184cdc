"""The catalogue of checkpoints: which there are, where they come from, what each is used for.

`models.yaml` beside this module is ours; a deployment may have one of its own in the same form. Whether a checkpoint's
files are there, and are those that were verified when they came, is asked here; getting them is `config.checkpoints`.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from config.checkpoint_lock import LOCK_NAME, BadLock, changed_files, read_lock

BUILT_IN = Path(__file__).with_name("models.yaml")

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,99}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Dtype = Literal["float32", "float16", "bfloat16"]


class CatalogueError(Exception):
    """The catalogue cannot be read, or lacks what was asked for: one sentence that names the place and the fix."""


class Family(StrEnum):
    """An architecture, and the loader for it (`handlers/models/<family>.py`)."""

    BLIP_CAPTION = "blip_caption"
    BLIP_VQA = "blip_vqa"
    CLIP = "clip"
    STABLE_DIFFUSION = "stable_diffusion"
    STABLE_DIFFUSION_XL = "stable_diffusion_xl"
    WHISPER = "whisper"


class Role(StrEnum):
    """What jobs ask for that do not name a checkpoint."""

    CAPTION = "caption"
    ANSWER = "answer"
    EMBED = "embed"
    TRANSCRIBE = "transcribe"
    GENERATE = "generate"


_DIFFUSION = frozenset({Family.STABLE_DIFFUSION, Family.STABLE_DIFFUSION_XL})
_FAMILIES_OF = {
    Role.CAPTION: frozenset({Family.BLIP_CAPTION}),
    Role.ANSWER: frozenset({Family.BLIP_VQA}),
    Role.EMBED: frozenset({Family.CLIP}),
    Role.TRANSCRIBE: frozenset({Family.WHISPER}),
    Role.GENERATE: _DIFFUSION,
}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Generation(_Strict):
    """What a checkpoint that makes pictures does best, where a job does not say: few-step checkpoints differ much."""

    width: int = Field(ge=64, le=2048, multiple_of=8)
    height: int = Field(ge=64, le=2048, multiple_of=8)
    steps: int = Field(ge=1, le=150)
    guidance: float = Field(ge=0, le=30)
    scheduler: str | None = None


class Entry(_Strict):
    """One checkpoint: its files come from `repo` at `revision`, lie in `folder`, or are made by a module, `made_by`."""

    name: Name
    family: Family
    licence: str
    repo: Annotated[str, StringConstraints(pattern=r"^[\w.-]+/[\w.-]+$")] | None = None
    revision: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")] | None = None
    folder: Path | None = None
    made_by: Literal["toyworld.tiny"] | None = None
    #: Files that must be there, with their sha256 where it is known beforehand. What is not known is recorded by
    #: `models pull` in the lock beside the files, and holds from then on.
    files: Mapping[str, Sha256 | None] = Field(default_factory=dict)
    #: By kind of device (`cpu`, `cuda`); float32 where a kind is not named.
    dtype: Mapping[str, Dtype] = Field(default_factory=dict)
    #: Length of the vectors of a `clip`.
    dimension: int | None = Field(default=None, ge=1, le=4000)
    #: Of a diffusion checkpoint; else as its own files say.
    generation: Generation | None = None
    #: Of a `whisper`: (layer, head) pairs of the decoder that follow the sound; else as its own files say.
    alignment_heads: tuple[tuple[int, int], ...] | None = None
    #: Patterns of what is pulled from `repo`, where it holds the same weights in several forms; else all that is safe.
    pull: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        sources = [key for key in ("repo", "folder", "made_by") if getattr(self, key) is not None]
        if len(sources) != 1:
            raise ValueError(f"give exactly one of repo, folder, made_by (found: {', '.join(sources) or 'none'})")
        if (self.repo is None) != (self.revision is None):
            raise ValueError("repo and revision belong together: a branch may change under us, so give the full commit")
        if (self.family is Family.CLIP) != (self.dimension is not None):
            raise ValueError("a clip needs its dimension, and nothing else has one")
        if self.generation is not None and self.family not in _DIFFUSION:
            raise ValueError(f"generation is for checkpoints that make pictures: {', '.join(sorted(_DIFFUSION))}")
        if self.alignment_heads is not None and self.family is not Family.WHISPER:
            raise ValueError("alignment_heads are of a whisper")
        if bad := [file for file in self.files if file.startswith(("/", ".")) or ".." in Path(file).parts]:
            raise ValueError(f"{bad[0]!r} in files: give paths inside the checkpoint's folder")
        return self

    def dtype_on(self, device: str) -> Dtype:
        """The dtype on a device as torch names it (`cpu`, `cuda:1`)."""
        return self.dtype.get(device.partition(":")[0], "float32")


class _Profile(_Strict):
    """Which checkpoints a deployment uses: those of its roles, and others that jobs may name."""

    roles: Mapping[Role, Name]
    also: tuple[Name, ...] = ()


class _File(_Strict):
    profiles: Mapping[str, _Profile]
    checkpoints: Mapping[Name, Entry]


@dataclass(frozen=True, slots=True)
class MissingCheckpoint:
    """A checkpoint whose files are not there, or are not those that were verified."""

    name: str
    #: What is wrong and the command that mends it.
    sentence: str


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The checkpoints of one profile."""

    profile: str
    source: Path
    entries: Mapping[str, Entry]
    #: Role -> name of the checkpoint that stands for it, as `handlers.protocol.Hello.roles` wants it.
    roles: Mapping[str, str]

    @classmethod
    def load(cls, name_or_path: str) -> Catalogue:
        """A profile of ours by name (`default`, `small`, `toy`, `tiny`), or one of a file (`/etc/models.yaml#small`).

        Of a file named without `#` it is the profile `default`. Raises CatalogueError.
        """
        path, _, profile = name_or_path.partition("#")
        if "/" in path or path.endswith((".yaml", ".yml")):
            return cls._of(Path(path).expanduser(), profile or "default")
        return cls._of(BUILT_IN, path)

    @classmethod
    def _of(cls, source: Path, profile: str) -> Catalogue:
        file = _read(source)
        if profile not in file.profiles:
            raise CatalogueError(f"{source}: no profile {profile!r}{_did_you_mean(profile, file.profiles)}")
        chosen = file.profiles[profile]
        entries = {}
        for name in dict.fromkeys([*chosen.roles.values(), *chosen.also]):
            if name not in file.checkpoints:
                hint = _did_you_mean(name, file.checkpoints)
                raise CatalogueError(
                    f"{source}: profile {profile!r} names the checkpoint {name!r}, which is not there{hint}"
                )
            entries[name] = file.checkpoints[name]
        for role, name in chosen.roles.items():
            if (family := entries[name].family) not in _FAMILIES_OF[role]:
                fitting = " or a ".join(sorted(_FAMILIES_OF[role]))
                raise CatalogueError(
                    f"{source}: profile {profile!r} has {name!r}, a {family}, for the role {role}:"
                    f" that takes a {fitting}"
                )
        return cls(profile, source, entries, {role.value: name for role, name in chosen.roles.items()})

    def of_roles(self, used: Collection[str]) -> Catalogue:
        """The catalogue of a deployment that uses these roles alone: without checkpoints that none of them can take."""
        families = {family for role in used for family in _FAMILIES_OF[Role(role)]}
        entries = {name: entry for name, entry in self.entries.items() if entry.family in families}
        return replace(self, entries=entries, roles={role: name for role, name in self.roles.items() if role in used})

    @property
    def serves(self) -> Mapping[str, frozenset[str]]:
        """Checkpoint -> the roles that it can take."""
        return {
            name: frozenset(role.value for role, families in _FAMILIES_OF.items() if entry.family in families)
            for name, entry in self.entries.items()
        }

    def __getitem__(self, name: str) -> Entry:
        """The entry of a checkpoint's name or a role. Raises CatalogueError."""
        if (entry := self.entries.get(self.roles.get(name, name))) is None:
            known = [*self.entries, *self.roles]
            raise CatalogueError(f"profile {self.profile!r} has no checkpoint {name!r}{_did_you_mean(name, known)}")
        return entry

    def folder(self, entry: Entry, models_home: Path) -> Path:
        """Where an entry's files lie; a relative `folder` is meant from the catalogue's file."""
        if entry.folder is not None:
            return Path(os.path.normpath((self.source.parent / entry.folder.expanduser()).absolute()))
        return models_home / entry.name

    def missing(self, models_home: Path) -> list[MissingCheckpoint]:
        """The checkpoints that cannot be used as they are; reads no file larger than the locks."""
        return [
            MissingCheckpoint(entry.name, f"checkpoint {entry.name!r} {sentence}")
            for entry in self.entries.values()
            if (sentence := _what_is_wrong(entry, self.folder(entry, models_home))) is not None
        ]

    def digest(self, entry: Entry, folder: Path) -> str:
        """sha256 over the sorted names and digests of an entry's files, as the lock has it; names the weights.

        The files are not read again (`mediamill models check` does). Raises CatalogueError where there is no lock.
        """
        if sentence := _what_is_wrong(entry, folder):
            raise CatalogueError(f"checkpoint {entry.name!r} {sentence}")
        lock = read_lock(folder)
        assert lock is not None
        return lock.digest


def _what_is_wrong(entry: Entry, folder: Path) -> str | None:
    get_it = f"get it with `mediamill models pull {entry.name}`"
    if not folder.is_dir():
        return f"is not there: no folder {folder}; {get_it}"
    try:
        lock = read_lock(folder)
    except BadLock as error:
        return f"has a lock that cannot be read ({error}); {get_it}"
    if lock is None:
        return f"was never verified: {folder} has no {LOCK_NAME}; `mediamill models pull {entry.name}` verifies it"
    if lock.revision != entry.revision:
        return f"is of revision {lock.revision}, the catalogue wants {entry.revision}; {get_it}"
    for file, sha256 in entry.files.items():
        if file not in lock.files:
            return f"lacks the file {file}; {get_it}"
        if sha256 is not None and lock.files[file].sha256 != sha256:
            return f"has another {file} than the catalogue's digest says: remove {folder}, then {get_it}"
    if changed := changed_files(folder, lock):
        return f"has changed since it was verified ({', '.join(changed[:3])}): remove {folder}, then {get_it}"
    return None


def _read(source: Path) -> _File:
    try:
        document = yaml.safe_load(source.read_text(encoding="utf-8"))
    except OSError as error:
        raise CatalogueError(f"the catalogue {source} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        place = getattr(error, "problem_mark", None)
        line = f" in line {place.line + 1}" if place is not None else ""
        problem = getattr(error, "problem", None) or str(error)
        raise CatalogueError(f"{source} is not YAML{line}: {problem}") from error
    if isinstance(document, dict) and isinstance(document.get("checkpoints"), dict):
        for name, entry in document["checkpoints"].items():
            if isinstance(entry, dict):
                entry.setdefault("name", name)
    try:
        return _File.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the whole file"
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise CatalogueError(f"{source}: {place}: {first['msg']}{more}") from error


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    known = sorted(known)
    nearest = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {nearest[0]!r}?" if nearest else f"; there are: {', '.join(known)}"
