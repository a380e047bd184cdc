"""docs/operations.md names what is there: metrics, health checks, settings, files; and its policy for S3 is enough."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args

import boto3
import pytest
from moto import mock_aws
from moto.core import set_initial_no_auth_action_count

from config.settings import Settings
from storage.objects.base import ObjectRef
from storage.objects.errors import ObjectMissing
from storage.objects.rules import BucketRules
from storage.objects.s3 import S3Options, S3Store
from storage.objects.s3_upload import LEAST_PART_BYTES
from storage.objects.uri import ObjectUri
from tests.readme import ROOT
from worker.health import Part, Pulse
from worker.metrics import COUNTERS, GAUGES, HISTOGRAMS, Declared

TEXT = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
DECLARED: dict[str, Declared] = {
    f"mediamill_{name}": declared for one in (COUNTERS, GAUGES, HISTOGRAMS) for name, declared in one.items()
}


def _block(language: str, with_words: str) -> str:
    blocks: list[str] = re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
    [found] = [block for block in blocks if with_words in block]
    return found


def _rows(section: str) -> list[list[str]]:
    """The cells of a section's table."""
    part = re.split(r"^## ", TEXT, flags=re.MULTILINE)
    [found] = [each for each in part if each.startswith(section)]
    return [line.strip("| ").split(" | ") for line in found.splitlines() if line.startswith("| `")]


def test_every_metric_is_explained_with_its_labels() -> None:
    explained = {
        name: set(re.findall(r"`(\w+)`", cells[1]))
        for cells in _rows("5 ")
        for name in re.findall("`([^`]+)`", cells[0])
    }
    del explained["process_*"]
    assert explained == {name: set(declared.labels) for name, declared in DECLARED.items()}


def test_alarms_ask_for_metrics_that_exist() -> None:
    asked = set(re.findall(r"mediamill_[a-z_]+", _block("yaml", "groups:")))
    assert {name.removesuffix("_bucket") for name in asked} <= DECLARED.keys()


def test_health_checks_are_those_of_the_worker() -> None:
    named = {cells[0].strip("`") for cells in _rows("4 ")}
    assert named <= {*get_args(Pulse), *get_args(Part)}
    assert named >= {"loop", "claim", "database", "lease", "executor", "draining"}


def test_settings_that_are_named_exist() -> None:
    named = set(re.findall(r"MEDIAMILL_([A-Z0-9_]+)\b", TEXT)) - {"CONFIG"}
    assert {name.lower() for name in named} <= Settings.model_fields.keys()


def test_links_lead_to_files() -> None:
    links = re.findall(r"\]\(([^)]+)\)", TEXT)
    assert [link for link in links if not (ROOT / "docs" / link).exists()] == []


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("aws")
@mock_aws
def test_the_policy_for_s3_is_enough_for_a_worker_and_no_more(tmp_path: Path) -> None:
    s3 = boto3.client("s3")
    for bucket in ("uploads", "derived"):
        s3.create_bucket(Bucket=bucket)
    s3.put_bucket_versioning(Bucket="uploads", VersioningConfiguration={"Status": "Enabled"})
    version = s3.put_object(Bucket="uploads", Key="a.jpg", Body=b"hello")["VersionId"]
    session = _session_with(json.loads(_block("json", "s3:GetObject")))
    rules = BucketRules.parse({"uploads": "r", "derived": "rw"})
    large = tmp_path / "large"
    large.write_bytes(b"1" * (LEAST_PART_BYTES + 1))

    @set_initial_no_auth_action_count(0)
    def as_that_user() -> None:
        store = S3Store(rules, S3Options(region="us-east-1", attempts=1, part_bytes=LEAST_PART_BYTES), session=session)
        store.check()
        pinned = ObjectRef(ObjectUri.parse("s3://uploads/a.jpg"), version_id=version)
        assert store.download(pinned, tmp_path / "got", max_bytes=100).size == 5
        with pytest.raises(ObjectMissing):
            store.stat(ObjectRef(ObjectUri.parse("s3://uploads/none.jpg")))
        output = ObjectUri.parse("s3://derived/derived/x")
        store.upload(large, output)
        assert [info.uri for info in store.list("derived", "derived/")] == [output]
        store.delete(output)
        for forbidden in ("put_object", "delete_object"):
            with pytest.raises(Exception, match="Access Denied"):
                getattr(session.client("s3"), forbidden)(Bucket="uploads", Key="a.jpg")
        store.close()

    as_that_user()


def _session_with(policy: dict[str, Any]) -> boto3.Session:
    """A user's session who may do what the policy says."""
    iam: Any = boto3.client("iam")  # type: ignore[call-overload,unused-ignore]
    iam.create_user(UserName="worker")
    arn = iam.create_policy(PolicyName="least", PolicyDocument=json.dumps(policy))["Policy"]["Arn"]
    iam.attach_user_policy(UserName="worker", PolicyArn=arn)
    key = iam.create_access_key(UserName="worker")["AccessKey"]
    return boto3.Session(key["AccessKeyId"], key["SecretAccessKey"], region_name="us-east-1")
