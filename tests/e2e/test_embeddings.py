"""Every image has its embedding: in the job that read it, or by a job of its own, once for each content and space."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from config.checkpoint_lock import read_lock
from storage.spaces import Space, ensure_space, live
from tests.e2e.shared import put, run_all, shared_stage, submit_all, until
from tests.e2e.stage import Stage, Worker
from tests.servers.postgres import PostgresServer

# The command line knows all checkpoints; a worker has those of its own profile.
CATALOGUE = """
profiles:
  door: {{roles: {{caption: tiny-blip-caption, embed: tiny-clip}}, also: [other-caption, other-clip]}}
  main: {{roles: {{caption: tiny-blip-caption, embed: tiny-clip}}}}
  captions: {{roles: {{caption: other-caption}}}}
  second: {{roles: {{embed: other-clip}}}}
checkpoints:
  tiny-blip-caption: {{family: blip_caption, made_by: toyworld.tiny, licence: Apache-2.0}}
  tiny-clip: {{family: clip, dimension: 64, made_by: toyworld.tiny, licence: Apache-2.0}}
  other-caption: {{family: blip_caption, folder: {folder}/other-caption, licence: Apache-2.0}}
  other-clip: {{family: clip, dimension: 64, folder: {folder}/other-clip, licence: Apache-2.0}}
"""


@pytest.fixture(scope="module")
def mill(
    tmp_path_factory: pytest.TempPathFactory,
    postgres_server: PostgresServer,
    migrated_template: str,
    tiny_models: Path,
) -> Iterator[Stage]:
    """A deployment with one worker, which fills the active space."""
    folder = tmp_path_factory.mktemp("embeddings")
    shutil.copytree(tiny_models / "tiny-blip-caption", folder / "other-caption")
    shutil.copytree(tiny_models / "tiny-clip", folder / "other-clip")
    (folder / "models.yaml").write_text(CATALOGUE.format(folder=folder))
    environ = {"MEDIAMILL_MODELS": str(tiny_models), "MEDIAMILL_CATALOGUE": f"{folder}/models.yaml#door"}
    with shared_stage(folder, postgres_server, migrated_template, environ) as made:
        made.worker(catalogue=f"{folder}/models.yaml#main").wait_until_ready()
        yield made


def pictures_of(stage: Stage, id_: uuid.UUID) -> list[str]:
    rows = stage.table.rows("SELECT encode(content, 'hex') AS sha256 FROM job_inputs WHERE job_id = :id", id=id_)
    return [row["sha256"] for row in rows]


def embeddings(stage: Stage, contents: Sequence[str], space: int = 1) -> list[dict[str, Any]]:
    return stage.table.rows(
        "SELECT * FROM embeddings WHERE space = :space AND kind = 'image'"
        " AND content IN (SELECT decode(c, 'hex') FROM unnest(CAST(:contents AS text[])) AS c)",
        space=space,
        contents=list(contents),
    )


def embedders(stage: Stage, sha256: str) -> list[dict[str, Any]]:
    """The jobs that were made to embed a picture."""
    key = "message ->> 'dedupe_key' LIKE 'mediamill:image.embed:%:' || :sha"
    return stage.table.rows(f"SELECT * FROM jobs JOIN job_details USING (id) WHERE {key}", sha=sha256)


def caption(uri: str, **more: Any) -> dict[str, Any]:
    return {"type": "image.caption", "inputs": {"image": uri}, **more}


def embed(*uris: str, **more: Any) -> dict[str, Any]:
    return {"type": "image.embed", "inputs": {"images": list(uris)}, **more}


def test_every_picture_that_was_read_has_its_embedding_in_the_active_space(mill: Stage, pictures: list[Path]) -> None:
    uris = [put(mill, f"read/{picture.name}", picture.read_bytes()) for picture in pictures[:5]]
    jobs = run_all(mill, [caption(uris[0]), caption(uris[1]), embed(*uris[2:5])])
    assert {job["state"] for job in jobs} == {"succeeded"}
    contents = [sha256 for job in jobs for sha256 in pictures_of(mill, job["id"])]
    assert len(contents) == len(embeddings(mill, contents)) == 5
    assert not any(embedders(mill, sha256) for sha256 in contents)


def test_with_embed_false_no_embedding_is_made_and_none_is_queued(mill: Stage, pictures: list[Path]) -> None:
    uri = put(mill, "without.jpg", pictures[5].read_bytes())
    without = run_all(mill, [caption(uri, embed=False), embed(uri, embed=False)])
    assert {job["state"] for job in without} == {"succeeded"}
    contents = pictures_of(mill, without[0]["id"])
    assert embeddings(mill, contents) == []
    assert embedders(mill, contents[0]) == []
    run_all(mill, [caption(uri)])
    assert len(embeddings(mill, contents)) == 1


def test_one_content_under_ten_keys_is_embedded_once_and_never_again(mill: Stage, pictures: list[Path]) -> None:
    uris = [put(mill, f"same/{n}.jpg", pictures[6].read_bytes()) for n in range(10)]
    jobs = run_all(mill, [caption(uri) for uri in uris])
    contents = {sha256 for job in jobs for sha256 in pictures_of(mill, job["id"])}
    [row] = embeddings(mill, list(contents))
    assert len(mill.table.rows("SELECT * FROM objects WHERE key LIKE 'same/%'")) == 10
    assert len({job["result"]["captions"][0]["text"] for job in jobs}) == 1  # in whatever batch
    # Later ones find it there: nothing goes to the device for it.
    [later] = run_all(mill, [embed(put(mill, "same/later.jpg", pictures[6].read_bytes()))])
    assert (later["state"], later["timings"]["infer"]) == ("succeeded", 0)
    assert embeddings(mill, list(contents)) == [row]
    [first] = run_all(mill, [embed(put(mill, "another.jpg", pictures[7].read_bytes()))])
    assert first["timings"]["infer"] > 0


def test_what_a_result_follows_from_has_a_name_unless_chance_is_in_it(mill: Stage, pictures: list[Path]) -> None:
    one, other = (put(mill, f"derived/{n}.jpg", pictures[n].read_bytes()) for n in (0, 1))
    sampled = {"count": 2}
    jobs = run_all(
        mill,
        [
            caption(one), caption(one), caption(other), caption(one, params={"prompt": "a photo of"}),
            caption(one, params=sampled), caption(one, params=sampled | {"seed": 7}),
        ],
    )  # fmt: skip
    keys = [job["derivation_key"] for job in jobs]
    assert keys[0] == keys[1]
    assert keys[4] is None
    assert len({bytes(key) for key in keys if key is not None}) == 4


#: What `show` and `submit --wait` have of other tables, by their names.
ROWS = {
    "events": {"at", "kind", "state", "attempt", "worker_id", "data"},
    "inputs": {"role", "name", "uri", "version", "sha256"},
    "artifacts": {"role", "name", "uri", "media_type", "size", "sha256"},
    "texts": {"kind", "language", "text", "segments"},
    "embeddings": {"sha256", "checkpoint", "dimension", "kind", "t0", "t1"},
}


def test_the_rows_of_a_job_in_json_have_the_fields_of_the_contract(mill: Stage, pictures: list[Path]) -> None:
    [job] = run_all(mill, [caption(put(mill, "json.jpg", pictures[8].read_bytes()))])
    shown = mill.json("jobs", "show", str(job["id"]))
    for name, columns in ROWS.items():
        assert shown[name], name
        assert all(row.keys() == columns for row in shown[name])
    assert shown["result"].keys() == {"captions", "checkpoint"}
    assert shown["embeddings"][0]["checkpoint"] == "tiny-clip"


# --- what one worker cannot do, another does ---


@dataclass(frozen=True)
class Left:
    """What the first worker has left to others: it has not what that asks for."""

    caption: uuid.UUID
    embedder: uuid.UUID
    both: str
    """The picture that the embedder is for (sha256)."""
    building: Space


@pytest.fixture(scope="module")
def left(mill: Stage, pictures: list[Path]) -> Left:
    lock = read_lock(mill.folder / "other-clip")
    assert lock is not None
    second = ensure_space(mill.database, checkpoint="other-clip", revision=lock.digest, dimension=64)
    assert second.state == "building"
    lonely, both = (put(mill, f"left/{n}.jpg", pictures[n].read_bytes()) for n in (9, 10))
    [waiting] = submit_all(mill, [caption(lonely, params={"checkpoint": "other-caption"})])["submitted"]
    [job] = run_all(mill, [caption(both)])
    [sha256] = pictures_of(mill, job["id"])
    assert len(embeddings(mill, [sha256], 1)) == 1
    [embedder] = embedders(mill, sha256)
    assert embedder["checkpoints"] == [f"space:{second.id}"]
    run_all(mill, [{"type": "test.noop"}])
    for id_ in (uuid.UUID(waiting["id"]), embedder["id"]):
        assert mill.table.row(id_)["state"] == "queued"
        assert mill.table.events(id_) == ["submitted"]
    return Left(uuid.UUID(waiting["id"]), embedder["id"], sha256, second)


@pytest.fixture(scope="module")
def others(mill: Stage, left: Left) -> dict[str, Worker]:
    """A worker that has the only model that a caption asked for and none for embeddings, and one of another space."""
    started = {name: mill.worker(catalogue=f"{mill.folder}/models.yaml#{name}") for name in ("captions", "second")}
    return {name: worker.wait_until_ready() for name, worker in started.items()}


def test_a_job_waits_for_the_worker_that_has_its_checkpoint(mill: Stage, left: Left, others: dict[str, Worker]) -> None:
    until(lambda: mill.table.row(left.caption)["state"] == "succeeded", mill)
    assert mill.table.events(left.caption) == ["submitted", "claimed", "succeeded"]
    assert pid_of(mill, left.caption) == others["captions"].pid


def test_a_caption_without_an_embedding_leads_to_a_job_that_makes_it(
    mill: Stage, left: Left, others: dict[str, Worker]
) -> None:
    until(lambda: mill.table.row(left.caption)["state"] == "succeeded", mill)
    [sha256] = pictures_of(mill, left.caption)
    made = {tuple(job["checkpoints"]): job["id"] for job in embedders(mill, sha256)}
    assert made.keys() == {("space:1",), (f"space:{left.building.id}",)}
    for space in spaces(mill):
        until(lambda space=space: len(embeddings(mill, [sha256], space.id)) == 1, mill)  # type: ignore[misc]
        assert embeddings(mill, [sha256], space.id)[0]["job_id"] == made[f"space:{space.id}",]


def test_a_space_that_is_being_built_is_filled_by_the_worker_that_has_its_model(
    mill: Stage, left: Left, others: dict[str, Worker]
) -> None:
    until(lambda: mill.table.row(left.embedder)["state"] == "succeeded", mill)
    [row] = embeddings(mill, [left.both], left.building.id)
    assert row["job_id"] == left.embedder
    assert pid_of(mill, left.embedder) == others["second"].pid


def test_whoever_runs_a_job_that_embeds_in_the_end_every_space_has_its_pictures(
    mill: Stage, pictures: list[Path], others: dict[str, Worker]
) -> None:
    uris = [put(mill, f"whoever/{n}.jpg", pictures[n].read_bytes() + bytes([n])) for n in range(8)]
    jobs = run_all(mill, [embed(uri) for uri in uris])
    assert {(job["state"], job["attempt"]) for job in jobs} == {("succeeded", 1)}
    assert others["captions"].pid not in {pid_of(mill, job["id"]) for job in jobs}  # it has no model for them
    contents = [sha256 for job in jobs for sha256 in pictures_of(mill, job["id"])]
    for space in spaces(mill):
        until(lambda space=space: len(embeddings(mill, contents, space.id)) == 8, mill)  # type: ignore[misc]
    assert [space.state for space in spaces(mill)] == ["active", "building"]


def pid_of(stage: Stage, id_: uuid.UUID) -> int:
    """Of the worker that ended a job."""
    sql = "SELECT pid FROM workers JOIN jobs ON worker_id = workers.id WHERE jobs.id = :id"
    return int(stage.table.rows(sql, id=id_)[0]["pid"])


def spaces(stage: Stage) -> list[Space]:
    with stage.database.transaction() as connection:
        return live(connection)
