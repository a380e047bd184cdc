"""Searching by the command line: by words and by pictures, through filters, with a worker and without one."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from storage.workers import retire
from tests.e2e.shared import InProcess, put, run_all, shared_stage
from tests.e2e.stage import Stage
from tests.integration.library import Library, Piece, Said
from tests.servers.postgres import PostgresServer

#: Captions in other scripts, of job types that no worker here has.
PIECES = (
    Piece("xihu", None, [Said("西湖边的古塔在夕阳下", "zh")], type="image.describe", labels={"set": "scripts"}),
    Piece("fuji", None, [Said("富士山と桜の花", "ja")], type="image.describe", labels={"set": "scripts"}),
    Piece("shiba", None, [Said("a small dog runs along the beach", "en")], type="image.describe"),
)


@pytest.fixture(scope="module")
def mill(
    tmp_path_factory: pytest.TempPathFactory,
    postgres_server: PostgresServer,
    migrated_template: str,
    tiny_models: Path,
    pictures: list[Path],
) -> Iterator[Stage]:
    """A deployment with one worker and a library: six pictures captioned, two only embedded, three from elsewhere."""
    environ = {"MEDIAMILL_MODELS": str(tiny_models)}
    with shared_stage(tmp_path_factory.mktemp("search"), postgres_server, migrated_template, environ) as made:
        library = Library(made.database)
        for piece in PIECES:
            library.add(piece)
        library.first_seen(PIECES[2], "2020-02-02T00:00:00Z")
        with made.database.transaction() as connection:
            retire(connection, library.worker, "it only brought the pieces")
        made.worker().wait_until_ready()
        messages: list[dict[str, Any]] = [
            {
                "type": "image.caption",
                "inputs": {"image": put(made, f"{n}.jpg", pictures[n].read_bytes())},
                "labels": {"set": "even" if n % 2 == 0 else "odd"},
            }
            for n in range(6)
        ]
        uris = [put(made, f"{n}.jpg", pictures[n].read_bytes()) for n in (6, 7)]
        messages.append({"type": "image.embed", "inputs": {"images": uris}})
        assert {job["state"] for job in run_all(made, messages)} == {"succeeded"}
        yield made


@pytest.fixture
def search(mill: Stage, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> InProcess:
    return InProcess(mill, monkeypatch, capfd)


def found(answer: dict[str, Any]) -> set[str]:
    """Keys of the hits."""
    return {urllib.parse.urlsplit(hit["uri"]).path.lstrip("/") for hit in answer["hits"]}


# --- words ---


def test_words_find_the_captions_they_stand_in_and_say_why(search: InProcess) -> None:
    answer = search.json("search", "dog beach")
    assert answer["searched"] == ["words", "pictures"]
    assert answer["note"] is None
    [hit] = [hit for hit in answer["hits"] if hit["text_rank"] is not None]
    assert hit["uri"] == "s3://media/shiba.png"
    [why] = hit["why"]
    assert (why["by"], why["text"]) == ("caption", "a small dog runs along the beach")
    assert [why["text"][first:last] for first, last in why["marks"]] == ["dog", "beach"]


@pytest.mark.parametrize(
    ("words", "key"), [("西湖", "xihu.png"), ("古塔", "xihu.png"), ("夕阳", "xihu.png"), ("富士山", "fuji.png")]
)
def test_words_of_scripts_without_spaces_are_found(search: InProcess, words: str, key: str) -> None:
    by_words = [hit["uri"] for hit in search.json("search", words)["hits"] if hit["text_rank"] is not None]
    assert by_words == [f"s3://media/{key}"]


def test_people_see_a_table_with_the_words_marked(search: InProcess) -> None:
    code, out, _ = search("search", "beach", "--type", "image.describe")
    assert code == 0
    assert "s3://media/shiba.png" in out
    assert "caption: a small dog runs along the [beach]" in out
    assert search("search", "zebra", "--label", "set=scripts")[1] == "nothing found\n"


#: What a command that only asks a worker and the database must not pay for.
HEAVY = {
    "PIL", "alembic", "anyio", "asyncio", "boto3", "botocore", "config.catalogue", "handlers.image.caption",
    "huggingface_hub", "jinja2", "kafka", "numpy", "rich.console", "sqlalchemy", "storage.embedded", "storage.schema",
    "storage.settle", "structlog", "torch", "transformers", "yaml",
}  # fmt: skip


@pytest.mark.parametrize("by", ["text", "picture"])
def test_a_search_loads_nothing_that_it_does_not_need(mill: Stage, pictures: list[Path], by: str) -> None:
    arguments = ["a dog"] if by == "text" else ["--image", str(pictures[10])]
    program = (
        "import sys\n"
        "from console.cli import run\n"
        f"code = run(['search', '--json', '--min-score', '-1', *{arguments!r}])\n"
        f"print(sorted({HEAVY!r} & set(sys.modules)), code, file=sys.stderr)"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=mill.environ, capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "[] 0"
    answer = json.loads(done.stdout)
    assert "pictures" in answer["searched"]
    assert answer["hits"]


# --- pictures ---


def test_a_picture_finds_itself_first_and_what_looks_like_it(search: InProcess, pictures: list[Path]) -> None:
    answer = search.json("search", "--image", pictures[3], "--min-score", "-1")
    assert answer["searched"] == ["pictures"]
    assert answer["hits"][0]["uri"] == "s3://media/3.jpg"
    assert answer["hits"][0]["similarity"] > 0.999
    similarities = [hit["similarity"] for hit in answer["hits"]]
    assert similarities == sorted(similarities, reverse=True)
    assert found(answer) == {f"{n}.jpg" for n in range(8)}


def test_an_object_can_be_asked_with_by_its_uri(mill: Stage, search: InProcess, pictures: list[Path]) -> None:
    by_file = search.json("search", "--image", pictures[8], "--min-score", "-1")
    uri = put(mill, "asked/8.jpg", pictures[8].read_bytes())
    assert search.json("search", "--image", uri, "--min-score", "-1")["hits"] == by_file["hits"]


def test_what_is_asked_with_does_not_become_part_of_the_library(
    mill: Stage, search: InProcess, pictures: list[Path]
) -> None:
    def known() -> dict[str, list[dict[str, Any]]]:
        return {name: mill.table.rows(f"SELECT count(*)::int AS n FROM {name}") for name in ("embeddings", "texts")}

    before = known()
    first = search.json("search", "--image", pictures[9], "--min-score", "-1")
    again = search.json("search", "--image", pictures[9], "--min-score", "-1")
    assert found(first) == found(again) == {f"{n}.jpg" for n in range(8)}
    assert max(hit["similarity"] for hit in again["hits"]) < 0.9999
    assert known() == before
    queued = "SELECT * FROM jobs WHERE state IN ('queued', 'running')"
    assert mill.table.rows(queued) == []


@pytest.mark.parametrize(
    ("data", "said"),
    [(b"no picture", "its bytes are text"), (b"", "is empty")],
    ids=["text", "empty"],
)
def test_a_query_that_is_no_picture_says_so(search: InProcess, tmp_path: Path, data: bytes, said: str) -> None:
    (tmp_path / "query.jpg").write_bytes(data)
    code, out, err = search("search", "--image", tmp_path / "query.jpg")
    assert (code, out) == (2, "")
    assert "the query could not be embedded: InvalidInput" in err
    assert said in err


# --- filters ---


@pytest.mark.parametrize(
    ("filters", "keys"),
    [
        (["--label", "set=even"], {"0.jpg", "2.jpg", "4.jpg"}),
        (["--label", "set=odd", "--type", "image.caption"], {"1.jpg", "3.jpg", "5.jpg"}),
        (["--label", "set=even", "--type", "text.embed"], set()),
        (["--since", "2100-01-01T00:00:00Z"], set()),
        (["--since", "1h", "--type", "image.caption"], {f"{n}.jpg" for n in range(6)}),
        (["--until", "2021-01-01T00:00:00Z"], set()),
        (["--media", "image/jpeg", "--label", "set=odd"], {"1.jpg", "3.jpg", "5.jpg"}),
        (["--media", "video"], set()),
        (["--tenant", "nobody"], set()),
        (["--limit", "2", "--label", "set=even"], 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_filters_narrow_what_a_picture_finds(
    search: InProcess, pictures: list[Path], filters: list[str], keys: set[str] | int
) -> None:
    answer = search.json("search", "--image", pictures[0], "--min-score", "-1", *filters)
    assert len(found(answer)) == keys if isinstance(keys, int) else found(answer) == keys


@pytest.mark.parametrize(
    ("filters", "keys"),
    [
        (["--until", "2021-01-01T00:00:00Z"], {"shiba.png"}),
        (["--since", "2021-01-01T00:00:00Z", "--media", "image/png"], set()),
        (["--type", "image.describe"], {"shiba.png"}),
        (["--label", "set=scripts"], set()),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_filters_narrow_what_words_find(search: InProcess, filters: list[str], keys: set[str]) -> None:
    assert found(search.json("search", "dog", "--min-score", "1", *filters)) == keys


def test_the_fields_of_hits_in_json_are_those_of_the_contract(search: InProcess, pictures: list[Path]) -> None:
    answer = search.json("search", "--image", pictures[0], "--label", "set=even")
    assert answer.keys() == {"searched", "note", "hits"}
    hit = answer["hits"][0]
    assert hit.keys() == {
        "sha256", "uri", "mime", "first_seen", "t0", "t1", "score", "similarity", "text_rank", "why", "jobs"
    }  # fmt: skip
    assert hit["why"][0].keys() == {"by", "rank", "similarity"}
    assert hit["jobs"][0].keys() == {"id", "type", "labels"}
    words = search.json("search", "dog")["hits"][0]["why"][0]
    assert words.keys() == {"by", "rank", "text", "marks", "language"}


# --- how long it takes, and without a worker ---


def seconds(call: Callable[[], object]) -> float:
    """The shorter of two."""
    taken = []
    for _ in range(2):
        began = time.monotonic()
        call()
        taken.append(time.monotonic() - began)
    return min(taken)


def test_an_answer_takes_little_more_than_the_command_s_start(mill: Stage, pictures: list[Path]) -> None:
    start = seconds(lambda: mill.run("jobs", "list", "--limit", "1"))
    text = seconds(lambda: mill.run("search", "a dog on the beach"))
    picture = seconds(lambda: mill.run("search", "--image", pictures[10]))
    [embedded] = mill.table.rows(
        "SELECT timings FROM jobs JOIN job_details USING (id) WHERE type = 'text.embed' ORDER BY id DESC LIMIT 1"
    )
    print(f"start {start:.2f} s, text {text:.2f} s, picture {picture:.2f} s; the text's job: {embedded['timings']}")  # noqa: T201
    # A worker that was not woken would be a poll late; this machine may be busy.
    assert max(text, picture) - start < 3


def test_without_a_worker_words_are_searched_all_the_same_and_it_is_said(mill: Stage, pictures: list[Path]) -> None:
    """The last of this module: its worker goes."""
    assert mill.workers[0].drain() == 0
    answer = mill.json("search", "dog beach")
    assert (answer["searched"], found(answer)) == (["words"], {"shiba.png"})
    assert "no worker is running" in answer["note"]
    done = mill.run("search", "dog beach")
    assert "s3://media/shiba.png" in done.stdout
    assert "only words are searched: no worker is running" in done.stderr
    assert "mediamill worker" in done.stderr

    # A picture that is known needs nobody; another one cannot be searched by.
    assert mill.json("search", "--image", pictures[2])["hits"][0]["uri"] == "s3://media/2.jpg"
    unknown = mill.run("search", "--image", pictures[11], check=False)
    assert unknown.returncode == 3
    assert "no worker is running that could embed the query: start one with `mediamill worker`" in unknown.stderr
    assert mill.table.rows("SELECT * FROM jobs WHERE state = 'queued'") == []
