"""Getting checkpoints, from a repository that is a folder here."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from config.catalogue import Catalogue
from config.checkpoint_lock import LOCK_NAME
from config.checkpoints import CheckpointError, HuggingFace, RemoteFile, pull, verify

pytestmark = pytest.mark.unit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OTHER_COMMIT = "f" * 40


@dataclass
class FakeRepository:
    """Files of one repository; can break off, and can give other bytes than it says."""

    content: dict[str, bytes]
    damaged: set[str] = field(default_factory=set)
    breaks_off: bool = False
    asked: list[str] = field(default_factory=list)

    def files(self, repo: str, revision: str) -> Sequence[RemoteFile]:
        return [RemoteFile(n, len(b), hashlib.sha256(b).hexdigest()) for n, b in self.content.items()]

    def download(self, repo: str, revision: str, files: Sequence[str], folder: Path) -> None:
        for name in files:
            if (folder / name).exists():
                continue
            self.asked.append(name)
            (folder / name).write_bytes(b"damaged" if name in self.damaged else self.content[name])
            if self.breaks_off:
                raise CheckpointError("the line broke")


FILES = {
    "config.json": b"{}",
    "model.safetensors": b"weights",
    "pytorch_model.bin": b"pickle",
    "tf_model.h5": b"other",
    "modeling_x.py": b"code",
    "vocab.txt": b"a\nb",
}


@pytest.fixture
def executor(tmp_path: Path) -> Path:
    """An interpreter whose check finds nothing wrong."""
    path = tmp_path / "python"
    path.write_text("#!/bin/sh\nexit 0\n")
    path.chmod(0o755)
    return path


def catalogue(folder: Path, revision: str = COMMIT, files: str = "{}", more: str = "") -> Catalogue:
    source = folder / "models.yaml"
    source.write_text(
        "profiles: {default: {roles: {embed: mine}}}\ncheckpoints:\n"
        f"  mine: {{family: clip, licence: MIT, dimension: 64, repo: a/b, revision: {revision}, files: {files}{more}"
        "}\n"
    )
    return Catalogue.load(str(source))


def get(of: Catalogue, home: Path, executor: Path, repository: FakeRepository) -> Path:
    return pull(of, of["embed"], home, executor=executor, progress=lambda _: None, repositories=repository)


def test_weights_and_texts_are_taken_and_no_pickle_beside_safetensors_and_no_code(
    tmp_path: Path, executor: Path
) -> None:
    of, home = catalogue(tmp_path), tmp_path / "home"
    folder = get(of, home, executor, FakeRepository(FILES))
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors", "vocab.txt", LOCK_NAME}
    assert of.missing(home) == []
    assert verify(of, of["embed"], home) == []


def test_a_pickle_is_taken_where_there_are_no_safetensors(tmp_path: Path, executor: Path) -> None:
    files = {name: data for name, data in FILES.items() if name != "model.safetensors"}
    folder = get(catalogue(tmp_path), tmp_path / "home", executor, FakeRepository(files))
    assert (folder / "pytorch_model.bin").read_bytes() == b"pickle"


def test_a_second_pull_asks_for_nothing(tmp_path: Path, executor: Path) -> None:
    of, repository = catalogue(tmp_path), FakeRepository(FILES)
    get(of, tmp_path / "home", executor, repository)
    repository.asked.clear()
    get(of, tmp_path / "home", executor, repository)
    assert repository.asked == []


def test_an_interrupted_pull_leaves_no_folder_and_goes_on_where_it_was(tmp_path: Path, executor: Path) -> None:
    of, home, repository = catalogue(tmp_path), tmp_path / "home", FakeRepository(FILES, breaks_off=True)
    with pytest.raises(CheckpointError, match="the line broke"):
        get(of, home, executor, repository)
    assert not (home / "mine").exists()
    repository.breaks_off = False
    get(of, home, executor, repository)
    assert sorted(repository.asked) == ["config.json", "model.safetensors", "vocab.txt"]


def test_other_bytes_than_the_repository_says_are_refused(tmp_path: Path, executor: Path) -> None:
    with pytest.raises(CheckpointError, match=r"model\.safetensors has the sha256 .* and pull again"):
        get(catalogue(tmp_path), tmp_path / "home", executor, FakeRepository(FILES, damaged={"model.safetensors"}))
    assert not (tmp_path / "home" / "mine").exists()


def test_other_bytes_than_the_catalogue_says_are_refused(tmp_path: Path, executor: Path) -> None:
    of = catalogue(tmp_path, files=f"{{model.safetensors: {'ab' * 32}}}")
    with pytest.raises(CheckpointError, match=r"model\.safetensors has the sha256"):
        get(of, tmp_path / "home", executor, FakeRepository(FILES))


def test_a_file_that_the_repository_lacks_is_named(tmp_path: Path, executor: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no merges\.txt: correct `files` or `revision`"):
        get(catalogue(tmp_path, files="{merges.txt: }"), tmp_path / "home", executor, FakeRepository(FILES))


def test_a_new_revision_takes_the_place_of_the_old_one(tmp_path: Path, executor: Path) -> None:
    home = tmp_path / "home"
    get(catalogue(tmp_path), home, executor, FakeRepository(FILES))
    of = catalogue(tmp_path, revision=OTHER_COMMIT)
    assert of.missing(home)
    folder = get(of, home, executor, FakeRepository(FILES | {"model.safetensors": b"better"}))
    assert (folder / "model.safetensors").read_bytes() == b"better"
    assert of.missing(home) == []
    assert [path.name for path in home.iterdir() if path.is_dir()] == ["mine"]


def test_files_put_there_by_hand_are_verified_and_sealed_without_a_network(tmp_path: Path, executor: Path) -> None:
    of, home = catalogue(tmp_path, files="{config.json: }"), tmp_path / "home"
    (home / "mine").mkdir(parents=True)
    repository = FakeRepository({})
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        get(of, home, executor, repository)
    (home / "mine" / "config.json").write_bytes(b"{}")
    get(of, home, executor, repository)
    assert of.missing(home) == []


def test_a_file_that_changed_without_changing_its_length_is_found_by_reading_it_again(
    tmp_path: Path, executor: Path
) -> None:
    of, home = catalogue(tmp_path), tmp_path / "home"
    folder = get(of, home, executor, FakeRepository(FILES))
    (folder / "model.safetensors").write_bytes(b"WEIGHTS")
    assert of.missing(home) == []
    assert verify(of, of["embed"], home) == [
        "checkpoint 'mine': model.safetensors is not what it was when it was verified"
    ]
    with pytest.raises(CheckpointError, match=r"remove .* and pull again"):
        get(of, home, executor, FakeRepository(FILES))


def test_what_the_executors_check_refuses_is_not_put_in_place(tmp_path: Path, executor: Path) -> None:
    executor.write_text("#!/bin/sh\necho 'x.bin is a pickle that could run code'\nexit 1\n")
    with pytest.raises(CheckpointError, match=r"mine is refused: x\.bin is a pickle"):
        get(catalogue(tmp_path), tmp_path / "home", executor, FakeRepository(FILES))
    assert not (tmp_path / "home" / "mine").exists()


def test_the_check_is_not_given_our_credentials(
    tmp_path: Path, executor: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    executor.write_text(f"#!/bin/sh\nenv > {tmp_path}/seen\n")
    get(catalogue(tmp_path), tmp_path / "home", executor, FakeRepository(FILES))
    assert "secret" not in (tmp_path / "seen").read_text()


def test_an_interpreter_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"interpreter .*gone is not there"):
        get(catalogue(tmp_path), tmp_path / "home", tmp_path / "gone", FakeRepository(FILES))


def test_a_maker_that_fails_is_one_sentence(tmp_path: Path) -> None:
    of = Catalogue.load("tiny")
    with pytest.raises(CheckpointError, match=r"toyworld\.tiny failed: .*No module named"):
        pull(of, of["embed"], tmp_path, executor=Path(sys.executable), progress=lambda _: None)


def test_a_host_that_cannot_be_reached_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def refused(*_: object, **__: object) -> None:
        raise ConnectionError("connection refused")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", refused)
    with pytest.raises(CheckpointError, match=r"a/b cannot be reached \(connection refused\)"):
        HuggingFace().files("a/b", COMMIT)


def test_of_weights_in_several_forms_only_the_one_that_the_catalogue_names_is_got(
    tmp_path: Path, executor: Path
) -> None:
    repository = FakeRepository(FILES | {"model.fp16.safetensors": b"half", "unet.safetensors": b"u"})
    of = catalogue(tmp_path, more=', pull: ["*.json", "*.fp16.safetensors"]')
    get(of, tmp_path / "home", executor, repository)
    assert set(repository.asked) == {"config.json", "model.fp16.safetensors"}
