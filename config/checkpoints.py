"""Getting and verifying checkpoints: what `mediamill models pull` and `models check` do.

This runs in the courier's environment, without torch. Whether a pickle holds tensors only can be told by torch alone,
so that is asked of the executor's interpreter (`python -m handlers.models.check FOLDER`).
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Protocol

from config.catalogue import Catalogue, Entry
from config.checkpoint_lock import BadLock, Lock, LockedFile, differences, hash_files, read_lock, write_lock

Progress = Callable[[str], None]

#: What is taken from a repository; code never is.
_WANTED = (".json", ".txt", ".model", ".safetensors")
_PICKLES = (".bin", ".pt", ".pth")
#: Where the rooms of the house lie: the executor's interpreter finds `handlers` and `toyworld` from here.
_ROOT = Path(__file__).parent.parent
_MAKING_TAKES_AT_MOST_S = 600
_CHECKING_TAKES_AT_MOST_S = 3600


class CheckpointError(Exception):
    """A checkpoint could not be got or is not what it should be: one sentence that says why and what to do."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a repository; `sha256` where the repository knows it (it does of large files)."""

    name: str
    size: int | None = None
    sha256: str | None = None


class Repositories(Protocol):
    """Where checkpoints come from."""

    def files(self, repo: str, revision: str) -> Sequence[RemoteFile]:
        """What a repository has. Raises CheckpointError."""

    def download(self, repo: str, revision: str, files: Sequence[str], folder: Path) -> None:
        """Puts files into a folder; those that are there already, whole or in part, are gone on with.

        Raises CheckpointError.
        """


class HuggingFace:
    """Repositories of huggingface.co, or of the mirror that HF_ENDPOINT names."""

    def files(self, repo: str, revision: str) -> Sequence[RemoteFile]:
        from huggingface_hub import HfApi

        with _errors_of(repo):
            info = HfApi().model_info(repo, revision=revision, files_metadata=True, timeout=30)
        return [
            RemoteFile(file.rfilename, file.size, file.lfs.sha256 if file.lfs else None) for file in info.siblings or ()
        ]

    def download(self, repo: str, revision: str, files: Sequence[str], folder: Path) -> None:
        from huggingface_hub import snapshot_download

        with _errors_of(repo):
            snapshot_download(repo, revision=revision, local_dir=folder, allow_patterns=list(files), max_workers=4)


def pull(
    catalogue: Catalogue,
    entry: Entry,
    models_home: Path,
    *,
    executor: Path,
    progress: Progress,
    repositories: Repositories | None = None,
) -> Path:
    """Gets a checkpoint, verifies it and locks it; returns its folder. Does nothing where that was done before.

    It appears whole or not at all; an interrupted download goes on where it was; two pulls at the same time wait for
    each other. A folder that was put there by hand is verified and locked as well. `executor` is the executor's
    interpreter. Raises CheckpointError.
    """
    folder = catalogue.folder(entry, models_home)
    if entry.folder is not None and not verify(catalogue, entry, models_home):
        # It may lie where nothing can be written: those that come with mediamill do.
        progress(f"{entry.name}: is there and verified")
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _alone(folder.parent / f".{entry.name}.pull"):
        lock = _readable_lock(folder)
        if lock is not None and lock.revision == entry.revision:
            if problems := verify(catalogue, entry, models_home):
                raise CheckpointError(f"{problems[0]}: remove {folder} and pull again")
            progress(f"{entry.name}: is there and verified")
            return folder
        if entry.repo is not None and (lock is not None or not folder.is_dir()):
            fresh = folder.with_name(f".{folder.name}.{entry.revision}.partial")
            remote = _download(entry, fresh, repositories or HuggingFace(), progress)
            _seal(entry, fresh, remote, executor, progress)
            _put(fresh, folder)
        else:
            if entry.made_by is not None and not folder.is_dir():
                _make(entry.made_by, models_home, executor, progress)
            if not folder.is_dir():
                raise CheckpointError(f"{entry.name}: there is no folder {folder}; put the checkpoint there")
            _seal(entry, folder, {}, executor, progress)
    progress(f"{entry.name}: is in {folder}")
    return folder


def verify(catalogue: Catalogue, entry: Entry, models_home: Path) -> list[str]:
    """Reads all files of a checkpoint again; what differs from lock and catalogue, as sentences. Empty: nothing."""
    folder = catalogue.folder(entry, models_home)
    wrong = [missing.sentence for missing in catalogue.missing(models_home) if missing.name == entry.name]
    if wrong:
        return wrong
    lock = read_lock(folder)
    assert lock is not None
    return [
        f"checkpoint {entry.name!r}: {file} is not what it was when it was verified"
        for file in differences(lock.files, hash_files(folder))
    ]


def _download(entry: Entry, folder: Path, repositories: Repositories, progress: Progress) -> Mapping[str, RemoteFile]:
    """Files of the repository that are wanted, into `folder`; safetensors where there are any, pickles only else."""
    assert entry.repo is not None
    assert entry.revision is not None
    progress(f"{entry.name}: asks {entry.repo} at {entry.revision[:12]} for its files")
    there = repositories.files(entry.repo, entry.revision)
    if entry.pull:
        there = [file for file in there if any(fnmatchcase(file.name, pattern) for pattern in entry.pull)]
    wanted = {file.name: file for file in there if file.name.endswith(_WANTED)}
    if not any(name.endswith(".safetensors") for name in wanted):
        wanted |= {file.name: file for file in there if file.name.endswith(_PICKLES)}
    if lacking := sorted(entry.files.keys() - wanted.keys()):
        raise CheckpointError(
            f"{entry.name}: {entry.repo} at {entry.revision} has no {lacking[0]}: correct `files` or `revision` in the"
            " catalogue"
        )
    total = sum(file.size or 0 for file in wanted.values())
    progress(f"{entry.name}: downloads {len(wanted)} files, {total / 1e6:,.0f} MB")
    folder.mkdir(parents=True, exist_ok=True)
    repositories.download(entry.repo, entry.revision, sorted(wanted), folder)
    return wanted


def _seal(entry: Entry, folder: Path, remote: Mapping[str, RemoteFile], executor: Path, progress: Progress) -> None:
    """Verifies a folder and writes its lock. Raises CheckpointError."""
    progress(f"{entry.name}: verifies")
    found = hash_files(folder)
    expected = {name: file.sha256 for name, file in remote.items()} | dict(entry.files)
    for name, sha256 in sorted(expected.items()):
        _compare(entry, folder, name, sha256, found.get(name))
    _refuse_pickles(entry, folder, executor)
    write_lock(folder, Lock(name=entry.name, repo=entry.repo, revision=entry.revision, files=found))


def _compare(entry: Entry, folder: Path, name: str, sha256: str | None, found: LockedFile | None) -> None:
    if found is None:
        raise CheckpointError(f"{entry.name}: the file {name} is missing in {folder}")
    if sha256 is not None and found.sha256 != sha256:
        raise CheckpointError(
            f"{entry.name}: {name} has the sha256 {found.sha256}, not {sha256}: it is damaged or another file;"
            f" remove {folder} and pull again"
        )


def _refuse_pickles(entry: Entry, folder: Path, executor: Path) -> None:
    command = [str(executor), "-m", "handlers.models.check", str(folder.absolute())]
    done = _run(command, _CHECKING_TAKES_AT_MOST_S, "check")
    if done.returncode != 0:
        said = (done.stdout.strip() or done.stderr.strip()).splitlines()
        raise CheckpointError(f"{entry.name} is refused: {said[0] if said else 'the check ended without a word'}")


def _make(module: str, models_home: Path, executor: Path, progress: Progress) -> None:
    progress(f"makes checkpoints of random weights ({module})")
    done = _run([str(executor), "-m", module, "--out", str(models_home.absolute())], _MAKING_TAKES_AT_MOST_S, "make")
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()
        raise CheckpointError(f"{module} failed: {said[-1] if said else f'exit code {done.returncode}'}")


def _run(command: Sequence[str], limit_s: float, what: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, cwd=_ROOT, env=_environment(), capture_output=True, text=True, timeout=limit_s, check=False
        )
    except FileNotFoundError as error:
        raise CheckpointError(
            f"the executor's interpreter {command[0]} is not there: it is needed to {what} checkpoints"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise CheckpointError(f"`{' '.join(command)}` took more than {limit_s:.0f} s") from error


def _environment() -> dict[str, str]:
    """What the executor's interpreter needs to start, and none of our credentials."""
    kept = ("HOME", "LANG", "LD_LIBRARY_PATH", "PATH", "TMPDIR")
    return {name: os.environ[name] for name in kept if name in os.environ} | {"HF_HUB_OFFLINE": "1"}


def _put(fresh: Path, folder: Path) -> None:
    """Moves a verified folder to its place; what was there before is gone only when the new one stands."""
    shutil.rmtree(fresh / ".cache", ignore_errors=True)  # what huggingface_hub keeps to resume by
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _readable_lock(folder: Path) -> Lock | None:
    try:
        return read_lock(folder)
    except BadLock:
        return None


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _errors_of(repo: str) -> Iterator[None]:
    """What the network and the repository's server raise, as one sentence."""
    from httpx2 import HTTPError
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        yield
    except GatedRepoError as error:
        raise CheckpointError(
            f"{repo} is given only to those who accepted its terms: do so, and set HF_TOKEN"
        ) from error
    except RevisionNotFoundError as error:
        raise CheckpointError(f"{repo} has no such revision: correct it in the catalogue") from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(f"there is no repository {repo} (or HF_TOKEN does not open it)") from error
    except (HTTPError, OSError) as error:
        raise CheckpointError(
            f"{repo} cannot be reached ({str(error).partition(chr(10))[0]}): see to the network or HF_ENDPOINT,"
            " then pull again; it goes on where it was"
        ) from error
