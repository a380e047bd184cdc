"""Outputs on their way into the store: nothing that an executor says leads to a file that is not its own."""

from __future__ import annotations

import hashlib
import mmap
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from handlers.errors import HandlerBug
from handlers.protocol import OutputFile
from storage.claim import ClaimedJob, Fence
from storage.objects.base import ObjectInfo, ObjectRef
from storage.objects.local import LocalStore
from storage.objects.rules import BucketRules
from storage.objects.uri import ObjectUri
from worker.metrics import Metrics
from worker.store import Outputs, output_prefix

FENCE = Fence(uuid.UUID(int=7), 3, uuid.UUID("00000000-0000-7000-8000-0000deadbeef"))
SECRET = "the courier's own"


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    (tmp_path / "secret.json").write_text(SECRET)
    folder = tmp_path / "scratch" / "job"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store", BucketRules.parse({"media": "rw"}))


def outputs(store: LocalStore, max_bytes: int = 1000) -> Outputs:
    return Outputs(
        store,
        default_prefix="s3://media/derived/",
        max_bytes=max_bytes,
        limiter=anyio.CapacityLimiter(1),
        metrics=Metrics(),
    )


def job(**message: Any) -> ClaimedJob:
    return ClaimedJob(
        fence=FENCE, type="t", tenant="d", lane="upload", failures=0, losses=0, crashes=0, max_attempts=3,
        deadline=None, timeout_s=None, message=message, resolved=None, queued_s=0,
    )  # fmt: skip


def file(path: Path, role: str = "captions", media_type: str = "application/json") -> OutputFile:
    return OutputFile(role=role, path=str(path), media_type=media_type)


async def test_an_output_goes_to_a_key_that_names_job_attempt_and_worker(
    scratch: Path, store: LocalStore, tmp_path: Path
) -> None:
    path = scratch / "captions.json"
    path.write_bytes(b"{}")
    (artifact,) = await outputs(store).store(job(), scratch, [file(path)])
    assert artifact.key == f"derived/{FENCE.id}/3-deadbeef/captions.json"
    assert artifact.sha256 == hashlib.sha256(b"{}").digest()
    uri = ObjectUri(artifact.bucket, artifact.key)
    store.download(ObjectRef(uri), tmp_path / "back", max_bytes=100)
    assert (tmp_path / "back").read_bytes() == b"{}"


def test_the_message_s_own_prefix_is_taken_before_the_deployment_s() -> None:
    assert str(output_prefix("s3://media/a/", None, FENCE)).startswith("s3://media/a/0")
    assert str(output_prefix("s3://media/a/", "s3://other/b", FENCE)).startswith("s3://other/b/0")


def link_to_a_file(scratch: Path) -> Path:
    path = scratch / "captions.json"
    path.symlink_to(scratch.parent.parent / "secret.json")
    return path


def link_in_place_of_the_folder(scratch: Path) -> Path:
    (scratch.parent.parent / "captions.json").write_text(SECRET)
    scratch.rmdir()
    scratch.symlink_to(scratch.parent.parent)
    return scratch / "captions.json"


def another_folder(scratch: Path) -> Path:
    return scratch.parent.parent / "secret.json"


def way_up(scratch: Path) -> Path:
    return scratch / ".." / ".." / "secret.json"


def a_pipe(scratch: Path) -> Path:
    os.mkfifo(scratch / "captions.json")
    return scratch / "captions.json"


def a_folder(scratch: Path) -> Path:
    (scratch / "captions.json").mkdir()
    return scratch / "captions.json"


def nothing(scratch: Path) -> Path:
    return scratch / "captions.json"


def too_large(scratch: Path) -> Path:
    (scratch / "captions.json").write_bytes(bytes(1001))
    return scratch / "captions.json"


@pytest.mark.parametrize(
    "trick",
    [link_to_a_file, link_in_place_of_the_folder, another_folder, way_up, a_pipe, a_folder, nothing, too_large],
)
async def test_what_is_no_file_of_the_job_is_never_read(
    trick: Callable[[Path], Path], scratch: Path, store: LocalStore, tmp_path: Path
) -> None:
    with pytest.raises(HandlerBug, match="captions"):
        await outputs(store).store(job(), scratch, [file(trick(scratch))])
    stored = [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
    assert not any(SECRET in path.read_text() for path in stored)


@pytest.mark.parametrize(("role", "media_type"), [("../x", "a/b"), ("", "a/b"), ("UP", "a/b"), ("x", "no type")])
async def test_roles_and_media_types_are_checked(role: str, media_type: str, scratch: Path, store: LocalStore) -> None:
    (scratch / "x").write_bytes(b"x")
    with pytest.raises(HandlerBug, match="role or media type"):
        await outputs(store).store(job(), scratch, [file(scratch / "x", role, media_type)])


async def test_the_digest_is_of_the_bytes_that_were_stored_even_where_the_file_changes_unseen(
    scratch: Path, tmp_path: Path
) -> None:
    """A write through a memory map that is dirty already changes neither size nor times."""
    path = scratch / "captions.json"
    path.write_bytes(b"A" * 4096)
    with path.open("r+b") as handle, mmap.mmap(handle.fileno(), 4096) as mapped:
        mapped[0:1] = b"A"

        class Slow(LocalStore):
            def _upload(self, *args: Any) -> ObjectInfo:
                mapped[0:1] = b"B"
                return super()._upload(*args)

        slow = Slow(tmp_path / "store", BucketRules.parse({"media": "rw"}))
        (artifact,) = await outputs(slow, 5000).store(job(), scratch, [file(path)])
    stored = (tmp_path / "store" / artifact.bucket / artifact.key).read_bytes()
    assert stored.startswith(b"B")
    assert artifact.sha256 == hashlib.sha256(stored).digest()


async def test_the_limit_on_bytes_is_of_all_outputs_of_a_job_together(scratch: Path, store: LocalStore) -> None:
    for name in ("a", "b"):
        with (scratch / name).open("wb") as sparse:
            sparse.truncate(600)
    with pytest.raises(HandlerBug, match="output 'b' has 600 bytes, the limit for all outputs of a job is 1000"):
        await outputs(store).store(job(), scratch, [file(scratch / name, role=name) for name in ("a", "b")])


async def test_an_output_that_is_written_to_while_it_is_stored_is_refused(scratch: Path, tmp_path: Path) -> None:
    path = scratch / "captions.json"
    path.write_bytes(b"{}")

    class Slow(LocalStore):
        def _upload(self, *args: Any) -> ObjectInfo:
            info = super()._upload(*args)
            path.write_bytes(b"[]")
            return info

    slow = Slow(tmp_path / "store", BucketRules.parse({"media": "rw"}))
    with pytest.raises(HandlerBug, match="while it was stored"):
        await outputs(slow).store(job(), scratch, [file(path)])
