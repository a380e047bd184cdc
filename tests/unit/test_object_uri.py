"""Names of objects: what is one, what is refused and why, and how they become files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from urllib.parse import quote, unquote

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from storage.objects.base import ObjectRef
from storage.objects.keys import MAX_NAME_BYTES, key_of, path_of
from storage.objects.uri import BadUri, ObjectPrefix, ObjectUri, check_key, shown

ROOT = Path(__file__).resolve().parents[2]
DANGEROUS = st.sampled_from(
    ["/", ".", "..", "%", "%2E", "%2e", "%25", "%=", "%~", "%2F", "\\", "~", "=", "a", "ü", "?"]
)
TEXTS = st.lists(st.one_of(DANGEROUS, st.text(max_size=4)), max_size=12).map("".join)
LONG = st.lists(st.sampled_from([".", "a", "é", "🦊", "%2E", "%~", "%25", "/"]), min_size=60, max_size=400).map("".join)


def is_key(text: str) -> bool:
    try:
        check_key(text)
    except BadUri:
        return False
    return bool(text)


KEYS = st.one_of(TEXTS, LONG).filter(is_key)


def test_a_uri_is_a_bucket_and_a_literal_key() -> None:
    uri = ObjectUri.parse("s3://media/a/ü x+%20?y#z.jpg")
    assert (uri.bucket, uri.key, str(uri)) == ("media", "a/ü x+%20?y#z.jpg", "s3://media/a/ü x+%20?y#z.jpg")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "is empty; write s3://bucket/key"),
        ("media/a.jpg", "has no scheme; write s3://bucket/key"),
        ("file:///etc/passwd", "has the scheme file:; only"),
        ("FILE:/etc/passwd", "has the scheme FILE:; only"),
        ("https://media.s3.amazonaws.com/a", "has the scheme https:; only"),
        ("data:image/png;base64,AA", "has the scheme data:; only"),
        ("S3://media/a", "has its scheme in capitals"),
        ("s3:/media/a", "has the scheme s3:; only s3://bucket/key"),
        (" s3://media/a", "has no scheme"),
        ("/etc/passwd", "is a path; objects are named s3://bucket/key"),
        ("./a.jpg", "is a path"),
        ("../a.jpg", "is a path"),
        ("~/a.jpg", "is a path"),
        ("C:\\a.jpg", "is a path"),
        ("\\\\server\\a.jpg", "is a path"),
        ("s3://", "names no bucket"),
        ("s3:///etc/passwd", "names no bucket"),
        ("s3://media", "names the bucket media but no object in it; write s3://media/key"),
        ("s3://media/", "names the bucket media but no object in it"),
        ("s3://ab/a", "names the bucket 'ab'; a bucket has 3 to 63"),
        ("s3://" + "a" * 64 + "/a", "3 to 63"),
        ("s3://Media/a", "lower-case"),
        ("s3://me_dia/a", "lower-case"),
        ("s3://-media/a", "starts and ends with"),
        ("s3://me..dia/a", "no two dots"),
        ("s3://192.168.0.1/a", "no IP address"),
        ("s3://user@host/a", "names the bucket 'user@host'"),
        ("s3://host:9000/a", "names the bucket 'host:9000'"),
        ("s3://m%65dia/a", "names the bucket 'm%65dia'"),
        ("s3://../a", "names the bucket '..'"),
        ("s3://media//etc/passwd", "starts with a slash"),
        ("s3://media/%2Fetc/passwd", "starts with a slash once percent-decoded"),
        ("s3://media/\\etc", "starts with a slash"),
        ("s3://media/a/../b", "has '..' as a part"),
        ("s3://media/..", "has '..' as a part"),
        ("s3://media/./a", "has '.' as a part"),
        ("s3://media/a\\..\\b", "has '..' as a part"),
        ("s3://media/a/%2e%2e/b", "has '..' as a part of its key once percent-decoded"),
        ("s3://media/a/.%2E/b", "once percent-decoded"),
        ("s3://media/a%2f..%2Fb", "once percent-decoded"),
        ("s3://media/a%5c..%5Cb", "once percent-decoded"),
        ("s3://media/a/%252e%252e/b", "once percent-decoded"),
        ("s3://media/a\0b", "the control character U+0000"),
        ("s3://media/a%00b", "has a NUL in its key once percent-decoded"),
        ("s3://media/a\nb", "the control character U+000A"),
        ("s3://media/a\x9bb", "the control character U+009B"),
        ("s3://media/a\ud800b", "lone surrogate"),
        ("s3://media/" + "é" * 513, "has a key of 1026 bytes; S3 permits 1024"),
        ("s3://media/a.jpg?versionId=x", '"version_id": "..."'),
        ("s3://media/a.jpg?x=1&VERSIONID=x", '"version_id": "..."'),
    ],
)
def test_what_is_no_object_is_refused_with_what_would_be_right(text: str, sentence: str) -> None:
    with pytest.raises(BadUri) as refused:
        ObjectUri.parse(text)
    assert sentence in str(refused.value)
    assert str(refused.value).isprintable()


@pytest.mark.parametrize("value", [None, 7, ["s3://media/a"], {"uri": "s3://media/a"}, b"s3://media/a"])
def test_what_is_no_text_is_refused(value: object) -> None:
    with pytest.raises(BadUri, match="is not a text"):
        ObjectUri.parse(value)  # type: ignore[arg-type]


@pytest.mark.parametrize("key", ["...", "a/..b", "a../b", "a/...", ".a", "a//b", "a/", "100%", "%zz", "a?b", "a\\b"])
def test_odd_keys_that_are_no_way_out_are_taken(key: str) -> None:
    assert ObjectUri.parse(f"s3://media/{key}").key == key


def test_a_uri_made_of_parts_is_checked_like_a_parsed_one() -> None:
    with pytest.raises(BadUri):
        ObjectUri("media", "a/../b")
    with pytest.raises(BadUri):
        ObjectUri("..", "a")


def test_a_prefix_names_a_place_and_the_objects_in_it() -> None:
    assert ObjectPrefix.parse("s3://media/").object("a.jpg") == ObjectUri("media", "a.jpg")
    place = ObjectPrefix.parse("s3://media/results/")
    assert (str(place), str(place.object("1/a.jpg"))) == ("s3://media/results/", "s3://media/results/1/a.jpg")
    with pytest.raises(BadUri, match=r"must end with a slash; write s3://media/results/"):
        ObjectPrefix.parse("s3://media/results")
    with pytest.raises(BadUri, match=r"'\.\.'"):
        place.object("../a")


def test_the_digest_of_a_reference_is_checked() -> None:
    uri = ObjectUri("media", "a")
    assert ObjectRef(uri, sha256="AB" * 32).sha256 == "ab" * 32
    for wrong in ("", "ab" * 31, "zz" * 32, "ab" * 32 + "\n"):
        with pytest.raises(ValueError, match="64 hexadecimal digits"):
            ObjectRef(uri, sha256=wrong)


def test_the_parser_of_names_imports_no_client() -> None:
    program = "import sys, storage.objects.uri; print([m for m in sys.modules if m.startswith(('boto', 'urllib3'))])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@given(st.text())
def test_any_text_is_an_object_or_a_refusal_in_printable_words(text: str) -> None:
    for form in (text, f"s3://{text}", f"s3://media/{text}"):
        assert parsed_or_refused(form) == form


def parsed_or_refused(text: str) -> str:
    """The text again, once it is parsed or refused in printable words."""
    try:
        return str(ObjectUri.parse(text))
    except BadUri as refused:
        return text if str(refused).isprintable() else str(refused)


@given(TEXTS)
@example("a/%252e./b")
def test_a_key_that_is_taken_has_no_way_out_however_often_it_is_decoded(text: str) -> None:
    assume(is_key(text))
    for _ in range(5):
        parts = text.replace("\\", "/").split("/")
        assert not {".", ".."} & set(parts)
        assert not text.startswith("/")
        text = unquote(text)


@given(st.lists(st.sampled_from(["a", "..", "b"]), min_size=1, max_size=4), st.integers(1, 4))
def test_a_way_out_is_found_however_often_it_was_encoded(parts: list[str], times: int) -> None:
    text = "x/" + "/".join(parts)
    for _ in range(times):
        text = quote(text, safe="").replace(".", "%2E")
    assert is_key(text) == (".." not in parts)


@given(KEYS)
@example("a" * 253 + "...")
@example("a" * 253 + "%~")
@example("a" * 252 + "%2" + "5b")
@example("%2E/%=/%~/%25")
@example("a//b/")
def test_a_key_becomes_a_path_and_comes_back(key: str) -> None:
    path = path_of(key)
    assert key_of(path) == key
    for name in path:
        assert name not in ("", ".", "..")
        assert "/" not in name
        assert len(name.encode()) <= MAX_NAME_BYTES


@given(st.lists(KEYS, min_size=2, max_size=6, unique=True))
def test_no_two_keys_are_one_file_and_none_is_hidden(keys: list[str]) -> None:
    paths = {path_of(key) for key in keys}
    assert len(paths) == len(keys)
    assert not any(path[0].startswith(".") for path in paths)


@given(st.lists(st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1), min_size=1))
def test_a_file_put_there_by_hand_has_a_key_that_leads_to_it_or_none(path: list[str]) -> None:
    key = key_of(path)
    assert key is None or path_of(key) == tuple(path)


@pytest.mark.parametrize("name", ["a.jpg", "100%.jpg", "a%20b.jpg", "a%2Eb", "%41", "ü x+.jpg", "~a", "=a"])
def test_common_names_of_files_are_their_keys(name: str) -> None:
    assert (path_of(f"pictures/{name}"), key_of(("pictures", name))) == (("pictures", name), f"pictures/{name}")


@pytest.mark.parametrize("name", [".DS_Store", "a%25b", "\udcff.jpg"])
def test_files_that_no_key_names_are_no_objects(name: str) -> None:
    assert key_of(("pictures", name)) is None


def test_shown_text_is_one_short_line() -> None:
    assert shown("a\n\x1b[31mb\ud800") == "a\\n\\x1b[31mb\\ud800"
    assert len(shown("x" * 10_000)) == 203
