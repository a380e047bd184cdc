"""The allow-list of buckets."""

from __future__ import annotations

import pytest

from storage.objects.errors import AccessRefused
from storage.objects.rules import Access, BadRules, BucketRules
from storage.objects.uri import ObjectUri

BOTH = Access.READ | Access.WRITE


def granted(rules: BucketRules, text: str) -> Access:
    uri = ObjectUri.parse(text)
    read = Access.READ if rules.allows(uri, Access.READ) else Access(0)
    return read | (Access.WRITE if rules.allows(uri, Access.WRITE) else Access(0))


@pytest.mark.parametrize(
    ("value", "access"),
    [
        (["media"], BOTH),
        ({"media": "rw"}, BOTH),
        ({"media": "read-write"}, BOTH),
        ({"media": "r"}, Access.READ),
        ({"media": "read"}, Access.READ),
        ({"media": "w"}, Access.WRITE),
        ({"media": "write"}, Access.WRITE),
        ({}, Access(0)),
        ([], Access(0)),
        ({"media2": "rw", "medi": "rw"}, Access(0)),
    ],
)
def test_a_bucket_may_be_used_as_its_entry_says(value: object, access: Access) -> None:
    assert granted(BucketRules.parse(value), "s3://media/a") == access


def test_the_longest_prefix_decides() -> None:
    rules = BucketRules.parse({"media/open/closed/": "r", "media": "r", "media/open/": "rw", "other/w/": "w"})
    assert granted(rules, "s3://media/a") == Access.READ
    assert granted(rules, "s3://media/open/a") == BOTH
    assert granted(rules, "s3://media/open/closed/a") == Access.READ
    assert granted(rules, "s3://media/opened") == Access.READ
    assert granted(rules, "s3://other/w/a") == Access.WRITE
    assert granted(rules, "s3://other/wa") == Access(0)
    assert rules.buckets == {"media", "other"}


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("media", 'is not a JSON object or list; write {"media": "rw"'),
        (None, "is not a JSON object or list"),
        ([7], "has 7 where a place belongs"),
        ({"media": "x"}, 'entry \'media\' says \'x\'; write "r" (read), "w" (write) or "rw"'),
        ({"media": True}, "entry 'media' says True"),
        ({"Media": "r"}, "entry 'Media' names the bucket 'Media'; a bucket has 3 to 63"),
        ({"media/results": "r"}, "entry 'media/results' is a prefix and must end with a slash"),
        ({"media/../x/": "r"}, "entry 'media/../x/' has '..'"),
        ({"s3://media": "r"}, "entry 's3://media' names the bucket 's3:'"),
        ({"*": "r"}, "entry '*' names the bucket '*'"),
        (["media", "media"], "names media twice"),
        ({"media": "r", "media/": "rw"}, "names media twice"),
    ],
)
def test_a_wrong_allow_list_is_refused_with_what_would_be_right(value: object, sentence: str) -> None:
    with pytest.raises(BadRules) as refused:
        BucketRules.parse(value)
    assert sentence in str(refused.value)


def test_a_refusal_names_the_object_and_what_is_allowed() -> None:
    rules = BucketRules.parse({"media": "r", "media/results/": "rw", "archive": "r"})
    rules.require(ObjectUri("media", "a"), Access.READ)
    with pytest.raises(AccessRefused) as refused:
        rules.require(ObjectUri("media", "a"), Access.WRITE)
    assert str(refused.value) == (
        "s3://media/a: bucket media may not be written here; what may be written: media/results/ (setting S3_BUCKETS)"
    )
    with pytest.raises(
        AccessRefused, match="bucket elsewhere is not allowed; what may be read: archive, media, media/res"
    ):
        rules.require(ObjectUri("elsewhere", "a"), Access.READ)


def test_only_what_lies_under_a_readable_place_is_listed() -> None:
    rules = BucketRules.parse({"media/open/": "r"})
    rules.require_listing("media", "open/")
    rules.require_listing("media", "open/a")
    for prefix in ("", "open", "closed/"):
        with pytest.raises(AccessRefused, match="what may be read: media/open/"):
            rules.require_listing("media", prefix)
