"""A deployment that the tests of a module share: a worker takes seconds to start, and each looks at its own jobs."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from console import cli
from tests.e2e.stage import Stage, stage
from tests.servers.postgres import PostgresServer

BUCKET = "media"
ENDED = {"succeeded", "failed", "cancelled", "quarantined"}


@contextmanager
def shared_stage(folder: Path, server: PostgresServer, template: str, environ: Mapping[str, str]) -> Iterator[Stage]:
    """A stage on a folder with a database of its own, for a module-scoped fixture."""
    with server.database(template=template) as url, stage(folder, environ, url) as made:
        yield made


class InProcess:
    """`mediamill` of a stage in this process: for commands by the dozen, each of which would start an interpreter."""

    def __init__(self, stage: Stage, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        for name, value in stage.environ.items():
            monkeypatch.setenv(name, value)
        self._capfd = capfd

    def __call__(self, *arguments: str | Path) -> tuple[int, str, str]:
        """Exit code, standard output, standard error."""
        self._capfd.readouterr()
        code = cli.run([str(argument) for argument in arguments])
        return code, *self._capfd.readouterr()

    def json(self, *arguments: str | Path) -> Any:
        """What a command that succeeds prints with `--json`."""
        code, out, err = self(*arguments, "--json")
        assert code == 0, err
        return json.loads(out)


def put(stage: Stage, key: str, data: bytes, bucket: str = BUCKET) -> str:
    """Lays an object into the stage's folder, as somebody would by hand; returns its URI."""
    place = stage.folder / "home" / "store" / bucket / key
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(data)
    return f"s3://{bucket}/{key}"


def submit_all(stage: Stage, messages: Sequence[Mapping[str, Any]], *options: str, check: bool = True) -> Any:
    """Submits messages by `submit --from -`; what it prints with `--json`."""
    lines = "".join(f"{json.dumps(message)}\n" for message in messages)
    done = stage.run("submit", "--from", "-", "--json", *options, stdin=lines, check=check)
    return json.loads(done.stdout)


def run_all(stage: Stage, messages: Sequence[Mapping[str, Any]], seconds: float = 60) -> list[dict[str, Any]]:
    """Submits messages and waits for their ends; rows of `jobs` and `job_details`, in the messages' order."""
    answer = submit_all(stage, messages)
    assert not answer["refused"], answer["refused"]
    return ended(stage, [one["id"] for one in answer["submitted"]], seconds)


def ended(stage: Stage, ids: Sequence[str | uuid.UUID], seconds: float = 60) -> list[dict[str, Any]]:
    """The rows of jobs, once all have ended."""

    def rows() -> list[dict[str, Any]]:
        return [stage.table.row(uuid.UUID(str(id_))) for id_ in ids]

    until(lambda: all(row["state"] in ENDED for row in rows()), stage, seconds)
    return rows()


def until(condition: Callable[[], bool], stage: Stage, seconds: float = 60) -> None:
    """Waits for what another process does; fails with what the workers said."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            said = "\n".join(f"--- {worker.log.name}\n{worker.said()}" for worker in stage.workers)
            jobs = stage.table.rows("SELECT id, type, state, error FROM jobs JOIN job_details USING (id)")
            raise AssertionError(f"not so after {seconds} s\n{jobs}\n{said}")
        time.sleep(0.02)
