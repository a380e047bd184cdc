"""Search over a small library, whose pieces are few enough to say exactly what must be found."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from storage.pooled import PooledDatabase
from storage.query import BadQuery
from storage.schema import migrate
from storage.search import Hit, NotEmbedded, SearchQuery, search, similar, vector_of
from storage.segment import searchable
from storage.spaces import Space, activate, ensure_space
from storage.sql import Connection, text
from tests.integration.library import Library, Piece, Said, vector
from tests.servers.postgres import PostgresServer

DOG = Piece("dog", (1, 0, 0, 0), [Said("a brown dog running on the beach")], labels={"set": "animals", "lang": "en"})
CAT = Piece("cat", (0.8, 0.6, 0, 0), [Said("a cat that sleeps on a red chair")], labels={"set": "animals"})
BOAT = Piece("boat", (0, 0, 1, 0), [Said("a red boat on the sea")], type="image.embed", mime="image/jpeg")
SILENT = Piece("silent", (0.95, 0.3, 0, 0), type="image.embed")
CHINESE = Piece("chinese", (0, 0, 0, 1), [Said("一只黑色的猫坐在红色椅子上", "zh")])
JAPANESE = Piece("japanese", (0, 0, 0.1, 1), [Said("ラーメンを食べる赤い犬", "ja")])
GERMAN = Piece("german", (0, 0.1, 0, 1), [Said("Die Hunde laufen am Strand", "de")])
FILM = Piece(
    "film",
    None,
    [Said("so we walked the dogs along the harbour", kind="transcript")],
    type="video.index",
    mime="video/mp4",
    spans=[(0, 4, (0, 1, 0, 0)), (4, 8, (0.1, 1, 0.1, 0)), (8, 12, (0, 0.2, 1, 0.2))],
)
SECRET = Piece("secret", (0.9, 0, 0.1, 0), [Said("the blueprint of a submarine")], tenant="navy", bucket="navy")
LIBRARY = (DOG, CAT, BOAT, SILENT, CHINESE, JAPANESE, GERMAN, FILM, SECRET)


@pytest.fixture(scope="module")
def library(postgres_server: PostgresServer) -> Iterator[Library]:
    with postgres_server.database() as url:
        database = PooledDatabase(url)
        migrate(database)
        library = Library(database)
        space = ensure_space(database, checkpoint="small-clip", revision="1", dimension=4)
        for piece in LIBRARY:
            library.add(piece, [space])
        library.first_seen(BOAT, "2020-01-01T00:00:00Z")
        yield library
        database.close()


@pytest.fixture
def connection(library: Library) -> Iterator[Connection]:
    with library.database.transaction() as connection:
        yield connection


def names(hits: list[Hit]) -> list[str]:
    by_sha256 = {piece.sha256: piece.name for piece in LIBRARY}
    return [by_sha256.get(hit.sha256, "?") for hit in hits]


def said(connection: Connection, words: str, **more: object) -> set[str]:
    return set(names(search(connection, SearchQuery(text=words, **more))))  # type: ignore[arg-type]


def test_the_nearest_pictures_are_found_in_order_with_their_similarity(connection: Connection) -> None:
    hits = search(connection, SearchQuery(vector="[2,0,0,0]"))
    assert names(hits) == ["dog", "secret", "silent", "cat"]
    assert [hit.similarity for hit in hits] == pytest.approx([1, 0.994, 0.9536, 0.8], abs=1e-3)
    assert [(hit.why[0].by, hit.why[0].rank) for hit in hits] == [("picture", n) for n in (1, 2, 3, 4)]


def test_what_is_less_alike_than_the_floor_is_not_found(connection: Connection) -> None:
    assert names(search(connection, SearchQuery(vector="[1,0,0,0]", min_similarity=0.97))) == ["dog", "secret"]
    everything = search(connection, SearchQuery(vector="[1,0,0,0]", min_similarity=-1))
    assert set(names(everything)) == {piece.name for piece in LIBRARY}


def test_a_picture_must_be_more_alike_to_a_picture_than_to_a_text(connection: Connection) -> None:
    askew = "[0.4,0,0.1,1]"
    assert "dog" in names(search(connection, SearchQuery(vector=askew)))
    assert "dog" not in names(search(connection, SearchQuery(vector=askew, vector_of="picture")))


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("dog", {"dog", "film"}),
        ("DOGS run", {"dog"}),
        ("sleeping", {"cat"}),
        ("red -boat", {"cat"}),
        ('red -"red boat"', {"cat"}),
        ('"red chair"', {"cat"}),
        ('"chair red"', set()),
        ("boat or chair", {"boat", "cat"}),
        ("Hunde", {"german"}),
        ("hund", set()),
        ("submarine", {"secret"}),
        ("unicorn", set()),
    ],
)
def test_words_find_texts(connection: Connection, words: str, found: set[str]) -> None:
    assert said(connection, words) == found


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("黑色", {"chinese"}),
        ("猫", {"chinese"}),
        ("子上", {"chinese"}),
        ("红色椅子", {"chinese"}),
        ("黑色 椅子", {"chinese"}),
        ("椅子黑色", set()),
        ("-黑色 椅子", set()),
        ("ラーメン", {"japanese"}),
        ("ﾗｰﾒﾝ", {"japanese"}),
        ("犬", {"japanese"}),
        ("赤い犬 or 黑色", {"chinese", "japanese"}),
    ],
)
def test_chinese_and_japanese_words_find_texts_that_write_no_spaces(
    connection: Connection, words: str, found: set[str]
) -> None:
    assert said(connection, words) == found


def test_an_unwanted_word_keeps_out_what_only_its_picture_would_have_found(connection: Connection) -> None:
    near = SearchQuery(vector="[1,0,0,0]", text="animal")
    assert "cat" in names(search(connection, near))
    assert names(search(connection, SearchQuery(vector="[1,0,0,0]", text="animal -chair"))) == [
        name for name in names(search(connection, near)) if name != "cat"
    ]


def test_what_both_lists_have_comes_before_what_one_has(connection: Connection) -> None:
    hits = search(connection, SearchQuery(vector="[1,0,0,0]", text="sleep"))
    assert names(hits)[0] == "cat"  # fourth by its picture, first by its text
    assert hits[0].score == pytest.approx(1 / 64 + 1 / 61)
    assert [(why.by, why.rank) for why in hits[0].why] == [("caption", 1), ("picture", 4)]
    assert hits[1].score == pytest.approx(1 / 61)


def test_a_hit_says_what_it_is_where_it_lies_and_who_knows_it(connection: Connection) -> None:
    (hit,) = search(connection, SearchQuery(text="beach"))
    assert (hit.uri, hit.mime, hit.sha256) == ("s3://media/dog.png", "image/png", DOG.sha256)
    assert hit.similarity is None
    assert hit.text_rank is not None
    assert hit.text_rank > 0
    assert [(job.type, job.labels) for job in hit.jobs] == [("image.caption", {"set": "animals", "lang": "en"})]
    assert hit.as_json()["why"][0]["by"] == "caption"


def test_an_excerpt_marks_the_words_that_matched(connection: Connection) -> None:
    (hit,) = search(connection, SearchQuery(text="dogs beach"))
    assert hit.why[0].text == "a brown dog running on the beach"
    assert hit.why[0].marked() == "a brown <b>dog</b> running on the <b>beach</b>"


def test_an_excerpt_marks_chinese_words_as_they_stand(connection: Connection) -> None:
    (hit,) = search(connection, SearchQuery(text="红色 猫"))
    assert hit.why[0].marked("[", "]") == "一只黑色的[猫]坐在[红色]椅子上"


def test_a_film_is_one_hit_with_the_time_of_its_nearest_frame(connection: Connection) -> None:
    (hit,) = [h for h in search(connection, SearchQuery(vector="[0,0,1,0.2]")) if h.sha256 == FILM.sha256]
    assert (hit.t0, hit.t1, hit.why[0].by, hit.mime) == (8, 12, "frame", "video/mp4")


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({"types": ["image.embed"]}, {"silent", "boat"}),
        ({"types": ["image.embed", "video.index"]}, {"silent", "boat", "film"}),
        ({"labels": {"set": "animals"}}, {"dog", "cat"}),
        ({"labels": {"set": "animals", "lang": "en"}}, {"dog"}),
        ({"labels": {"set": "animals"}, "types": ["image.embed"]}, set()),
        ({"tenants": ["navy"]}, {"secret"}),
        ({"media": ["video"]}, {"film"}),
        ({"media": ["image/jpeg", "video"]}, {"boat", "film"}),
        ({"until": datetime(2021, 1, 1, tzinfo=UTC)}, {"boat"}),
        ({"since": datetime(2019, 1, 1, tzinfo=UTC), "until": datetime(2021, 1, 1, tzinfo=UTC)}, {"boat"}),
        ({"since": datetime(2021, 1, 1, tzinfo=UTC), "types": ["image.embed"]}, {"silent"}),
        ({"types": ["no.such"]}, set()),
    ],
)
def test_filters_narrow_what_pictures_find(connection: Connection, filters: dict[str, object], found: set[str]) -> None:
    query = SearchQuery(vector="[1,1,1,1]", min_similarity=-1, **filters)  # type: ignore[arg-type]
    assert set(names(search(connection, query))) == found


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({}, {"cat", "boat"}),
        ({"types": ["image.caption"]}, {"cat"}),
        ({"labels": {"set": "animals"}}, {"cat"}),
        ({"media": ["image/jpeg"]}, {"boat"}),
        ({"until": datetime(2021, 1, 1, tzinfo=UTC)}, {"boat"}),
        ({"tenants": ["navy"]}, set()),
        ({"exclude": [CAT.sha256]}, {"boat"}),
    ],
)
def test_filters_narrow_what_words_find(connection: Connection, filters: dict[str, object], found: set[str]) -> None:
    assert said(connection, "red", **filters) == found


def test_what_one_tenants_jobs_said_and_read_is_not_shown_to_another(library: Library) -> None:
    # The same bytes, read by another tenant's job, from another bucket, with another caption.
    library.add(Piece("dog", None, [Said("our mascot")], tenant="navy", bucket="navy"))
    with library.database.transaction() as connection:
        navy = SearchQuery(vector=vector(DOG.vector or ()), text="beach", tenants=["navy"], min_similarity=0.99)
        dog = next(hit for hit in search(connection, navy) if hit.sha256 == DOG.sha256)
        assert (dog.uri, [why.by for why in dog.why], len(dog.jobs)) == ("s3://navy/dog.png", ["picture"], 1)
        assert said(connection, "mascot", tenants=["default"]) == set()
        assert said(connection, "mascot", tenants=["navy"]) == {"dog"}


def test_a_content_lies_where_it_was_seen_last_and_is_not_gone(library: Library) -> None:
    library.add(Piece("moved", None, [Said("a wanderer")]))
    with library.database.transaction() as connection:

        def uri() -> str | None:
            return search(connection, SearchQuery(text="wanderer"))[0].uri

        assert uri() == "s3://media/moved.png"
        connection.execute(
            text("""INSERT INTO objects (bucket, key, version, content, last_seen)
                    VALUES ('attic', 'b.png', '2', sha256('moved'), now() + interval '1 hour')""")
        )
        assert uri() == "s3://attic/b.png"
        connection.execute(text("UPDATE objects SET gone_at = now() WHERE bucket = 'attic'"))
        assert uri() == "s3://media/moved.png"
        connection.execute(text("UPDATE objects SET gone_at = now() WHERE key = 'moved.png'"))
        assert uri() is None
        connection.rollback()


def test_a_content_that_a_job_made_lies_in_its_output(library: Library) -> None:
    library.add(Piece("raw", made="developed"))
    with library.database.transaction() as connection:
        connection.execute(
            text("""INSERT INTO texts (content, job_id, kind, text, words)
                    VALUES (sha256('developed'), gen_random_uuid(), 'ocr', 'kodak', to_tsvector('simple', 'kodak'))""")
        )
        (hit,) = search(connection, SearchQuery(text="kodak", types=["image.caption"]))
        assert (hit.uri, hit.mime, hit.why[0].by) == ("s3://media/out/developed.png", "image/png", "ocr")
        connection.rollback()


def test_a_picture_that_is_known_needs_no_job_to_be_searched_by(connection: Connection) -> None:
    assert vector_of(connection, DOG.sha256) == "[1,0,0,0]"
    assert vector_of(connection, FILM.sha256) is None
    assert vector_of(connection, "0" * 64) is None
    assert names(similar(connection, DOG.sha256)) == ["secret", "silent", "cat"]
    assert names(similar(connection, DOG.sha256, itself=True))[0] == "dog"
    assert names(similar(connection, DOG.sha256, SearchQuery(labels={"set": "animals"}))) == ["cat"]


def test_a_content_without_a_vector_is_refused_as_an_example(connection: Connection) -> None:
    with pytest.raises(NotEmbedded):
        similar(connection, FILM.sha256)


@pytest.mark.parametrize(
    "words", ["", "   ", "?!*:&|()<->'\"\\;--", "''", '"', "- -", "or or or", "\n\t", "the", "%s %(x)s :words", "😀"]
)
def test_text_with_no_word_in_it_finds_nothing(connection: Connection, words: str) -> None:
    assert search(connection, SearchQuery(text=words)) == []


@pytest.mark.parametrize(
    "words",
    [
        "'; DROP TABLE texts; --",
        'dog" & !cat | (beach',
        "dog:* <-> %beach% \\",
        "dog " + "x" * 900,
        "狗" * 1000,
        "a" * 999,
        '"' * 999,
        "dog \ue000 \u202e \U0010ffff",
    ],
)
def test_hostile_text_is_only_text(connection: Connection, words: str) -> None:
    assert len(search(connection, SearchQuery(text=words, vector="[1,0,0,0]"))) >= 4
    assert connection.scalar(text("SELECT count(*) FROM texts")) > 0


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (SearchQuery(text="do\x00g"), "NUL"),
        (SearchQuery(text="do\ud800g"), "surrogate"),
        (SearchQuery(text="dog " * 2500), "10000 characters"),
        (SearchQuery(text="-dog"), "not wanted"),
        (SearchQuery(text="dog", limit=0), "limit"),
        (SearchQuery(text="dog", limit=10_000), "limit"),
        (SearchQuery(vector="[1,0]"), "2 numbers.*4 dimensions"),
        (SearchQuery(vector="[0,0,0,0]"), "zeros"),
        (SearchQuery(vector="[1,0,NaN,0]"), "finite"),
        (SearchQuery(vector="[1e999,0,0,0]"), "finite"),
        (SearchQuery(vector="'; --"), "list of numbers"),
        (SearchQuery(vector="7"), "list of numbers"),
        (SearchQuery(vector="[1,0,0,0]", space=99), "no embedding space 99"),
        (SearchQuery(text="dog", min_similarity=float("nan")), "min_similarity"),
        (SearchQuery(text="dog", types=["a\x00"]), "types"),
        (SearchQuery(text="dog", labels={"a": "\ud800"}), "labels"),
        (SearchQuery(text="dog", exclude=["dog"]), "sha256"),
        (SearchQuery(text="dog", since=datetime(2021, 1, 1)), "time zone"),  # noqa: DTZ001
    ],
)
def test_a_query_that_cannot_be_asked_says_what_is_wrong(
    connection: Connection, query: SearchQuery, message: str
) -> None:
    with pytest.raises(BadQuery, match=message):
        search(connection, query)
    assert connection.scalar(text("SELECT 1")) == 1  # nothing reached the server that would have ended the transaction


def test_tiny_and_huge_numbers_of_a_vector_keep_their_direction(connection: Connection) -> None:
    assert names(search(connection, SearchQuery(vector="[1e-9,0,0,0]")))[0] == "dog"
    assert names(search(connection, SearchQuery(vector="[1e30,0,0,0]")))[0] == "dog"


def test_only_the_space_that_is_active_is_searched_unless_another_is_named(library: Library) -> None:
    database = library.database
    old = Space(1, "small-clip", "1", 4, "active")
    new = ensure_space(database, checkpoint="other-clip", revision="1", dimension=2)
    library.add(Piece("dog", (1, 0)), [new])
    with database.transaction() as connection:
        assert vector_of(connection, DOG.sha256) == "[1,0,0,0]"
        assert names(search(connection, SearchQuery(vector="[1,0]", space=new.id))) == ["dog"]
    activate(database, new.id)
    try:
        with database.transaction() as connection:
            assert names(search(connection, SearchQuery(vector="[1,0]"))) == ["dog"]
            assert vector_of(connection, DOG.sha256) == "[1,0]"
    finally:
        activate(database, old.id)


@pytest.mark.parametrize(
    "long",
    [
        " ".join(f"word{n:x}" for n in range(200_000)),
        "".join(map(chr, range(0x4E00, 0x9FFF))) * 8,
        "".join(chr(0x20000 + (n * 7919) % 40_000) for n in range(150_000)),
        " ".join(f"https://host{n}.example/a/{n}" for n in range(40_000)),
        " ".join(f"{n}-fold-{n}x" for n in range(100_000)),
    ],
    ids=["words", "Chinese", "rare Chinese", "addresses", "hyphens"],
)
def test_a_text_longer_than_a_tsvector_can_hold_is_indexed_from_its_start(connection: Connection, long: str) -> None:
    words = connection.scalar(text("SELECT length(to_tsvector('english', :words))"), {"words": searchable(long)})
    assert words > 1000


def test_before_anything_is_embedded_words_still_find_and_a_vector_finds_nothing(
    postgres_server: PostgresServer,
) -> None:
    with postgres_server.database() as url:
        database = PooledDatabase(url)
        migrate(database)
        Library(database).add(DOG)
        with database.transaction() as connection:
            assert search(connection, SearchQuery(vector="[1,0,0,0]")) == []
            assert names(search(connection, SearchQuery(vector="[1,0,0,0]", text="dog"))) == ["dog"]
        database.close()
