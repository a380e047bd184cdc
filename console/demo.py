"""`make demo`: the main job, done on the embedded default through the public command line, as a person would do it.

All of it is kept in one folder (.demo), which is a MEDIAMILL_HOME. A second run goes on there and removes nothing:
by then somebody's own pictures may be among it.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.abc
import anyio.to_thread

from config.settings import Settings
from console import demo_jobs, demo_worker, output
from console.demo_jobs import Ended
from console.demo_sheet import Search, Sheet
from console.demo_steps import progress, step
from console.demo_worker import Worker
from console.failures import CommandFailed, Exit, report, unreachable
from console.output import Column
from storage.database import Database
from storage.embedded import EmbeddedPostgres
from storage.pooled import PooledDatabase
from worker.sandbox import PROGRAMS

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[1]
MEDIAMILL = str(Path(sys.executable).with_name("mediamill"))
#: For each of: a worker that is not ready, and jobs of which none ends. The first import of torch from a slow disk.
PATIENCE_S = 300.0
#: The server goes this soon after its last user, so that nothing is left behind.
_LINGER_S = 2.0
_LOOK_S = 0.1
_WORTH = (
    "These checkpoints are toys, trained on a small world (toyworld/): they know six shapes, eight colours, four"
    " backgrounds, some places and two dozen spoken words, and nothing else."
)
_SETTINGS = """\
# Read whenever MEDIAMILL_HOME is this folder; the environment wins: MEDIAMILL_CATALOGUE=small
catalogue = "toy"
"""


@dataclass(frozen=True, slots=True)
class Demo:
    """Where it happens."""

    home: Path
    environ: Mapping[str, str]
    """Of every command: none of the caller's own settings, so that no other deployment is touched."""
    settings: Settings
    run: str
    """This run's mark among its jobs' labels."""

    @property
    def pictures(self) -> Path:
        """A folder in the bucket `media` of the local object store."""
        return Path(self.settings.store) / "media" / "pictures"

    @property
    def made(self) -> Path:
        """Another folder in it: sound and films."""
        return Path(self.settings.store) / "media" / "made"

    @property
    def query(self) -> Path:
        """A picture that is not in the object store, to search by."""
        return self.home / "another-red-circle.png"

    @property
    def log(self) -> Path:
        """The worker's."""
        return self.home / "worker.log"

    @property
    def jobs(self) -> Path:
        """The messages that were submitted."""
        return self.home / "jobs.jsonl"

    @property
    def sheet(self) -> Path:
        """A page that shows what went in beside what came out."""
        return self.home / "contact-sheet.html"

    async def mediamill(self, *arguments: str) -> str:
        """Runs `mediamill ...`; what it printed. Raises CommandFailed unless it ends with 0."""
        done = await anyio.run_process(
            [MEDIAMILL, *arguments], env=self.environ, stdin=subprocess.DEVNULL, check=False, start_new_session=True
        )
        if done.returncode != 0:
            said = done.stderr.decode(errors="replace").splitlines()[-15:]
            raise unreachable(f"`mediamill {shlex.join(arguments)}` ended with {done.returncode}:", *said)
        return done.stdout.decode()

    async def json(self, *arguments: str) -> Any:
        """What the command prints with --json."""
        return json.loads(await self.mediamill(*arguments, "--json"))


def at(home: Path) -> Demo:
    """The demo in that folder, which is made. Raises BadSetting."""
    home = home.absolute()
    home.mkdir(parents=True, exist_ok=True)
    (home / ".gitignore").write_text("*\n")
    settings_file = home / "mediamill.toml"
    if not settings_file.exists():
        settings_file.write_text(_SETTINGS)
    others = {name: value for name, value in os.environ.items() if not name.startswith("MEDIAMILL_")}
    environ = {**others, "MEDIAMILL_HOME": str(home), "MEDIAMILL_CONFIG": str(settings_file)}
    return Demo(home, environ, Settings.load(environ).settings, datetime.now(UTC).strftime("%Y%m%d-%H%M%S"))


def _shown(path: Path) -> str:
    """As short as it can be named from here."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


async def play(demo: Demo, count: int) -> None:
    """All of it. Raises CommandFailed, alone or in a group."""
    began = time.monotonic()
    output.line(f"mediamill demo: {count} pictures captioned and found again, speech, pictures, a film", style="bold")
    output.line(f"  everything is kept in {_shown(demo.home)}, and nothing anywhere else")
    async with _postgres(demo) as database:
        await _checkpoints(demo)
        pictures = await _drawn(demo, count)
        films = await _filmed(demo)
        async with _worker(demo) as worker:
            async with _watched(worker):
                ended = await _in_time(
                    worker, _jobs, demo, database, demo_jobs.messages(pictures, demo.run, films=films)
                )
                searches = await _searches(demo)
                demo.sheet.write_text(_sheet(demo, ended, searches).page(), encoding="utf-8")
            output.line()
            with step("drain") as said:
                await worker.drain()
                said.text = "the worker was told to stop (SIGTERM), and has"
    output.line(f"  {'all of it':12} {time.monotonic() - began:.1f} s")
    _go_on(demo)


@asynccontextmanager
async def _postgres(demo: Demo) -> AsyncIterator[Database]:
    """Holds the server through all of it; each command would find or start it by itself."""
    with ExitStack() as held:
        with step("Postgres") as said:
            server = EmbeddedPostgres(demo.settings.pgdata, linger_s=_LINGER_S)
            await anyio.to_thread.run_sync(server.start)
            held.callback(server.close)
            said.text = "embedded, with pgvector; no port, a socket that only this user can reach"
        database = PooledDatabase(server.url, pool=2)
        held.callback(database.close)
        yield database


async def _checkpoints(demo: Demo) -> None:
    with step("checkpoints") as said:
        known = await demo.json("models", "list")
        if missing := [one["name"] for one in known if one["state"] != "ok"]:
            await demo.mediamill("models", "pull", *missing)
        how = "pulled" if missing else "they come with mediamill"
        said.text = f"{', '.join(one['name'] for one in known)}: {how}"


async def _drawn(demo: Demo, count: int) -> list[str]:
    """The pictures' names. The executor's interpreter draws them: it has Pillow, this one has not."""
    with step("pictures") as said:
        command = [demo.settings.executor_python, "-m", "console.demo_pictures", demo.pictures, str(count), demo.query]
        done = await anyio.run_process(list(map(str, command)), check=False, cwd=ROOT, start_new_session=True)
        if done.returncode != 0:
            raise unreachable("the pictures could not be drawn:", *done.stderr.decode(errors="replace").splitlines())
        names = [Path(line).stem for line in done.stdout.decode().splitlines()]
        said.text = f"{len(names)}, in {_shown(demo.pictures)}"
    return names


async def _filmed(demo: Demo) -> bool:
    """Speech, music and two small films; whether there is the ffmpeg that jobs with them need."""
    films = shutil.which("ffmpeg", path=PROGRAMS) is not None
    with step("media") as said:
        command = [str(demo.settings.executor_python), "-m", "console.demo_media", str(demo.made)]
        done = await anyio.run_process(command, check=False, cwd=ROOT, start_new_session=True)
        if done.returncode != 0:
            raise unreachable("sound and films could not be made:", *done.stderr.decode(errors="replace").splitlines())
        said.text = "; ".join(line.replace(": there already", "") for line in done.stdout.decode().splitlines())
    if not films:
        output.line(
            f"  ffmpeg is not installed: nothing is transcribed or edited this time (looked in {PROGRAMS};"
            " apt-get install ffmpeg)",
            style="yellow",
        )
    return films


@asynccontextmanager
async def _worker(demo: Demo) -> AsyncIterator[Worker]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    async with demo_worker.started([MEDIAMILL], demo.environ, port=port, log=demo.log) as worker:
        with step("worker") as said:
            async with _watched(worker):
                await _in_time(worker, worker.ready)
            said.text = f"process {worker.pid}, ready; its log is {_shown(demo.log)}"
        yield worker


@asynccontextmanager
async def _watched(worker: Worker) -> AsyncIterator[None]:
    """What goes on inside ends when the worker does, with its last words."""
    async with anyio.create_task_group() as group:
        group.start_soon(worker.watch)
        yield
        group.cancel_scope.cancel()


async def _in_time(worker: Worker, work: Callable[..., Awaitable[T]], *arguments: Any) -> T:
    with anyio.move_on_after(PATIENCE_S):
        return await work(*arguments)
    raise await worker.why_slow()


async def _jobs(demo: Demo, database: Database, wanted: Sequence[Mapping[str, Any]]) -> list[Ended]:
    demo.jobs.write_text("".join(f"{json.dumps(message)}\n" for message in wanted))
    with step("jobs", spinner=False) as said, progress(len(wanted)) as tell:
        answer = await demo.json("submit", "--from", str(demo.jobs))
        ids = [uuid.UUID(one["id"]) for one in answer["submitted"]]
        states: dict[uuid.UUID, str] = {}
        while len(states) < len(ids):
            await anyio.sleep(_LOOK_S)
            found = await anyio.to_thread.run_sync(demo_jobs.ended, database, ids)
            for id_ in found.keys() - states.keys():
                tell(found[id_])
            states |= found
        counts = Counter(states.values())
        said.text = ", ".join(f"{number} {state}" for state, number in sorted(counts.items()))
    ended = await anyio.to_thread.run_sync(demo_jobs.records, database, ids)
    output.heading(f"jobs, submitted by `mediamill submit --from {_shown(demo.jobs)}`")
    columns = (
        Column("job"), Column("type"), Column("of"), Column("state"), Column("seconds", right=True),
        Column("what came out", shrinks=True),
    )  # fmt: skip
    output.table(columns, [_cut(job.row) for job in ended])
    if failed := [job for job in ended if not job.succeeded]:
        show = f"MEDIAMILL_HOME={shlex.quote(str(demo.home))} {MEDIAMILL} jobs show {failed[0].record.job['id']}"
        raise CommandFailed(Exit.JOB_FAILED, f"{len(failed)} of {len(ended)} jobs did not succeed; see `{show}`")
    return ended


def _cut(row: Sequence[object], most: int = 72) -> list[object]:
    return [f"{cell[: most - 3]}..." if isinstance(cell, str) and len(cell) > most else cell for cell in row]


async def _searches(demo: Demo) -> list[Search]:
    wanted = demo_jobs.WANTED
    by_text = await demo.json("search", wanted, "--limit", "5")
    _show_hits(f"by text: `mediamill search {shlex.quote(wanted)}`", by_text)
    by_picture = await demo.json("search", "--image", str(demo.query), "--limit", "5")
    _show_hits(f"by a picture that is not among them: `mediamill search --image {demo.query.name}`", by_picture)
    output.line()
    output.line(f"{_WORTH} Real ones: MEDIAMILL_CATALOGUE=small mediamill models pull", style="yellow")
    return [Search(wanted, None, by_text["hits"]), Search(demo.query.name, demo.query, by_picture["hits"])]


def _sheet(demo: Demo, ended: Sequence[Ended], searches: Sequence[Search]) -> Sheet:
    return Sheet(
        "mediamill: what went in, and what came out",
        _WORTH,
        Path(demo.settings.store),
        [one.record for one in ended],
        searches,
    )


def _show_hits(title: str, answer: Mapping[str, Any]) -> None:
    output.heading(title)
    columns = Column("score", right=True), Column("similar", right=True), Column("where"), Column("why", shrinks=True)
    output.table(columns, [_cut(_hit_row(hit)) for hit in answer["hits"]], empty="nothing found")
    if not answer["hits"]:
        raise CommandFailed(Exit.JOB_FAILED, f"the search found nothing; it says: {answer['note']}")


def _hit_row(hit: Mapping[str, Any]) -> Sequence[object]:
    similar = "" if hit["similarity"] is None else f"{hit['similarity']:.3f}"
    why = "; ".join(f"{one['by']}: {_marked(one)}" if "text" in one else one["by"] for one in hit["why"])
    return f"{hit['score']:.4f}", similar, hit["uri"], why


def _marked(why: Mapping[str, Any]) -> str:
    """The excerpt with the words that were searched for in brackets, as `mediamill search` shows it."""
    words: str = why["text"]
    for first, last in reversed(why["marks"]):
        words = f"{words[:first]}[{words[first:last]}]{words[last:]}"
    return words


def _go_on(demo: Demo) -> None:
    home, folder = shlex.quote(str(demo.home)), shlex.quote(str(Path(MEDIAMILL).parent))
    picture, log = shlex.quote(str(demo.query)), shlex.quote(str(demo.log))
    output.heading("where things are")
    output.line(f"  pictures  {_shown(demo.pictures)}: the object store is a folder")
    output.line(f"  outputs   {_shown(demo.pictures.with_name('derived'))}")
    output.line(f"  page      {_shown(demo.sheet)}: what went in beside what came out, for a browser")
    output.line(f"  all       {_shown(demo.home)}: a second demo goes on there; remove it to start anew")
    output.heading("go on with a picture of your own: these lines work as they are, put its path in the first one")
    for words in (
        f"picture={picture}",
        f"export PATH={folder}:$PATH MEDIAMILL_HOME={home}",
        f"mediamill worker 2>>{log} &",
        'mediamill submit image.caption --input image="$picture" --wait',
        'mediamill search --image "$picture"',
        "kill %1  # drains the worker",
    ):
        output.line(f"  {words}", style="cyan")
    output.heading("then real checkpoints, in a home of their own (~/.mediamill): pull them, and the same lines again")
    for words in ("unset MEDIAMILL_HOME", "export MEDIAMILL_CATALOGUE=small", "mediamill models pull"):
        output.line(f"  {words}", style="cyan")


async def _until_stopped(demo: Demo, count: int) -> None:
    # Listened for until all is cleared up: an impatient second Ctrl-C must not leave a worker behind.
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        async with anyio.create_task_group() as group:
            group.start_soon(_stop, signals)
            await play(demo, count)
            group.cancel_scope.cancel()


async def _stop(signals: AsyncIterator[signal.Signals]) -> None:
    async for _ in signals:
        raise CommandFailed(
            Exit.INTERRUPTED, "interrupted: what was submitted stays queued, the next `make demo` goes on with it"
        )


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _leaves(each)
    else:
        yield error


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; its exit code, as mediamill's."""
    parser = argparse.ArgumentParser(prog="console.demo", description="Shows the main job on the embedded default.")
    parser.add_argument("--home", type=Path, default=ROOT / ".demo", help="the folder that all is kept in")
    parser.add_argument("--pictures", type=int, default=12, choices=range(2, 13), metavar="2..12", help="how many")
    given = parser.parse_args(arguments)
    try:
        anyio.run(_until_stopped, at(given.home), given.pictures)
    except Exception as error:  # noqa: BLE001 the boundary: everything is reported, nothing is hidden
        found = [report(leaf) for leaf in _leaves(error)]
        told = next((one for one in found if one.exit_code is Exit.INTERRUPTED), found[0])
        for words in told.lines:
            output.note(words, style="red")
        return told.exit_code
    return Exit.DONE


if __name__ == "__main__":
    sys.exit(main())
