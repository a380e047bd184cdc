"""The local store: nothing outside its folder is reached, and people can put files there."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from storage.objects.base import Body, ObjectRef
from storage.objects.errors import AccessRefused, ObjectChanged, ObjectMissing, StoreUnavailable
from storage.objects.local import INCOMING, STALE_S, LocalStore
from storage.objects.rules import BucketRules
from storage.objects.uri import ObjectUri

RULES = BucketRules.parse(["media"])
MANY = 1 << 30


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def store(folder: Path) -> LocalStore:
    return LocalStore(folder, RULES)


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "outside" / "secret"
    path.parent.mkdir()
    path.write_text("secret")
    return path


def ref(key: str) -> ObjectRef:
    return ObjectRef(ObjectUri("media", key))


def keys(store: LocalStore) -> list[str]:
    return [info.uri.key for info in store.list("media")]


def test_objects_are_files_of_the_same_name(store: LocalStore, folder: Path, secret: Path) -> None:
    store.upload(secret, ref("pictures/a.jpg").uri)
    assert (folder / "media" / "pictures" / "a.jpg").read_text() == "secret"


def test_files_put_there_by_hand_are_objects(store: LocalStore, folder: Path, tmp_path: Path) -> None:
    (folder / "media" / "holiday").mkdir()
    (folder / "media" / "holiday" / "100% ü.png").write_bytes(b"picture")
    assert keys(store) == ["holiday/100% ü.png"]
    info = store.stat(ref("holiday/100% ü.png"))
    assert (info.size, info.content_type) == (7, "image/png")
    assert store.download(ref("holiday/100% ü.png"), tmp_path / "read", max_bytes=7).size == 7


def test_files_that_cannot_be_objects_are_left_out_of_a_listing(store: LocalStore, folder: Path, secret: Path) -> None:
    media = folder / "media"
    (media / ".DS_Store").write_bytes(b"x")
    (media / ".git").mkdir()
    (media / ".git" / "config").write_bytes(b"x")
    (media / "a%25b").write_bytes(b"x")
    (media / "line\nbreak").write_bytes(b"x")
    (media / os.fsdecode(b"\xff.jpg")).write_bytes(b"x")
    (media / "link").symlink_to(secret)
    (media / "folder-link").symlink_to(secret.parent)
    os.mkfifo(media / "pipe")
    (media / "good").write_bytes(b"x")
    assert keys(store) == ["good"]


def test_a_symbolic_link_is_not_followed(store: LocalStore, folder: Path, secret: Path, tmp_path: Path) -> None:
    (folder / "media" / "link").symlink_to(secret)
    (folder / "media" / "inner").symlink_to("good")
    (folder / "media" / "good").write_bytes(b"x")
    for key in ("link", "inner"):
        with pytest.raises(AccessRefused, match="symbolic link"):
            store.stat(ref(key))
        with pytest.raises(AccessRefused, match="symbolic link"):
            store.download(ref(key), tmp_path / "read", max_bytes=MANY)


def test_a_folder_that_is_a_symbolic_link_is_not_followed(
    store: LocalStore, folder: Path, secret: Path, tmp_path: Path
) -> None:
    (folder / "media" / "folder").symlink_to(secret.parent)
    for call in (
        lambda: store.stat(ref("folder/secret")),
        lambda: store.download(ref("folder/secret"), tmp_path / "read", max_bytes=MANY),
        lambda: store.upload(secret, ref("folder/new").uri),
        lambda: store.upload(secret, ref("folder/below/new").uri),
        lambda: store.delete(ref("folder/secret").uri),
    ):
        with pytest.raises(AccessRefused, match="symbolic link"):
            call()
    assert [path.name for path in secret.parent.iterdir()] == ["secret"]


def test_a_bucket_that_is_a_symbolic_link_is_not_followed(folder: Path, secret: Path) -> None:
    folder.mkdir()
    (folder / "media").symlink_to(secret.parent)
    store = LocalStore(folder, RULES)
    with pytest.raises(AccessRefused, match="symbolic link"):
        store.stat(ref("secret"))
    with pytest.raises(ObjectMissing, match="no such bucket"):
        keys(store)


def test_writing_over_a_link_replaces_the_link_and_not_what_it_leads_to(
    store: LocalStore, folder: Path, secret: Path, tmp_path: Path
) -> None:
    link = folder / "media" / "link"
    link.symlink_to(secret)
    (tmp_path / "new").write_text("new")
    store.upload(tmp_path / "new", ref("link").uri)
    assert (secret.read_text(), link.read_text(), link.is_symlink()) == ("secret", "new", False)


def test_deleting_a_link_leaves_what_it_leads_to(store: LocalStore, folder: Path, secret: Path) -> None:
    (folder / "media" / "link").symlink_to(secret)
    store.delete(ref("link").uri)
    assert (secret.read_text(), (folder / "media" / "link").is_symlink()) == ("secret", False)


def test_the_folder_of_the_store_may_be_a_link(tmp_path: Path, secret: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    store = LocalStore(tmp_path / "link", RULES)
    store.upload(secret, ref("a").uri)
    assert (tmp_path / "real" / "media" / "a").read_text() == "secret"


def test_a_special_file_is_no_object_and_nobody_waits_for_it(store: LocalStore, folder: Path, tmp_path: Path) -> None:
    os.mkfifo(folder / "media" / "pipe")
    with pytest.raises(ObjectMissing, match="special file"):
        store.download(ref("pipe"), tmp_path / "read", max_bytes=MANY)


def test_an_object_and_a_folder_cannot_have_one_name(store: LocalStore, secret: Path) -> None:
    store.upload(secret, ref("a/b").uri)
    with pytest.raises(AccessRefused, match="objects below a folder of that name; use another key"):
        store.upload(secret, ref("a").uri)
    with pytest.raises(ObjectMissing, match="a part of its key is an object itself; use another key"):
        store.upload(secret, ref("a/b/c").uri)
    assert keys(store) == ["a/b"]


def test_deleting_the_last_object_of_a_folder_removes_the_folder(store: LocalStore, folder: Path, secret: Path) -> None:
    for key in ("a/b/c", "a/d"):
        store.upload(secret, ref(key).uri)
    store.delete(ref("a/b/c").uri)
    assert sorted(path.name for path in (folder / "media" / "a").iterdir()) == ["d"]
    store.delete(ref("a/d").uri)
    assert list((folder / "media").iterdir()) == []


def test_deleting_a_folder_of_objects_removes_nothing(store: LocalStore, secret: Path) -> None:
    store.upload(secret, ref("a/b").uri)
    store.delete(ref("a").uri)
    assert keys(store) == ["a/b"]


def test_a_key_with_a_part_longer_than_a_file_name_is_kept(store: LocalStore, secret: Path, tmp_path: Path) -> None:
    for key in ("x" * 1024, "é" * 500 + "/a", "." * 300, "b/" + "x" * 600 + "." * 300):
        store.upload(secret, ref(key).uri)
        assert store.download(ref(key), tmp_path / "read", max_bytes=MANY).size == 6
        assert keys(store) == [key]
        store.delete(ref(key).uri)


def test_a_failed_upload_leaves_nothing(
    store: LocalStore, folder: Path, secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.upload(secret, ref("a").uri)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    secret.write_text("a longer text")
    with pytest.raises(StoreUnavailable, match="No space left on device"):
        store.upload(secret, ref("a").uri)
    assert list((folder / INCOMING).iterdir()) == []
    assert store.stat(ref("a")).size == 6


def test_the_leftovers_of_a_process_that_died_are_removed_after_a_day(folder: Path, store: LocalStore) -> None:
    old, new = folder / INCOMING / "old", folder / INCOMING / "new"
    for path in (old, new):
        path.write_bytes(b"x")
    long_ago = time.time() - STALE_S - 60
    os.utime(old, (long_ago, long_ago))
    LocalStore(folder, RULES)
    assert (old.exists(), new.exists()) == (False, True)


def test_equal_bytes_written_again_are_another_version_however_soon(
    store: LocalStore, secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    etags = {store.upload(secret, ref("a").uri).etag for _ in range(500)}
    assert len(etags) == 500


@pytest.mark.parametrize("pinned", [True, False])
def test_a_file_that_is_written_while_it_is_read_is_noticed(
    store: LocalStore, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pinned: bool
) -> None:
    path = folder / "media" / "a"
    path.write_bytes(b"old")
    opened = store._open
    writes = iter([b"new", b""])

    @contextmanager
    def disturbed(ref: ObjectRef, start: int) -> Iterator[Body]:
        with opened(ref, start) as body:
            if content := next(writes):
                path.write_bytes(content)
            yield body

    monkeypatch.setattr(store, "_open", disturbed)
    monkeypatch.setattr(store, "_sleep", lambda seconds: None)
    asked = ObjectRef(ref("a").uri, etag=store.stat(ref("a")).etag if pinned else None)
    if pinned:
        with pytest.raises(ObjectChanged):
            store.download(asked, tmp_path / "read", max_bytes=MANY)
        assert not (tmp_path / "read").exists()
    else:
        store.download(asked, tmp_path / "read", max_bytes=MANY)
        assert (tmp_path / "read").read_bytes() == b"new"


def test_a_folder_that_is_only_read_may_be_write_protected(folder: Path, tmp_path: Path) -> None:
    (folder / "media").mkdir(parents=True)
    store = LocalStore(folder, BucketRules.parse({"media": "r"}))
    store.check()
    assert not (folder / INCOMING).exists()
