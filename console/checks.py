"""What `mediamill doctor` looks at: each check says how it is, and what would mend it."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from config.values import show_size
from console.check import Check, Status
from console.check_kafka import kafka
from console.compose import Deployment
from console.failures import report
from storage import schema
from storage.database import DatabaseError
from storage.embedded import EmbeddedError
from storage.lookup import live_workers
from storage.objects.errors import ObjectError
from storage.overview import server
from storage.schema import SchemaMismatch
from worker.sandbox import PROGRAMS, SandboxMode, SandboxUnavailable, probe

#: What the executor imports to run its models.
LIBRARIES = ("torch", "transformers", "diffusers", "whisper", "silero_vad", "safetensors", "numpy", "PIL")
_IMPORTING_TAKES_AT_MOST_S = 120
_LEAST_FREE_BYTES = 5 << 30


def run_checks(deployment: Deployment) -> list[Check]:
    """All checks, beside each other: none waits for another's time limit."""
    checks: tuple[Callable[[Deployment], Check], ...] = (
        _postgres, _store, kafka, _executor, _checkpoints, _sandbox, _ffmpeg, _disk,
    )  # fmt: skip
    with ThreadPoolExecutor(len(checks)) as threads:
        return list(threads.map(lambda check: check(deployment), checks))


def _postgres(deployment: Deployment) -> Check:
    where = "embedded Postgres" if deployment.embedded else "Postgres"
    try:
        database = deployment.bare_database
        with database.transaction() as connection:
            found = server(connection)
            revision = schema.current(connection)
            workers = live_workers(connection, lease_s=deployment.settings.lease) if revision else 0
    except (DatabaseError, EmbeddedError) as error:
        return Check(
            "postgres", Status.FAIL, report(error).lines[0], ("start the server, or correct MEDIAMILL_DATABASE_URL",)
        )
    about = f"{where} {found.version}, pgvector {found.pgvector or found.pgvector_available or 'missing'}"
    if found.pgvector_available is None:
        return Check("postgres", Status.FAIL, about, ("install the extension pgvector on the server",))
    try:
        schema.check(database)
    except SchemaMismatch as error:
        if deployment.embedded:
            return Check("postgres", Status.OK, f"{about}; the schema is brought up to date when it is first used")
        return Check("postgres", Status.FAIL, f"{about}; {error}", ("mediamill migrate",))
    live = f"{workers} workers" if workers != 1 else "1 worker"
    return Check("postgres", Status.OK, f"{about}, schema revision {revision}, {live} running")


def _store(deployment: Deployment) -> Check:
    settings = deployment.settings
    where = f"S3 at {settings.s3_endpoint or 'Amazon'}" if settings.store == "s3" else f"folder {settings.store}"
    try:
        deployment.store.check()
    except ObjectError as error:
        return Check("object store", Status.FAIL, f"{where}: {error.what}", (error.fix,))
    except OSError as error:
        return Check("object store", Status.FAIL, f"{where}: {error}", ("name another folder in MEDIAMILL_STORE",))
    places = ", ".join(f"{place} ({access})" for place, access in settings.s3_buckets.items())
    return Check("object store", Status.OK, f"{where}: {places}")


def _executor(deployment: Deployment) -> Check:
    """Really imports what the executor needs: a library that is there may still not load."""
    python = deployment.settings.executor_python
    program = (
        "import importlib, json, sys\n"
        f"found = {{name: getattr(importlib.import_module(name), '__version__', '?') for name in {LIBRARIES!r}}}\n"
        "print(json.dumps([sys.version.split()[0], found]))"
    )
    fix = ("make setup, the image of the target executor, or its interpreter in MEDIAMILL_EXECUTOR_PYTHON",)
    try:
        asked = subprocess.run(
            [str(python), "-c", program],
            capture_output=True,
            text=True,
            check=True,
            timeout=_IMPORTING_TAKES_AT_MOST_S,
            stdin=subprocess.DEVNULL,
        )
        version, libraries = json.loads(asked.stdout.splitlines()[-1])
    except subprocess.CalledProcessError as error:
        last = (error.stderr or "").strip().splitlines()[-1:] or [f"it ended with {error.returncode}"]
        return Check("executor", Status.FAIL, f"{python}: {last[0]}", fix)
    except (OSError, subprocess.TimeoutExpired, ValueError, IndexError) as error:
        return Check("executor", Status.FAIL, f"{python}: {error}", fix)
    return Check(
        "executor", Status.OK, f"Python {version}, " + ", ".join(f"{name} {v}" for name, v in libraries.items())
    )


def _checkpoints(deployment: Deployment) -> Check:
    from config.catalogue import CatalogueError

    try:
        catalogue = deployment.catalogue
    except CatalogueError as error:
        return Check("checkpoints", Status.FAIL, str(error), ("correct MEDIAMILL_CATALOGUE",))
    missing = catalogue.missing(deployment.settings.models)
    names = ", ".join(f"{name} ({role})" for role, name in catalogue.roles.items())
    if missing:
        sentences = tuple(one.sentence for one in missing)
        return Check(
            "checkpoints", Status.FAIL, f"{len(missing)} of {len(catalogue.entries)} cannot be used", sentences
        )
    return Check("checkpoints", Status.OK, f"profile {catalogue.profile}: {names or 'none'}")


def _sandbox(deployment: Deployment) -> Check:
    try:
        found = probe(SandboxMode(deployment.settings.sandbox)).report
    except SandboxUnavailable as error:
        return Check("sandbox", Status.FAIL, str(error))
    if missing := found.missing():
        return Check("sandbox", Status.WARN, f"{found.level}; not enforced: {', '.join(missing)}", found.reasons)
    return Check("sandbox", Status.OK, f"{found.level}: no network, no other process, nothing writable but scratch")


def _ffmpeg(_: Deployment) -> Check:
    from handlers.errors import Retry
    from handlers.media import ffmpeg

    try:
        build = ffmpeg.build()
    except Retry as error:
        return Check("ffmpeg", Status.WARN, error.message, ("pictures need none",))
    known = tuple(ffmpeg.warnings())
    if shutil.which("ffmpeg", path=PROGRAMS) is None:
        known += (f"the executor does not find it: it looks in {PROGRAMS} alone",)
    return Check("ffmpeg", Status.WARN if known else Status.OK, build.text, known)


def _disk(deployment: Deployment) -> Check:
    home = deployment.settings.home
    there = next(folder for folder in (home, *home.parents) if folder.exists())
    free = shutil.disk_usage(there).free
    cached = _size_of(deployment.settings.cache)
    wanted = max(deployment.settings.cache_bytes - cached, 0)
    about = f"{_rounded(free)} free for {home}"
    if free < _LEAST_FREE_BYTES:
        return Check("disk", Status.WARN, about, ("free some space, or name another folder in MEDIAMILL_HOME",))
    if free < wanted:
        fix = f"lower MEDIAMILL_CACHE_BYTES ({show_size(deployment.settings.cache_bytes)}), or free some space"
        return Check("disk", Status.WARN, f"{about}, less than the cache may take", (fix,))
    return Check("disk", Status.OK, about)


def _size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("content/*/*")) if folder.exists() else 0


def _rounded(count: int) -> str:
    return f"{count / (1 << 30):.1f} GiB"
