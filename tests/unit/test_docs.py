"""The generated documents."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest

from config.settings import Settings
from console.docs import main, pages
from handlers.registry import Registry
from handlers.video.timeline.faults import Code as TimelineCode
from intake.message import Rules, parse
from intake.problems import Code
from storage.objects.rules import BucketRules
from tests.readme import ROOT
from tests.unit.message_types import REGISTRY


def test_documents_are_written_and_then_up_to_date(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([], registry=REGISTRY, root=tmp_path) == 0
    assert main(["--check"], registry=REGISTRY, root=tmp_path) == 0
    assert capsys.readouterr().err == ""


def test_a_stale_or_missing_document_is_named_with_the_command_that_makes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([], registry=REGISTRY, root=tmp_path)
    (tmp_path / "docs/messages.md").unlink()
    (tmp_path / "docs/handlers.md").write_text("old")
    assert main(["--check"], registry=REGISTRY, root=tmp_path) == 1
    assert capsys.readouterr().err.splitlines() == [
        "docs/messages.md is not up to date; run `python -m console.docs`",
        "docs/handlers.md is not up to date; run `python -m console.docs`",
    ]
    assert (tmp_path / "docs/handlers.md").read_text() == "old"


def test_types_for_tests_are_left_out() -> None:
    assert all("test.nothing" not in text for text in pages(REGISTRY).values())


def test_every_type_parameter_and_code_has_its_place() -> None:
    messages, handlers = pages(REGISTRY)["docs/messages.md"], pages(REGISTRY)["docs/handlers.md"]
    assert all(f"| `{code}` |" in messages for code in Code)
    assert "## image.caption\n\nCaptions one picture." in handlers
    assert "| `count` | whole number | `1` | at least 1, at most 16 | How many captions. |" in handlers
    assert "| `size.width` | whole number | `64` | at least 8, at most 4,096 |  |" in handlers
    assert '| `images` | 1 to 3 image | `["s3://bucket/key", ...]` |' in handlers
    assert "Version 3. Time limit: 10m, where the message says none." in handlers


def test_the_examples_of_the_types_of_the_house_are_jobs() -> None:
    registry = Registry.load()
    rules = Rules(1 << 20, 64, 1000, 3, BucketRules.parse(["media"]))
    examples = re.findall(r"```json\n(.*)\n```", pages(registry)["docs/messages.md"])
    assert sorted(parse(text, registry, rules).type for text in examples) == list(registry)


def test_the_example_of_settings_names_each_of_them_and_is_right_when_uncommented(tmp_path: Path) -> None:
    text = pages(REGISTRY)["config/example.toml"]
    assert tomllib.loads(text) == {}
    given = re.sub(r"^# (\w+ = [^ ].*)$", r"\1", text, flags=re.MULTILINE)
    file = tmp_path / "mediamill.toml"
    file.write_text(given, encoding="utf-8")
    loaded = Settings.load({"MEDIAMILL_HOME": str(tmp_path)}, [file])
    assert loaded.settings == Settings.load({"MEDIAMILL_HOME": str(tmp_path)}, []).settings
    assert all(re.search(rf"^# {name} =", text, flags=re.MULTILINE) for name in Settings.model_fields)


def test_the_documents_in_the_repository_are_up_to_date() -> None:
    assert main(["--check"]) == 0


def test_the_message_in_the_design_is_a_job() -> None:
    said = {
        "type": "image.caption", "inputs": {"image": "s3://media/key"}, "params": {}, "priority": 0, "max_attempts": 3,
        "output": "s3://media/prefix/", "labels": {"k": "v"}, "embed": True, "callback": "https://example.com/",
    }  # fmt: skip
    rules = Rules(1 << 20, 64, 1000, 3, BucketRules.parse(["media"]))
    assert parse(json.dumps(said), REGISTRY, rules).labels == {"k": "v"}


def test_every_message_of_the_guide_to_timelines_is_a_job() -> None:
    guide = (ROOT / "docs" / "timeline.md").read_text(encoding="utf-8")
    rules = Rules(1 << 20, 64, 1000, 3, BucketRules.parse(["media"]))
    messages = re.findall(r"^```json\n(.*?)^```", guide, re.DOTALL | re.MULTILINE)
    assert [parse(text, Registry.load(), rules).type for text in messages] == ["video.edit"] * 3


def test_the_guide_to_timelines_explains_every_code_of_a_timeline_s_own() -> None:
    guide = (ROOT / "docs" / "timeline.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`[^|]+) \|", guide.partition("| code |")[2], re.MULTILINE)
    explained = {code for row in rows for code in re.findall("`(.+?)`", row)}
    assert explained == {code.value for code in TimelineCode}
