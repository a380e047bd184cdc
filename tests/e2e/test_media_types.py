"""Sound, pictures and films: messages on Kafka, a worker, outputs in the store, rows and result events."""

from __future__ import annotations

import json
import shutil
import subprocess
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from console.demo_jobs import FILM
from handlers.media import captions
from handlers.video.text import fonts
from tests.e2e.material import executor_python
from tests.e2e.shared import ended, put, shared_stage, until
from tests.e2e.stage import Stage
from tests.readme import ROOT
from tests.servers.kafka import Kafka, KafkaServer
from tests.servers.postgres import PostgresServer

pytestmark = pytest.mark.timeout(300)

CANARY = "the canary has been read"
#: A playlist that is called a film, and names a file of the host and a server.
PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile://{canary}\n#EXTINF:10,\nhttp://127.0.0.1:9/x.ts\n"


@dataclass(frozen=True)
class Mill:
    """A deployment with one worker, and the jobs that came to it by Kafka, by name, once all have ended."""

    stage: Stage
    kafka: Kafka
    jobs: Mapping[str, dict[str, Any]]

    def outputs(self, name: str) -> dict[str, Path]:
        """The files that a job made, by role."""
        rows = self.stage.table.rows("SELECT * FROM artifacts WHERE job_id = :id", id=self.jobs[name]["id"])
        store = self.stage.folder / "home" / "store"
        return {row["role"]: store / row["bucket"] / row["key"] for row in rows}


@pytest.fixture(scope="module")
def mill(
    tmp_path_factory: pytest.TempPathFactory,
    postgres_server: PostgresServer,
    migrated_template: str,
    kafka_server: KafkaServer,
    tiny_models: Path,
    pictures: list[Path],
) -> Iterator[Mill]:
    folder = tmp_path_factory.mktemp("media")
    kafka = Kafka(kafka_server)
    # Outside of what programs see of the system anyway, and in a folder with more in it.
    font = folder / "Brand.ttf"
    shutil.copy(fonts.found()[fonts.SANS], font)
    environ = {
        **kafka.environ,
        "MEDIAMILL_KAFKA_PARTITIONS": "2",
        "MEDIAMILL_MODELS": str(tiny_models),
        "MEDIAMILL_FONTS": json.dumps({"brand": str(font)}),
    }
    with shared_stage(folder, postgres_server, migrated_template, environ) as stage:
        _fill(stage, folder, pictures[0])
        stage.worker().wait_until_ready()
        ids = {name: str(uuid.uuid4()) for name in MESSAGES}
        lines = [json.dumps({"id": ids[name], **message}) for name, message in MESSAGES.items()]
        kafka.produce(kafka.name("jobs.interactive"), *lines)
        accepted = [id_ for name, id_ in ids.items() if name != "wrong timeline"]
        until(lambda: len(stage.table.rows("SELECT id FROM jobs")) >= len(accepted), stage)
        rows = dict(zip([n for n in ids if n != "wrong timeline"], ended(stage, accepted, 150), strict=True))
        yield Mill(stage, kafka, rows)
    kafka.admin.delete_topics(sorted(kafka.topics()))
    kafka.close()


def _fill(stage: Stage, folder: Path, picture: Path) -> None:
    command = [executor_python(), "-m", "console.demo_media", folder / "made"]
    subprocess.run(list(map(str, command)), cwd=ROOT, check=True)
    for file in (folder / "made").iterdir():
        put(stage, f"made/{file.name}", file.read_bytes())
    put(stage, "made/picture.jpg", picture.read_bytes())
    canary = folder / "canary.ts"
    canary.write_text(CANARY)
    put(stage, "hostile/playlist.mp4", PLAYLIST.format(canary=canary).encode())
    put(stage, "made/cut-off.mp4", (folder / "made" / "circle.mp4").read_bytes()[:-1000])


def _at(name: str) -> str:
    return f"s3://media/{name}"


ASSETS = {"circle": _at("made/circle.mp4"), "star": _at("made/star.mp4"), "music": _at("made/music.wav")}
MESSAGES: dict[str, dict[str, Any]] = {
    "speech": {"type": "audio.transcribe", "inputs": {"audio": _at("made/speech.wav")}, "params": {"seed": 3}},
    "film without speech": {"type": "audio.transcribe", "inputs": {"audio": _at("made/circle.mp4")}},
    "questions": {
        "type": "image.answer",
        "inputs": {"image": _at("made/picture.jpg")},
        "params": {"questions": ["what colour is the door?", "is there a tree?"], "max_tokens": 6},
    },
    "pictures": {"type": "image.generate", "params": {"prompt": "a red circle", "count": 2, "seed": 5, "steps": 3}},
    "same picture": {"type": "image.generate", "params": {"prompt": "a red circle", "seed": 6, "steps": 3}},
    "film": {
        "type": "video.edit",
        "inputs": {"assets": ASSETS | {"picture": _at("made/picture.jpg")}},
        "params": FILM,
    },
    "title in a font of one's own": {
        "type": "video.edit",
        "params": {
            "version": 1,
            "output": {"width": 64, "height": 64, "fps": 5},
            "timeline": {
                "tracks": [
                    {"kind": "video", "items": [{"type": "text", "text": "Brand", "font": "brand", "duration": 1}]}
                ]
            },
        },
    },
    "playlist heard": {"type": "audio.transcribe", "inputs": {"audio": _at("hostile/playlist.mp4")}},
    "playlist seen": {
        "type": "video.edit",
        "inputs": {"assets": {"a": _at("hostile/playlist.mp4")}},
        "params": {
            "version": 1,
            "timeline": {"tracks": [{"kind": "video", "items": [{"type": "video", "asset": "a"}]}]},
        },
    },
    "beyond the end": {
        "type": "video.edit",
        "inputs": {"assets": ASSETS},
        "params": {
            "version": 1,
            "timeline": {
                "tracks": [
                    {"kind": "video", "items": [{"type": "video", "asset": "circle", "in": 1, "duration": 9}]},
                    {"kind": "audio", "items": [{"type": "audio", "asset": "music", "in": 50}]},
                ]
            },
        },
    },
    "wrong timeline": {
        "type": "video.edit",
        "inputs": {"assets": ASSETS},
        "params": {
            "version": 1,
            "timeline": {
                "tracks": [
                    {
                        "kind": "video",
                        "items": [{"type": "video", "asset": "circl"}, {"type": "video", "aset": "circle"}],
                    },
                    {"kind": "audio", "items": [{"type": "audio", "asset": "music", "speed": 20}]},
                ]
            },
        },
    },
}
FAILS = {"playlist heard", "playlist seen", "beyond the end"}


def test_every_job_comes_to_its_end_and_kafka_is_told_of_it(mill: Mill) -> None:
    unexpected = {
        name: job["error"] for name, job in mill.jobs.items() if (job["state"] == "succeeded") == (name in FAILS)
    }
    assert unexpected == {}
    events = [json.loads(record.value) for record in mill.kafka.consume(mill.kafka.name("results"), len(mill.jobs))]
    told = {event["subject"]: event["type"].rpartition(".")[2] for event in events}
    assert told == {str(job["id"]): job["state"] for job in mill.jobs.values()}


def test_speech_is_a_transcript_in_three_forms_and_a_text_that_is_found(mill: Mill) -> None:
    result, files = mill.jobs["speech"]["result"], mill.outputs("speech")
    assert 0 < result["speech_s"] <= result["duration_s"]
    assert set(files) == {"transcript", "srt", "vtt"}
    assert json.loads(files["transcript"].read_text())["text"] == result["text"]
    for role in ("srt", "vtt"):
        cues = captions.parse(files[role].read_bytes(), role)
        assert len(cues) >= len(result["segments"])
        assert all(0 <= cue.start < cue.end <= Fraction(result["duration_s"]) + 1 for cue in cues)
    [text] = mill.stage.table.rows("SELECT * FROM texts WHERE kind = 'transcript'")
    assert (text["text"], text["job_id"]) == (result["text"], mill.jobs["speech"]["id"])
    assert len(text["segments"]) == len(result["segments"])


def test_where_nobody_speaks_there_is_no_text(mill: Mill) -> None:
    result = mill.jobs["film without speech"]["result"]
    assert (result["text"], result["segments"], result["speech_s"]) == ("", [], 0)


def test_each_question_about_a_picture_has_its_answer_in_the_result_and_in_a_file(mill: Mill) -> None:
    result, files = mill.jobs["questions"]["result"], mill.outputs("questions")
    assert [one["question"] for one in result["answers"]] == ["what colour is the door?", "is there a tree?"]
    assert all(one["score"] <= 0 for one in result["answers"])
    assert json.loads(files["answers"].read_text()) == result


def test_pictures_that_were_made_have_their_embeddings_and_the_same_seed_gives_the_same(mill: Mill) -> None:
    made = mill.outputs("pictures")
    assert set(made) == {"picture-1", "picture-2"}
    assert mill.jobs["pictures"]["result"]["pictures"][1]["seed"] == 6
    # Alone and in a batch the sums are rounded differently: by one of 255 levels at most.
    assert _difference(mill.outputs("same picture")["picture"], made["picture-2"]) <= 1
    assert _difference(made["picture-1"], made["picture-2"]) > 20
    lacking = """
        SELECT role FROM artifacts a WHERE media_type LIKE 'image/%'
        AND NOT EXISTS (SELECT FROM embeddings e WHERE e.content = a.content)
    """
    assert mill.stage.table.rows(lacking) == []
    assert mill.stage.table.rows("SELECT id FROM jobs WHERE type = 'image.embed'") == []


def test_a_film_has_the_frames_and_the_length_that_its_timeline_says(mill: Mill) -> None:
    result, files = mill.jobs["film"]["result"], mill.outputs("film")
    assert set(files) == {"video", "poster"}
    asked = subprocess.run(
        ["ffprobe", "-v", "error", "-count_packets", "-show_entries",
         "stream=codec_type,nb_read_packets,width,duration", "-of", "json", files["video"]],
        capture_output=True, check=True,
    )  # fmt: skip
    streams = {stream["codec_type"]: stream for stream in json.loads(asked.stdout)["streams"]}
    # Two films of 60 frames and a picture of 48, with two transitions of 12.
    assert int(streams["video"]["nb_read_packets"]) == result["frames"] == 60 + 60 + 48 - 24
    assert streams["video"]["width"] == 640
    assert abs(float(streams["audio"]["duration"]) - 144 / 24) < 0.03


def test_a_picture_that_a_film_shows_has_its_embedding_too(mill: Mill) -> None:
    sql = """
        SELECT i.name FROM job_inputs i JOIN embeddings e ON e.content = i.content WHERE i.job_id = :id
    """
    assert mill.stage.table.rows(sql, id=mill.jobs["film"]["id"]) == [{"name": "picture"}]


@pytest.mark.parametrize("name", ["playlist heard", "playlist seen"])
def test_a_playlist_in_place_of_media_fails_at_once_and_nothing_that_it_names_is_read(mill: Mill, name: str) -> None:
    job = mill.jobs[name]
    assert (job["attempt"], job["error"]["type"]) == (1, "InvalidInput")
    assert "playlist" in job["error"]["message"]
    assert CANARY not in json.dumps(job, default=str)
    assert mill.outputs(name) == {}


def test_what_only_the_media_show_to_be_wrong_fails_with_every_place(mill: Mill) -> None:
    error = mill.jobs["beyond the end"]["error"]
    assert {problem["pointer"]: problem["code"] for problem in error["problems"]} == {
        "/params/timeline/tracks/0/items/0/duration": "range_out_of_media",
        "/params/timeline/tracks/1/items/0/in": "range_out_of_media",
    }


def test_a_timeline_that_is_wrong_is_refused_at_the_door_with_every_place(mill: Mill) -> None:
    [rejected] = mill.stage.json("rejected", "list", "--each")
    shown = mill.stage.json("rejected", "show", rejected["id"])
    assert {problem["pointer"] for problem in shown["error"]} == {
        "/params/timeline/tracks/0/items/0/asset",
        "/params/timeline/tracks/0/items/1/asset",
        "/params/timeline/tracks/0/items/1/aset",
        "/params/timeline/tracks/1/items/0/speed",
    }


def test_a_render_that_is_cancelled_ends_and_leaves_no_program_running(mill: Mill) -> None:
    stage, [worker] = mill.stage, mill.stage.workers
    long = {"type": "color", "color": "#204060", "duration": 3600}
    moves = {"type": "text", "text": "on and on", "fade_in": 1}
    tracks = [{"kind": "video", "items": [long]}, {"kind": "video", "items": [moves]}]
    message = {"type": "video.edit", "params": {"version": 1, "timeline": {"tracks": tracks}}}
    [sent] = stage.json("submit", "--from", "-", stdin=json.dumps(message))["submitted"]
    until(lambda: "ffmpeg" in _programs(worker.executors()), stage)
    stage.run("jobs", "cancel", sent["id"])
    [job] = ended(stage, [sent["id"]], 20)
    assert job["state"] == "cancelled"
    until(lambda: "ffmpeg" not in _programs(worker.executors()), stage, 10)
    assert worker.alive


def _difference(one: Path, other: Path) -> int:
    """The greatest between two pixels' levels."""
    script = (
        "import sys, numpy; from PIL import Image; one, other = (numpy.asarray(Image.open(path), int)"
        " for path in sys.argv[1:]); print(abs(one - other).max())"
    )
    done = subprocess.run([executor_python(), "-c", script, one, other], capture_output=True, check=True)
    return int(done.stdout)


def _programs(pids: list[int]) -> set[str]:
    found = set()
    for pid in pids:
        try:
            found.add(Path(f"/proc/{pid}/comm").read_text().strip())
        except OSError:
            continue
    return found
