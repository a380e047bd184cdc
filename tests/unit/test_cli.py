"""The command line's words: what is refused before anything is asked of a service, and what a failure exits with."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from config.catalogue import CatalogueError
from config.errors import BadSetting
from console import cli, output
from console.commands.top import rates_between
from console.failures import Exit, report
from console.options import Age, Moment
from intake.problems import Code, Problem, Refused
from storage import revision, schema
from storage.database import Conflict, DataError, LockTimeout, Unreachable
from storage.embedded import EmbeddedError
from storage.objects.errors import ObjectMissing, StoreUnavailable
from storage.overview import Overview
from storage.query import BadQuery
from storage.schema import SchemaMismatch


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A deployment whose database nobody may ask: a command that did would exit with 3."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEDIAMILL_HOME", str(tmp_path))
    monkeypatch.setenv("MEDIAMILL_TEST_TYPES", "true")
    monkeypatch.setenv("MEDIAMILL_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/nothing")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["submit"], "name a TYPE, or a file of messages by --from"),
        (["submit", "test.noop", "--from", "jobs.jsonl"], "not both"),
        (["submit", "--from", "-", "--lane", "upload"], "stands in its line"),
        (["submit", "test.noop", "--label", "animal"], "write name=value"),
        (["submit", "test.noop", "--label", "a=1", "--label", "a=2"], "--label a is given twice"),
        (["submit", "test.noop", "--lane", "slow"], "'interactive', 'upload', 'backfill'"),
        (["submit", "test.nop"], "did you mean test.noop?"),
        (
            ["submit", "test.noop", "--param", "output_bytes=many"],
            '/params/output_bytes: is "many"; write a whole number',
        ),
        (["submit", "test.noop", "--param", "output_bytes=-1"], "write a number of at least 0"),
        (["submit", "test.noop", "--param", "ouput_bytes=1"], "did you mean output_bytes?"),
        (["submit", "test.noop", "--priority", "101"], "/priority: is 101; write a number of at most 100"),
        (["submit", "test.noop", "--id", "7"], '/id: is "7", which is no UUID'),
        (
            ["submit", "test.noop", "--input", "files.a=s3://others/key"],
            'is "s3://others/key", which jobs may not read',
        ),
        (["submit", "test.noop", "--input", "files.a=s3://media/../key"], "/inputs/files/a"),
        (["submit", "test.noop", "--input", "files.a=file:///etc/passwd"], "has the scheme file:"),
        (["submit", "test.noop", "--input", "files.a=missing.png"], "missing.png: No such file or directory"),
        (["submit", "test.noop", "--input", "files=s3://media/key"], "it is a map; write files.NAME=URI"),
        (["submit", "image.caption"], "/inputs: is missing"),
        (["submit", "image.caption", "-i", "image=s3://media/a", "-i", "image=s3://media/b"], "it is one object"),
        (["submit", "image.caption", "-i", "picture=s3://media/a"], "is not an input of image.caption"),
        (["submit", "text.embed", "--param", "texts=hello"], "is not JSON; write --param 'texts=[...]'"),
        (
            ["submit", "image.answer", "-i", "image=s3://media/a", "-p", 'questions=["who is it?", " "]'],
            "/params/questions/1: is blank: write a question",
        ),
        (["submit", "image.answer", "-i", "image=s3://media/a"], "/params/questions: is missing"),
        (["submit", "--from", "missing.jsonl"], "--from missing.jsonl: No such file or directory"),
        (["jobs", "retry"], "name jobs by their ids, or all"),
        (["jobs", "retry", "--all"], "--all wants a filter"),
        (["jobs", "cancel", "0123456789", "--type", "test.noop"], "filters go with --all"),
        (["jobs", "retry", "--all", "--state", "succeeded"], "only failed, cancelled, quarantined jobs can be meant"),
        (["jobs", "list", "--newer-than", "soon"], "is not a duration"),
        (["jobs", "list", "--state", "lost"], "'quarantined'"),
        (["search"], "name a TEXT, or a picture by --image"),
        (["search", "a cat", "--image", "cat.jpg"], "not both"),
        (["search", "a cat", "--since", "2030-01-31T12:00:00"], "has no zone"),
        (["types", "image.captoin"], "did you mean image.caption?"),
        (["models", "pull", "blip"], "no checkpoint 'blip'"),
        (["frobnicate"], "No such command"),
    ],
)
def test_wrong_usage_is_refused_with_what_would_be_right(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(arguments) == Exit.REFUSED
    said = capsys.readouterr().err
    assert says in " ".join(said.split())
    assert "Traceback" not in said


def test_a_wrong_setting_is_one_line_that_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MEDIAMILL_LEASE", "soon")
    assert cli.run(["jobs", "list"]) == Exit.REFUSED
    said = capsys.readouterr().err
    assert said.startswith("mediamill: MEDIAMILL_LEASE=soon: is not a duration")
    assert said.count("\n") == 1


def test_a_database_that_cannot_be_reached_is_one_line_and_its_own_exit_code(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.run(["jobs", "list"]) == Exit.UNREACHABLE
    said = capsys.readouterr().err
    assert said.startswith("mediamill: Postgres cannot be reached: ")
    assert said.count("\n") == 1


def test_the_traceback_is_shown_to_those_who_debug(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MEDIAMILL_LOG_LEVEL", "debug")
    assert cli.run(["jobs", "list"]) == Exit.UNREACHABLE
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BadSetting(["MEDIAMILL_LEASE=x: is not a duration"]), Exit.REFUSED),
        (Refused([Problem("/type", Code.MISSING, "is missing", "give it")]), Exit.REFUSED),
        (CatalogueError("no profile 'x'"), Exit.REFUSED),
        (BadQuery("limit is 0"), Exit.REFUSED),
        (DataError("invalid input"), Exit.REFUSED),
        (ObjectMissing("s3://media/a", "is not there", "upload it"), Exit.REFUSED),
        (Unreachable("connection refused"), Exit.UNREACHABLE),
        (LockTimeout("canceling statement due to lock timeout"), Exit.UNREACHABLE),
        (Conflict("deadlock detected"), Exit.UNREACHABLE),
        (EmbeddedError("does not start"), Exit.UNREACHABLE),
        (SchemaMismatch("the database is empty: run `mediamill migrate`"), Exit.UNREACHABLE),
        (StoreUnavailable("s3://media/a", "answers 503", "try again"), Exit.UNREACHABLE),
        (ExceptionGroup("a task group", [Unreachable("connection refused")]), Exit.UNREACHABLE),
        (ZeroDivisionError("division by zero"), Exit.BROKEN),
    ],
)
def test_every_failure_has_its_exit_code_and_its_line(error: Exception, code: Exit) -> None:
    told = report(error)
    assert told.exit_code is code
    assert all(line and "\n" not in line for line in told.lines)


def test_the_list_of_commands_says_what_the_commands_say() -> None:
    for name, (place, line) in cli.COMMANDS.items():
        module, _, attribute = place.partition(":")
        command = getattr(import_module(module), attribute)
        assert isinstance(command, click.Command)
        assert command.name == name
        assert (command.help or "").strip(), name
        assert line.endswith("."), name


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_explains_itself(name: str) -> None:
    answer = CliRunner().invoke(cli.cli, [name, "--help"])
    assert answer.exit_code == 0, answer.output
    assert answer.output.startswith("Usage: ")


def test_help_loads_nothing_that_is_slow_to_load() -> None:
    program = (
        "import sys\nfrom console.cli import run\n"
        "code = run(['--help'])\n"
        "slow = {'torch', 'boto3', 'sqlalchemy', 'psycopg2', 'alembic', 'pydantic', 'rich', 'anyio', 'yaml'}\n"
        "print(sorted(slow & set(sys.modules)), code)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[] 0"


def test_the_newest_revision_is_told_without_alembic_as_alembic_tells_it() -> None:
    assert revision.newest() == schema.head()


def test_types_are_explained_from_their_declarations(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["types", "image.caption"]) == Exit.DONE
    said = capsys.readouterr().out
    assert "count: integer, at least 1, at most 20 (default 1)" in said
    assert '"inputs": {"image": "s3://' in said
    assert cli.run(["types", "--json"]) == Exit.DONE
    listed = json.loads(capsys.readouterr().out)
    assert {"image.caption", "image.embed", "text.embed", "test.noop"} <= {one["type"] for one in listed}


def test_what_comes_from_outside_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    output.table([output.Column("text")], [["a\x1b[2Jb\nc\u202ed"]])
    assert capsys.readouterr().out == "text\na\\x1b[2Jb c\\u202ed\n"


def test_columns_are_aligned_by_the_width_of_their_characters(capsys: pytest.CaptureFixture[str]) -> None:
    output.table([output.Column("name"), output.Column("n", right=True)], [["貓", 5], ["bird", 12]])
    assert capsys.readouterr().out == "name   n\n貓     5\nbird  12\n"


def test_ages_and_moments_are_read_as_people_write_them() -> None:
    assert Age()("10m").total_seconds() == 600
    assert Moment()("2030-01-31T13:00:00+01:00").isoformat() == "2030-01-31T12:00:00+00:00"
    assert Moment(future=True)("2h") > Moment()("2h")


def test_rates_are_ends_per_second_and_never_below_zero() -> None:
    def seen(second: int, **jobs: int) -> Overview:
        rows = [{"lane": "upload", "type": "t", "tenant": "x", "state": s, "jobs": n} for s, n in jobs.items()]
        return Overview(Moment()(f"2030-01-01T00:00:0{second}Z"), rows, [], [])

    key = ("upload", "t")
    assert rates_between(seen(0, succeeded=5), seen(2, succeeded=12, failed=1)) == {key: 4.0}
    assert rates_between(seen(0, failed=5), seen(2, queued=5)) == {key: 0.0}
    assert rates_between(seen(1), seen(1)) == {}
