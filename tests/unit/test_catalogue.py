"""The catalogue of checkpoints, and what is said when something is wrong with it."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import get_args

import pytest

from config.catalogue import Catalogue, CatalogueError, Entry, Family, Role
from config.checkpoint_lock import LOCK_NAME, Lock, hash_files, read_lock, write_lock
from config.media import ModelRole
from handlers.models.schedulers import NAMES
from tests.readme import ROOT

pytestmark = pytest.mark.unit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def own(folder: Path, checkpoint: str, roles: str = "{embed: mine}") -> Catalogue:
    source = folder / "models.yaml"
    source.write_text(f"profiles: {{default: {{roles: {roles}}}}}\ncheckpoints:\n  mine: {{{checkpoint}}}\n")
    return Catalogue.load(str(source))


def complaint(folder: Path, text: str, name: str = "") -> str:
    source = folder / "models.yaml"
    source.write_text(text)
    with pytest.raises(CatalogueError) as caught:
        Catalogue.load(f"{source}{name}")
    message = str(caught.value)
    assert str(source) in message
    assert "\n" not in message
    return message


CLIP = "family: clip, licence: MIT, dimension: 64"


@pytest.mark.parametrize("profile", ["default", "small", "tiny"])
def test_each_profile_has_a_checkpoint_for_each_role(profile: str) -> None:
    catalogue = Catalogue.load(profile)
    assert set(catalogue.roles) == {role.value for role in Role}
    assert catalogue["caption"].family is Family.BLIP_CAPTION
    assert catalogue["answer"].family is Family.BLIP_VQA
    assert catalogue["transcribe"].family is Family.WHISPER
    assert catalogue["embed"].dimension is not None
    assert all(entry.licence and (entry.revision or entry.made_by) for entry in catalogue.entries.values())


def test_the_dtype_goes_by_the_kind_of_device() -> None:
    entry = Catalogue.load("default")["embed"]
    assert (entry.dtype_on("cpu"), entry.dtype_on("cuda:1"), entry.dtype_on("mps")) == ("float32", "float16", "float32")


def test_an_unknown_profile_names_the_nearest() -> None:
    with pytest.raises(CatalogueError, match="no profile 'defualt'; did you mean 'default'"):
        Catalogue.load("defualt")


def test_an_unknown_checkpoint_names_the_nearest() -> None:
    with pytest.raises(CatalogueError, match="no checkpoint 'tiny-clpi'; did you mean 'tiny-clip'"):
        Catalogue.load("tiny")["tiny-clpi"]


def test_a_profile_of_a_file_is_chosen_after_the_hash(tmp_path: Path) -> None:
    own(tmp_path, f"{CLIP}, folder: mine")
    assert "no profile 'smal'" in complaint(tmp_path, (tmp_path / "models.yaml").read_text(), "#smal")


def test_a_file_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match=r"gone\.yaml cannot be read: No such file"):
        Catalogue.load(str(tmp_path / "gone.yaml"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("profiles: {\n  a: [", "is not YAML in line"),
        ("[]", "the whole file"),
        ("profiles: {}", "checkpoints: Field required"),
        (f"profiles: {{}}\ncheckpoints: {{mine: {{{CLIP}, foldr: x}}}}", "checkpoints.mine"),
        (f"profiles: {{}}\ncheckpoints: {{mine: {{{CLIP}}}}}", "exactly one of repo, folder, made_by"),
        (f"profiles: {{}}\ncheckpoints: {{mine: {{{CLIP}, repo: a/b}}}}", "give the full commit"),
        (f"profiles: {{}}\ncheckpoints: {{mine: {{{CLIP}, repo: a/b, revision: main}}}}", "checkpoints.mine.revision"),
        (f"profiles: {{}}\ncheckpoints: {{mine: {{{CLIP}, folder: x, files: {{../x: }}}}}}", "inside the checkpoint"),
        (
            f"profiles: {{}}\ncheckpoints: {{mine: {{{CLIP}, folder: x, files: {{a: abc}}}}}}",
            "checkpoints.mine.files.a",
        ),
        ("profiles: {}\ncheckpoints: {mine: {family: clip, licence: MIT, folder: x}}", "a clip needs its dimension"),
        ("profiles: {}\ncheckpoints: {../x: {family: clip, licence: MIT, dimension: 1, folder: x}}", "checkpoints"),
        ("profiles: {default: {roles: {embed: mien}}}\ncheckpoints: {}", "names the checkpoint 'mien'"),
        (
            "profiles: {default: {roles: {embed: mine}}}\n"
            "checkpoints: {mine: {family: blip_caption, licence: MIT, folder: x}}",
            "for the role embed: that takes a clip",
        ),
    ],
)
def test_a_wrong_file_is_one_sentence_that_names_the_place(text: str, said: str, tmp_path: Path) -> None:
    assert said in complaint(tmp_path, text)


def sealed(folder: Path, **files: str) -> None:
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    write_lock(folder, Lock(name="mine", files=hash_files(folder)))


def test_missing_files_are_named_with_the_command_that_gets_them(tmp_path: Path) -> None:
    missing = Catalogue.load("tiny").missing(tmp_path)
    assert [m.name for m in missing] == [
        "tiny-blip-caption", "tiny-blip-vqa", "tiny-clip", "tiny-whisper", "tiny-stable-diffusion",
        "tiny-stable-diffusion-xl",
    ]  # fmt: skip
    assert "`mediamill models pull tiny-clip`" in missing[2].sentence
    assert str(tmp_path / "tiny-clip") in missing[2].sentence


def test_a_folder_that_was_put_there_by_hand_is_not_used_before_it_was_verified(tmp_path: Path) -> None:
    catalogue = own(tmp_path, f"{CLIP}, folder: there")
    (tmp_path / "there").mkdir()
    assert "was never verified" in catalogue.missing(tmp_path)[0].sentence


def test_a_sealed_folder_is_complete_and_a_changed_one_is_not(tmp_path: Path) -> None:
    catalogue = own(tmp_path, f"{CLIP}, folder: there, files: {{a: }}")
    sealed(tmp_path / "there", a="1", b="2")
    assert catalogue.missing(tmp_path) == []
    (tmp_path / "there" / "b").write_text("longer")
    assert "has changed since it was verified (b)" in catalogue.missing(tmp_path)[0].sentence
    (tmp_path / "there" / "b").unlink()
    assert "(b)" in catalogue.missing(tmp_path)[0].sentence


def test_another_digest_than_the_catalogues_is_refused(tmp_path: Path) -> None:
    catalogue = own(tmp_path, f"{CLIP}, folder: there, files: {{a: {'ab' * 32}}}")
    sealed(tmp_path / "there", a="1")
    assert "another a than the catalogue's digest" in catalogue.missing(tmp_path)[0].sentence


def test_another_revision_than_the_catalogues_is_not_used(tmp_path: Path) -> None:
    catalogue = own(tmp_path, f"{CLIP}, repo: a/b, revision: {COMMIT}")
    sealed(tmp_path / "mine", a="1")
    assert "is of revision None, the catalogue wants" in catalogue.missing(tmp_path)[0].sentence


def test_a_lock_that_is_no_lock_is_one_sentence(tmp_path: Path) -> None:
    catalogue = own(tmp_path, f"{CLIP}, folder: there")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / LOCK_NAME).write_text("{}")
    assert "has a lock that cannot be read" in catalogue.missing(tmp_path)[0].sentence


def test_the_digest_is_over_names_and_digests_and_knows_no_place(tmp_path: Path) -> None:
    for place in ("x", "y"):
        sealed(tmp_path / place, b="2", a="1")
    x, y = (read_lock(tmp_path / place) for place in ("x", "y"))
    assert x is not None
    assert y is not None
    lines = "".join(f"{name} {hashlib.sha256(text).hexdigest()}\n" for name, text in (("a", b"1"), ("b", b"2")))
    assert x.digest == y.digest == hashlib.sha256(lines.encode()).hexdigest()


def test_the_digest_is_told_only_of_what_was_verified(tmp_path: Path) -> None:
    catalogue = own(tmp_path, f"{CLIP}, folder: there")
    with pytest.raises(CatalogueError, match="mediamill models pull mine"):
        catalogue.digest(catalogue["embed"], tmp_path / "there")
    sealed(tmp_path / "there", a="1")
    assert len(catalogue.digest(catalogue["embed"], tmp_path / "there")) == 64


def test_a_relative_folder_is_meant_from_the_catalogues_file(tmp_path: Path) -> None:
    catalogue = own(tmp_path, f"{CLIP}, folder: here/there")
    assert catalogue.folder(catalogue["embed"], Path("/models")) == tmp_path / "here" / "there"


def test_an_entry_is_not_changed_after_it_was_read() -> None:
    entry: Entry = Catalogue.load("tiny")["embed"]
    with pytest.raises(ValueError, match="frozen"):
        entry.name = "other"  # type: ignore[misc]


def test_a_deployment_of_some_roles_needs_no_checkpoint_of_the_others() -> None:
    whole = Catalogue.load("tiny")
    some = whole.of_roles(["embed", "transcribe"])
    assert set(some.roles) == {"embed", "transcribe"}
    assert set(some.entries) == {whole.roles["embed"], whole.roles["transcribe"]}
    assert set(whole.of_roles([role.value for role in Role]).entries) == set(whole.entries)


def test_the_settings_know_the_roles_of_the_catalogue() -> None:
    assert set(get_args(ModelRole)) == {role.value for role in Role}


def test_the_catalogue_that_the_operations_guide_shows_can_be_read(tmp_path: Path) -> None:
    guide = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```yaml\n(.*?)^```$", guide, re.DOTALL | re.MULTILINE)
    [shown] = [block for block in blocks if "checkpoints:" in block]
    (tmp_path / "models.yaml").write_text(shown)
    generation = Catalogue.load(str(tmp_path / "models.yaml"))["generate"].generation
    assert generation is not None
    assert (generation.steps, generation.scheduler in NAMES) == (4, True)
