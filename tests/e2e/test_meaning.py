"""What comes out is true of what went in: the toy checkpoints, whose world is known, through a running worker."""

from __future__ import annotations

import difflib
import hashlib
import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.material import executor_python
from tests.e2e.shared import InProcess, put, run_all, shared_stage
from tests.e2e.stage import Stage
from tests.readme import ROOT
from tests.servers.postgres import PostgresServer

pytestmark = pytest.mark.timeout(300)

CAPTIONED, MIXED, SENTENCES = 20, 200, 10
#: Prompts and seeds; four pictures are made of each.
PROMPTS = {"a blue ring on a white background": 5, "a red circle on a black background": 6, "a green square": 7}
_PICTURE = ("-f", "lavfi", "-i", "color=c=navy:s=64x64:r=10", "-c:v", "libx264")


@dataclass(frozen=True)
class Drawn:
    """A picture in the store, and what is true of it."""

    uri: str
    caption: str
    things: Sequence[str]
    questions: Mapping[str, str]


@dataclass(frozen=True)
class Job:
    """A job that has succeeded, and the files that it made."""

    message: Mapping[str, Any]
    result: Mapping[str, Any]
    files: Sequence[Path]


@dataclass(frozen=True)
class Mill:
    """A deployment with one worker, and its jobs."""

    stage: Stage
    captioned: Sequence[Drawn]
    mixed: Sequence[Drawn]
    said: Sequence[Mapping[str, Any]]
    clips: Sequence[Mapping[str, Any]]
    jobs: Mapping[str, Sequence[Job]]


@pytest.fixture(scope="module")
def mill(
    tmp_path_factory: pytest.TempPathFactory, postgres_server: PostgresServer, migrated_template: str
) -> Iterator[Mill]:
    folder = tmp_path_factory.mktemp("meaning")
    with shared_stage(folder, postgres_server, migrated_template, {"MEDIAMILL_CATALOGUE": "toy"}) as stage:
        stage.worker()
        captioned, mixed = _drawn(stage, "captioned", 1, CAPTIONED), _drawn(stage, "mixed", 2, MIXED)
        said = _made(stage, "speech", 3, SENTENCES)
        clips = _made(stage, "clips", 4, 2)
        jobs = _run(stage, _messages(stage, captioned, mixed, said))
        # Beside nobody: in other company the last bits of a picture may be others.
        jobs |= _run(stage, {"first": [_generate(next(iter(PROMPTS)))]})
        jobs |= _run(stage, {"edit": [_edit(clips)], "again": [_generate(next(iter(PROMPTS)))]})
        [film] = jobs["edit"][0].files
        frames = _frames(stage, film)
        jobs |= _run(stage, {"frames": [{"type": "image.caption", "inputs": {"image": uri}} for uri in frames]})
        yield Mill(stage, captioned, mixed, said, clips, jobs)


def _messages(
    stage: Stage, captioned: Sequence[Drawn], mixed: Sequence[Drawn], said: Sequence[Mapping[str, Any]]
) -> dict[str, list[dict[str, Any]]]:
    sounds = {"speech": [one["uri"] for one in said], "in a film": [], "lossy": []}
    for one in said[:2]:
        sounds["in a film"].append(_again(stage, one, "mp4", *_PICTURE, "-c:a", "aac", "-b:a", "48k", "-shortest"))
        sounds["lossy"].append(_again(stage, one, "mp3", "-ar", "22050", "-b:a", "32k"))
    return {
        "caption": [{"type": "image.caption", "inputs": {"image": one.uri}} for one in captioned],
        "answer": [
            {"type": "image.answer", "inputs": {"image": one.uri}, "params": {"questions": list(one.questions)}}
            for one in captioned
        ],
        "embed": [
            {"type": "image.embed", "inputs": {"images": [one.uri for one in part]}, "labels": {"set": "mixed"}}
            for part in (mixed[at : at + 50] for at in range(0, len(mixed), 50))
        ],
        "generate": [_generate(prompt) for prompt in PROMPTS],
        **{
            name: [
                {"type": "audio.transcribe", "inputs": {"audio": uri}, "params": {"words": True, "seed": 1}}
                for uri in uris
            ]
            for name, uris in sounds.items()
        },
    }


def _generate(prompt: str) -> dict[str, Any]:
    return {"type": "image.generate", "params": {"prompt": prompt, "seed": PROMPTS[prompt], "count": 4}}


def _edit(clips: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A second of the first clip before its thing moves, one of the second after, one of the first after."""
    parts = [("first", 0), ("second", 2), ("first", 2)]
    items = [{"type": "video", "asset": asset, "in": start, "duration": 1} for asset, start in parts]
    return {
        "type": "video.edit",
        "inputs": {"assets": dict(zip(("first", "second"), (one["uri"] for one in clips), strict=True))},
        "params": {
            "version": 1,
            "output": {"width": 256, "height": 256, "fps": 10},
            "timeline": {"tracks": [{"kind": "video", "items": items}]},
        },
    }


def _run(stage: Stage, messages: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Sequence[Job]]:
    """The jobs of all these messages, by the names that the messages have."""
    every = [(name, message) for name, several in messages.items() for message in several]
    rows = run_all(stage, [message for _, message in every], 200)
    assert {row["state"] for row in rows} == {"succeeded"}, [row["error"] for row in rows if row["error"]]
    jobs: dict[str, list[Job]] = {name: [] for name in messages}
    store = stage.folder / "home" / "store"
    for (name, message), row in zip(every, rows, strict=True):
        made = stage.table.rows("SELECT * FROM artifacts WHERE job_id = :id ORDER BY role, name", id=row["id"])
        jobs[name].append(Job(message, row["result"], [store / one["bucket"] / one["key"] for one in made]))
    return dict(jobs)


def _made(stage: Stage, what: str, seed: int, count: int) -> list[dict[str, Any]]:
    """Material of the toy world, laid into the store: its facts, and its `uri`."""
    lines = _in_executor("tests.e2e.toy_material", what, stage.folder / what, str(seed), str(count))
    return [
        line | {"uri": put(stage, f"{what}/{seed}/{Path(line['file']).name}", Path(line["file"]).read_bytes())}
        for line in lines
    ]


def _drawn(stage: Stage, name: str, seed: int, count: int) -> list[Drawn]:
    return [
        Drawn(one["uri"], one["caption"], one["things"], one["questions"])
        for one in _made(stage, "scenes", seed, count)
    ]


def _again(stage: Stage, one: Mapping[str, Any], suffix: str, *options: str) -> str:
    """A sound in another container."""
    source = Path(one["file"])
    other = source.with_suffix(f".{suffix}")
    _ffmpeg("-i", str(source), *options, str(other))
    return put(stage, f"speech/{other.name}", other.read_bytes())


def _frames(stage: Stage, film: Path) -> list[str]:
    """The frames in the middle of each second of a film, in the store."""
    folder = stage.folder / "frames"
    folder.mkdir()
    for second in range(3):
        _ffmpeg("-i", str(film), "-vf", f"select=eq(n\\,{10 * second + 5})", "-frames:v", "1", f"{folder}/{second}.png")
    return [put(stage, f"frames/{path.name}", path.read_bytes()) for path in sorted(folder.iterdir())]


def _ffmpeg(*arguments: str) -> None:
    subprocess.run(["ffmpeg", "-nostdin", "-loglevel", "error", *arguments], check=True)


def _in_executor(module: str, *arguments: str | Path) -> list[Any]:
    """What a module prints, a JSON document to a line."""
    command = [executor_python(), "-m", module, *arguments]
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def search(mill: Mill, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> InProcess:
    return InProcess(mill.stage, monkeypatch, capfd)


def test_captions_of_unseen_scenes_name_what_is_in_them(mill: Mill) -> None:
    said = [job.result["captions"][0]["text"] for job in mill.jobs["caption"]]
    pairs = list(zip(said, mill.captioned, strict=True))
    named = [all(thing in text for thing in drawn.things) for text, drawn in pairs]
    whole = [text == drawn.caption for text, drawn in pairs]
    assert sum(named) >= 19, [(text, drawn.caption) for text, drawn in pairs]
    assert sum(whole) >= 18, [(text, drawn.caption) for text, drawn in pairs]


def test_questions_about_unseen_scenes_are_answered_right(mill: Mill) -> None:
    asked = [
        (drawn.questions[one["question"]], one["text"], one["question"])
        for job, drawn in zip(mill.jobs["answer"], mill.captioned, strict=True)
        for one in job.result["answers"]
    ]
    wrong = [each for each in asked if each[0] != each[1]]
    assert len(asked) >= 5 * CAPTIONED
    assert len(wrong) <= 0.1 * len(asked), wrong


@pytest.mark.parametrize("wanted", ["red circle", "blue square", "green star"])
def test_a_search_by_words_puts_all_pictures_that_show_it_first(wanted: str, mill: Mill, search: InProcess) -> None:
    true = {drawn.uri for drawn in mill.mixed if wanted in drawn.things}
    assert true
    answer = search.json("search", wanted, "--label", "set=mixed", "--limit", "200")
    assert {hit["uri"] for hit in answer["hits"][: len(true)]} == true


def test_a_search_by_a_picture_finds_those_with_the_same_thing(mill: Mill, search: InProcess) -> None:
    alone = [drawn for drawn in mill.mixed if len(drawn.things) == 1]
    right = 0
    asked = [drawn for drawn in alone if sum(drawn.things == other.things for other in alone) > 1][:10]
    for drawn in asked:
        answer = search.json("search", "--image", drawn.uri, "--label", "set=mixed", "--limit", "2")
        first, second = (next(one for one in mill.mixed if one.uri == hit["uri"]) for hit in answer["hits"])
        assert first is drawn
        right += second.things == drawn.things
    assert right >= 0.9 * len(asked)


def test_a_generated_picture_shows_what_was_asked_for(mill: Mill) -> None:
    made = [(job, file) for job in mill.jobs["generate"] for file in _pictures(job)]
    shown = _in_executor("toyworld.judge", *(file for _, file in made))
    asked = [job.message["params"]["prompt"].split()[1:3] for job, _ in made]
    right = [[one["colour"], one["shape"]] == words for one, words in zip(shown, asked, strict=True)]
    assert len(right) == 12
    assert sum(right) >= 10, [(words, one["shape"]) for one, words in zip(shown, asked, strict=True)]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_search_for_what_was_asked_for_finds_the_generated_pictures(
    prompt: str, mill: Mill, search: InProcess
) -> None:
    words = " ".join(prompt.split()[1:3])
    answer = search.json("search", words, "--type", "image.generate", "--limit", "4")
    made = [
        file
        for name in ("generate", "first", "again")
        for job in mill.jobs[name]
        if job.message["params"]["prompt"] == prompt
        for file in _pictures(job)
    ]
    found = [any(str(file).endswith(hit["uri"].removeprefix("s3://")) for file in made) for hit in answer["hits"]]
    assert sum(found) >= 3


def test_the_same_prompt_and_seed_give_the_same_bytes(mill: Mill) -> None:
    digests = [
        [hashlib.sha256(file.read_bytes()).hexdigest() for file in _pictures(mill.jobs[name][0])]
        for name in ("first", "again")
    ]
    assert digests[0] == digests[1]
    assert len(set(digests[0])) == 4


def test_a_sentence_is_written_down_as_it_was_said(mill: Mill) -> None:
    right = _right(mill.jobs["speech"], mill.said)
    assert sum(right) >= 0.9 * len(right), [job.result["text"] for job in mill.jobs["speech"]]


def test_words_have_the_times_at_which_they_were_said(mill: Mill) -> None:
    near = [
        abs(heard["start"] - said["start"]) <= 0.2
        for job, one in zip(mill.jobs["speech"], mill.said, strict=True)
        for heard, said in zip(_words(job), one["words"], strict=False)
        if _plain(heard["text"]) == said["text"]
    ]
    assert len(near) >= 0.85 * sum(len(one["words"]) for one in mill.said)
    assert sum(near) >= 0.9 * len(near)


@pytest.mark.parametrize("where", ["in a film", "lossy"])
def test_speech_in_a_film_and_after_a_lossy_codec_is_written_down_too(where: str, mill: Mill) -> None:
    right = _right(mill.jobs[where], mill.said[:2])
    assert sum(right) >= 0.85 * len(right), [job.result["text"] for job in mill.jobs[where]]


def test_a_film_shows_at_each_second_what_its_timeline_says(mill: Mill) -> None:
    first, second = mill.clips
    seen = [job.result["captions"][0]["text"] for job in mill.jobs["frames"]]
    assert seen == [first["before"], second["after"], first["after"]]


def _pictures(job: Job) -> list[Path]:
    return [file for file in job.files if file.suffix == ".png"]


def _right(jobs: Sequence[Job], said: Sequence[Mapping[str, Any]]) -> list[bool]:
    """Of each word that was said, whether it was heard at its place; words that nobody said are wrong ones."""
    right = []
    for job, one in zip(jobs, said, strict=True):
        words = [word["text"] for word in one["words"]]
        heard = [_plain(word["text"]) for word in _words(job)]
        blocks = difflib.SequenceMatcher(None, words, heard, autojunk=False).get_matching_blocks()
        found = {at for block in blocks for at in range(block.a, block.a + block.size)}
        right += [at in found for at in range(len(words))] + [False] * max(0, len(heard) - len(words))
    return right


def _words(job: Job) -> list[Mapping[str, Any]]:
    return [word for segment in job.result["segments"] for word in segment["words"]]


def _plain(word: str) -> str:
    return word.strip(" .,").lower()
